"""SQLite files as they are found: any table, any other program, any accident."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

import psutil
import pytest
import sqlite_utils

import datastream
from datastream import (
    DatastreamError,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    Operation,
    ReadOnly,
    RevisionConflict,
    SourceUnavailable,
    State,
)
from datastream.source import Feature
from datastream.sources.sqlite import SqliteSource
from datastream.sources.sqlite import file as sqlite_file
from datastream.sources.sqlite import source as sqlite_source
from tests.integration._programs.tools import (
    TIMEOUT,
    Child,
    Follower,
    Statuses,
    database,
    eventually,
    needs_shell,
    never,
)

TYPED = "key TEXT PRIMARY KEY, value, value_type TEXT, updated_at TIMESTAMP"
NATIVE = "key TEXT PRIMARY KEY, value"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@pytest.fixture
def make(path, stack):
    """Make a file with these statements; a plain connection, a store on it and a follower."""

    def make(*statements, follow=True, **options):
        db = stack.enter_context(database(path, *statements))
        store = stack.enter_context(datastream.open(f"sqlite:{path}", **options))
        return db, store, Follower(store) if follow else None

    return make


def values(store):
    return {key: entry.value for key, entry in store.snapshot().items()}


def values_believed(store):
    """`values`; a store that compares states believes only after a second that all is gone."""
    for _ in range(100):
        try:
            return values(store)
        except SourceUnavailable as error:
            if "vanished" not in str(error):
                raise
            sleep(0.05)
    return values(store)


def settle(db, store, follower, table="data", key="key", value="value"):
    """After one more row of the other program's, watcher, store and table agree."""
    db.execute(f"INSERT INTO {table} ({key}, {value}) VALUES ('999999', 'the end')")
    follower.wait_key("999999", b"the end")
    assert follower.state == values(store)
    rows = db.execute(f"SELECT CAST({key} AS TEXT) FROM {table} WHERE {key} IS NOT NULL")
    assert set(follower.state) == {row[0] for row in rows}


# --- any table ---


def test_a_table_with_columns_of_any_names(make):
    db, store, follower = make(
        'CREATE TABLE "app settings" (id INTEGER PRIMARY KEY, "the name" TEXT UNIQUE NOT NULL, '
        'content BLOB, "kind" TEXT, "changed on" TEXT)',
        table="app settings",
        key="the name",
        value="content",
        value_type="kind",
        updated_at="changed on",
    )
    store["limit"] = 20
    row = db.execute('SELECT "the name", content, kind FROM "app settings"').fetchone()
    assert row == ("limit", "20", "int")
    db.execute("INSERT INTO \"app settings\" VALUES (7, 'a', '1.5', 'float', '2020-01-02')")
    follower.wait_state({"limit": b"20", "a": b"1.5"})
    entry = store.entry("a")
    assert (entry.decode(), entry.value_type, entry.updated_at.year) == (1.5, "float", 2020)
    db.execute("UPDATE \"app settings\" SET content = '2.5' WHERE id = 7")
    follower.wait_key("a", b"2.5")


def test_a_table_with_key_and_value_only_keeps_sqlite_types(make):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    given = {"int": 2**63 - 1, "low": -(2**63), "float": 0.1, "str": "1", "bytes": b"\0\xff"}
    store.put_many(given)
    assert dict(store) == given
    kinds = dict(db.execute("SELECT key, typeof(value) FROM data"))
    assert kinds == {
        "int": "integer", "low": "integer", "float": "real", "str": "text", "bytes": "blob",
    }  # fmt: skip
    for bad in (2**63, True, None, {"a": 1}):
        with pytest.raises(InvalidValue, match="'k'"):
            store["k"] = bad
    assert "k" not in store
    settle(db, store, follower)


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, "1"), ("1", 1), ("1", b"1"), (1.5, "1.5"), (0.1, 0.1 + 2**-56), (b"", "")],
)
def test_a_put_that_changes_only_the_type_or_the_last_digit_is_a_change(make, first, second):
    _db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    store["k"] = first
    entry = store.put("k", second)
    assert entry.decode() == second
    assert type(store["k"]) is type(second)
    assert store["k"] == second
    assert store.entry("k").revision == entry.revision
    assert store.flush(TIMEOUT)
    assert follower.entries[-1] == store.entry("k")


@pytest.mark.parametrize(
    ("value", "value_type"),
    [(b"1.50", "float"), (b"007", "int"), (b"1e3", "float"), (b"+5", "int")],
)
def test_a_put_returns_the_entry_as_it_is_stored(make, value, value_type):
    """SQLite's own types have one spelling of a number; another comes back as that one."""
    _, store, _ = make(f"CREATE TABLE data ({NATIVE})")
    entry = store.put("k", value, value_type=value_type)
    assert entry == store.entry("k")
    store.put("k", "next", expect=entry.revision)


def test_a_float_that_sqlite_cannot_store_is_refused(make):
    """SQLite makes NULL of it."""
    _, store, _ = make(f"CREATE TABLE data ({NATIVE})")
    with pytest.raises(InvalidValue, match="'k'"):
        store["k"] = float("nan")
    assert "k" not in store
    store["k"] = float("inf")
    assert store["k"] == float("inf")


def test_floats_keep_all_17_digits_and_integers_64_bits(make):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    number = 0.1 + 2**-56
    db.execute("INSERT INTO data VALUES ('f', ?), ('i', ?)", (number, 2**63 - 1))
    follower.wait_state({"f": repr(number).encode(), "i": b"9223372036854775807"})
    assert store["f"] == number
    db.execute("UPDATE data SET value = ? WHERE key = 'f'", (0.1,))
    follower.wait_key("f", b"0.1")


@pytest.mark.parametrize("table", ["key INTEGER PRIMARY KEY, value", "key INT UNIQUE, value"])
def test_integer_keys(make, table):
    db, store, follower = make(f"CREATE TABLE data ({table})")
    store["5"] = "five"
    db.execute("INSERT INTO data VALUES (-7, 'minus'), (4611686018427387904, 'big')")
    follower.wait_state({"5": b"five", "-7": b"minus", "4611686018427387904": b"big"})
    assert db.execute("SELECT typeof(key) FROM data").fetchall() == [("integer",)] * 3
    assert set(store.snapshot("5", "-7", "6")) == {"5", "-7"}
    only = Follower(store, "5")
    db.execute("UPDATE data SET key = 6 WHERE key = 5")
    follower.wait_state({"6": b"five", "-7": b"minus", "4611686018427387904": b"big"})
    only.wait_state({})
    store.delete("6")
    settle(db, store, follower)


@pytest.mark.parametrize("key", ["abc", "05", " 5", "5.0", "+5", "5e0", "9223372036854775808"])
def test_a_key_that_an_integer_column_would_change_is_refused(make, key):
    """Stored as 5 it would be another key, and a put to it would replace that key's value."""
    db, store, _ = make("CREATE TABLE data (key INTEGER PRIMARY KEY, value)")
    store["5"] = "five"
    with pytest.raises(InvalidKey, match="integer"):
        store[key] = "other"
    with pytest.raises(InvalidKey, match="integer"):
        store.put_many({"6": "six", key: "other"})
    assert db.execute("SELECT * FROM data").fetchall() == [(5, "five")]


def test_keys_of_a_column_without_type(make):
    """Numbers and text stay apart in SQLite; what is listed can be read by its key."""
    db, store, follower = make("CREATE TABLE data (key PRIMARY KEY, value)")
    db.execute("INSERT INTO data VALUES (5, 'number'), ('a', 'text')")
    follower.wait_state({"5": b"number", "a": b"text"})
    assert {key: store[key] for key in store} == {"5": "number", "a": "text"}
    assert set(store.snapshot("5", "a")) == {"5", "a"}
    store["5"] = "new"
    assert store["5"] == "new"
    settle(db, store, follower)


def test_blob_keys_are_shown_readable_or_left_out(make):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    db.execute("INSERT INTO data VALUES (x'6162', 'blob'), (x'ff', 'no text'), ('a', 'text')")
    follower.wait_key("a", b"text")
    assert {key: store[key] for key in store} == {
        key: value.decode() for key, value in follower.state.items()
    }


