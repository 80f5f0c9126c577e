"""SQLite files in WAL mode that another file takes the place of, and read-only disks."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

import datastream
from datastream import DatastreamError, ReadOnly, SourceUnavailable
from datastream.cli import main
from datastream.sources.sqlite import SqliteSource, file, restore
from tests.integration._programs.tools import Collected, Follower, database, eventually

TABLE = """CREATE TABLE data (
    key TEXT PRIMARY KEY NOT NULL, value, value_type TEXT, updated_at TIMESTAMP
) WITHOUT ROWID"""
BUILT = {f"k{number}": b"built" for number in range(200)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@pytest.fixture
def opened(path, stack):
    """Open another store on the file."""
    return lambda **options: stack.enter_context(datastream.open(f"sqlite:{path}", **options))


@pytest.fixture
def store(opened):
    """A store with a long write-ahead log, many pages of which are in the file, too."""
    store = opened()
    store.put_many({f"k{number}": "old" for number in range(300)})
    for number in range(40):
        store[f"k{number * 7}"] = "newer"
    return store


@pytest.fixture
def new(tmp_path):
    """A file that was built elsewhere."""

    def build(journal="delete"):
        place = tmp_path / f"new-{journal}"
        with database(place, f"PRAGMA journal_mode={journal}", TABLE) as db:
            db.executemany("INSERT INTO data VALUES (?, 'built', 'str', '')", [(k,) for k in BUILT])
        return place

    return build


def in_file(path):
    """What another program finds; the file is sound."""
    with database(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {key: value.encode() for key, value in db.execute("SELECT key, value FROM data")}


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("watched", [True, False])
def test_a_file_moved_over_an_open_one(path, store, new, opened, journal, watched):
    """As `mv` does, which leaves the write-ahead log of the file before."""
    others = [opened(), opened(readonly=True)]
    follower = Follower(store) if watched else None
    new(journal).replace(path)
    if follower:
        follower.wait_state(BUILT)
    store["mine"] = "1"
    for each in [store, *others]:
        assert {key: entry.value for key, entry in each.snapshot().items()} == BUILT | {
            "mine": b"1"
        }
        each.close()
    assert in_file(path) == BUILT | {"mine": b"1"}


@pytest.mark.parametrize("watched", [True, False])
def test_a_file_moved_over_one_that_is_being_closed(path, store, new, watched):
    """The old log must not be applied to the new file, by whoever opens it next."""
    follower = Follower(store) if watched else None
    new().replace(path)
    store.close()
    assert in_file(path) == BUILT
    if follower:
        assert len(follower.state) == 300


@pytest.mark.parametrize("closing", [True, False])
def test_the_log_of_the_new_file_is_left_alone(path, store, new, closing):
    """The last connection to the old file would delete it, by its name."""
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    new("wal").replace(path)
    with database(path, "INSERT INTO data VALUES ('theirs', 'built', 'str', '')") as db:
        if closing:
            store.close()
        else:
            assert "theirs" in store
        assert "theirs" in in_file(path)
        db.execute("INSERT INTO data VALUES ('more', 'built', 'str', '')")
        assert "more" in in_file(path)
    assert in_file(path).keys() == BUILT.keys() | {"theirs", "more"}


def test_a_file_moved_away_keeps_what_it_held(path, tmp_path, store, new):
    """Also what was in its log only, which is put aside and not lost."""
    path.replace(tmp_path / "before")
    new().replace(path)
    assert store["k1"] == "built"
    store.close()
    Path(f"{path}-wal.replaced").replace(tmp_path / "before-wal")
    assert in_file(tmp_path / "before")["k7"] == b"newer"
    assert in_file(path) == BUILT


def test_a_file_moved_away_and_closed_is_whole(path, tmp_path, store):
    path.replace(tmp_path / "before")
    store.close()
    assert in_file(tmp_path / "before")["k7"] == b"newer"
    assert [each.name for each in tmp_path.iterdir()] == ["before"]


@pytest.mark.chaos
def test_files_moved_over_an_open_one_again_and_again(path, store, new, stack):
    followers = [Follower(store), Follower(stack.enter_context(datastream.open(f"sqlite:{path}")))]
    for number in range(20):
        built = new("wal" if number % 2 else "delete")
        with database(built) as db:
            db.execute("UPDATE data SET value = ? WHERE key = 'k1'", (f"round {number}",))
        built.replace(path)
        for follower in followers:
            follower.wait_key("k1", f"round {number}".encode())
        for mine in range(number):
            store[f"mine/{mine}"] = str(number)
    expected = BUILT | {"k1": b"round 19"} | {f"mine/{mine}": b"19" for mine in range(19)}
    for follower in followers:
        follower.wait_state(expected)
    store.close()
    assert in_file(path) == expected


# --- read-only disks ---


@contextmanager
def disk(directory):
    """A file system of its own; skips where that is not permitted."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(directory)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def remount(directory, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(directory)], check=True)


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize("logged", [True, False])
def test_a_wal_file_on_a_read_only_disk(tmp_path, new, readonly, logged):
    """As in a container's image: closed cleanly, it has no log beside it, and gets none."""
    with disk(tmp_path / "disk") as directory:
        path = directory / "app.db"
        shutil.copy(new("wal"), path)
        if logged:
            datastream.open(f"sqlite:{path}").close()
        assert [each.name for each in directory.iterdir()] == ["app.db"]
        remount(directory, "ro")
        with datastream.open(f"sqlite:{path}", readonly=readonly) as store:
            follower = Follower(store)
            assert follower.state == BUILT
            assert "immutable=1" in store.status.current.degraded
            with pytest.raises(ReadOnly):
                store["mine"] = 1
            remount(directory, "rw")
            with database(path, "UPDATE data SET value = 'theirs' WHERE key = 'k1'"):
                follower.wait_key("k1", b"theirs")
            eventually(lambda: store["k1"] == "theirs", "a read of the new value")


