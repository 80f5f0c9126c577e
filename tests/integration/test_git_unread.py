"""Single objects of a repository that cannot be read: left out and named, all else goes on."""

import zlib

import pytest
from reactivex import operators as ops

import datastream
from datastream.entry import Operation
from datastream.errors import SourceUnavailable, Unreadable
from datastream.testing import Recorder
from tests.repositories import Repository, clones, git_environment  # noqa: F401  (a fixture)

FILES = {"a": "1", "d/b": "2", "d/c": "3", "d/e/f": "4", "z": "5"}


@pytest.fixture
def repository(tmp_path):
    repository = Repository.new(tmp_path / "work")
    repository.commit(FILES)
    return repository


@pytest.fixture
def at_once(monkeypatch):
    """What could not be read is tried again by every look."""
    monkeypatch.setattr("datastream.sources.git.unread.RETRY_FIRST", 0.0)
    monkeypatch.setattr("datastream.sources._common.unread.RETRY_FIRST", 0.0)


def cut(place):
    place.write_bytes(place.read_bytes()[:-9])


def no_zlib(place):
    place.write_bytes(b"no zlib at all")


def another(place):
    place.write_bytes(zlib.compress(b"blob 5\0other"))


def gone(place):
    place.unlink()


def a_folder(place):
    place.unlink()
    place.mkdir()


class Damage:
    """Damages what git calls `name`, until `repair`."""

    def __init__(self, repository, name, how=gone):
        found = repository.git("rev-parse", name)
        self.place = repository.path / ".git" / "objects" / found[:2] / found[2:]
        self._kept = self.place.read_bytes()
        self.place.chmod(0o644)
        how(self.place)

    def repair(self):
        if self.place.is_dir():
            self.place.rmdir()
        self.place.write_bytes(self._kept)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.repair()


def held(store, *keys, **options):
    return {key: entry.value.decode() for key, entry in store.snapshot(*keys, **options).items()}


def without(*keys):
    return {key: value for key, value in FILES.items() if key not in keys}


@pytest.mark.parametrize("how", [cut, no_zlib, another, gone, a_folder])
def test_one_broken_file_is_left_out_and_all_else_goes_on(repository, how, caplog):
    with Damage(repository, "main:d/b", how), datastream.open(f"git:{repository.path}") as store:
        batch = store.snapshot_batch()
        assert held(store) == without("d/b")
        assert batch.unread == {"d/b"}
        assert list(store) == sorted(without("d/b"))
        assert [entry.key for entry in store.entries()] == sorted(without("d/b"))
        with pytest.raises(Unreadable, match="git fsck"):
            store.entry("d/b")
        assert "'d/b'" in store.status.current.degraded
        assert store.status.current.state.name == "READY"
    assert caplog.text.count("cannot be read and is left out") == 1


def test_a_broken_folder_is_left_out_with_all_below(repository):
    with Damage(repository, "main:d"), datastream.open(f"git:{repository.path}") as store:
        assert held(store) == {"a": "1", "z": "5"}
        assert store.snapshot_batch().unread == {"d/"}
        assert held(store, "a") == {"a": "1"}
        for nothing in (("d/",), ("d/b",), ("d/e/",)):
            with pytest.raises(Unreadable):
                store.snapshot(*nothing)
        with pytest.raises(Unreadable):
            store.entry("d/e/f")
        assert {entry.key for entry in store.entries()} == {"a", "z"}
        store["a"] = 7
        with pytest.raises(SourceUnavailable):
            store["d/new"] = 7
        assert held(store) == {"a": "7", "z": "5"}


@pytest.mark.parametrize("name", ["main", "main^{tree}"])
def test_a_broken_root_is_trouble_of_all(repository, name):
    with (
        Damage(repository, name),
        datastream.open(f"git:{repository.path}") as store,
        pytest.raises(SourceUnavailable, match="git fsck"),
    ):
        store.snapshot()


def texts(state):
    return {key: value.encode() for key, value in state.items()}


@pytest.mark.parametrize(("broken", "lost"), [("main:d/b", "d/b"), ("main:d", "d/")])
def test_readers_keep_what_they_have_and_are_told_the_rest(repository, broken, lost, at_once):
    before, after = {**FILES, "d/b": "9"}, {**FILES, "d/b": "9", "z": "6"}
    first = repository.head()
    repository.commit({"d/b": "9"})
    second = repository.head()
    repository.commit({"z": "6"})
    third = repository.head()
    url = f"git:{repository.path}"
    with datastream.open(url, interval=0.02) as store:
        had = {key: entry.revision for key, entry in store.at(second).snapshot().items()}
        repository.git("update-ref", "refs/heads/main", second)
        old = Recorder(store)
        old.wait_state(texts(before))
        with Damage(repository, broken) as damage, datastream.open(url, interval=0.02) as other:
            repository.git("update-ref", "refs/heads/main", third)
            old.wait_state(texts(after))
            resumed, behind = Recorder(other, since=had), Recorder(other, since=first)
            newcomer = Recorder(other)
            for recorder in (resumed, behind, newcomer):
                recorder.wait_ready()
            assert {entry.key for entry in resumed.entries} == {"z"}
            assert newcomer.batches[0].unread == {lost}
            assert not newcomer.state.keys() & {"d/b"}
            assert {entry.key for entry in behind.entries} == {"z"}
            cursors = [behind.cursor, newcomer.cursor]
            damage.repair()
            newcomer.wait_state(texts(after))
            behind.wait(lambda recorder: recorder.state.get("d/b") == b"9")
        for cursor in cursors:
            with datastream.open(url) as other:
                late = Recorder(other, since=cursor)
                late.wait(lambda recorder: recorder.state.get("d/b") == b"9")
        assert not [e for e in old.entries if e.operation is Operation.DELETE]


