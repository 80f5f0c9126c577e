"""History, stores of the past and replays; at the end, of this project's own repository."""

import gc
import threading
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import datastream
from datastream import DatastreamError, InvalidValue, ReadOnly, StoreClosed, Unsupported
from datastream.testing import TIMEOUT
from datastream.testing._tools import eventually
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path):
    """Five commits an hour apart; the third is tagged."""
    repository = Repository.new(tmp_path / "repository")
    with opened(repository) as store:
        for hour, values in enumerate(
            ({"fx/USD": 1.0, "a": 1}, {"fx/USD": 1.1}, {"fx/GBP": 0.8, "a": 2}, {"other": 1})
        ):
            time = BEGIN + timedelta(hours=hour)
            writes = [(key, str(value).encode()) for key, value in values.items()]
            store.write(*(datastream.source.Write(*w, updated_at=time) for w in writes))
        store.write(
            datastream.source.Write("a", None, updated_at=BEGIN + timedelta(hours=4)),
        )
    repository.git("tag", "-a", "-m", "a release", "v1.0", "HEAD~2")
    repository.git("tag", "light", "HEAD~2")
    return repository


def opened(repository, **options):
    return datastream.open(f"git:{repository.path}", interval=3600, **options)


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.history("fx/USD"),
        lambda store: store.replayed("fx/USD"),
        lambda store: store.entries("fx/USD"),
        lambda store: store.at("v1.0").history("fx/USD"),
        lambda store: datastream.overlay(store).at("v1.0").entries("fx/USD"),
    ],
)
def test_what_is_read_step_by_step_keeps_its_store_open(repository, read):
    store = opened(repository)
    items, held = read(store), weakref.ref(store)
    del store
    gc.collect()
    assert held() is not None
    assert list(items)
    del items

    def is_gone():
        # What was laid over it is closed on another thread.
        gc.collect()
        return held() is None

    eventually(is_gone, "the store let go")


@pytest.mark.parametrize("of", [lambda store: store, datastream.overlay])
def test_no_text_at_all_is_no_point(repository, of):
    with opened(repository) as below, of(below) as store, pytest.raises(InvalidValue, match="''"):
        store.at("")


class Batches:
    """Collects what a replay gives."""

    def __init__(self, observable):
        self.changed = threading.Condition()
        self.items, self.error, self.completed = [], None, False
        self.subscription = observable.subscribe(self.take, self.fail, self.complete)

    def take(self, batch):
        with self.changed:
            self.items.append(batch)
            self.changed.notify_all()

    def fail(self, error):
        with self.changed:
            self.error = error
            self.changed.notify_all()

    def complete(self):
        with self.changed:
            self.completed = True
            self.changed.notify_all()

    def wait(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT), self.items

    def states(self):
        return [{entry.key: entry.value for entry in batch.entries} for batch in list(self.items)]


def test_history_is_what_git_log_says(repository):
    with opened(repository) as store:
        changes = list(store.history("a"))
        assert [(c.entry.operation.value, c.entry.value) for c in changes] == [
            ("DELETE", b""), ("PUT", b"2"), ("PUT", b"1"),
        ]  # fmt: skip
        assert [c.point for c in changes] == repository.git(
            "log", "--format=%H", "--", "a"
        ).splitlines()
        assert changes[0].message == "Delete a\n"
        assert changes[0].author == repository.git("log", "-1", "--format=%an <%ae>")
        assert changes[1].entry.updated_at == BEGIN + timedelta(hours=2)
        assert changes[1].entry.revision == repository.head("HEAD~2:a")
        assert list(store.history("never")) == []
        with store.at(changes[1].point) as past:
            assert past["a"] == 2


