"""Locks that other programs hold on an SQLite file."""

from __future__ import annotations

import queue
import signal
import sqlite3
import threading
import time
from contextlib import closing
from threading import Thread

import pytest

import datastream
from datastream import DatastreamError, SourceUnavailable, State, StoreClosed
from datastream.source import Write
from datastream.sources.sqlite import SqliteSource
from datastream.sources.sqlite import connection as sqlite_connection
from tests.integration._programs.tools import TIMEOUT, Child, Follower, Statuses, database

NATIVE = "key TEXT PRIMARY KEY, value"
TYPED = "key TEXT PRIMARY KEY, value BLOB, value_type TEXT, updated_at TIMESTAMP"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_lock_held_longer_than_the_timeout(path, stack, journal):
    with database(path, f"PRAGMA journal_mode={journal}", f"CREATE TABLE data ({NATIVE})"):
        pass
    store = stack.enter_context(datastream.open(f"sqlite:{path}", timeout=0.2))
    follower = Follower(store)
    child = stack.enter_context(Child("sql", path))
    assert child.ask("BEGIN EXCLUSIVE") == "ok"
    assert child.ask("INSERT INTO data VALUES ('a', 1)") == "ok"
    with pytest.raises(SourceUnavailable, match=r"app\.db.*'data'.*'k'.*locked.*timeout="):
        store["k"] = 1
    if journal == "delete":
        with pytest.raises(SourceUnavailable, match="locked"):
            store.snapshot()
        with pytest.raises(SourceUnavailable, match="locked"):
            datastream.open(f"sqlite:{path}", timeout=0.1)
        late = Follower(store)
        assert late.entries == []
    else:
        assert store.snapshot() == {}
        late = Follower(store)
    assert child.ask("COMMIT") == "ok"
    follower.wait_state({"a": b"1"})
    late.wait_state({"a": b"1"})
    store["k"] = 1
    follower.wait_state({"a": b"1", "k": b"1"})


def test_a_writer_waits_for_a_lock_within_the_timeout(path, stack):
    with database(path, f"CREATE TABLE data ({NATIVE})"):
        pass
    store = stack.enter_context(datastream.open(f"sqlite:{path}", timeout=20.0))
    child = stack.enter_context(Child("sql", path))
    assert child.ask("BEGIN IMMEDIATE") == "ok"
    writer = Thread(target=store.put, args=("k", 1))
    writer.start()
    assert child.ask("INSERT INTO data VALUES ('k', 'theirs')") == "ok"
    assert child.ask("COMMIT") == "ok"
    writer.join(TIMEOUT)
    assert store["k"] == 1


@pytest.fixture
def waiting(monkeypatch):
    """Set once a statement has waited for a lock, and waits again."""
    waiting = threading.Event()

    def sleep(seconds):
        waiting.set()
        time.sleep(seconds)

    monkeypatch.setattr(sqlite_connection, "sleep", sleep)
    return waiting


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_ctrl_c_ends_the_wait_for_a_lock(path, stack, waiting, journal, interruptible):
    with database(path, f"PRAGMA journal_mode={journal}", f"CREATE TABLE data ({NATIVE})"):
        pass
    store = stack.enter_context(datastream.open(f"sqlite:{path}", timeout=60))
    store["k"] = 1
    child = stack.enter_context(Child("sql", path))
    assert child.ask("BEGIN EXCLUSIVE") == "ok"
    main = threading.get_ident()

    def interrupt():
        if waiting.wait(TIMEOUT):
            signal.pthread_kill(main, signal.SIGINT)

    for call in (lambda: store.put("k", 2), lambda: store.get("k")):
        if journal == "wal" and waiting.is_set():
            # There a reader waits for nobody.
            break
        waiting.clear()
        hand = Thread(target=interrupt)
        hand.start()
        with pytest.raises(KeyboardInterrupt):
            call()
        hand.join(TIMEOUT)
    assert child.ask("COMMIT") == "ok"
    assert store["k"] == 1


def test_who_only_reads_says_that_a_transaction_was_cut_off(path, stack):
    """Only who may write can take back what a killed program has left half done."""
    with database(path, "PRAGMA journal_mode=delete", f"CREATE TABLE data ({NATIVE})") as db:
        db.execute("INSERT INTO data VALUES ('a', 1)")
    store = stack.enter_context(datastream.open(f"sqlite:{path}", readonly=True))
    statuses, follower = Statuses(store), Follower(store)
    follower.wait_state({"a": b"1"})
    child = stack.enter_context(Child("sql", path))
    child.ask("PRAGMA cache_size=1")
    child.ask("BEGIN IMMEDIATE")
    rows = ", ".join(f"({number}, zeroblob(900))" for number in range(99))
    child.ask(f"INSERT INTO data VALUES {rows}")
    child.kill()
    for call in (lambda: store.get("a"), store.snapshot):
        with pytest.raises(SourceUnavailable, match="middle of a transaction"):
            call()
    with pytest.raises(SourceUnavailable, match="middle of a transaction"):
        datastream.open(f"sqlite:{path}", readonly=True)
    statuses.wait(State.STALE)
    with database(path) as db:
        db.execute("INSERT INTO data VALUES ('b', 2)")
    follower.wait_state({"a": b"1", "b": b"2"})


def test_closing_ends_the_wait_for_a_lock(path, stack, waiting):
    with database(path, f"CREATE TABLE data ({NATIVE})"):
        pass
    source = SqliteSource(path, timeout=600)
    child = stack.enter_context(Child("sql", path))
    assert child.ask("BEGIN IMMEDIATE") == "ok"
    failed = queue.SimpleQueue()

    def write():
        try:
            source.write([Write("k", b"1", "int")])
        except DatastreamError as error:
            failed.put(error)

    writers = [Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    assert waiting.wait(TIMEOUT)
    source.close()
    for writer in writers:
        writer.join(TIMEOUT)
        assert isinstance(failed.get(timeout=TIMEOUT), StoreClosed)


def test_a_writer_that_waits_for_readers_lets_no_others_in(path, stack, waiting):
    with database(path, "PRAGMA journal_mode=delete", f"CREATE TABLE data ({TYPED})"):
        pass
    store = stack.enter_context(datastream.open(f"sqlite:{path}", timeout=60))
    store["k"] = 1
    child = stack.enter_context(Child("sql", path))
    assert child.ask("BEGIN") == "ok"
    assert child.ask("SELECT * FROM data").startswith("ok")
    other = stack.enter_context(database(path))
    other.execute("PRAGMA busy_timeout=0")
    writer = Thread(target=store.put, args=("k", 2))
    writer.start()
    assert waiting.wait(TIMEOUT)
    for _ in range(30):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("SELECT * FROM data").fetchall()
        time.sleep(sqlite_connection.RETRY)
    assert child.ask("COMMIT") == "ok"
    writer.join(TIMEOUT)
    assert store["k"] == 2


def test_a_write_takes_the_lock_once(path):
    """Else another program may be let in, and waited for, in between."""
    with database(path, f"CREATE TABLE data ({TYPED})"):
        pass
    with closing(SqliteSource(path)) as source:
        [first] = source.write([Write("a", b"1", "int")]).entries
        source.wait(0)
        begun = []
        with source._current.attached.file.writer() as connection:
            connection.set_trace_callback(begun.append)
        source.write([Write("a", b"2", "int", expect=first.revision)])
        source.write([Write("a", b"3", "int"), Write("b", b"1", "int")])
        source.write([Write("b", None)])
        assert [sql for sql in begun if sql.startswith("BEGIN")] == ["BEGIN IMMEDIATE"] * 3
