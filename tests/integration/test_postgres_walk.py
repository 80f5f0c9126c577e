"""Tables that are read piece by piece."""

from __future__ import annotations

import threading
import tracemalloc

import psycopg
import pytest

import datastream
from datastream import StoreClosed
from datastream.sources.postgres import walking
from datastream.sources.postgres.pool import LIMITS, Use

LARGE = 256 << 10


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@pytest.fixture
def store(postgres):
    with datastream.open(postgres, create=True) as store:
        yield store


KEYS = ["b", "a/x", "A", "a-b", "a", "é", "\uffff", "\U0001f511", "z" * 300]


@pytest.mark.parametrize("is_pooled", [False, True])
def test_it_is_what_a_snapshot_has_sorted_by_key(store, monkeypatch, is_pooled):
    monkeypatch.setattr(walking, "FIRST", 1)
    monkeypatch.setattr(walking, "can_hold", lambda session: not is_pooled)
    store.put_many({f"{key}{number}": number for key in KEYS for number in range(9)} | {"n": None})
    found = list(store.entries())
    assert {entry.key: entry for entry in found} == store.snapshot()
    assert [entry.key for entry in found] == sorted(store)
    assert [e.key for e in store.entries("a/", "b1", exclude="a/x3")] == [
        *(f"a/x{number}" for number in range(9) if number != 3),
        "b1",
    ]
    assert list(store.entries("nothing/")) == []


def test_it_is_of_one_moment_and_holds_up_nobody(store, db):
    store.put_many({f"k{number:04}": 0 for number in range(100)})
    with store.entries() as entries:
        first = next(entries)
        store.put_many({"k0050": 1, "new": 1})
        del store["k0070"]
        db.execute("SET lock_timeout = '5s'")
        db.execute("ALTER TABLE data ADD COLUMN more text")
        db.execute("TRUNCATE data")
        assert [e.decode() for e in (first, *entries)] == [0] * 100
        assert list(entries) == []


def test_few_are_in_memory(store):
    for number in range(60):
        store[f"k{number:02}"] = bytes([number]) * LARGE
    next(store.entries()).decode()
    tracemalloc.start()
    try:
        assert sum(len(entry.value) for entry in store.entries()) == 60 * LARGE
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Those of the first piece, as they come and as they are kept.
    assert peak < 45 * LARGE, peak


def test_of_rows_that_cannot_be_read_the_others_come(postgres, db, monkeypatch):
    monkeypatch.setattr(walking, "FIRST", 1)
    db.execute(
        "CREATE TABLE numbers (key text, n int); "
        "CREATE VIEW data AS SELECT key, 12 / n AS value FROM numbers"
    )
    db.execute(
        "INSERT INTO numbers VALUES ('a', 1), ('b', 0), ('c', 3), ('c', 4), ('c', 6), ('d', 2)"
    )
    with datastream.open(postgres) as store:
        with store.entries() as entries:
            found = list(entries)
            assert entries.unread == {"b"}
        assert {entry.key: entry for entry in found} == store.snapshot()
        assert [entry.key for entry in found] == ["a", "c", "d"]
        assert "'b' (division by zero" in store.status.current.degraded
        db.execute("UPDATE numbers SET n = 1 WHERE key = 'b'")
        assert [entry.key for entry in store.entries()] == ["a", "b", "c", "d"]


def test_a_walk_that_is_left_gives_its_session_back(store):
    store.put_many({f"k{number:04}": 0 for number in range(100)})
    for _ in range(2 * LIMITS[Use.WALK]):
        with store.entries() as entries:
            next(entries)
        assert list(entries) == []


def test_a_store_that_is_closed_ends_its_walks(postgres):
    with datastream.open(postgres, create=True) as store:
        store.put_many({f"k{number:04}": 0 for number in range(100)})
        entries = store.entries()
        next(entries)
    with pytest.raises(StoreClosed):
        list(entries)
    entries.close()


def test_what_is_altered_before_the_walk_is_looked_up(store, db):
    store.put_many({"a": 1, "b": 2})
    db.execute("ALTER TABLE data ALTER COLUMN value TYPE text USING convert_from(value, 'UTF8')")
    assert [entry.value for entry in store.entries()] == [b"1", b"2"]


def test_walks_go_on_beside_each_other(store):
    store.put_many({f"k{number:04}": number for number in range(100)})
    walks = [store.entries() for _ in range(LIMITS[Use.WALK])]
    assert [next(walk).key for walk in walks] == ["k0000"] * len(walks)
    assert store["k0001"] == 1
    sums: list[int] = []
    threads = [
        threading.Thread(target=lambda w=walk: sums.append(sum(e.decode() for e in w)))
        for walk in walks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [sum(range(100))] * len(walks)