def test_history_follows_the_side_a_value_came_from(repository):
    repository.git("checkout", "-qb", "side", "HEAD~1")
    theirs = repository.commit({"a": "from the side"}, "theirs")
    repository.git("checkout", "-q", "main")
    repository.commit({"b": "1"})
    repository.git("merge", "-q", "-m", "merge", "-s", "ours", "side")
    with opened(repository) as store:
        assert next(store.history("a")).entry.operation.value == "DELETE"
    repository.git("reset", "-q", "--hard", "HEAD~1")
    repository.git("merge", "-q", "-m", "merge", "--no-commit", "-X", "theirs", "side", check=False)
    repository.commit({"a": "from the side"}, "merged")
    with opened(repository) as store:
        first = next(store.history("a"))
        assert (first.point, first.message) == (theirs, "theirs\n")


def test_an_abandoned_history_closes_its_files(repository):
    with opened(repository) as store:
        iterator = store.history("a")
        next(iterator)
        iterator.close()


def test_a_store_of_the_past(repository):
    with opened(repository) as store:
        for point in (
            *("v1.0", "light", "HEAD~2", "v1.0~0", repository.head("v1.0^{commit}")),
            repository.head("v1.0^{commit}")[:9],
            *("2024-01-01T02:30:00Z", "2024-01-01T03:30:00+01:00"),
            BEGIN + timedelta(hours=2),
        ):
            with store.at(point) as past:
                assert dict(past) == {"a": 2, "fx/USD": 1.1, "fx/GBP": 0.8}, point
                assert [c.key for c in past.capabilities()] == list(past)
        with store.at("v1.0") as past:
            with pytest.raises(ReadOnly):
                past["a"] = 1
            batches = []
            past.watch_batches("fx/").subscribe(batches.append)
            assert len(batches[0].entries) == 2
            assert [c.entry.value for c in past.history("a")] == [b"2", b"1"]
            with pytest.raises(Unsupported):
                past.at("v1.0")


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("v9", "no tag, branch or commit 'v9'"),
        ("2023-12-31T00:00:00Z", "as old as"),
        ("HEAD~99", "no tag"),
        ("a..b", "no tag"),
        ("nul\0", "no tag"),
        ("../../etc", "no tag"),
    ],
)
def test_points_that_are_none(repository, point, words):
    with opened(repository) as store:
        with pytest.raises(DatastreamError, match=words):
            store.at(point)
        batches = Batches(store.replay(since=point))
        batches.wait(lambda: batches.error)
        assert words in str(batches.error)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "point",
    ["x" * 256, f"heads/{'x' * 256}", "x" * 100_000, f"main~{'9' * 5000}", f"{'^' * 200_000}x"],
    ids=["name", "part", "long", "digits", "steps"],
)
def test_a_point_that_no_name_can_be_is_none_like_any_other(repository, point):
    """Any client that may read can send one: each took seconds, or raised an error of its own."""
    with opened(repository) as store:
        for use in (store.at, lambda point: next(iter(store.replayed(since=point)))):
            with pytest.raises(DatastreamError, match="no tag, branch or commit") as error:
                use(point)
            assert error.type is DatastreamError
        assert store.status.current.error is None


def test_times_need_a_zone(repository):
    with opened(repository) as store:
        for point in ("2024-01-01", datetime(2024, 1, 1)):
            with pytest.raises(InvalidValue, match="time zone"):
                store.at(point)
        with pytest.raises(InvalidValue, match="time zone"):
            store.replay(since=datetime(2024, 1, 1))
        for speed in (0, -1, float("inf"), float("nan")):
            with pytest.raises(InvalidValue, match="speed"):
                store.replay(speed=speed)


def test_replay_goes_over_into_the_live_watch(repository):
    with opened(repository) as store:
        batches = Batches(store.replay("fx/"))
        batches.wait(lambda: len(batches.items) == 4)
        assert batches.states() == [{}, {"fx/USD": b"1.0"}, {"fx/USD": b"1.1"}, {"fx/GBP": b"0.8"}]
        assert [batch.initial for batch in batches.items] == [True, False, False, False]
        repository.commit({"fx/USD": "1.2"})
        batches.wait(lambda: len(batches.items) == 5)
        store["fx/GBP"] = 0.9
        batches.wait(lambda: len(batches.items) == 6)
        assert not any(batch.initial or batch.reset for batch in batches.items[1:])
        batches.subscription.dispose()
        store["fx/GBP"] = 1.0
        assert store.flush(TIMEOUT)
        assert len(batches.items) == 6
        assert not batches.completed