@pytest.mark.parametrize("triggers", [True, False])
def test_without_rowid(make, triggers):
    db, store, follower = make(f"CREATE TABLE data ({TYPED}) WITHOUT ROWID", triggers=triggers)
    store["a"] = 1
    db.execute("INSERT INTO data (key, value) VALUES ('b', 2)")
    db.execute("INSERT OR REPLACE INTO data (key, value) VALUES ('b', 3)")
    db.execute("UPDATE data SET key = 'c' WHERE key = 'a'")
    follower.wait_state({"b": b"3", "c": b"1"})
    settle(db, store, follower)


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize(
    "table",
    [
        "id INTEGER PRIMARY KEY, key TEXT UNIQUE, value, a, b",
        "key TEXT PRIMARY KEY, value, id, a, b, UNIQUE (id)",
        "key TEXT PRIMARY KEY, value, id, a, b, UNIQUE (id, a), UNIQUE (b)",
        "key TEXT PRIMARY KEY, value, id, a, b, UNIQUE (id)) WITHOUT ROWID; --",
    ],
)
def test_or_replace_that_removes_another_row_by_another_constraint(make, table, recursive):
    """SQLite fires no delete trigger for the row that goes, unless told to."""
    db, store, follower = make(f"CREATE TABLE data ({table})".removesuffix("; --)"))
    db.execute(f"PRAGMA recursive_triggers={'ON' if recursive else 'OFF'}")
    db.execute("INSERT INTO data (key, value, id, a, b) VALUES ('old', 1, 1, 1, 1)")
    db.execute("INSERT INTO data (key, value, id, a, b) VALUES ('other', 1, 2, 2, 2)")
    follower.wait_state({"old": b"1", "other": b"1"})
    db.execute("INSERT OR REPLACE INTO data (key, value, id, a, b) VALUES ('new', 2, 1, 1, 1)")
    follower.wait_state({"new": b"2", "other": b"1"})
    db.execute("UPDATE OR REPLACE data SET id = 1, a = 1, b = 1 WHERE key = 'other'")
    follower.wait_state({"other": b"1"})
    assert values(store) == follower.state


@pytest.mark.parametrize(
    ("table", "index"),
    [
        ("key TEXT PRIMARY KEY, value, a", "data (a) WHERE a = '1'"),
        ("key TEXT PRIMARY KEY, value, a", "data (lower(a))"),
        ("key TEXT PRIMARY KEY, value, a TEXT", "data (a COLLATE NOCASE)"),
        ("key TEXT PRIMARY KEY COLLATE NOCASE, value, a", None),
        ("key TEXT PRIMARY KEY, value, a", "data (key COLLATE NOCASE)"),
        ("key TEXT PRIMARY KEY, value, a", "data (key) WHERE a = 5"),
    ],
    ids=["partial", "expression", "collation", "key collation", "key index", "partial on key"],
)
def test_or_replace_that_removes_another_row_by_an_unusual_index(make, table, index):
    db, store, follower = make(
        f"CREATE TABLE data ({table})",
        *([f"CREATE UNIQUE INDEX odd ON {index}"] if index else []),
    )
    db.execute("INSERT INTO data (key, value, a) VALUES ('OLD', 1, '1'), ('b', 1, 'A')")
    follower.wait_state({"OLD": b"1", "b": b"1"})
    db.execute("INSERT OR REPLACE INTO data (key, value, a) VALUES ('old', 2, '1')")
    db.execute("INSERT OR REPLACE INTO data (key, value, a) VALUES ('c', 2, 'a')")
    settle(db, store, follower)


def test_or_replace_by_rowid_removes_another_row(make):
    """What ``.recover`` and dumps with rowids do."""
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    db.execute("INSERT INTO data (rowid, key, value) VALUES (1, 'old', 1)")
    follower.wait_state({"old": b"1"})
    db.execute("INSERT OR REPLACE INTO data (rowid, key, value) VALUES (1, 'new', 2)")
    settle(db, store, follower)


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize(
    "declared", [TYPED, NATIVE, "id INTEGER PRIMARY KEY, key TEXT UNIQUE, value"]
)
def test_every_kind_of_write_of_another_program(make, declared, recursive):
    db, store, follower = make(f"CREATE TABLE data ({declared})")
    db.execute(f"PRAGMA recursive_triggers={'ON' if recursive else 'OFF'}")
    db.execute("INSERT INTO data (key, value) VALUES ('a', 1), ('b', 1), ('c', 1), ('d', 1)")
    db.execute("INSERT OR REPLACE INTO data (key, value) VALUES ('a', 2)")
    db.execute("REPLACE INTO data (key, value) VALUES ('b', 2)")
    db.execute(
        "INSERT INTO data (key, value) VALUES ('c', 9) "
        "ON CONFLICT (key) DO UPDATE SET value = value + 1"
    )
    db.execute("INSERT OR IGNORE INTO data (key, value) VALUES ('d', 9), ('e', 1)")
    follower.wait_state({"a": b"2", "b": b"2", "c": b"2", "d": b"1", "e": b"1"})
    db.execute("UPDATE data SET key = 'renamed' WHERE key = 'a'")
    db.execute("UPDATE OR REPLACE data SET key = 'b' WHERE key = 'c'")
    db.execute("UPDATE data SET key = key || '!' WHERE key IN ('d', 'e')")
    follower.wait_state({"renamed": b"2", "b": b"2", "d!": b"1", "e!": b"1"})
    db.execute("DELETE FROM data WHERE key = 'b'")
    follower.wait_state({"renamed": b"2", "d!": b"1", "e!": b"1"})
    db.execute("DELETE FROM data")
    follower.wait_state({})
    settle(db, store, follower)


def test_deletes_by_a_foreign_key_cascade_are_seen(make):
    db, _store, follower = make(
        "CREATE TABLE owner (id INTEGER PRIMARY KEY)",
        f"CREATE TABLE data ({NATIVE}, owner REFERENCES owner ON DELETE CASCADE)",
    )
    db.execute("PRAGMA foreign_keys=ON")
    db.execute("INSERT INTO owner VALUES (1), (2)")
    db.execute("INSERT INTO data VALUES ('a', 1, 1), ('b', 1, 2)")
    follower.wait_state({"a": b"1", "b": b"1"})
    db.execute("DELETE FROM owner WHERE id = 1")
    follower.wait_state({"b": b"1"})


def test_a_writer_that_attaches_the_file_is_seen(make, path):
    _, _, follower = make(f"CREATE TABLE data ({NATIVE})")
    with database(":memory:", f"ATTACH '{path}' AS other") as db:
        db.execute("INSERT INTO other.data VALUES ('a', 1)")
        follower.wait_state({"a": b"1"})
        db.execute("DELETE FROM other.data")
        follower.wait_state({})


def test_a_key_column_that_ignores_case_never_confuses_two_keys(make):
    """`put("a")` where "A" is: refused, or a key of its own; never the value of another key."""
    db, store, follower = make("CREATE TABLE data (key TEXT COLLATE NOCASE PRIMARY KEY, value)")
    store["A"] = "first"
    with suppress(DatastreamError):
        assert store.put("a", "second").key == "a"
        assert store["a"] == "second"
    with suppress(DatastreamError):
        store.put_many({"a": "second", "b": "third"})
        assert store["a"] == "second"
    assert store["A"] == "first"
    settle(db, store, follower)


def test_a_database_in_utf_16(path, stack):
    db = stack.enter_context(database(path, "PRAGMA encoding='UTF-16'"))
    db.execute(f"CREATE TABLE data ({TYPED})")
    db.execute("INSERT INTO data (key, value) VALUES ('näme', 'größe'), ('n', 12), ('f', 0.5)")
    store = stack.enter_context(datastream.open(f"sqlite:{path}"))
    assert dict(store) == {"näme": "größe", "n": 12, "f": 0.5}
    follower = Follower(store, "fx/", "näme")
    entry = store.put("fx/ü", "naïve")
    assert store["fx/ü"] == "naïve"
    assert store.entry("fx/ü").revision == entry.revision
    db.execute("UPDATE data SET value = 'klein' WHERE key = 'näme'")
    follower.wait_state({"näme": b"klein", "fx/ü": "naïve".encode()})


def test_rows_with_null_key_are_left_out_and_null_values_are_json_null(make):
    db, store, follower = make("CREATE TABLE data (key TEXT UNIQUE, value)")
    db.execute("INSERT INTO data VALUES (NULL, 1), (NULL, 2), ('a', NULL)")
    follower.wait_state({"a": b"null"})
    assert dict(store) == {"a": None}
    db.execute("UPDATE data SET key = 'b' WHERE value = 1")
    follower.wait_state({"a": b"null", "b": b"1"})
    db.execute("UPDATE data SET key = NULL WHERE key = 'b'")
    follower.wait_state({"a": b"null"})
    db.execute("UPDATE data SET value = '' WHERE key = 'a'")
    follower.wait_state({"a": b""})


