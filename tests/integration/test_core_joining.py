"""What a subscriber is given is judged by what it was given, not by what others know."""

import itertools
import threading

import pytest

import datastream
from datastream import Operation, Store
from datastream.sources.memory import MemorySource
from datastream.sources.sqlite import SqliteSource
from datastream.testing import Recorder
from tests.integration._core_sources import Listing
from tests.integration._programs.tools import TIMEOUT, Follower, database, eventually


class Interrupted:
    """Makes something happen around reads of a source."""

    def __init__(self, source, around):
        self.read = source.read
        self.around = around
        self.count = 0
        source.read = self

    def __call__(self, selection, since):
        self.count += 1
        return self.around(self, selection, since)


def memory(tmp_path):
    return MemorySource(f"joining-{tmp_path}"), MemorySource(f"joining-{tmp_path}")


def sqlite(tmp_path):
    return SqliteSource(tmp_path / "x.db"), SqliteSource(tmp_path / "x.db")


@pytest.fixture(params=[memory, sqlite])
def pair(request, tmp_path):
    """The source of a store, and another store on the same backend."""
    source, other = request.param(tmp_path)
    with Store(other) as theirs:
        theirs.put_many({"x": "one", "y": "one"})
        yield source, theirs


@pytest.mark.parametrize("others", ["all", "another key", "none"])
@pytest.mark.parametrize("since", [None, "cursor", "map"])
@pytest.mark.parametrize("at", range(1, 5))
def test_a_key_that_lives_for_one_read_is_told_to_be_gone(pair, others, since, at):
    """It is created before, and deleted after, the read number `at` of a joining newcomer."""
    source, theirs = pair

    def around(reads, selection, position):
        if reads.count != at:
            return reads.read(selection, position)
        theirs["k"] = "v"
        reading = reads.read(selection, position)
        del theirs["k"]
        return reading

    with Store(source) as ours:
        cursor = ours.snapshot_batch().cursor
        if others != "none":
            other = Recorder(ours, *(["y"] if others == "another key" else []))
            other.wait_ready()
        revisions = {key: entry.revision for key, entry in ours.snapshot().items()}
        had = {"x": b"one", "y": b"one"} if since else {}
        Interrupted(source, around)
        newcomer = Recorder(
            ours, since={"cursor": cursor, "map": revisions}.get(since), had=had or None
        )
        theirs["end"] = b"1"
        newcomer.wait_state({"x": b"one", "y": b"one", "end": b"1"})
        check_told_once(newcomer, {*had})


@pytest.mark.parametrize("others", ["all", "another key", "none"])
@pytest.mark.parametrize("at", range(1, 4))
def test_a_change_during_a_join_is_told_once(pair, others, at):
    source, theirs = pair

    def around(reads, selection, position):
        if reads.count == at:
            theirs["x"] = "two"
        reading = reads.read(selection, position)
        if reads.count == at:
            theirs["y"] = "two"
        return reading

    with Store(source) as ours:
        if others != "none":
            Recorder(ours, *(["y"] if others == "another key" else [])).wait_ready()
        Interrupted(source, around)
        newcomer = Recorder(ours)
        # The poller may have been read number `at`, or nobody.
        theirs.put_many({"x": "two", "y": "two", "end": "1"})
        newcomer.wait_state({"x": b"two", "y": b"two", "end": b"1"})
        check_told_once(newcomer)


def check_told_once(recorder, had=()):
    """No revision twice in a row, no DELETE twice in a row or of what was never given."""
    has = dict.fromkeys(had)
    for entry in recorder.entries:
        if entry.operation is Operation.DELETE:
            assert entry.key in has, f"DELETE of {entry.key}, which it was never given"
            del has[entry.key]
        else:
            assert has.get(entry.key) != entry.revision, f"{entry.key} was told twice"
            has[entry.key] = entry.revision


