"""Git sources used by many threads at once, and what their calls answer: no store above them."""

import gc
import sys
import threading
import time
from contextlib import contextmanager

import psutil
import pytest

from datastream.entry import Operation
from datastream.errors import (
    DatastreamError,
    InvalidValue,
    RevisionConflict,
    SourceUnavailable,
    StoreClosed,
)
from datastream.selection import Selection
from datastream.source import Feature, Write
from datastream.sources.git import GitSource, RemoteGitSource, tracking
from datastream.sources.git import objects as git_objects
from datastream.sources.git.branch import LocalBranch
from datastream.sources.git.handles import KEPT, KEPT_PACKS, Handles
from datastream.sources.git.work_trees import WorkTrees
from datastream.store import Store
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)
from tests.servers.git_http import PASSWORD, USER, GitServer

ALL = Selection.of()
SECONDS = 1.5


@pytest.fixture
def bare(tmp_path):
    return Repository.new(tmp_path / "served" / "bare.git", bare=True)


@pytest.fixture
def server(bare):
    bare.git("config", "http.receivepack", "true")
    server = GitServer(bare.path.parent)
    yield server
    server.close()


@pytest.fixture(params=["bare", "checked out", "remote"])
def source(request, bare, tmp_path):
    if request.param == "remote":
        source = RemoteGitSource(f"file://{bare.path}", interval=0.05)
    elif request.param == "bare":
        source = GitSource(bare.path)
    else:
        source = GitSource(Repository.new(tmp_path / "work").path)
    yield source
    source.close()


@contextmanager
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*actions, seconds=SECONDS):
    """Run each action again and again in a thread of its own; what they raised."""
    failures, over = [], threading.Event()

    def run(action):
        try:
            while not over.is_set():
                action()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    with switching_often():
        for thread in threads:
            thread.start()
        over.wait(seconds)
        over.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return failures


def in_thread(action):
    """Start `action`; its result list is filled when it is done."""
    result = []

    def run():
        try:
            result.append(action())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, result


def put(source, **values):
    return source.write([Write(key, str(value).encode()) for key, value in values.items()])


def about(reading):
    return reading.author, reading.message, reading.point


def descriptors():
    gc.collect()
    return psutil.Process().num_fds()


def path_of(source):
    return source._where.removeprefix("file://")


# Many threads.


@pytest.mark.chaos
def test_fifty_threads_mix_everything_beside_gc(source):
    put(source, x=0, y=0)
    before = descriptors()
    most = [0]
    repository = Repository(path_of(source))

    def write(number):
        put(source, x=number, y=number, **{f"own/{number}": time.monotonic_ns()})

    def consistent(entries):
        found = {entry.key: entry.value for entry in entries}
        assert found["x"] == found["y"], found

    def resume():
        position = source.read(ALL, None).position
        reading = source.read(ALL, position)
        if not reading.complete and reading.entries:
            found = {entry.key: entry.value for entry in reading.entries}
            assert found.get("x") == found.get("y"), found

    def collect():
        repository.git("repack", "-adq", check=False)
        repository.git("prune-packed", "-q", check=False)
        most[0] = max(most[0], psutil.Process().num_fds())
        time.sleep(0.05)

    failures = together(
        *(lambda n=n: write(n) for n in range(8)),
        *[lambda: consistent(source.read(ALL, None).entries)] * 12,
        *[resume] * 10,
        *[lambda: source.get("x").value] * 12,
        *[lambda: [c.key for c in source.capabilities()].index("x")] * 4,
        *[lambda: next(iter(source.history("x")))] * 3,
        collect,
    )
    assert not failures, failures[:3]
    assert most[0] < before + 200
    assert descriptors() <= before + 2 * KEPT_PACKS
    source.close()
    assert descriptors() <= before


def test_writes_of_many_threads_are_a_chain_without_gaps(source):
    steps, position = [], source.read(ALL, None).position
    lock = threading.Lock()

    def write(number):
        for _ in range(6):
            written = put(source, **{f"k{number}": time.monotonic_ns()})
            with lock:
                steps.append(written)

    with switching_often():
        threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    following = {written.since: written for written in steps}
    assert len(following) == len(steps) == 36
    while position in following:
        written = following.pop(position)
        assert written.position != position
        position = written.position
    assert not following
    assert source.read(ALL, None).position == position