def test_a_broken_file_that_is_written_again_is_read_again(repository, at_once):
    with (
        Damage(repository, "main:d/b"),
        datastream.open(f"git:{repository.path}") as store,
    ):
        recorder = Recorder(store)
        recorder.wait_state(texts(without("d/b")))
        store["d/b"] = 7
        recorder.wait_state(texts({**FILES, "d/b": "7"}))
        assert not store.status.current.degraded
        assert [revision.entry.value for revision in store.history("d/b")] == [b"7"]
        store["d/c"] = 8
        recorder.wait_state(texts({**FILES, "d/b": "7", "d/c": "8"}))


def test_borrowed_objects_that_are_away_are_trouble_of_all(repository, tmp_path):
    repository.git("clone", "-q", "--shared", str(repository.path), str(tmp_path / "borrower"))
    borrower = Repository(tmp_path / "borrower")
    borrower.commit({"a": "mine"})
    with datastream.open(f"git:{borrower.path}") as store:
        assert held(store) == {**FILES, "a": "mine"}
    repository.path.rename(tmp_path / "away")
    with datastream.open(f"git:{borrower.path}") as store:
        with pytest.raises(SourceUnavailable, match="borrows objects"):
            store.snapshot()
        assert held(store, "a") == {"a": "mine"}
    (tmp_path / "away").rename(repository.path)


def test_a_clone_that_lacks_objects_is_made_anew_or_read_as_far_as_it_goes(repository, tmp_path):
    url = f"git+file://{repository.path}"
    with datastream.open(url) as store:
        assert held(store) == FILES
    lost = repository.head("main:d/b")

    def lose():
        (clone,) = map(Repository, clones(tmp_path))
        for pack in (clone.path / "objects/pack").glob("*.pack"):
            data = pack.read_bytes()
            for part in pack.parent.glob(f"{pack.stem}.*"):
                part.unlink()
            clone.git("unpack-objects", "-q", data=data)
        (clone.path / "objects" / lost[:2] / lost[2:]).unlink()

    lose()
    with datastream.open(url) as store:
        assert held(store) == FILES
    lose()
    away = tmp_path / "away"
    with datastream.open(url, interval=0.02) as store:
        repository.path.rename(away)
        assert held(store) == without("d/b")
        away.rename(repository.path)
        recorder = Recorder(store)
        recorder.wait_state(texts(FILES))


def test_a_broken_value_of_the_past_does_not_end_it(repository):
    repository.commit({"a": "20"})
    repository.commit({"a": "30"})
    with Damage(repository, "main~1:a"), datastream.open(f"git:{repository.path}") as store:
        assert [revision.entry.value for revision in store.history("a")] == [b"30", b"1"]
        with store.at("main~1") as past:
            assert held(past) == without("a")
            assert "'a'" in past.status.current.degraded
        replayed = store.replay("a").pipe(ops.take(2), ops.to_list()).run()
        assert [batch.entries[0].value for batch in replayed[1:]] == [b"1"]


@pytest.mark.parametrize("name", ["pack-*.idx", "multi-pack-index"])
@pytest.mark.parametrize("how", [lambda _: b"", lambda data: data[:40] + bytes(len(data) - 40)])
def test_a_broken_index_of_packs_hides_nothing_that_others_hold(repository, name, how):
    repository.git("repack", "-qad")
    packs = repository.path / ".git" / "objects" / "pack"
    old = set(packs.iterdir())
    repository.commit({"a": "7", "d/e/f": "8"})
    repository.git("repack", "-qd")
    repository.git("multi-pack-index", "write")
    (place,) = (path for path in packs.glob(name) if path in old or not path.suffix)
    kept = place.read_bytes()
    place.unlink()
    place.write_bytes(how(kept))
    with datastream.open(f"git:{repository.path}") as store:
        expected = {"a": "7", "d/e/f": "8"} if place.suffix else {**FILES, "a": "7", "d/e/f": "8"}
        found = held(store)
        assert expected.items() <= found.items()
        assert found.keys() | store.snapshot_batch().unread >= FILES.keys()
        store["z"] = 9
        assert store["z"] == 9
    place.unlink()
    place.write_bytes(kept)


def test_a_partial_clone_without_contents_is_no_empty_store(tmp_path):
    """Neither as a snapshot nor as a dict."""
    origin = Repository.new(tmp_path / "origin")
    origin.commit({"a": "1", "dir/b": "2"})
    origin.git("config", "uploadpack.allowFilter", "true")
    part = tmp_path / "part"
    origin.git("clone", "-q", "--filter=blob:none", "--no-checkout", f"file://{origin.path}", part)
    with datastream.open(f"git:{part}") as store:
        for read in (store.snapshot, store.copy, lambda: dict(store), lambda: {**store}):
            with pytest.raises(Unreadable, match="partial clone"):
                read()
