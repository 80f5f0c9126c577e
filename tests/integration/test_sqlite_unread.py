"""Single rows of SQLite that cannot be read: left out and named, all else goes on."""

import sqlite3
from contextlib import closing

import pytest

import datastream
from datastream import Operation
from datastream.errors import DatastreamError, Unreadable
from datastream.testing import Recorder
from tests.integration.command_line import run

PAGE = 4096
LARGE = b"X" * (4 * PAGE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.db"


@pytest.fixture
def db(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def break_large(path):
    """Break the list of pages that hold a large value."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    (first, *_) = (
        at for at in range(0, len(data), PAGE) if data[at + 4 : at + PAGE] == LARGE[: PAGE - 4]
    )
    with path.open("r+b") as file:
        file.seek(first)
        file.write(b"\xff" * 4)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_row_on_a_broken_page_is_left_out(path, db, journal, caplog):
    db.execute("CREATE TABLE data (key TEXT PRIMARY KEY, value, value_type, updated_at)")
    with datastream.open(f"sqlite:{path}") as store:
        store.put_many({"a": "1", "large": LARGE, "z": "2"})
        had = {key: entry.revision for key, entry in store.snapshot().items()}
    db.execute(f"PRAGMA journal_mode={journal}")
    break_large(path)
    with datastream.open(f"sqlite:{path}") as store:
        batch = store.snapshot_batch()
        assert [entry.key for entry in batch.entries] == ["a", "z"]
        assert batch.unread == {"large"}
        assert "'large'" in store.status.current.degraded
        assert list(store) == ["a", "z"]
        entries = store.entries()
        assert [entry.key for entry in entries] == ["a", "z"]
        assert entries.unread == {"large"}
        with pytest.raises(Unreadable, match="malformed"):
            store["large"]
        resumed = Recorder(store, since=had)
        resumed.wait_ready()
        assert resumed.entries == []
        store["z"] = "3"
        resumed.wait_state({"z": b"3"})
    assert caplog.text.count("cannot be read and is left out") == 1


def test_a_broken_row_hides_no_other_one_in_a_table_of_ours(path):
    with datastream.open(f"sqlite:{path}") as store:
        store.put_many({"a": "1", "large": LARGE, "z": "2"})
    break_large(path)
    with datastream.open(f"sqlite:{path}") as store:
        assert dict(store) == {"a": "1", "z": "2"}
        assert (store["a"], store["z"]) == ("1", "2")
        with pytest.raises(Unreadable):
            store["large"]


def test_a_row_of_which_a_view_can_make_nothing_is_left_out(path, db):
    db.execute("CREATE TABLE raw (key TEXT PRIMARY KEY, json)")
    rows = [("a", '{"x": 1}'), ("b", "{odd"), ("c", '{"x": 3}')]
    db.executemany("INSERT INTO raw VALUES (?, ?)", rows)
    db.execute("CREATE VIEW v AS SELECT key, json_extract(json, '$.x') AS value FROM raw")
    with datastream.open(f"sqlite:{path}?table=v") as store:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1", "c": b"3"})
        assert list(store) == ["a", "c"]
        assert [entry.key for entry in store.entries()] == ["a", "c"]
        db.execute("UPDATE raw SET json = '{\"x\": 2}' WHERE key = 'b'")
        recorder.wait_state({"a": b"1", "b": b"2", "c": b"3"})
        db.execute("UPDATE raw SET json = 'odd' WHERE key = 'b'")
        db.execute("UPDATE raw SET json = '{\"x\": 4}' WHERE key = 'c'")
        recorder.wait_state({"a": b"1", "b": b"2", "c": b"4"})
        assert not [entry for entry in recorder.entries if entry.operation is Operation.DELETE]
        with pytest.raises(Unreadable, match="malformed JSON"):
            store["b"]
        with pytest.raises(Unreadable):
            store.snapshot("b")


def test_a_view_that_no_row_can_be_read_of_for_its_table_is_gone_fails(path, db):
    db.execute("CREATE TABLE raw (key TEXT PRIMARY KEY, value)")
    db.execute("INSERT INTO raw VALUES ('a', 1)")
    db.execute("CREATE VIEW v AS SELECT * FROM raw")
    with datastream.open(f"sqlite:{path}?table=v") as store:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1"})
        db.execute("DROP TABLE raw")
        with pytest.raises(DatastreamError, match="no such table"):
            store.snapshot()
        assert recorder.live == []


def test_a_comparison_without_some_rows_does_not_say_that_all_is_equal(path, tmp_path):
    other = tmp_path / "other.db"
    for each in (path, other):
        with datastream.open(f"sqlite:{each}") as store:
            store.put_many({"a": "1", "large": LARGE})
        break_large(each)
    compared = run("diff", f"sqlite:{path}", f"sqlite:{other}", "--exit-code")
    assert compared.exit_code == 2
    assert "'large' cannot be read" in compared.stderr