def test_closed_during_traffic_every_call_ends_and_all_files_are_closed(source):
    put(source, a=1)
    before = descriptors()
    calls = [
        lambda: source.read(ALL, None),
        lambda: source.get("a"),
        lambda: put(source, a=time.monotonic_ns()),
        lambda: list(source.history("a"))[:3],
    ]
    closer = threading.Timer(0.5, source.close)
    closer.start()
    started = time.monotonic()
    # One thread waits, as the store's poller does.
    failures = together(*calls * 4, lambda: source.wait(0.05), seconds=1.5)
    closer.join()
    assert time.monotonic() - started < 60
    assert failures
    assert {type(failure) for failure in failures} <= {StoreClosed}
    with pytest.raises(StoreClosed, match="closed"):
        source.get("a")
    assert descriptors() <= before


def test_a_handle_that_comes_back_after_close_is_closed(bare):
    source = GitSource(bare.path)
    put(source, a=1)
    bare.git("repack", "-adq")
    bare.git("prune-packed")
    before = descriptors()
    iterator = source.history("a")
    assert next(iterator).entry.value == b"1"
    assert descriptors() > before - 2
    source.close()
    iterator.close()
    assert descriptors() <= before


def test_an_iterator_that_is_never_started_holds_nothing(bare):
    source = GitSource(bare.path)
    put(source, a=1)
    iterators = [source.history("a") for _ in range(50)]
    iterators += [source.replay(ALL, None) for _ in range(50)]
    assert source._handles._lent == 0
    source.close()
    assert isinstance(iterators, list)


# Nobody waits for anybody.


def test_reads_go_on_while_a_write_and_a_wait_hang(source, monkeypatch):
    put(source, a=1)
    position = source.read(ALL, None).position
    source.read(ALL, position)
    hanging, go_on = threading.Event(), threading.Event()
    kind = type(source._branch)
    publish = kind.publish

    def slow(*arguments):
        hanging.set()
        go_on.wait(30)
        return publish(*arguments)

    monkeypatch.setattr(kind, "publish", slow)
    writer, written = in_thread(lambda: put(source, a=2))
    waiter, _ = in_thread(lambda: source.wait(20))
    assert hanging.wait(30)
    assert source.get("a").value == b"1"
    assert source.read(ALL, None).position == position
    assert source.read(ALL, position).entries == []
    assert [c.key for c in source.capabilities()] == ["a"]
    assert writer.is_alive(), "they waited for the write"
    go_on.set()
    writer.join(30)
    assert written[0].since == position
    source.wake()
    waiter.join(30)
    assert not waiter.is_alive()


def test_calls_that_hang_hold_up_others_only_for_a_moment(bare):
    source = GitSource(bare.path)
    put(source, a=1)
    lent = [source._handles.take() for _ in range(30)]
    assert source.get("a").value == b"1"
    for files, generation in lent:
        source._handles.give_back(files, generation)
    assert len(source._handles._idle) <= KEPT
    source.close()


def test_a_push_that_hangs_holds_up_no_reader_and_close_ends_it(bare, server):
    source = RemoteGitSource(
        f"{server.url}/bare.git", username=USER, password=PASSWORD, interval=3600, timeout=60
    )
    put(source, a=1)
    position = source.read(ALL, None).position
    server.hold = threading.Event()
    asked = len(server.requests)
    writer, result = in_thread(lambda: put(source, a=2))
    server.wait_for_requests(asked + 1)
    started = time.monotonic()
    assert source.get("a").value == b"1"
    assert source.read(ALL, position).entries == []
    source.close()
    writer.join(30)
    assert not writer.is_alive()
    # The server would let go after a minute, and the client give up.
    assert time.monotonic() - started < 40
    server.hold.set()
    assert isinstance(result[0], DatastreamError)


def test_wait_is_ended_by_release_and_close_from_another_thread(bare):
    source = GitSource(bare.path, interval=3600)
    put(source, a=1)
    source.read(ALL, source.read(ALL, None).position)
    for _ in range(20):
        waiter, result = in_thread(lambda: source.wait(None))
        time.sleep(0.01)
        source.release()
        source.wake()
        waiter.join(30)
        assert result == [None]
    waiter, result = in_thread(lambda: source.wait(None))
    time.sleep(0.05)
    source.close()
    waiter.join(30)
    assert not waiter.is_alive()