def test_replay_since_a_tag_begins_with_its_state(repository):
    with opened(repository) as store:
        for since in ("v1.0", BEGIN + timedelta(hours=2)):
            batches = Batches(store.replay(since=since))
            batches.wait(lambda b=batches: len(b.items) == 3)
            assert batches.states()[0] == {"a": b"2", "fx/USD": b"1.1", "fx/GBP": b"0.8"}
            assert batches.states()[1:] == [{"other": b"1"}, {"a": b""}]
            batches.subscription.dispose()


def test_nothing_is_missed_between_past_and_present(repository):
    with opened(repository) as store:
        gate, passed, ended = threading.Event(), threading.Event(), threading.Event()
        last = {}

        def slow(batch):
            passed.set()
            gate.wait(TIMEOUT)
            last.update({entry.key: entry.value for entry in batch.entries})
            if "end" in last:
                ended.set()

        subscription = store.replay().subscribe(slow)
        assert passed.wait(TIMEOUT)
        for number in range(5):
            repository.commit({"late": str(number)})
        gate.set()
        store["end"] = 1
        assert ended.wait(TIMEOUT)
        assert last["late"] == b"4"
        subscription.dispose()


def test_replay_in_time(repository):
    with opened(repository) as store:
        # Four hours in 0.2 s.
        batches = Batches(store.replay(speed=4 * 3600 / 0.2))
        arrived = []
        batches.wait(lambda: arrived.append(len(batches.items)) or len(batches.items) >= 6)
        assert batches.states()[-1] == {"a": b""}
        never = Batches(store.replay(speed=0.001))
        never.wait(lambda: len(never.items) == 2)
        never.subscription.dispose()
        waits = Batches(store.replay(speed=0.001))
        waits.wait(lambda: len(waits.items) == 2)
        store.close()
        waits.wait(lambda: waits.completed)
        assert not never.completed
        with pytest.raises(StoreClosed):
            store.replay()


def test_a_subscriber_that_raises_ends_its_replay_only(repository, caplog):
    with opened(repository) as store:
        calls = []

        def fail(batch):
            calls.append(batch)
            raise RuntimeError("its own trouble")

        store.replay().subscribe(fail)
        other = Batches(store.replay())
        other.wait(lambda: len(other.items) == 6)
        assert len(calls) == 1
    assert "its own trouble" in caplog.text


def test_replay_of_a_branch_that_was_rewritten(repository):
    old = repository.head("HEAD")
    repository.git("reset", "-q", "--hard", "v1.0")
    repository.commit({"new": "line"})
    with opened(repository) as store:
        batches = Batches(store.replay(since=old))
        batches.wait(lambda: len(batches.items) == 2)
        assert batches.states()[1] == {"new": b"line", "a": b"2", "other": b""}


def test_replay_of_an_unborn_branch(tmp_path):
    repository = Repository.new(tmp_path / "empty")
    with opened(repository) as store:
        batches = Batches(store.replay())
        batches.wait(lambda: len(batches.items) == 1)
        repository.commit({"a": "1"})
        batches.wait(lambda: len(batches.items) == 2)
        assert batches.states() == [{}, {"a": b"1"}]


def test_who_has_no_past_says_so():
    with datastream.open("memory:") as store:
        with pytest.raises(Unsupported, match="git"):
            store.replay()


# Real input.