def test_newcomers_of_a_busy_directory_are_told_no_revision_twice(tmp_path):
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            (tmp_path / ".t").write_text(f"{number}")
            (tmp_path / ".t").rename(tmp_path / "k")
            stop.wait(0.003)

    with datastream.open(f"file:{tmp_path}") as store:
        store["k"] = 0
        everything = Recorder(store)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(60):
                newcomer = Recorder(store, *(["k"] if number % 2 else []))
                newcomer.wait(lambda one: len(one.batches) > 1)
                newcomer.dispose()
                check_told_once(newcomer)
        finally:
            stop.set()
            writer.join(TIMEOUT)
        everything.dispose()
        check_told_once(everything)


def test_a_slow_subscriber_is_told_delete_once_and_of_what_it_had():
    """While it blocks in the DELETE of k, more passes than its buffer keeps: it is conflated."""
    seen, go, blocked = [], threading.Event(), threading.Event()

    def slow(entry):
        seen.append((entry.key, entry.operation, entry.revision))
        if entry.operation is Operation.DELETE:
            blocked.set()
            go.wait(TIMEOUT)

    with datastream.open("memory:") as store:
        store["k"] = 1
        store.watch().subscribe(slow)
        del store["k"]
        assert blocked.wait(TIMEOUT)
        big = b"x" * (1 << 20)
        for key in ("k", "new"):
            store[key] = big
            store[key] = big + b"y"
            del store[key]
        store["k"] = 2
        del store["k"]
        store["end"] = 1
        go.set()
        assert store.flush(TIMEOUT)
    has = set()
    for key, operation, _ in seen:
        if operation is Operation.DELETE:
            assert key in has, f"DELETE of {key}, which it did not have: {seen}"
            has.discard(key)
        else:
            has.add(key)
    assert has == {"end"}


def test_a_slow_subscriber_is_not_told_the_revision_it_has():
    """With contents for revisions, A, B, A between two deliveries is nothing new."""
    go, blocked, seen = threading.Event(), threading.Event(), []

    class ByContent(Listing):
        def entry(self, key):
            entry = super().entry(key)
            return entry._replace(revision=entry.value[:9].decode())

    def slow(entry):
        seen.append((entry.key, entry.revision))
        if entry.key == "stop":
            blocked.set()
            go.wait(TIMEOUT)

    with Store(ByContent()) as store:
        store["k"] = b"A"
        store.watch().subscribe(slow)
        store["stop"] = b"1"
        assert blocked.wait(TIMEOUT)
        for value in (b"B", b"big" * (1 << 20), b"A"):
            store["k"] = value
        store["end"] = b"1"
        go.set()
        assert store.flush(TIMEOUT)
        eventually(lambda: seen[-1][0] == "end", "all is told")
    of_k = [revision for key, revision in seen if key == "k"]
    assert all(a != b for a, b in itertools.pairwise(of_k)), of_k


@pytest.mark.timeout(240)
def test_by_chance_no_newcomer_keeps_a_key_that_is_gone(tmp_path):
    """Another program creates and deletes keys of a SQLite file, milliseconds each."""
    path = tmp_path / "x.db"
    stop = threading.Event()

    def write():
        with database(path) as db:
            number = 0
            while not stop.is_set():
                number += 1
                db.execute(
                    "INSERT INTO data (key, value, value_type) VALUES (?, '1', 'int')",
                    (f"k{number}",),
                )
                stop.wait(0.001)
                db.execute("DELETE FROM data WHERE key = ?", (f"k{number - number % 2}",))
            db.execute("DELETE FROM data")

    with datastream.open(f"sqlite:{path}") as store:
        store["kept"] = 0
        del store["kept"]
        first = Follower(store)
        writer = threading.Thread(target=write)
        writer.start()
        newcomers = []
        for _ in range(60):
            newcomers.append(Recorder(store, "k1/", match="k*"))
            stop.wait(0.01)
        stop.set()
        writer.join(TIMEOUT)
        for newcomer in newcomers:
            newcomer.wait_state({})
            check_told_once(newcomer)
        first.wait_state({})