# What a write answers.


def test_a_write_says_exactly_what_lies_around_it(source):
    first = put(source, a=1, b=2)
    assert first.since == "unborn"
    second = source.write([Write("a", b"3"), Write("b", None)])
    assert second.since == first.position
    assert source.read(ALL, None).position == second.position
    reading = source.read(ALL, second.since)
    assert not reading.complete
    assert {(e.key, e.operation) for e in reading.entries} == {
        ("a", Operation.PUT),
        ("b", Operation.DELETE),
    }
    assert sorted(reading.entries) == sorted(second.entries)
    nothing = put(source, a=3)
    assert nothing.since == nothing.position == second.position
    assert [entry.value for entry in nothing.entries] == [b"3"]


def test_a_write_on_top_of_others_starts_at_their_position(bare):
    source = GitSource(bare.path)
    put(source, a=1)
    theirs = bare.import_commit({"b": "2"})
    written = put(source, c=3)
    assert written.since == theirs
    assert written.position == bare.head("main")
    source.close()


# Messages and authors.


def test_messages_and_authors_are_kept(source):
    assert Feature.MESSAGES in source.features
    text = "load test\n\nAs asked,\nwith {keys}."
    position = put(source, z=0).position
    source.write(
        [
            Write("a", b"1"),
            Write("b", b"2", message=text, author="Ann Ümläut <ann@example.org>"),
            Write("c", b"3", message="not this one", author="Bob <b@example.org>"),
        ]
    )
    reading = source.read(ALL, position)
    assert reading.author == "Ann Ümläut <ann@example.org>"
    assert reading.message == f"{text}\n"
    assert reading.point == reading.position
    revision = next(iter(source.history("a")))
    assert revision[1:] == (reading.point, reading.author, reading.message)
    repository = Repository(path_of(source))
    assert repository.git("log", "-1", "--format=%an|%cn", reading.point).startswith("Ann Ümläut|")
    assert "Ann" not in repository.git("log", "-1", "--format=%cn", reading.point)
    replayed = list(source.replay(ALL, position))
    assert about(replayed[0]) == ("", "", "")
    assert about(replayed[-1]) == about(reading)


@pytest.mark.parametrize(
    "author",
    [
        *("Ann", "<ann@example.org>", " <a@b>", "Ann <a@b", "Ann a@b>", "Ann<a@b>"),
        *("A\nB <a@b>", "A <a@b>\n", "A\0 <a@b>", "A <B <a@b>", "A <a b>", "A> <a@b>"),
        *("\ud800 <a@b>", "A <a@b> x", "  ", "\x1b[31m <a@b>"),
    ],
)
def test_an_author_that_no_commit_can_have_is_refused(bare, author):
    source = GitSource(bare.path)
    before = put(source, a=1).position
    with pytest.raises(InvalidValue, match="author"):
        source.write([Write("a", b"2"), Write("b", b"2", author=author)])
    assert source.read(ALL, None).position == before
    source.close()


@pytest.mark.parametrize("message", ["nul\0", "\ud800"])
def test_a_message_that_no_commit_can_have_is_refused(bare, message):
    source = GitSource(bare.path)
    with pytest.raises(InvalidValue, match="message"):
        source.write([Write("a", b"2", message=message)])
    assert source.read(ALL, None).position == "unborn"
    source.close()


def test_only_one_commit_on_top_of_a_position_explains_what_changed(bare):
    source = GitSource(bare.path, author="Ours", email="o@example.org")
    first = put(source, a=1)
    initial = source.read(ALL, "unborn")
    assert initial.author == "Ours <o@example.org>"
    assert initial.point == first.position
    put(source, a=2)
    last = put(source, a=3)
    several = source.read(ALL, first.position)
    assert about(several) == ("", "", "")
    assert about(source.read(ALL, last.position)) == ("", "", "")
    assert about(source.read(ALL, None)) == ("", "", "")
    # Backwards it is no commit either.
    bare.git("update-ref", "refs/heads/main", first.position)
    assert about(source.read(ALL, last.position)) == ("", "", "")
    source.close()