def test_a_wal_file_on_a_read_only_disk_that_was_not_closed(tmp_path, new):
    """What lies in its log would be missed."""
    with disk(tmp_path / "disk") as directory:
        path = directory / "app.db"
        with database(new("wal"), "UPDATE data SET value = 'newer' WHERE key = 'k1'"):
            for suffix in ("", "-wal"):
                shutil.copy(tmp_path / f"new-wal{suffix}", f"{path}{suffix}")
        remount(directory, "ro")
        with pytest.raises(datastream.SourceUnavailable, match=r"app\.db.*-wal"):
            datastream.open(f"sqlite:{path}").snapshot()


def test_too_many_open_files_do_not_make_a_disk_read_only(tmp_path):
    """SQLite says the same of both: it cannot open what it needs beside the file."""
    path = tmp_path / "app.db"
    with datastream.open(f"sqlite:{path}") as store:
        store["a"] = 1
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers, opened = [], None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 20, limits[1]))
        with suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        # With none left, one, two and so on, until it works.
        while opened is None:
            os.close(fillers.pop())
            with suppress(SourceUnavailable):
                opened = datastream.open(f"sqlite:{path}")
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with opened as store:
        store["b"] = 2
        assert dict(store) == {"a": 1, "b": 2}


# --- restoring ---


def test_a_restore_into_an_open_file(path, store, new, opened):
    """Everybody goes on, and is offered the difference in one batch."""
    other = opened()
    batches = Collected(other.watch_batches())
    with database(path) as db:
        restore(new("wal"), path)
        assert db.execute("SELECT count(*) FROM data").fetchone() == (200,)
    batches.wait(lambda got: len(got) == 2, "the difference")
    assert len(batches.got[1]) == 300
    store["mine"] = "1"
    batches.wait(lambda got: got[-1].entries[0].key == "mine", "a later change")
    other.close()
    store.close()
    assert in_file(path) == BUILT | {"mine": b"1"}
    assert in_file(new()) == BUILT


def test_a_restore_of_a_backup_resets_those_who_resume(path, tmp_path, store, opened):
    restore(path, tmp_path / "backup")
    cursor = store.snapshot_batch().cursor
    store["later"] = "1"
    store.close()
    with datastream.open(f"sqlite:{tmp_path / 'backup'}") as backup:
        backup["elsewhere"] = "1"
    restore(tmp_path / "backup", path)
    again = Collected(opened().watch_batches(since=cursor))
    again.wait(lambda got: got[0].reset, "the full state")
    assert {"elsewhere", "k1"} < {entry.key for entry in again.got[0]}
    assert "later" not in {entry.key for entry in again.got[0]}


