"""`Store.entries`: one entry after the other, of stores larger than memory."""

import sqlite3
import tracemalloc
from contextlib import closing

import pytest

import datastream
from datastream import SourceUnavailable, StoreClosed
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)

LARGE = 256 << 10


def open_kind(kind, path):
    if kind == "memory":
        return datastream.open("memory:")
    if kind == "git":
        return datastream.open(f"git:{Repository.new(path / 'repository').path}")
    name = "data.db" if kind == "sqlite" else "files"
    return datastream.open(f"{kind}:{path}/{name}", create=True)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "git", "file"])
def test_all_there_is_sorted_and_as_a_snapshot_has_it(kind, tmp_path):
    with open_kind(kind, tmp_path) as store:
        store.put_many({"b": 1, "a/x.txt": "x", "a/y.json": {"z": None}, "ü": 2, "c/d/e": b"\xff"})
        found = list(store.entries())
        assert {entry.key: entry for entry in found} == store.snapshot()
        assert [entry.key for entry in found] == sorted(store)
        assert [e.key for e in store.entries("a/", "b", exclude="**/*.json")] == ["a/x.txt", "b"]
        with store.entries("nothing/") as none:
            assert list(none) == []
            assert none.unread == frozenset()
    with pytest.raises(StoreClosed):
        next(store.entries())


@pytest.mark.parametrize("kind", ["sqlite", "git", "file"])
def test_few_are_in_memory(kind, tmp_path):
    with open_kind(kind, tmp_path) as store:
        for number in range(60):
            store[f"k{number:02}.bin"] = bytes([number]) * LARGE
        next(store.entries()).decode()
        tracemalloc.start()
        try:
            assert sum(len(entry.value) for entry in store.entries()) == 60 * LARGE
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 45 * LARGE, peak


@pytest.mark.parametrize("kind", ["sqlite", "git"])
def test_it_is_of_one_moment(kind, tmp_path):
    with open_kind(kind, tmp_path) as store:
        store.put_many({f"k{number}": 0 for number in range(9)})
        entries = store.entries()
        first = next(entries)
        store.put_many({"k5": 1, "new": 1})
        del store["k7"]
        assert [e.decode() for e in (first, *entries)] == [0] * 9


def test_a_walk_that_is_left_holds_nothing(tmp_path):
    with open_kind("sqlite", tmp_path) as store:
        store.put_many({"a": 1, "b": 2})
        with store.entries() as entries:
            next(entries)
        assert list(entries) == []
        with closing(sqlite3.connect(tmp_path / "data.db", timeout=0)) as db:
            assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def test_whoever_walks_a_file_without_wal_holds_up_nobody(tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE data (key TEXT PRIMARY KEY, value)")
        db.executemany("INSERT INTO data VALUES (?, ?)", [("a", 1), ("b", 2)])
        db.commit()
        with datastream.open(f"sqlite:{path}?triggers=false") as store:
            entries = store.entries()
            assert next(entries).key == "a"
            db.execute("PRAGMA busy_timeout = 0")
            db.execute("UPDATE data SET value = 3")
            db.commit()
            assert next(entries).decode() == 2


def test_what_is_away_is_said(tmp_path):
    with open_kind("file", tmp_path) as store:
        store["a"] = 1
        (tmp_path / "files").rename(tmp_path / "moved")
        with pytest.raises(SourceUnavailable):
            next(store.entries())