def test_dates_beyond_those_that_can_be_read_again_are_refused(bare):
    from datetime import UTC, datetime, timedelta, timezone

    source = GitSource(bare.path)
    before = put(source, a=1).position
    west, east = timezone(timedelta(hours=-12)), timezone(timedelta(hours=12))
    for moment in (
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=west),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=east),
    ):
        with pytest.raises(InvalidValue, match="1970"):
            source.write([Write("a", b"2", updated_at=moment)])
    assert source.read(ALL, None).position == before
    latest = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    source.write([Write("a", b"2", updated_at=latest)])
    assert source.get("a").updated_at == latest.replace(microsecond=0)
    source.close()


# One key.


def test_get_reads_one_blob_and_the_trees_on_its_way(bare, monkeypatch):
    bare.import_commit({f"d{n}/{m}": f"{n} {m}" for n in range(9) for m in range(9)})
    bare.import_commit({b"caf\xe9": "latin", "d3/deep/er": "x"})
    source = GitSource(bare.path)
    read = []
    raw = git_objects.Objects._raw
    monkeypatch.setattr(
        git_objects.Objects, "_raw", lambda self, name: read.append(name) or raw(self, name)
    )
    assert source.get("d3/3").value == b"3 3"
    # A commit, two trees and the blob.
    assert len(read) == 4
    assert source.get("d3/3").revision == bare.head("main:d3/3")
    assert source.get(r"caf\xe9").value == b"latin"
    for key in ("d3", "d3/", "d3/3/x", "nowhere", r"\x64\x33/3", "", "d" * 5000):
        assert source.get(key) is None
    source.close()


# Puts beside git's own work.


def test_a_folder_that_gc_removes_is_made_again(bare, monkeypatch):
    source = GitSource(bare.path)
    write_file, failed = git_objects._write_file, []

    def racing(temporary, *arguments, **options):
        if temporary.parent not in failed:
            failed.append(temporary.parent)
            temporary.parent.rmdir()
        write_file(temporary, *arguments, **options)

    monkeypatch.setattr(git_objects, "_write_file", racing)
    put(source, a=1)
    assert failed
    assert source.get("a").value == b"1"
    source.close()


def test_a_conflict_is_told_and_harms_no_handle(source):
    revision = put(source, a=1).entries[0].revision
    put(source, a=2)
    for _ in range(20):
        with pytest.raises(RevisionConflict):
            source.write([Write("a", b"3", expect=revision)])
    assert source._handles._lent == 0
    assert len(source._handles._idle) == 1


# A remote that is away.


def test_a_remote_that_is_away_shows_in_the_health_and_not_in_reads(bare, server):
    bare.import_commit({"a": "1"})
    source = RemoteGitSource(
        f"{server.url}/bare.git", username=USER, password=PASSWORD, interval=0.05
    )
    assert source.health.error is None
    position = source.read(ALL, None).position
    source.read(ALL, position)
    server.status = 503
    deadline = time.monotonic() + 60
    while source.health.error is None and time.monotonic() < deadline:
        source.wait(1)
    assert isinstance(source.health.error, SourceUnavailable)
    assert "503" in str(source.health.error)
    # It pauses, and goes on asking.
    asked, started = len(server.requests), time.monotonic()
    while time.monotonic() - started < 1 or len(server.requests) < asked + 2:
        source.wait(1)
    assert len(server.requests) - asked <= 20 * max(1, time.monotonic() - started)
    assert source.read(ALL, position).entries == []
    assert source.get("a").value == b"1"
    with pytest.raises(SourceUnavailable, match="503"):
        put(source, a=2)
    server.status = None
    moved = bare.import_commit({"a": "2"})
    source.wake()
    while source.health.error is not None and time.monotonic() < deadline:
        source.wait(1)
    assert source.health.error is None
    assert source.read(ALL, position).position == moved
    source.close()


def test_opened_while_the_remote_is_away_it_says_so(bare, server):
    bare.import_commit({"a": "1"})
    options = {"username": USER, "password": PASSWORD, "interval": 3600}
    RemoteGitSource(f"{server.url}/bare.git", **options).close()
    server.status = 503
    source = RemoteGitSource(f"{server.url}/bare.git", **options)
    assert "503" in str(source.health.error)
    assert source.get("a").value == b"1"
    server.status = None
    put(source, a=2)
    assert source.health.error is None
    source.close()


