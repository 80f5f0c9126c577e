"""The memory source below any store."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest

import datastream
from datastream import InvalidValue, Store
from datastream.entry import Operation
from datastream.errors import KeyNotFound, RevisionConflict
from datastream.selection import Selection
from datastream.source import ANY_REVISION, Write
from datastream.sources import memory
from datastream.sources.memory import MemorySource

EVERYTHING = Selection()


def put(source, key, value):
    return source.write([Write(key, value, "bytes")])


def test_a_write_says_where_the_table_was_before_and_after():
    source = MemorySource()
    for writes in (
        [Write("a", b"1", "bytes")],
        [Write("a", b"2", "bytes"), Write("b", b"1", "bytes")],
        [Write("a", None), Write("b", b"2", "bytes")],
    ):
        before = source.read(EVERYTHING, None).position
        written = source.write(writes)
        changed = source.read(EVERYTHING, before)
        assert (written.since, written.position) == (before, changed.position)
        assert changed.position == source.read(EVERYTHING, None).position
        assert not changed.complete
        assert [(e.key, e.revision) for e in changed.entries] == [
            (e.key, e.revision) for e in written.entries
        ]
        assert source.get("b") == next((e for e in written.entries if e.key == "b"), None)


def test_what_changes_nothing_leaves_the_position():
    source = MemorySource()
    stored = put(source, "a", b"1")
    assert put(source, "a", b"1")[:3] == (stored.entries, stored.position, stored.position)
    gone = source.write([Write("missing", None)])
    assert gone.entries[0].operation is Operation.DELETE
    assert gone.position == gone.since == stored.position
    for expect, error in (("other", RevisionConflict), (ANY_REVISION, KeyNotFound)):
        with pytest.raises(error):
            source.write([Write("a", b"2", "bytes"), Write("b", b"1", "bytes", expect)])
    assert source.read(EVERYTHING, None).position == stored.position
    assert source.get("a") == stored.entries[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lives", [10, 30])
def test_the_table_knows_which_keys_existed_when(monkeypatch, seed, lives):
    """Or says that they did, where it has forgotten."""
    monkeypatch.setattr(memory, "LIVES", lives)
    source, any_ = MemorySource(), random.Random(seed)
    states = [frozenset()]
    for number in range(400):
        key = any_.choice("abc")
        source.write([Write(key, None if any_.random() < 0.5 else b"%d" % number, "bytes")])
        if source._table.sequence == len(states):
            states.append(frozenset(source._table.entries))
    deletions = [n for n, (old, new) in enumerate(pairwise(states), 1) if old - new]
    remembered = deletions[-lives - 1]
    for sequence, state in enumerate(states):
        for key in "abcd":
            told = source._table.existed(key, sequence)
            assert told == (key in state or sequence < remembered)
    assert sum(len(flips) // 2 for flips in source._table._lives.values()) == lives


def test_keys_that_live_for_moments_are_no_deletes_to_who_never_had_them():
    source = MemorySource()
    before = put(source, "kept", b"1").position
    for number in range(100):
        put(source, "passing", b"%d" % number)
        source.write([Write("passing", None)])
    assert source.read(EVERYTHING, before).created == {"passing"}


def test_a_reader_that_resumes_is_not_told_of_keys_that_came_and_went():
    with Store(MemorySource()) as store:
        store.put_many({"same": 1, "gone": 1})
        cursor = store.snapshot_batch().cursor
        store.put_many({"new": 1, "passing": 1})
        store.delete("passing")
        store.delete("gone")
        store.put("gone", 2)
        store.delete("gone")
        batches = []
        store.watch_batches(since=cursor).subscribe(batches.append)
        assert store.flush(30)
    found = {entry.key: entry.operation for entry in batches[0].entries}
    assert found == {"new": Operation.PUT, "gone": Operation.DELETE}


def test_forgotten_keys_cost_no_memory(monkeypatch):
    monkeypatch.setattr(memory, "TOMBSTONES", 10)
    monkeypatch.setattr(memory, "LIVES", 20)
    source = MemorySource()
    first = put(source, "kept", b"1").position
    for number in range(100):
        put(source, f"k{number}", b"1")
        source.write([Write(f"k{number}", None)])
    table = source._table
    assert len(table._log) == len(table._lives) == 11
    assert len(table._deletions) == 20
    assert source.read(EVERYTHING, first).complete


def test_stores_that_share_a_table_wake_each_other():
    one, other = MemorySource("shared by two"), MemorySource("shared by two")
    position = other.read(EVERYTHING, None).position
    put(one, "a", b"1")
    other.wait(30)
    assert [e.key for e in other.read(EVERYTHING, position).entries] == ["a"]
    third = weakref.ref(MemorySource("shared by two"))
    gc.collect()
    assert third() is None
    one.close()
    put(other, "a", b"2")
    assert len(other._table.sources) == 1


def test_many_threads_do_everything_at_once():
    """Sources come and go meanwhile; each change lies between the positions that were said."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    name, steps, lock = "hammered", {}, threading.Lock()
    source = MemorySource(name)
    start = source.read(EVERYTHING, None).position

    def write(thread):
        for number in range(300):
            written = put(source, f"k{number % 7}", b"%d %d" % (thread, number))
            with lock:
                steps[written.since] = written
            assert source.get(f"k{number % 7}") is not None
            assert not source.read(EVERYTHING, written.since).complete

    def come_and_go(thread):
        for _ in range(300):
            other = MemorySource(name)
            other.read(EVERYTHING, None)
            other.close()

    try:
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(write, n) for n in range(6)]
            calls += [pool.submit(come_and_go, n) for n in range(2)]
            for call in calls:
                call.result(60)
    finally:
        sys.setswitchinterval(interval)
    state, position = {}, start
    while position in steps:
        state |= {e.key: e for e in steps[position].entries}
        position = steps[position].position
    assert len(steps) == 1800
    assert state == {e.key: e for e in source.read(EVERYTHING, None).entries}


@pytest.mark.parametrize(("time", "hours"), [(datetime.min, 5), (datetime.max, -5)])
def test_a_time_beyond_those_that_utc_has_is_refused(time, hours):
    """Of a source that keeps text or a number, the conversion was an error of its own."""
    with datastream.open("memory:") as store:
        with pytest.raises(InvalidValue, match="updated_at of 'k'"):
            store.put("k", 1, updated_at=time.replace(tzinfo=timezone(timedelta(hours=hours))))
        assert "k" not in store