def test_text_that_is_not_utf_8_is_handed_through(make):
    db, store, follower = make(f"CREATE TABLE data ({TYPED})")
    db.execute("INSERT INTO data (key, value) VALUES ('a', CAST(x'ff41' AS TEXT)), ('b', 'ok')")
    follower.wait_state({"a": b"\xffA", "b": b"ok"})
    with pytest.raises(InvalidValue, match="'a'"):
        store["a"]
    db.execute("INSERT INTO data (key, value) VALUES (CAST(x'ff' AS TEXT), 'bad key')")
    db.execute("INSERT INTO data (key, value) VALUES (CAST(x'610062' AS TEXT), 'nul in key')")
    settle_rows = {"a": b"\xffA", "b": b"ok", "c": b"1"}
    db.execute("INSERT INTO data (key, value) VALUES ('c', 1)")
    follower.wait_state(settle_rows)
    assert values(store) == settle_rows


@pytest.mark.parametrize("kind", ["5", "x'6162'", "CAST(x'ff' AS TEXT)", "''", "1.5"])
@pytest.mark.parametrize("time", ["NULL", "'9999-12-31T23:59:59-14:00'", "1e300", "x'00'", "'?'"])
def test_odd_types_and_times_of_another_program_are_readable(make, kind, time):
    columns = "key TEXT PRIMARY KEY, value, value_type, updated_at"
    db, store, follower = make(f"CREATE TABLE data ({columns})")
    db.execute(f"INSERT INTO data VALUES ('odd', '1', {kind}, {time})")
    db.execute("INSERT INTO data VALUES ('good', '1', 'int', NULL)")
    follower.wait_key("good", b"1")
    entry = store.entry("odd")
    assert isinstance(entry.value_type, str)
    entry.value_type.encode()
    assert entry.value == b"1"
    entry.decode()


def test_a_trigger_of_the_tables_owner_does_not_spoil_the_revision(make):
    """`put` returns what is stored, not what it sent, so that it can be expected."""
    _, store, follower = make(
        f"CREATE TABLE data ({TYPED})",
        "CREATE TRIGGER stamp AFTER UPDATE ON data WHEN NEW.updated_at IS NOT 'stamped' BEGIN "
        "UPDATE data SET updated_at = 'stamped', value = upper(NEW.value) WHERE key = NEW.key; END",
    )
    store["k"] = "first"
    entry = store.put("k", "second")
    assert entry == store.entry("k")
    entry = store.put("k", "third", expect=entry.revision)
    (many,) = store.put_many({"k": "fourth"}, expect={"k": entry.revision})
    assert many == store.entry("k")
    assert store.flush(TIMEOUT)
    assert follower.state == {"k": b"FOURTH"}


def test_a_trigger_of_the_tables_owner_that_refuses_undoes_all(make):
    db, store, follower = make(
        f"CREATE TABLE data ({NATIVE})",
        "CREATE TRIGGER no BEFORE INSERT ON data WHEN NEW.key = 'bad' BEGIN "
        "SELECT RAISE(ROLLBACK, 'not allowed'); END",
    )
    store["a"] = 1
    for write in (lambda: store.put("bad", 1), lambda: store.put_many({"b": 1, "bad": 1})):
        with pytest.raises(InvalidValue, match="not allowed"):
            write()
    assert dict(store) == {"a": 1}
    settle(db, store, follower)


PASSED_OVER = {
    "insert": "BEFORE INSERT ON data WHEN NEW.key = 'b' BEGIN SELECT RAISE(IGNORE); END",
    "update": "BEFORE UPDATE ON data WHEN NEW.key = 'a' BEGIN SELECT RAISE(IGNORE); END",
    "delete": "BEFORE DELETE ON data BEGIN SELECT RAISE(IGNORE); END",
    "soft delete": "BEFORE DELETE ON data BEGIN UPDATE data SET value = 'gone'; "
    "SELECT RAISE(IGNORE); END",
    "insert again": "AFTER DELETE ON data BEGIN INSERT INTO data (key, value) "
    "VALUES (OLD.key, 'again'); END",
    "other key": "AFTER INSERT ON data WHEN NEW.key = 'b' BEGIN "
    "UPDATE data SET key = 'c' WHERE key = 'b'; END",
}


@pytest.mark.parametrize("trigger", PASSED_OVER)
@pytest.mark.parametrize("options", [{}, {"value": "*"}], ids=["a value", "a row"])
def test_a_write_that_a_trigger_passes_over_is_not_acknowledged(make, trigger, options):
    """It was: a put answered with a DELETE, watchers were told of a delete that was none."""
    db, store, follower = make(
        "CREATE TABLE data (key TEXT PRIMARY KEY NOT NULL, value TEXT) WITHOUT ROWID",
        "INSERT INTO data VALUES ('a', '1')",
        f"CREATE TRIGGER own {PASSED_OVER[trigger]}",
        **options,
    )
    follower.wait_key("a", store.entry("a").value)
    before = dict(store)
    two, three = ({"value": "2"}, {"value": "3"}) if options else ("2", "3")
    writes = {
        "update": lambda: store.put("a", two),
        "insert": lambda: store.put_many({"x": two, "b": three}),
        "other key": lambda: store.put_many({"x": two, "b": three}),
    }
    with pytest.raises(InvalidValue, match="a trigger of the table undoes this"):
        writes.get(trigger, lambda: store.delete("a"))()
    assert dict(store) == before
    db.execute("INSERT INTO data VALUES ('z', '9')")
    follower.wait_state(values(store))


# --- names ---

HOSTILE = [
    'a"b', "a'b", "a;DROP TABLE x;--", "naïve ☃", "select", "MY TABLE x", "[x]", "a`b", "%s", "?1",
    "a\nb", "a.b", "_datastream", " ", "CREATE TRIGGER y", "--", "/* */", "x" * 200,
]  # fmt: skip


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_table_and_column_names(make, path, name):
    name_of = {role: f"{name}{role}" for role in ("key", "value", "value_type", "updated_at")}
    columns = ", ".join(quoted(column) for column in name_of.values())
    table = name if name != "_datastream" else "_datastream data"
    db, store, follower = make(
        f"CREATE TABLE {quoted(table)} ({columns}, UNIQUE ({quoted(name_of['key'])}))",
        table=table,
        **name_of,
    )
    store["a"] = 1
    row = db.execute(f"SELECT * FROM {quoted(table)}").fetchone()
    assert row[:3] == ("a", "1", "int")
    db.execute(f"UPDATE {quoted(table)} SET {quoted(name_of['value'])} = 2")
    follower.wait_state({"a": b"2"})
    db.execute(f"DELETE FROM {quoted(table)}")
    follower.wait_state({})
    cursor = store.snapshot_batch().cursor
    before = db.execute("SELECT name, sql FROM sqlite_master").fetchall()
    # Opened again, the log is found, not made anew.
    with datastream.open(f"sqlite:{path}", table=table, **name_of) as again:
        assert Feature.LOG in again.features
        assert again.snapshot_batch().cursor == cursor
    assert db.execute("SELECT name, sql FROM sqlite_master").fetchall() == before


@pytest.mark.parametrize(
    "options", [{"table": "t\0x"}, {"table": "t", "key": "k\0"}, {"table": "\ud800"}]
)
def test_names_no_table_can_have_are_refused(path, options):
    with database(path, f"CREATE TABLE t ({NATIVE})"):
        for create in (None, True):
            with pytest.raises(DatastreamError, match="table"):
                datastream.open(f"sqlite:{path}", create=create, **options)


def test_a_path_with_a_nul_makes_no_other_file(tmp_path):
    with pytest.raises(DatastreamError):
        datastream.open(f"sqlite:{tmp_path}/a\0b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["a?b", "a#b", "a%41b", "a b", "ä☃", "a:b", "file:a", "\udcff", "a&b"]
)
def test_hostile_file_names(tmp_path, name):
    path = tmp_path / name
    with datastream.Store(SqliteSource(path)) as store:
        store["a"] = 1
    assert path.exists()
    with datastream.Store(SqliteSource(path, create=False)) as store:
        assert dict(store) == {"a": 1}


# --- transactions ---


def test_what_is_rolled_back_is_never_seen(make):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    for number in range(20):
        db.execute("BEGIN")
        db.execute("INSERT OR REPLACE INTO data VALUES ('never', ?)", (number,))
        store.refresh()
        db.execute("ROLLBACK")
    db.execute("BEGIN")
    db.execute("INSERT INTO data VALUES ('a', 1)")
    db.execute("SAVEPOINT inner")
    db.execute("UPDATE data SET value = 2")
    db.execute("INSERT INTO data VALUES ('never', 1)")
    db.execute("ROLLBACK TO inner")
    db.execute("RELEASE inner")
    db.execute("SAVEPOINT kept")
    db.execute("INSERT INTO data VALUES ('b', 1)")
    db.execute("RELEASE kept")
    db.execute("COMMIT")
    settle(db, store, follower)
    assert [(e.key, e.value) for e in follower.entries[:2]] == [("a", b"1"), ("b", b"1")]
    assert len(follower.entries) == 3