def test_one_of_many_readers_asks_for_all(bare, server):
    bare.import_commit({"a": "1"})
    source = RemoteGitSource(
        f"{server.url}/bare.git", username=USER, password=PASSWORD, interval=3600
    )
    bare.import_commit({"a": "2"})
    # As if the hour had passed.
    source._schedule.request()
    values = []
    threads = [
        threading.Thread(target=lambda: values.append(source.get("a").value)) for _ in range(8)
    ]
    asked = len(server.requests)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [b"2"] * 8
    # Two requests for the question, and three for the fetch; each for itself would be 16 at least.
    assert len(server.requests) - asked <= 5
    source.close()


def test_what_was_pushed_is_read_although_the_clone_could_not_note_it(bare, monkeypatch):
    source = RemoteGitSource(f"file://{bare.path}", interval=3600)
    first = put(source, a=1)
    branch = source._remote_branch

    def fails(*_):
        raise SourceUnavailable("x")

    monkeypatch.setattr(tracking, "_move", fails)
    second = put(source, a=2)
    assert source.read(ALL, first.position).position == second.position
    assert source.read(ALL, second.position).entries == []
    monkeypatch.undo()
    source.wake()
    for _ in range(3):
        source.wait(0.1)
    assert branch._pushed is None
    assert source.read(ALL, second.position).entries == []
    bare.git("update-ref", "refs/heads/main", first.position)
    source.wake()
    for _ in range(3):
        source.wait(0.1)
    assert source.read(ALL, second.position).entries[0].value == b"1"
    source.close()


# Handles.


class _Objects:
    def __init__(self, log):
        self.log = log

    def packs(self):
        return 1

    def close(self):
        self.log.append(self)


class _Files:
    def __init__(self, log):
        self.objects = _Objects(log)


def test_handles_of_an_old_generation_or_that_failed_are_not_used_again():
    closed = []
    handles = Handles(lambda: _Files(closed))
    with handles.lend() as first, handles.lend() as second:
        assert first is not second
        handles.renew()
    assert {first.objects, second.objects} == set(closed)
    with pytest.raises(KeyError), handles.lend() as broken:
        raise KeyError
    assert broken.objects in closed
    with pytest.raises(InvalidValue), handles.lend() as fine:
        raise InvalidValue("the caller's fault")
    with handles.lend() as again:
        assert again is fine
        handles.close()
    assert fine.objects in closed


def test_a_handle_that_cannot_be_opened_is_not_counted():
    def fail():
        raise OSError("too many open files")

    handles = Handles(fail)
    for _ in range(100):
        with pytest.raises(OSError, match="too many"), handles.lend():
            pass
    assert handles._lent == 0


def test_a_branch_is_opened_by_threads_that_all_find_it(bare):
    bare.import_commit({"a": "1"})
    bare.git("pack-refs", "--all")
    source = GitSource(bare.path, branch="main")
    assert isinstance(source._branch, LocalBranch)

    def repack():
        bare.git("pack-refs", "--all", "--prune")
        bare.import_commit({"a": str(time.monotonic_ns())})

    failures = together(*[lambda: source.get("a").value] * 10, repack, seconds=2)
    assert not failures, failures[:3]
    source.close()


def test_a_reader_that_looked_before_the_first_commit_calls_nothing_deleted(bare, monkeypatch):
    """Another thread sees the commit between this one's look and what it makes of it."""
    source = GitSource(bare.path)
    with Store(source) as store:
        branch, find = source._branch, source._branch._refs.find

        def find_before():
            monkeypatch.setattr(branch._refs, "find", find)
            found = find()
            store["a"] = 1
            assert store["a"] == 1
            return found

        monkeypatch.setattr(branch._refs, "find", find_before)
        assert source.get("a") is None
        assert source.get("a").value == b"1"


def test_a_first_commit_that_takes_long_is_no_trouble_for_readers(tmp_path, monkeypatch):
    """It checks files out, for instance: until it is done, the branch is unborn."""
    source = GitSource(Repository.new(tmp_path / "work").path)
    held, seen = WorkTrees.held, []

    @contextmanager
    def held_while_read(trees, ref):
        with held(trees, ref) as bring:

            def bring_while_read(news):
                bring(news)
                seen.append(source.get("a"))

            yield bring_while_read

    monkeypatch.setattr(WorkTrees, "held", held_while_read)
    with Store(source) as store:
        store["a"] = 1
        assert seen == [None]
        assert store["a"] == 1