@pytest.fixture
def real(tmp_path):
    """A clone of the repository these tests are in; if that is none, one made to be as rich."""
    repository = Repository(tmp_path / "real")
    root = Path(__file__).parents[2]
    here = Repository(root)
    if (root / ".git").exists() and int(here.git("rev-list", "--count", "HEAD")) > 5:
        repository.path.mkdir()
        repository.git("clone", "-q", "--no-local", str(root), ".")
        return repository
    made = Repository.new(repository.path)
    for number in range(30):
        made.commit(
            {f"d{n % 4}/f{n % 7}{suffix}": f"{n} {number}" for n, suffix in
             enumerate(("", ".json", ".txt", ".bin", ".py") * (1 + number % 3))}
            | {f"moved/{number}": "x", "ünï cödé": str(number)}
        )  # fmt: skip
        if number % 5 == 4:
            made.git("mv", f"moved/{number}", f"d0/m{number}")
            made.commit({f"moved/{number - 1}": None})
    return made


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_every_commit_of_a_real_repository(real):
    line = real.git("rev-list", "--first-parent", "--reverse", "HEAD").splitlines()
    with opened(real) as store:
        batches = Batches(store.replay())
        batches.wait(lambda: batches.items and batches.items[-1].cursor == line[-1])
        steps, state = {batch.cursor: batch for batch in batches.items}, {}
        for commit in line:
            for entry in steps[commit].entries if commit in steps else ():
                if entry.operation == "DELETE":
                    del state[entry.key]
                else:
                    state[entry.key] = entry.value
            expected = {path.decode(): data for path, data in real.files(commit).items()}
            assert state == expected, commit
        key = max(state, key=lambda key: len(state[key]))
        points = [change.point for change in store.history(key)]
        assert (
            points
            == real.git(
                "log", "--format=%H", "--full-history", "--no-merges", "--", key
            ).splitlines()
        )
        assert {k: e.value for k, e in store.snapshot().items()} == state


NAMES = [
    *("@", "HEAD", "main", "heads/main", "refs/heads/main", "other/deep", "origin", "origin/main"),
    *("v1", "tags/v1", "of-a-tag", "v1^{commit}", "v1^{}", "@^{commit}", "@~", "@^^", "@^0~1^0"),
    *("main^2", "main^2~1", "<0>", "<1>", "<2>", "<3>", "<4>", "some-thing-7-g<2>", "v1-0-g<4>"),
    *("of-a-tree", "head", "@^3", "@~99", "config", "../x", "refs/heads/", "", "-", "~1", "^"),
    *("a b", "main:a", "HEAD^{tree}", "HEAD~" + "9" * 30, "main\0", "\udcff", "FETCH_HEAD"),
]


@pytest.mark.parametrize("packed", [False, True])
def test_points_have_the_names_that_git_gives_them(tmp_path, packed):
    repository = Repository.new(tmp_path / "work")
    commits = [repository.commit({"a": str(number)}) for number in range(4)]
    repository.git("tag", "-a", "v1", "-m", "x", commits[1])
    repository.git("tag", "-a", "of-a-tag", "-m", "x", "v1")
    repository.git("tag", "-a", "of-a-tree", "-m", "x", "HEAD^{tree}")
    repository.git("branch", "other/deep", commits[2])
    repository.git("update-ref", "refs/remotes/origin/main", commits[2])
    repository.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    repository.git("checkout", "-q", "-b", "side", commits[0])
    repository.commit({"side": "1"})
    repository.git("checkout", "-q", "main")
    repository.git("merge", "-q", "side", "-m", "merged")
    if packed:
        repository.git("gc", "-q")
    head = repository.head()
    ids = head.upper(), head[:7], head[:8].upper(), repository.git("describe"), head[:4]
    with datastream.open(f"git:{repository.path}") as store:
        for name in NAMES:
            for number, part in enumerate(ids):
                name = name.replace(f"<{number}>", part)
            expected = ""
            if "\0" not in name and name.isprintable():
                asked = ("rev-parse", "-q", "--verify", f"{name}^{{commit}}")
                expected = repository.git(*asked, check=False)
            try:
                with store.at(name) as past:
                    found = past.snapshot_batch().cursor
            except DatastreamError:
                found = ""
            assert found == expected, name


def test_replaced_objects_are_read_as_they_are_stored(tmp_path):
    repository = Repository.new(tmp_path / "work")
    first = repository.commit({"a": "1"})
    second = repository.commit({"a": "2"})
    repository.git("replace", second, first)
    with datastream.open(f"git:{repository.path}") as store:
        assert store["a"] == 2
        assert [revision.point for revision in store.history("a")] == [second, first]
    repository.git("replace", "-d", second)