@pytest.mark.parametrize("triggers", [True, False])
def test_a_big_transaction_is_one_batch(make, triggers):
    db, store, _ = make(f"CREATE TABLE data ({NATIVE})", follow=False, triggers=triggers)
    batches = []
    done = Follower(store, "z")
    store.watch_batches().subscribe(batches.append)
    db.execute("INSERT INTO data VALUES ('stays', 1), ('goes', 1)")
    db.execute("BEGIN")
    db.executemany("INSERT INTO data VALUES (?, 1)", ((f"k/{n}",) for n in range(20_000)))
    db.execute("DELETE FROM data WHERE key = 'goes'")
    db.execute("INSERT INTO data VALUES ('z', 1)")
    db.execute("COMMIT")
    done.wait_key("z", b"1")
    assert store.flush(TIMEOUT)
    (big,) = [batch for batch in batches if len(batch.entries) > 2]
    assert len(big.entries) in (20_002, 20_003)
    assert {e.key for e in big.entries} >= {"z", *(f"k/{n}" for n in range(20_000))}


def test_put_many_is_all_or_nothing(make):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE}, CHECK (value IS NOT 13))")
    store["a"] = 1
    with pytest.raises(InvalidValue, match="data"):
        store.put_many({"b": 1, "a": 13, "c": 1})
    with pytest.raises(RevisionConflict):
        store.put_many({"b": 1, "a": 2}, expect={"a": "other"})
    assert dict(store) == {"a": 1}
    assert not db.in_transaction
    settle(db, store, follower)


# --- other programs ---


@pytest.mark.parametrize("recursive", [True, False])
def test_sqlite_utils_as_the_other_program(make, path, recursive):
    _, store, follower = make(f"CREATE TABLE data ({TYPED})", follow=True)
    db = sqlite_utils.Database(path, recursive_triggers=recursive)
    try:
        table = db["data"]
        with db.conn:
            table.insert({"key": "a", "value": 1})
        follower.wait_state({"a": b"1"})
        with db.conn:
            table.insert({"key": "a", "value": 2}, replace=True)
        follower.wait_state({"a": b"2"})
        with db.conn:
            table.upsert({"key": "a", "value": 3}, pk="key")
            table.insert_all({"key": f"k{n}", "value": n} for n in range(3))
        follower.wait_state({"a": b"3", "k0": b"0", "k1": b"1", "k2": b"2"})
        with db.conn:
            table.delete("k0")
        follower.wait_key("k0", None)
        # Makes the table anew under another name, drops the old one, with all its triggers.
        table.transform(types={"value_type": str}, defaults={"value_type": "str"})
        with db.conn:
            table.insert({"key": "after", "value": "x"})
        follower.wait_key("after", b"x")
        assert follower.state == values(store)
    finally:
        db.close()


@needs_shell
def test_the_sqlite3_shell_as_the_other_program(make, path, tmp_path):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")

    def shell(*lines):
        # By itself it waits for no lock, goes on with the next line, and calls that a success.
        script = "\n".join([f".timeout {TIMEOUT * 1000:.0f}", ".bail on", *lines])
        subprocess.run(
            ["sqlite3", str(path)], input=script, text=True, check=True, timeout=2 * TIMEOUT
        )

    shell("INSERT INTO data VALUES ('a', 1);", "INSERT INTO data VALUES ('b', 1);")
    follower.wait_state({"a": b"1", "b": b"1"})
    (tmp_path / "more.csv").write_text("c,3\nd,4\n")
    shell(".mode csv", f".import '{tmp_path / 'more.csv'}' data", "DELETE FROM data WHERE key='a';")
    follower.wait_state({"b": b"1", "c": b"3", "d": b"4"})
    shell("BEGIN; DELETE FROM data; INSERT INTO data VALUES ('e', 5); COMMIT;")
    follower.wait_state({"e": b"5"})
    settle(db, store, follower)


@pytest.mark.parametrize("time", ["1970-01-01", "2999-12-31 23:59:59", "nonsense", None, -1, 1e300])
def test_the_time_of_another_program_orders_nothing(make, time):
    db, store, follower = make(f"CREATE TABLE data ({TYPED})")
    for number in range(3):
        db.execute("INSERT OR REPLACE INTO data VALUES ('k', ?, 'int', ?)", (str(number), time))
        follower.wait_key("k", b"%d" % number)
        store["k"] = 10 + number
        follower.wait_key("k", b"%d" % (10 + number))


@pytest.mark.parametrize("year", [1999, 2199])
def test_a_process_with_a_wrong_clock_orders_nothing(make, path, year):
    _, store, follower = make()
    with Child("clock", f"sqlite:{path}", year) as child:
        for number in range(3):
            assert child.ask(f"k {number}") == str(year)
            follower.wait_key("k", b"%d" % number)
            store["k"] = 10 + number
            follower.wait_key("k", b"%d" % (10 + number))


def test_a_revision_that_was_watched_can_be_expected(make):
    """Also after another program touched only the time, for which nothing need be emitted."""
    db, store, follower = make(f"CREATE TABLE data ({TYPED})")
    store["k"] = 1
    db.execute("UPDATE data SET updated_at = '2001-01-01'")
    db.execute("INSERT INTO data (key, value) VALUES ('z', 1)")
    follower.wait_key("z", b"1")
    newest = {entry.key: entry.revision for entry in follower.entries}
    store.put("k", 2, expect=newest["k"])


def test_a_write_that_changes_nothing_emits_nothing(make):
    db, store, follower = make(f"CREATE TABLE data ({TYPED})")
    store["k"] = 1
    store["k"] = 1
    store.put_many({"k": 1})
    db.execute("UPDATE data SET value = value, key = key")
    db.execute("BEGIN")
    db.execute("UPDATE data SET value = '2'")
    db.execute("UPDATE data SET value = '1'")
    db.execute("COMMIT")
    db.execute("BEGIN")
    db.execute("INSERT INTO data VALUES ('gone', 1, 'int', NULL)")
    db.execute("DELETE FROM data WHERE key = 'gone'")
    db.execute("COMMIT")
    settle(db, store, follower)
    assert [entry.key for entry in follower.entries] == ["k", "999999"]


# --- the schema changes ---


@pytest.mark.parametrize("triggers", [True, False])
def test_a_table_dropped_and_made_again(make, triggers):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})", triggers=triggers)
    statuses = Statuses(store)
    store.put_many({"same": 1, "other": 1, "gone": 1})
    assert store.flush(TIMEOUT)
    db.execute("DROP TABLE data")
    assert "no such table" in str(statuses.wait(State.FAILED).error)
    assert set(follower.state) == {"same", "other", "gone"}
    db.execute("BEGIN")
    db.execute(f"CREATE TABLE data ({NATIVE})")
    db.execute("INSERT INTO data VALUES ('same', 1), ('other', 2)")
    db.execute("COMMIT")
    statuses.wait(State.READY)
    follower.wait_state({"same": b"1", "other": b"2"})
    assert [e.key for e in follower.entries].count("same") == 1
    settle(db, store, follower)


def test_a_table_replaced_in_one_transaction(make):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    store.put_many({"same": 1, "other": 1, "gone": 1})
    db.execute("BEGIN")
    db.execute(f"CREATE TABLE fresh ({NATIVE})")
    db.execute("INSERT INTO fresh VALUES ('same', 1), ('other', 2)")
    db.execute("DROP TABLE data")
    db.execute("ALTER TABLE fresh RENAME TO data")
    db.execute("COMMIT")
    follower.wait_state({"same": b"1", "other": b"2"})
    store["mine"] = 3
    settle(db, store, follower)


def test_columns_added_and_renamed(make):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE}, note)")
    statuses = Statuses(store)
    store["a"] = 1
    db.execute("ALTER TABLE data ADD COLUMN extra TEXT DEFAULT 'x'")
    db.execute("ALTER TABLE data RENAME COLUMN note TO remark")
    db.execute("INSERT INTO data (key, value) VALUES ('b', 1)")
    follower.wait_state({"a": b"1", "b": b"1"})
    store["c"] = 1
    assert store.flush(TIMEOUT)
    db.execute("ALTER TABLE data RENAME COLUMN value TO content")
    db.execute("INSERT INTO data (key, content) VALUES ('d', 1)")
    assert "no column 'value'" in str(statuses.wait(State.FAILED).error)
    assert follower.state == {"a": b"1", "b": b"1", "c": b"1"}
    db.execute("ALTER TABLE data RENAME COLUMN content TO value")
    follower.wait_state({"a": b"1", "b": b"1", "c": b"1", "d": b"1"})
    statuses.wait(State.READY)
    # A column that says the type: from now on it counts.
    db.execute("ALTER TABLE data ADD COLUMN value_type TEXT")
    db.execute("UPDATE data SET value_type = 'json' WHERE key = 'd'")
    eventually(lambda: follower.entries[-1].value_type == "json", "the new type")
    settle(db, store, follower)


