"""SQLite files changed in ways that leave no line in the change log."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from threading import Event

import pytest

import datastream
from datastream import DatastreamError, RevisionConflict
from datastream.selection import Selection
from datastream.sources.sqlite import commits as _sqlite_commits
from datastream.sources.sqlite import log as _sqlite_log
from datastream.sources.sqlite import source as _sqlite_source
from datastream.sources.sqlite import unlogged as _sqlite_unlogged
from tests.integration._programs.tools import (
    TIMEOUT,
    Collected,
    Follower,
    database,
    eventually,
    needs_shell,
)

BLOBS = "id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, value BLOB"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@pytest.fixture
def opened(path, stack):
    """Open another store on the file."""
    return lambda **options: stack.enter_context(datastream.open(f"sqlite:{path}", **options))


@pytest.fixture
def blobs(path, stack):
    """A plain connection to a table whose values can be written piecemeal."""
    db = stack.enter_context(database(path, f"CREATE TABLE data ({BLOBS})"))
    for number, key in enumerate(("cert", "other")):
        db.execute("INSERT INTO data VALUES (?, ?, ?)", (number, key, b"AAAA"))
    return db


COMMITS = 1500


def rewrite(path, pages):
    with database(path, f"PRAGMA wal_autocheckpoint={pages}") as db:
        for number in range(COMMITS):
            db.execute("UPDATE data SET value = ? WHERE key = 'a'", (str(number),))


def write_blob(db, row, value):
    with db.blobopen("data", "value", row) as blob:
        blob.write(value)


def resumed(store, cursor):
    """The first batch of one that comes back."""
    batches = Collected(store.watch_batches(since=cursor))
    batches.wait(bool, "a first batch")
    batches.subscription.dispose()
    return batches.got[0]


def contents(batch):
    return {entry.key: entry.value for entry in batch.entries}


# --- past the triggers ---


def test_a_blob_written_piecemeal_is_seen(blobs, opened):
    follower = Follower(opened())
    write_blob(blobs, 0, b"BBBB")
    follower.wait_state({"cert": b"BBBB", "other": b"AAAA"})
    write_blob(blobs, 0, b"CCCC")
    write_blob(blobs, 1, b"CCCC")
    follower.wait_state({"cert": b"CCCC", "other": b"CCCC"})
    assert [entry.key for entry in follower.entries].count("other") == 2


def test_a_blob_written_together_with_logged_changes_is_seen(blobs, opened):
    store = opened()
    follower = Follower(store)
    blobs.execute("BEGIN")
    blobs.execute("INSERT INTO data VALUES (2, 'new', zeroblob(4))")
    write_blob(blobs, 2, b"BBBB")
    write_blob(blobs, 0, b"BBBB")
    blobs.execute("COMMIT")
    follower.wait_state({"cert": b"BBBB", "other": b"AAAA", "new": b"BBBB"})
    write_blob(blobs, 1, b"DDDD")
    store["mine"] = b"1"
    follower.wait_key("other", b"DDDD")


def test_a_blob_written_piecemeal_ends_the_epoch(blobs, opened):
    store = opened()
    batches = Collected(store.watch_batches())
    batches.wait(bool, "the initial batch")
    cursor = batches.got[0].cursor
    write_blob(blobs, 0, b"BBBB")
    batches.wait(lambda got: contents(got[-1]) == {"cert": b"BBBB"}, "the change")
    store["mine"] = b"1"
    batches.wait(lambda got: "mine" in contents(got[-1]), "a later change")
    again = resumed(opened(), cursor)
    assert again.reset
    assert contents(again) == {"cert": b"BBBB", "other": b"AAAA", "mine": b"1"}


def test_a_blob_written_while_nothing_is_watched_is_seen_on_resume(blobs, opened):
    store = opened()
    cursor = resumed(store, None).cursor
    assert not resumed(store, cursor).reset
    eventually(lambda: "datastream poll" not in str(threading.enumerate()), "nothing is watched")
    write_blob(blobs, 0, b"BBBB")
    again = resumed(store, cursor)
    assert again.reset
    assert contents(again) == {"cert": b"BBBB", "other": b"AAAA"}


def test_a_blob_written_before_anything_is_watched_is_seen_on_resume(blobs, opened):
    store = opened()
    cursor = store.snapshot_batch().cursor
    write_blob(blobs, 0, b"BBBB")
    again = resumed(store, cursor)
    assert again.reset
    assert contents(again)["cert"] == b"BBBB"


@pytest.mark.parametrize("is_compared", [False, True])
@pytest.mark.parametrize("selected", [(), ("cert",)])
def test_a_blob_written_before_others_watch_is_seen_on_resume(blobs, opened, selected, is_compared):
    """What they were given holds it already: a comparison with that tells nothing."""
    store = opened()
    cursor = store.snapshot_batch().cursor
    write_blob(blobs, 0, b"BBBB")
    Follower(store, *selected).wait_key("cert", b"BBBB")
    if is_compared:
        suspicion = store._core._source._suspicion
        eventually(lambda: not suspicion.is_pending, "a comparison")
    again = resumed(store, cursor)
    assert again.reset
    assert contents(again)["cert"] == b"BBBB"


@pytest.mark.parametrize("is_compared", [False, True])
def test_a_blob_written_is_told_to_who_asks_what_changed(blobs, opened, is_compared):
    store = opened()
    cursor = store.snapshot_batch().cursor
    follower = Follower(store, "other")
    write_blob(blobs, 0, b"BBBB")
    if is_compared:
        suspicion = store._source._suspicion
        eventually(lambda: suspicion._is_partial, "a comparison of what is watched")
    changed = store._core.read_changes(Selection(frozenset({"cert"})), cursor)
    assert changed.complete
    assert [entry.value for entry in changed.entries] == [b"BBBB"]
    follower.wait_state({"other": b"AAAA"})


@pytest.mark.parametrize("round_", range(20))
def test_a_blob_written_as_watching_ends_and_begins_is_told(blobs, opened, round_):
    """The thread that polls may not know yet that nobody watched in between."""
    store = opened()
    cursor = resumed(store, None).cursor
    resumed(store, cursor)
    write_blob(blobs, 0, b"BBBB")
    batches = Collected(store.watch_batches(since=cursor))
    batches.wait(lambda got: "cert" in contents(got[-1]), "the change")
    assert contents(batches.got[-1])["cert"] == b"BBBB"


def test_a_blob_written_is_seen_by_a_store_that_only_reads(blobs, opened):
    opened().close()
    store = opened(readonly=True)
    follower = Follower(store)
    cursor = resumed(store, None).cursor
    write_blob(blobs, 0, b"BBBB")
    follower.wait_key("cert", b"BBBB")
    blobs.execute("INSERT INTO data VALUES (3, 'later', 'x')")
    follower.wait_key("later", b"x")
    assert contents(resumed(store, cursor))["cert"] == b"BBBB"


@needs_shell
def test_a_writer_without_triggers_is_seen(path, opened):
    store = opened()
    store.put_many({"same": 1, "changed": 1, "gone": 1})
    follower = Follower(store)
    script = """.dbconfig enable_trigger off
        BEGIN; UPDATE data SET value = '2' WHERE key = 'changed';
        DELETE FROM data WHERE key = 'gone'; INSERT INTO data VALUES ('new', '1', 'int', NULL); END;
    """
    subprocess.run(["sqlite3", path], input=script, text=True, check=True)
    follower.wait_state({"same": b"1", "changed": b"2", "new": b"1"})


@needs_shell
def test_a_writer_without_triggers_is_seen_after_a_write_that_stored_nothing(path, opened):
    """What moved the file's version since is not the store's."""
    store = opened()
    store["a"] = 1
    follower = Follower(store)
    follower.wait_key("a", b"1")
    source = store._source
    source._commits.settle(source._current.attached)
    with pytest.raises(RevisionConflict):
        store.put("a", 5, expect="another")
    script = ".dbconfig enable_trigger off\nUPDATE data SET value = '2' WHERE key = 'a';"
    subprocess.run(["sqlite3", path], input=script, text=True, check=True)
    follower.wait_state({"a": b"2"})


@needs_shell
def test_a_writer_without_triggers_that_deletes_all_is_seen(path, opened):
    store = opened()
    store.put_many({"a": 1, "b": 1})
    follower = Follower(store)
    script = ".dbconfig enable_trigger off\nDELETE FROM data;"
    subprocess.run(["sqlite3", path], input=script, text=True, check=True)
    follower.wait_state({})
    store["c"] = 1
    follower.wait_state({"c": b"1"})


def test_commits_to_other_tables_cost_no_cursor_of_what_is_watched(
    path, opened, stack, monkeypatch
):
    """Who resumes is told with all others what a comparison finds."""
    monkeypatch.setattr(_sqlite_unlogged, "PAUSE", 10 * TIMEOUT)
    store = opened()
    store["a"] = 1
    db = stack.enter_context(database(path, "CREATE TABLE other (x)"))
    Follower(store).wait_key("a", b"1")
    cursor = store.snapshot_batch().cursor
    suspicion = store._source._suspicion
    eventually(lambda: not suspicion.is_pending and suspicion._due, "a comparison")
    db.execute("INSERT INTO other VALUES (1)")
    eventually(lambda: suspicion.is_left, "doubt")
    again = resumed(store, cursor)
    assert not again.reset
    assert not again.entries


def test_cutting_the_log_raises_no_doubt(opened, monkeypatch):
    monkeypatch.setattr(_sqlite_log, "KEPT", 5)
    monkeypatch.setattr(_sqlite_source, "KEPT", 5)
    store = opened()
    for number in range(20):
        store["a"] = number
    source = store._source
    attached = source._current.attached
    source._commits.settle(attached)
    version = attached.file.clock.version()
    source._prune()
    assert attached.file.clock.version() != version
    source._commits.settle(attached)
    assert not source._suspicion.is_pending


@pytest.mark.parametrize("pages", [1000, 4])
def test_logged_commits_in_quick_succession_raise_no_doubt(path, opened, monkeypatch, pages):
    """Also where the write-ahead log is begun anew, which moves the version before the commit."""
    store = opened()
    store["a"] = 1
    doubts, source = [], store._source
    monkeypatch.setattr(_sqlite_commits, "SETTLED", TIMEOUT)
    monkeypatch.setattr(source._suspicion, "arise", lambda *, is_bare=True: doubts.append(is_bare))
    writer = threading.Thread(target=rewrite, args=(path, pages))
    source._commits.settle(source._current.attached)
    writer.start()
    while writer.is_alive():
        source._commits.have_come(source._current.attached)
    writer.join(TIMEOUT)
    source._commits.settle(source._current.attached)
    assert store.entry("a").value == b"%d" % (COMMITS - 1)
    assert not doubts


def test_commits_to_other_tables_end_no_epoch(path, opened, stack, monkeypatch):
    store = opened()
    store["a"] = 1
    db = stack.enter_context(database(path, "CREATE TABLE other (x)"))
    batches = Collected(store.watch_batches())
    store["b"] = 1
    batches.wait(lambda got: "b" in contents(got[-1]), "a change")
    compared, source = Event(), store._core._source
    real = source.compared

    def note(position, *, same):
        real(position, same=same)
        assert same
        compared.set()

    monkeypatch.setattr(source, "compared", note)
    clock = source._current.attached.file.clock
    eventually(lambda: source._commits.known[1] == clock.version(), "a look at the own write")
    db.execute("INSERT INTO other VALUES (1)")
    assert compared.wait(TIMEOUT)
    again = resumed(opened(), batches.got[-1].cursor)
    assert not again.reset
    assert not again.entries
    assert len(batches.got) == 2


# --- dumped and copied ---


def reload(path, copy, old, new):
    """What `.dump`, `sed` and reading that in make of a file."""
    with database(path) as db:
        dump = "\n".join(db.iterdump())
    with database(copy) as db:
        db.executescript(dump.replace(f"'{old}'", f"'{new}'"))


@pytest.fixture
def dumped(opened):
    """A store, and the cursor of its last batch."""
    store = opened()
    store.put_many({"edited": "old", "same": "same"})
    return store, store.snapshot_batch().cursor


NEW = {"edited": b"new", "same": b"same"}


def test_a_dump_edited_and_reloaded_under_the_same_name(path, tmp_path, dumped, opened):
    store, cursor = dumped
    follower = Follower(store)
    reload(path, tmp_path / "new", "old", "new")
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"app.db{suffix}").unlink()
    (tmp_path / "new").replace(path)
    follower.wait_state(NEW)
    for again in (resumed(store, cursor), resumed(opened(), cursor)):
        assert again.reset
        assert contents(again) == NEW


def test_a_dump_reloaded_while_no_store_runs(path, tmp_path, dumped, opened):
    """The inode may be the one that was just freed."""
    store, cursor = dumped
    store.close()
    reload(path, tmp_path / "new", "old", "new")
    path.unlink()
    shutil.copy(tmp_path / "new", path)
    again = resumed(opened(), cursor)
    assert again.reset
    assert contents(again) == NEW


def test_a_dump_of_a_dump(path, tmp_path, dumped, opened):
    """Each reload begins an epoch of its own."""
    store, _ = dumped
    store.close()
    cursors = []
    for old, new in (("old", "new"), ("new", "newer")):
        reload(path, tmp_path / "new", old, new)
        path.write_bytes((tmp_path / "new").read_bytes())
        (tmp_path / "new").unlink()
        with datastream.open(f"sqlite:{path}") as store:
            cursors.append(store.snapshot_batch().cursor)
    store = opened()
    assert resumed(store, cursors[0]).reset
    assert not resumed(store, cursors[1]).reset


def change_counter(path):
    return path.read_bytes()[24:28]


def overwrite(path, content):
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


@pytest.fixture
def copied(path, tmp_path, stack):
    """A file in an older journal mode, and a changed copy with the same change counter."""
    stack.enter_context(database(path, "CREATE TABLE data (key TEXT PRIMARY KEY, value)"))
    with datastream.open(f"sqlite:{path}") as store:
        store.put_many({"edited": "old", "same": "same"})
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    for place, value in ((path, "old"), (copy, "new")):
        # Past the triggers, as a program does that knows nothing of this log.
        with database(place) as db:
            triggers = db.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall()
            for name, _ in triggers:
                db.execute(f'DROP TRIGGER "{name}"')
            db.execute("UPDATE data SET value = ? WHERE key = 'edited'", (value,))
            for _, sql in triggers:
                db.execute(sql)
    return copy


@pytest.mark.parametrize("triggers", [True, False])
def test_a_copy_in_place_with_the_same_change_counter(path, copied, opened, triggers):
    store = opened(triggers=triggers)
    store["mine"] = "1"
    with database(copied) as db:
        db.execute("INSERT INTO data VALUES ('mine', '1')")
    follower = Follower(store)
    cursor = store.snapshot_batch().cursor
    assert follower.state["edited"] == b"old"
    while change_counter(copied) != change_counter(path):
        behind = min((copied, path), key=change_counter)
        with database(behind) as db:
            db.execute("UPDATE data SET value = value WHERE key = 'same'")
    assert store.flush(TIMEOUT)
    shutil.copy(copied, path)
    follower.wait_state({**NEW, "mine": b"1"})
    again = resumed(store, cursor)
    assert again.reset
    store["after"] = "1"
    follower.wait_key("after", b"1")


@pytest.fixture
def rollback(path, stack):
    """A file in an older journal mode, as a store leaves it, and the same with a newer value."""
    stack.enter_context(database(path, "CREATE TABLE data (key TEXT PRIMARY KEY, value)"))
    with datastream.open(f"sqlite:{path}") as store:
        store["a"] = "old"
    content = path.read_bytes()
    return content, content.replace(b"old", b"new")


def test_a_copy_in_place_that_brings_an_ended_epoch_back(path, rollback, opened):
    """The rest of a copy is written after its first part was seen."""
    store = opened()
    cursor = store.snapshot_batch().cursor
    follower, epochs = Follower(store), [epoch_of(store)]
    for _ in range(2):
        overwrite(path, rollback[1])
        follower.wait_state({"a": b"new"})
        eventually(lambda: epoch_of(store) not in epochs, "an epoch is begun")
        epochs.append(epoch_of(store))
    assert resumed(store, cursor).reset


def epoch_of(store):
    return store._source._current.attached.epoch


@pytest.mark.parametrize("size", [0, 2048, 4096])
def test_a_file_that_is_looked_at_while_it_is_overwritten(path, rollback, opened, size):
    """Part of it may be no database; nothing must be taken for the state that was meant."""
    store, looks = opened(), []
    commits = store._source._commits
    follower, look = Follower(store), commits.have_come
    overwrite(path, rollback[1][:size])
    commits.have_come = lambda attached: looks.append(attached) or look(attached)
    eventually(lambda: len(looks) > 2 or store.status.current.error, "it is looked at")
    overwrite(path, rollback[1])
    follower.wait_state({"a": b"new"})


def test_pages_that_were_read_while_a_file_was_overwritten_are_forgotten(path, rollback, opened):
    """SQLite keeps them, if the change counter is the same before and after."""
    store = opened()
    # The counter stands there, and at 92.
    old, new = (bytearray(content) for content in rollback)
    old[:16], old[24:28], new[24:28], new[92:96] = bytes(16), b"next", b"next", b"next"
    overwrite(path, old)
    with pytest.raises(DatastreamError, match="not a database"):
        store["a"]
    clock = store._source._current.attached.file.clock
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        clock.version()
    overwrite(path, new)
    assert store["a"] == "new"
    assert clock.version()


def test_a_file_touched_is_compared_and_no_news(path, opened, stack, monkeypatch):
    db = stack.enter_context(
        database(path, "PRAGMA journal_mode=delete", "CREATE TABLE data (key PRIMARY KEY, value)")
    )
    store = opened()
    store["a"] = 1
    follower = Follower(store)
    compared, source = Event(), store._core._source
    real = source.compared

    def note(position, *, same):
        real(position, same=same)
        assert same
        compared.set()

    monkeypatch.setattr(source, "compared", note)
    os.utime(path, (1, 1))
    assert compared.wait(TIMEOUT)
    assert len(follower.entries) == 1
    db.execute("INSERT INTO data VALUES ('b', 1)")
    follower.wait_state({"a": b"1", "b": b"1"})