def test_a_restore_to_where_nothing_is(tmp_path, new):
    restore(new(), tmp_path / "made")
    assert in_file(tmp_path / "made") == BUILT


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "missing is not there"),
        ("garbage", "garbage: file is not a database"),
        ("damaged", "damaged.*take another backup"),
        ("pages", "pages of 8192 bytes.*page_size=4096; VACUUM"),
        ("app.db", "the same file"),
    ],
)
def test_a_restore_of_what_cannot_be_restored_changes_nothing(path, tmp_path, store, name, message):
    (tmp_path / "garbage").write_bytes(b"garbage" * 1_000)
    with database(tmp_path / "pages", "PRAGMA page_size=8192", TABLE):
        pass
    restore(path, tmp_path / "damaged")
    with (tmp_path / "damaged").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    before = in_file(path)
    with pytest.raises(DatastreamError, match=message):
        restore(tmp_path / name, path)
    assert in_file(path) == before == {key: entry.value for key, entry in store.snapshot().items()}


def test_a_restore_waits_for_a_lock_no_longer_than_told(path, store, new):
    built = new()
    with database(path, "BEGIN IMMEDIATE") as db:
        with pytest.raises(datastream.SourceUnavailable, match=r"app\.db.*lock"):
            restore(built, path, timeout=0.1)
        db.execute("ROLLBACK")
    restore(built, path)
    assert store["k1"] == "built"


def test_the_command_line_restores_and_uninstalls(path, store, new):
    run = partial(CliRunner().invoke, main, prog_name="datastream")
    assert run(["sqlite", "restore", str(new()), str(path)]).exit_code == 0
    assert store["k1"] == "built"
    store.close()
    assert run(["sqlite", "uninstall", f"sqlite:{path}"]).exit_code == 0
    with database(path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("data",)]
    failed = run(["sqlite", "restore", f"{path}-none", str(path)])
    assert failed.exit_code == 1
    assert "app.db-none is not there" in failed.output


def names_in(path):
    with database(path) as db:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master")}


@pytest.mark.parametrize(
    "gone", ["DROP TABLE data", "DROP TABLE data; DROP TABLE _datastream", "SELECT 1"]
)
def test_the_command_line_removes_what_is_left_of_a_table(path, gone):
    """For any columns; what belongs to tables of similar names stays."""
    with database(path) as db:
        for table in ("data", "data_deadbeef"):
            db.execute(f"CREATE TABLE {table} (key TEXT PRIMARY KEY, value, other)")
            SqliteSource(path, table=table).close()
    SqliteSource(path, table="data", value="other").close()
    others = {name for name in names_in(path) if "data_deadbeef" in name}
    with database(path) as db:
        db.executescript(gone)
    left = names_in(path) - others
    assert len([name for name in left if name.startswith("_datastream_data_")]) >= 2
    run = partial(CliRunner().invoke, main, prog_name="datastream")
    result = run(["sqlite", "uninstall", f"sqlite:{path}?key=nothing&table=DATA"])
    assert result.exit_code == 0, result.output
    assert not [name for name in names_in(path) - others if name.startswith("_datastream_")]
    assert others <= names_in(path)
    with datastream.open(f"sqlite:{path}", table="data_deadbeef") as store:
        store["a"] = 1
    if "DROP" in gone:
        failed = run(["sqlite", "uninstall", f"sqlite:{path}"])
        assert failed.exit_code == 1
        assert "no such table, and nothing is left of one; it has data_deadbeef" in failed.output


def test_triggers_of_a_table_that_was_renamed_are_removed(path, store):
    store["a"] = 1
    store.close()
    with database(path, "ALTER TABLE data RENAME TO later"):
        pass
    run = partial(CliRunner().invoke, main, prog_name="datastream")
    assert run(["sqlite", "uninstall", f"sqlite:{path}?table=later"]).exit_code == 0
    assert not [name for name in names_in(path) if "datastream" in name]
    missing = run(["sqlite", "uninstall", f"sqlite:{path}-none"])
    assert missing.exit_code == 1
    assert "app.db-none is not there" in missing.output


def test_a_file_whose_log_is_just_being_moved_is_opened_again(path, monkeypatch):
    """SQLite has an I/O error for that, as for a broken disk."""
    real, calls = file.schema_version, []

    def fail(connection):
        calls.append(connection)
        if len(calls) < file.OPENS:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMOPEN
            raise error
        return real(connection)

    with datastream.open(f"sqlite:{path}?create=true") as store:
        store["a"] = 1
    monkeypatch.setattr(file, "schema_version", fail)
    with datastream.open(f"sqlite:{path}") as store:
        assert store["a"] == 1