def test_changes_made_while_the_triggers_were_missing_are_found(make):
    """Dropped and made again in the same words: the log has a hole it cannot know of."""
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    store["a"] = 1
    triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    db.execute("BEGIN")
    for name, _ in triggers:
        db.execute(f"DROP TRIGGER {quoted(name)}")
    db.execute("INSERT INTO data VALUES ('unnoticed', 1)")
    for _, sql in triggers:
        db.execute(sql)
    db.execute("COMMIT")
    follower.wait_state({"a": b"1", "unnoticed": b"1"})


def test_vacuum_checkpoint_and_journal_modes(make):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    statements = (
        "VACUUM",
        "PRAGMA journal_mode=wal",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "VACUUM",
        "REINDEX",
        "ANALYZE",
        "PRAGMA journal_mode=truncate",
        "PRAGMA journal_mode=persist",
        "PRAGMA optimize",
    )
    for number, statement in enumerate(statements):
        with suppress(sqlite3.OperationalError):
            # Back from WAL nobody gets while somebody else has the file open.
            db.execute(statement)
        db.execute("INSERT OR REPLACE INTO data VALUES ('theirs', ?)", (number,))
        follower.wait_key("theirs", b"%d" % number)
        store["mine"] = number
        assert store.flush(TIMEOUT)
        assert follower.state["mine"] == b"%d" % number
    assert follower.state == values(store)


# --- the file goes, changes, breaks ---


def clean_copy(path, copy):
    """A backup in one file, the log included."""
    with database(path) as db:
        db.execute(f"VACUUM INTO '{copy}'")


def plain_copy(path, copy):
    """The file itself, down to the number of its schema."""
    with database(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, copy)


def put_in_place(new, path):
    """As a restore should be done: old side files first, then the file in one step."""
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    new.replace(path)


@pytest.mark.parametrize("place", [f"{10**30}:1", f"1:{10**30}", "-1:0", "0:0", "1:1", "1", "x:y"])
def test_a_cursor_that_was_made_up_gives_the_full_state(make, place):
    _, store, _ = make(follow=False)
    store["a"] = 1
    epoch = store.snapshot_batch().cursor.partition(":")[0]
    batches = []
    store.watch_batches(since=f"{epoch}:{place}").subscribe(batches.append)
    assert [entry.key for entry in batches[0].entries] == ["a"]


def test_a_file_replaced_by_an_older_backup(make, path, tmp_path):
    _, store, follower = make()
    statuses = Statuses(store)
    store.put_many({"same": 1, "changed": 1, "gone": 1})
    clean_copy(path, tmp_path / "backup")
    store.put_many({"changed": 2, "new": 1})
    store.delete("gone")
    assert store.flush(TIMEOUT)
    seen = len(follower.entries)
    put_in_place(tmp_path / "backup", path)
    follower.wait_state({"same": b"1", "changed": b"1", "gone": b"1"})
    assert sorted(e.key for e in follower.entries[seen:]) == ["changed", "gone", "new"]
    statuses.wait(State.READY)
    store["after"] = 1
    with database(path) as db:
        settle(db, store, follower)


@pytest.mark.parametrize("copy", [clean_copy, plain_copy])
def test_a_file_replaced_by_a_backup_that_lived_on(make, path, tmp_path, copy):
    """Its log is as long as ours and of the same epoch, but tells another story."""
    _, store, follower = make()
    same = {f"k/{number}": number for number in range(10)}
    store.put_many(same)
    copy(path, tmp_path / "backup")
    for number in range(10):
        store[f"k/{number}"] = -1
    with datastream.open(f"sqlite:{tmp_path / 'backup'}") as other:
        for number in range(40):
            other[f"n/{number}"] = number
        expected = values(other)
    with database(tmp_path / "backup") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    put_in_place(tmp_path / "backup", path)
    follower.wait_key("n/39", b"39")
    follower.wait_state(expected)


def test_a_backup_restored_into_the_open_file(make, path, tmp_path):
    _, store, follower = make()
    store.put_many({f"k/{number}": number for number in range(10)})
    clean_copy(path, tmp_path / "backup")
    for number in range(10):
        store[f"k/{number}"] = -1
    with datastream.open(f"sqlite:{tmp_path / 'backup'}") as other:
        for number in range(40):
            other[f"n/{number}"] = number
        expected = values(other)
    with database(path) as target, database(tmp_path / "backup") as backup:
        backup.backup(target)
    follower.wait_key("n/39", b"39")
    follower.wait_state(expected)


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("watched", [True, False])
def test_after_a_file_was_replaced_no_write_goes_to_the_old_one(tmp_path, stack, journal, watched):
    """An acknowledged write must be in the file that is there."""
    path, fresh = tmp_path / "app.db", tmp_path / "fresh.db"
    for place in (path, fresh):
        with database(place, f"PRAGMA journal_mode={journal}", f"CREATE TABLE data ({TYPED})"):
            pass
    with database(fresh) as db:
        db.execute("INSERT INTO data (key, value) VALUES ('theirs', 1)")
    store = stack.enter_context(datastream.open(f"sqlite:{path}"))
    follower = Follower(store) if watched else None
    store["old"] = 1
    put_in_place(fresh, path)
    store["mine"] = 1
    assert set(store) == {"theirs", "mine"}
    with database(path) as db:
        assert {row[0] for row in db.execute("SELECT key FROM data")} == {"theirs", "mine"}
    if follower:
        follower.wait_state({"theirs": b"1", "mine": b"1"})


@pytest.mark.chaos
def test_going_to_another_file_while_looking_at_the_old_one_does_not_crash(tmp_path):
    """A connection closed under a running statement ends the whole process, in Python 3.11."""
    with Child("replacing", tmp_path, 300) as child:
        assert list(child.rest()) == ["done"]
        assert child.wait() == 0


def test_a_file_removed_and_brought_back(make, path, tmp_path):
    _, store, follower = make()
    statuses = Statuses(store)
    store.put_many({"same": 1, "changed": 1})
    clean_copy(path, tmp_path / "backup")
    put_in_place(path, tmp_path / "away")
    status = statuses.wait(State.STALE)
    assert str(path) in str(status.error)
    with pytest.raises(SourceUnavailable, match=r"app\.db"):
        store["lost"] = 1
    with pytest.raises(SourceUnavailable, match=r"app\.db"):
        store.snapshot()
    assert not path.exists()
    with database(tmp_path / "backup") as db:
        db.execute("UPDATE data SET value = '2' WHERE key = 'changed'")
    put_in_place(tmp_path / "backup", path)
    follower.wait_state({"same": b"1", "changed": b"2"})
    statuses.wait(State.READY)
    assert [e.key for e in follower.entries].count("same") == 1
    # Away is away: no flicker in between.
    assert statuses.states.count(State.READY) <= 2


@pytest.mark.parametrize("bad", ["garbage", "empty", "another table", "directory", "nothing"])
def test_a_file_replaced_by_a_wrong_one_and_then_by_a_right_one(make, path, tmp_path, bad):
    _, store, follower = make()
    statuses = Statuses(store)
    store.put_many({"same": 1, "changed": 1})
    assert store.flush(TIMEOUT)
    clean_copy(path, tmp_path / "good")
    with database(tmp_path / "good") as db:
        db.execute("UPDATE data SET value = '2' WHERE key = 'changed'")
    wrong = tmp_path / "wrong"
    if bad == "garbage":
        wrong.write_bytes(b"this is no database" * 1_000)
    elif bad == "empty":
        wrong.touch()
    elif bad == "another table":
        with database(wrong, f"CREATE TABLE other ({NATIVE})"):
            pass
    elif bad == "directory":
        wrong.mkdir()
    if bad == "directory":
        put_in_place(path, tmp_path / "away")
    if bad != "nothing":
        put_in_place(wrong, path)
    else:
        put_in_place(path, tmp_path / "away")
    status = statuses.wait(State.STALE, State.FAILED)
    eventually(lambda: len(statuses.seen) >= 2, "an error is reported")
    assert isinstance(status.error, DatastreamError)
    assert follower.state == {"same": b"1", "changed": b"1"}
    if bad == "directory":
        path.rmdir()
    put_in_place(tmp_path / "good", path)
    follower.wait_state({"same": b"1", "changed": b"2"})
    statuses.wait(State.READY)
    assert [e.key for e in follower.entries].count("same") == 1
    store["mine"] = 1
    assert store["mine"] == 1


def test_a_reconnection_that_fails_half_way_is_tried_again(make, path, tmp_path, monkeypatch):
    _, store, follower = make()
    statuses = Statuses(store)
    store["a"] = 1
    clean_copy(path, tmp_path / "good")
    real = sqlite_file.connect

    def fail(*arguments):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite_file, "connect", fail)
    put_in_place(tmp_path / "good", path)
    statuses.wait(State.STALE, State.FAILED)
    eventually(lambda: "unable to open" in str(statuses.seen[-1].error), "a failed attempt")
    monkeypatch.setattr(sqlite_file, "connect", real)
    with database(path) as db:
        db.execute("INSERT INTO data VALUES ('b', '1', 'int', NULL)")
    follower.wait_state({"a": b"1", "b": b"1"})
    statuses.wait(State.READY)


@pytest.mark.parametrize("size", [0, 8192])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_file_truncated_while_open_and_then_mended(make, path, size, journal):
    db, store, follower = make(f"PRAGMA journal_mode={journal}", f"CREATE TABLE data ({TYPED})")
    statuses = Statuses(store)
    # More than a connection keeps in memory.
    store.put_many({f"k/{number}": "x" * 4_000 for number in range(1_000)})
    assert store.flush(TIMEOUT)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    good = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(size)
    if size:
        # A page that is needed is missing.
        with pytest.raises(DatastreamError, match=r"app\.db"):
            store.snapshot()
    else:
        with pytest.raises(DatastreamError, match=r"app\.db"):
            store["new"] = 1
    store.refresh()
    before = dict(follower.state)
    assert len(before) == 1_000
    with path.open("r+b") as file:
        file.write(good)
    seen = len(follower.entries)
    with database(path) as other:
        other.execute("UPDATE data SET value = 'y' WHERE key = 'k/7'")
        other.execute("DELETE FROM data WHERE key = 'k/8'")
    expected = {**before, "k/7": b"y"}
    del expected["k/8"]
    follower.wait_state(expected)
    assert sorted(e.key for e in follower.entries[seen:]) == ["k/7", "k/8"]
    statuses.wait(State.READY)


def test_a_corrupt_page_is_a_status_and_no_delete(make, path):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    statuses = Statuses(store)
    store.put_many({f"k/{number}": "x" * 100 for number in range(1_000)})
    assert store.flush(TIMEOUT)
    good = path.read_bytes()
    with path.open("r+b") as file:
        for page in range(2, len(good) // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 100)
        # Tells every connection to forget what it has cached.
        file.seek(24)
        file.write((int.from_bytes(good[24:28]) + 1).to_bytes(4))
    status = statuses.wait(State.FAILED)
    assert isinstance(status.error, DatastreamError)
    assert "app.db" in str(status.error)
    assert len(follower.state) == 1_000
    with path.open("r+b") as file:
        file.write(good)
        file.seek(24)
        file.write((int.from_bytes(good[24:28]) + 2).to_bytes(4))
    statuses.wait(State.READY)
    db.execute("INSERT INTO data VALUES ('new', 1)")
    follower.wait_key("new", b"1")
    assert len(follower.state) == 1_001


def test_a_commit_is_seen_though_the_log_cannot_be_read(make, path):
    """The next read finds out, and says so."""
    db, store, _ = make(f"CREATE TABLE data ({NATIVE})", follow=False)
    commits, attached = store._source._commits, store._source._current.attached
    where = "SELECT rootpage FROM sqlite_master WHERE name = ?"
    ((root,),) = db.execute(where, (attached.layout.mark,))
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 100)
        # Tells every connection to forget what it has cached.
        file.seek(24)
        file.write(b"\x7f" * 4)
    assert commits.have_come(attached)
    assert commits.suspicion.is_left


# --- what cannot be opened ---


@pytest.mark.parametrize("options", [{}, {"readonly": True}, {"triggers": False}])
def test_no_database_says_so_and_is_left_alone(path, options):
    path.write_bytes(b"important text\n" * 1_000)
    with pytest.raises(DatastreamError, match=r"app\.db.*no.*database"):
        datastream.open(f"sqlite:{path}", **options)
    assert path.read_bytes() == b"important text\n" * 1_000


def test_a_missing_file_is_made_only_where_that_is_meant(tmp_path):
    for options in ({"create": False}, {"readonly": True}, {"table": "mine"}):
        with pytest.raises(DatastreamError, match="no such file"):
            datastream.open(f"sqlite:{tmp_path / 'no.db'}", **options)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DatastreamError, match=r"nowhere"):
        datastream.open(f"sqlite:{tmp_path}/nowhere/no.db")
    with pytest.raises(DatastreamError, match="it is a directory; name a file"):
        datastream.open(f"sqlite:{tmp_path}")
    with datastream.open(f"sqlite:{tmp_path / 'new.db'}", table="mine", create=True) as store:
        store["a"] = 1


@pytest.mark.parametrize("asked", [{"key": "name"}, {"key": "key,id"}, {"value": "title,done"}])
def test_no_table_is_made_without_the_columns_that_are_asked_for(tmp_path, asked):
    path = tmp_path / "new.db"
    with pytest.raises(DatastreamError, match=r"would be made has no column.*it has key, value"):
        datastream.open(f"sqlite:{path}", **asked)
    assert not path.exists()
    with database(path, "CREATE TABLE other (a)") as db:
        with pytest.raises(DatastreamError, match=r"would be made has no column"):
            datastream.open(f"sqlite:{path}", table="mine", create=True, **asked)
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("other",)]


def test_rows_that_no_store_can_name_are_left_out(make, caplog):
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})")
    db.execute("INSERT INTO data VALUES ('', 1), ('folder/', 1), ('größe/', 1), ('b/c', 2)")
    follower.wait_state({"b/c": b"2"})
    assert {capability.key for capability in store.capabilities()} == set(store) == {"b/c"}
    assert caplog.text.count("a row is left out") == 3
    db.execute("DELETE FROM data WHERE key <> 'b/c'")
    db.execute("UPDATE data SET value = 3")
    follower.wait_state({"b/c": b"3"})


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("t (a, b)", {"table": "t"}, "no column 'key'; it has a, b"),
        ("t (a, b)", {"table": "t", "key": "a", "value": "c"}, "no column 'c'"),
        ("t (a, b)", {"table": "t", "key": "a", "value": "b"}, "neither the primary key nor uniq"),
        ("t (a, b, PRIMARY KEY (a, b))", {"table": "t", "key": "a", "value": "b"}, "no key"),
        (f"t ({NATIVE})", {"table": "T2"}, "no such table; it has t"),
        (f"t ({NATIVE})", {"table": "t", "value_type": "kind"}, "no column 'kind'.*value_type="),
    ],
)
def test_a_table_that_is_no_store_says_what_is_wrong(path, table, options, message):
    with database(path, f"CREATE TABLE {table}"):
        pass
    with pytest.raises(DatastreamError, match=message):
        datastream.open(f"sqlite:{path}", **options)
    with database(path) as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall() == []
    assert not [f for f in psutil.Process().open_files() if f.path.startswith(str(path))]


def test_a_partial_unique_index_makes_no_key(path):
    index = "CREATE UNIQUE INDEX i ON data (key) WHERE value = 1"
    with database(path, "CREATE TABLE data (key, value)", index):
        pass
    with pytest.raises(DatastreamError, match="no key"):
        datastream.open(f"sqlite:{path}")


# --- read only ---


def test_a_view_is_followed_and_cannot_be_written(path, stack):
    db = stack.enter_context(
        database(
            path,
            "CREATE TABLE rates (currency TEXT PRIMARY KEY, rate REAL, active INT)",
            "CREATE VIEW shown AS SELECT 'fx/' || currency AS key, rate AS value FROM rates "
            "WHERE active",
        )
    )
    before = path.read_bytes()
    store = stack.enter_context(datastream.open(f"sqlite:{path}", table="shown"))
    follower = Follower(store)
    db.execute("INSERT INTO rates VALUES ('USD', 1.1, 1), ('CHF', 0.9, 0)")
    follower.wait_state({"fx/USD": b"1.1"})
    db.execute("UPDATE rates SET active = 1 - active")
    follower.wait_state({"fx/CHF": b"0.9"})
    with pytest.raises(ReadOnly, match=r"app\.db"):
        store["fx/USD"] = 1.2
    assert before[:16] == path.read_bytes()[:16]
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    assert not [name for name in names if "datastream" in name]


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("with_log", [True, False])
def test_readonly_follows_the_file_and_never_writes_to_it(path, stack, journal, with_log):
    db = stack.enter_context(
        database(path, f"PRAGMA journal_mode={journal}", f"CREATE TABLE data ({TYPED})")
    )
    if with_log:
        datastream.open(f"sqlite:{path}").close()
    schema = db.execute("SELECT name, sql FROM sqlite_master").fetchall()
    store = stack.enter_context(datastream.open(f"sqlite:{path}", readonly=True))
    assert Feature.WRITE not in store.features
    follower = Follower(store)
    db.execute("INSERT INTO data (key, value) VALUES ('a', 1), ('b', 1)")
    follower.wait_state({"a": b"1", "b": b"1"})
    db.execute("DELETE FROM data WHERE key = 'a'")
    follower.wait_state({"b": b"1"})
    for write in (lambda: store.put("a", 1), lambda: store.delete("b"), store.clear):
        with pytest.raises(ReadOnly):
            write()
    assert db.execute("SELECT name, sql FROM sqlite_master").fetchall() == schema


@contextmanager
def small_disk(directory, size):
    """A file system of its own; skips where that is not permitted."""
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(directory)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="needs Linux")
def test_a_file_on_a_read_only_disk_can_be_read(tmp_path):
    """Root may write to any file, so only the file system can refuse."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        with database(disk / "app.db", f"CREATE TABLE data ({NATIVE})") as db:
            db.execute("INSERT INTO data VALUES ('a', 1)")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with datastream.open(f"sqlite:{disk / 'app.db'}") as store:
            assert dict(store) == {"a": 1}
            follower = Follower(store)
            assert follower.state == {"a": b"1"}
            with pytest.raises(ReadOnly):
                store["b"] = 1


# --- a full disk ---


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="needs Linux")
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_full_disk_is_a_clear_error_and_changes_nothing(tmp_path, journal):
    with small_disk(tmp_path / "disk", "512k") as disk:
        path = disk / "app.db"
        with database(path, f"PRAGMA journal_mode={journal}", f"CREATE TABLE data ({TYPED})"):
            pass
        with datastream.open(f"sqlite:{path}") as store:
            follower = Follower(store)
            acknowledged = 0
            error = None
            while error is None and acknowledged < 200:
                try:
                    store.put_many({f"k/{acknowledged}/{part}": "x" * 3_000 for part in "ab"})
                    acknowledged += 1
                except SourceUnavailable as full:
                    error = str(full)
            assert acknowledged > 5
            assert re.search(r"app\.db.*'data'.*(full|disk)", error)
            expected = {f"k/{n}/{part}" for n in range(acknowledged) for part in "ab"}
            assert set(store) == expected
            assert store.flush(TIMEOUT)
            assert set(follower.state) == expected
            # Room made, it goes on.
            (disk / "ballast").unlink(missing_ok=True)
            subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
            store["after"] = 1
            follower.wait_key("after", b"1")


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="needs Linux")
def test_a_disk_too_full_to_install_the_log_is_a_clear_error(tmp_path):
    with small_disk(tmp_path / "disk", "512k") as disk:
        path = disk / "app.db"
        with database(path, f"CREATE TABLE data ({NATIVE})"):
            pass
        room = os.statvfs(disk).f_bavail * 4096
        errors = []
        for left in range(4096, 40_000, 4096):
            (disk / "ballast").write_bytes(b"x" * (room - left))
            try:
                datastream.open(f"sqlite:{path}").close()
                break
            except DatastreamError as error:
                errors.append(error)
        assert errors
        for error in errors:
            assert isinstance(error, SourceUnavailable)
            assert re.search(r"app\.db.*(full|disk)", str(error))
        (disk / "ballast").unlink()
        with datastream.open(f"sqlite:{path}") as store:
            assert Feature.LOG in store.features


def test_a_file_that_may_not_grow_is_a_clear_error_and_changes_nothing(path):
    with Child("full", path, 400_000) as child:
        acknowledged = int(child.line())
        error = child.line()
        assert child.wait() == 0
    assert error.startswith("SourceUnavailable: ")
    assert "app.db" in error
    assert "'data'" in error
    with datastream.open(f"sqlite:{path}") as store:
        assert set(store) == {f"k/{n}/{part}" for n in range(acknowledged) for part in "ab"}


# --- many processes ---


def test_compare_and_set_is_atomic_across_processes(path, stack):
    store = stack.enter_context(datastream.open(f"sqlite:{path}"))
    store["n"] = 0
    children = [
        stack.enter_context(Child("increment", f"sqlite:{path}", "n", 200)) for _ in range(4)
    ]
    for child in children:
        assert child.line() == "ready"
    follower = Follower(store)
    for child in children:
        child.process.stdin.write("go\n")
    for child in children:
        child.line()
    assert store["n"] == 800
    follower.wait_key("n", b"800")
    numbers = [entry.decode() for entry in follower.entries]
    assert numbers == sorted(set(numbers))


@pytest.mark.chaos
def test_many_processes_open_a_new_file_at_once(path, stack):
    children = [stack.enter_context(Child("increment", f"sqlite:{path}", "n", 0)) for _ in range(4)]
    for child in children:
        assert child.line() == "ready"
    with database(path) as db:
        epochs = db.execute("SELECT epoch FROM _datastream").fetchall()
    assert len(epochs) == 1


# --- chance ---

TABLES = [
    f"({TYPED})",
    f"({TYPED}) WITHOUT ROWID",
    f"({NATIVE}, a UNIQUE, b, UNIQUE (a, b))",
    "(id INTEGER PRIMARY KEY, key TEXT UNIQUE, value, a, b)",
    "(key TEXT UNIQUE, value TEXT, a INT, b TEXT COLLATE NOCASE UNIQUE)",
    "(key TEXT COLLATE NOCASE PRIMARY KEY, value, a, b)",
    "(key INTEGER PRIMARY KEY, value, a UNIQUE, b)",
    "(key UNIQUE, value, value_type, a, b)",
    "(a, b, value REAL, key VARCHAR(10) PRIMARY KEY, updated_at INT) WITHOUT ROWID",
]
INDEXES = [
    "CREATE UNIQUE INDEX odd ON data (a) WHERE b = 1",
    "CREATE UNIQUE INDEX odd ON data (b COLLATE NOCASE)",
    "CREATE UNIQUE INDEX odd ON data (lower(b))",
    "CREATE UNIQUE INDEX odd ON data (key COLLATE NOCASE)",
    "CREATE INDEX odd ON data (b)",
]


class Chance:
    """Writes anything, as another program and through the store."""

    def __init__(self, seed, db, store):
        self.any = random.Random(seed)
        self.db, self.store = db, store
        columns = [row[1] for row in db.execute("PRAGMA table_info(data)")]
        self.others = [column for column in columns if column in ("a", "b")]
        numeric = "INTEGER PRIMARY KEY" in db.execute("SELECT sql FROM sqlite_master").fetchone()[0]
        self.keys = ["1", "2", "3", "-4"] if numeric and "id" not in columns else list("aAbBcé5")

    def step(self):
        with suppress(sqlite3.IntegrityError, DatastreamError):
            self.any.choice([self.sql] * 4 + [self.transaction, self.put, self.put_many])()

    def value(self):
        return self.any.choice([1, 2, "1", "x", "X", b"x", 0.1, None, "é"])

    def sql(self):
        key, columns = self.any.choice(self.keys), ["key", "value", *self.others]
        row = [key, self.value(), *(self.any.choice([1, 2, "x", "X"]) for _ in self.others)]
        marks = ", ".join("?" * len(row))
        conflict = self.any.choice(["", "OR REPLACE", "OR REPLACE", "OR IGNORE"])
        kind = self.any.randrange(6)
        if kind < 2:
            into = f"INTO data ({', '.join(columns)}) VALUES ({marks})"
            self.db.execute(f"INSERT {conflict} {into}", row)
        elif kind < 4:
            column, number = self.any.choice(list(enumerate(columns))), self.any.choice(self.keys)
            statement = f"UPDATE {conflict} data SET {column[1]} = ? WHERE key = ?"
            self.db.execute(statement, (row[column[0]], number))
        elif kind == 4:
            self.db.execute("DELETE FROM data WHERE key = ?", (key,))
        else:
            self.db.execute("DELETE FROM data WHERE value = ?", (self.value(),))

    def transaction(self):
        self.db.execute("BEGIN")
        try:
            for _ in range(self.any.randrange(5)):
                with suppress(sqlite3.IntegrityError):
                    self.sql()
        finally:
            self.db.execute(self.any.choice(["COMMIT", "COMMIT", "ROLLBACK"]))

    def put(self):
        key = self.any.choice(self.keys)
        expect = self.any.choice([None, None, "", self.revision(key)])
        if self.any.random() < 0.3:
            self.store.delete(key, expect=expect)
            assert key not in self.store
        else:
            entry = self.store.put(key, self.any.choice([1, 2, "1", 0.5, b"x"]), expect=expect)
            assert entry == self.store.entry(key)

    def revision(self, key):
        found = self.store.snapshot(key).get(key)
        return found.revision if found else ""

    def put_many(self):
        keys = self.any.sample(self.keys, 3)
        for entry in self.store.put_many({key: self.any.choice([1, "x", 0.5]) for key in keys}):
            assert entry == self.store.entry(entry.key)


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.chaos) for seed in (1, 2))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("index", [None, *INDEXES])
@pytest.mark.parametrize("table", TABLES)
def test_whatever_is_written_watchers_store_and_table_agree(make, table, index, seed):
    if index and "a" not in re.findall(r"\b[ab]\b", table):
        pytest.skip("no such columns")
    db, store, follower = make(f"CREATE TABLE data {table}", *([index] if index else []))
    db.execute(f"PRAGMA recursive_triggers={seed % 2}")
    chance = Chance(seed, db, store)
    cursor, had = store.snapshot_batch().cursor, {}
    for number in range(6):
        for _ in range(12):
            chance.step()
        expected = values_believed(store)
        follower.wait_state(expected)
        assert {e.key: e.value for e in store.snapshot(*chance.keys).values()} == expected
        batches = []
        store.watch_batches(since=cursor).subscribe(batches.append).dispose()
        state = {} if batches[0].reset else had
        for entry in batches[0].entries:
            if entry.operation is Operation.DELETE:
                state.pop(entry.key, None)
            else:
                state[entry.key] = entry.value
        assert state == expected
        cursor, had = batches[0].cursor, state
        if number == 3:
            db.execute("VACUUM")


def test_stores_on_two_tables_of_one_file_leave_each_other_alone(make, path, stack):
    """What one does to the schema must not make the other begin again, and so on for ever."""
    db, store, follower = make(f"CREATE TABLE data ({NATIVE})", f"CREATE TABLE two ({NATIVE})")
    cursor = store.snapshot_batch().cursor
    other = stack.enter_context(datastream.open(f"sqlite:{path}", table="two"))
    again = stack.enter_context(datastream.open(f"sqlite:{path}", updated_at="value"))
    watching = Follower(other), Follower(again)
    for number in range(20):
        db.execute("INSERT OR REPLACE INTO data VALUES ('k', ?)", (number,))
        db.execute("INSERT OR REPLACE INTO two VALUES ('k', ?)", (number,))
        for each in (follower, *watching):
            each.wait_key("k", b"%d" % number)
    schema = db.execute("PRAGMA schema_version").fetchone()
    for each in (store, other, again):
        each.refresh()
    never(lambda: db.execute("PRAGMA schema_version").fetchone() != schema, "a change", 0.3)
    assert store.snapshot_batch().cursor.partition(":")[0] == cursor.partition(":")[0]


# --- leaving ---


def test_uninstall_leaves_no_trace(path):
    with database(path, f"CREATE TABLE data ({NATIVE})", 'CREATE TABLE "o t" (key UNIQUE, value)'):
        pass
    with database(path) as db:
        before = db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        first, second = SqliteSource(path), SqliteSource(path, table="o t")
        other = SqliteSource(path, updated_at="value")
        db.execute("INSERT INTO data VALUES ('a', 1)")
        for source in (first, other):
            source.uninstall()
            source.close()
        with datastream.Store(second) as store:
            follower = Follower(store)
            db.execute("INSERT INTO \"o t\" VALUES ('b', 1)")
            follower.wait_state({"b": b"1"})
            follower.dispose()
            second.uninstall()
        after = db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        assert after == before
        assert db.execute("SELECT * FROM data").fetchall() == [("a", 1)]


def test_triggers_false_leaves_the_schema_alone(make):
    db, store, follower = make(f"CREATE TABLE data ({TYPED})", triggers=False)
    store["a"] = 1
    db.execute("INSERT INTO data (key, value) VALUES ('b', 1)")
    follower.wait_state({"a": b"1", "b": b"1"})
    db.execute("DELETE FROM data WHERE key = 'b'")
    follower.wait_state({"a": b"1"})
    names = db.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'").fetchall()
    assert names == [("data",)]


def test_without_triggers_the_own_delete_of_the_last_key_is_no_trouble(make):
    """Nothing vanished by itself: the store deleted it."""
    _, store, follower = make(f"CREATE TABLE data ({NATIVE})", triggers=False)
    statuses = Statuses(store)
    store["a"] = 1
    store.delete("a")
    assert store.flush(TIMEOUT)
    assert follower.state == {}
    assert statuses.states[-1] is State.READY
    assert set(statuses.states) <= {State.CONNECTING, State.READY}


def test_a_log_longer_than_what_is_kept_gives_the_full_state(make, monkeypatch):
    monkeypatch.setattr("datastream.sources.sqlite.log.KEPT", 100)
    db, store, _ = make(f"CREATE TABLE data ({NATIVE})", follow=False)
    store["a"] = 1
    cursor = store.snapshot_batch().cursor
    with database(db.execute("PRAGMA database_list").fetchone()[2]) as other:
        other.executemany("INSERT INTO data VALUES (?, 1)", ((f"k/{n}",) for n in range(500)))
        other.execute("DELETE FROM data WHERE key = 'a'")
    batches = []
    follower = Follower(store)
    db.execute("INSERT INTO data VALUES ('z', 1)")
    follower.wait_key("z", b"1")
    db.execute(f"DELETE FROM {quoted(_log_table(db))} WHERE seq < 300")
    store.watch_batches(since=cursor).subscribe(batches.append)
    assert batches[0].reset
    assert {e.key for e in batches[0].entries} == {"z", *(f"k/{n}" for n in range(500))}


def _log_table(db):
    (name,) = db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '_datastream_%'"
    ).fetchone()
    return name


def test_a_reader_resumes_with_puts_and_deletes(make, path):
    db, store, _ = make(f"CREATE TABLE data ({TYPED})", follow=False)
    store.put_many({"same": 1, "changed": 1, "gone": 1})
    cursor = store.snapshot_batch().cursor
    store.close()
    db.execute("UPDATE data SET value = '2' WHERE key = 'changed'")
    db.execute("DELETE FROM data WHERE key = 'gone'")
    with datastream.open(f"sqlite:{path}") as again:
        batches = []
        again.watch_batches(since=cursor).subscribe(batches.append)
        found = {entry.key: entry.operation for entry in batches[0].entries}
        assert found == {"changed": Operation.PUT, "gone": Operation.DELETE}
        assert not batches[0].reset


def test_a_reader_that_resumes_is_not_told_of_keys_that_came_and_went(make, path):
    db, store, _ = make(f"CREATE TABLE data ({TYPED})", follow=False)
    store.put_many({"same": 1, "replaced": 1, "renamed": 1})
    cursor = store.snapshot_batch().cursor
    store.put_many({"mine": 1, "mine/too": 1})
    store.put("mine", 2)
    db.execute("INSERT INTO data (key, value) VALUES ('theirs', 1)")
    db.execute("INSERT OR REPLACE INTO data (key, value) VALUES ('replaced', 2)")
    db.execute("UPDATE data SET key = 'other name' WHERE key = 'renamed'")
    db.execute("DELETE FROM data WHERE key NOT IN ('same', 'mine/too')")
    batches = []
    store.watch_batches(since=cursor).subscribe(batches.append)
    assert store.flush(TIMEOUT)
    found = {entry.key: entry.operation for entry in batches[0].entries}
    put, delete = Operation.PUT, Operation.DELETE
    assert found == {"mine/too": put, "replaced": delete, "renamed": delete}


def test_the_log_does_not_grow_for_ever(make, monkeypatch):
    monkeypatch.setattr("datastream.sources.sqlite.log.KEPT", 50)
    monkeypatch.setattr(sqlite_source, "KEPT", 50)
    monkeypatch.setattr(sqlite_source, "PRUNE_EVERY", 100)
    db, store, _ = make(f"CREATE TABLE data ({NATIVE})", follow=False)
    for number in range(500):
        store["k"] = number
    assert db.execute(f"SELECT count(*) FROM {quoted(_log_table(db))}").fetchone()[0] <= 150


def test_missing_keys_are_not_found(make):
    _, store, _ = make(f"CREATE TABLE data ({TYPED})")
    for call in (lambda: store["a"], lambda: store.delete("a"), lambda: store.entry("a")):
        with pytest.raises(KeyNotFound, match="'a'"):
            call()
    with pytest.raises(RevisionConflict):
        store.put("a", 1, expect="something")
    store.delete("a", missing_ok=True)


def test_the_command_line_of_python_as_the_other_program(make, path):
    """``python -m sqlite3`` came with 3.12; sqlite-utils has been there before."""
    _, _, follower = make(f"CREATE TABLE data ({NATIVE})")
    statement = "INSERT INTO data VALUES ('a', 1)"
    command = (
        [sys.executable, "-m", "sqlite3", str(path), statement]
        if sys.version_info >= (3, 12)
        else [sys.executable, "-m", "sqlite_utils", "query", str(path), statement]
    )
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    follower.wait_state({"a": b"1"})
