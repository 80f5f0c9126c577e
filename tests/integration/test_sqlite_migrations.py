"""Other programs' migrations of SQLite tables with a change log, and tables as they make them."""

from __future__ import annotations

import pytest
import sqlite_utils

import datastream
from datastream import ReadOnly
from datastream.source import Feature
from tests.integration._programs.tools import Follower, database, eventually

TABLES = {
    "ours": "key TEXT PRIMARY KEY, value, value_type TEXT, updated_at TIMESTAMP, note TEXT",
    "theirs": "id INTEGER PRIMARY KEY, key VARCHAR(20) UNIQUE, value TEXT, updated_at INT, note",
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@pytest.fixture
def make(path, stack):
    """Make a file with these statements; a plain connection and what opens stores on it."""

    def make(*statements):
        db = stack.enter_context(database(path, *statements))
        return db, lambda **options: stack.enter_context(
            datastream.open(f"sqlite:{path}", **options)
        )

    return make


def logs(db):
    tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in tables if name.startswith("_datastream_")]


def hidden(db):
    """Remove the triggers as repair tools do: the schema's number stays."""
    db.execute("PRAGMA writable_schema = ON")
    db.execute("DELETE FROM sqlite_master WHERE type = 'trigger'")
    db.execute("PRAGMA writable_schema = RESET")


# --- ALTER TABLE ---


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("table", TABLES)
def test_columns_dropped_and_renamed(make, table, running):
    db, opened = make(f"CREATE TABLE data ({TABLES[table]})", "CREATE TABLE other (a, b)")
    store = opened()
    follower = Follower(store)
    store["a"] = "1"
    if not running:
        store.close()
    for statement in (
        "ALTER TABLE data DROP COLUMN note",
        "ALTER TABLE data DROP COLUMN updated_at",
        "ALTER TABLE data RENAME COLUMN value TO v",
        "ALTER TABLE data RENAME COLUMN v TO value",
        "ALTER TABLE data ADD COLUMN more",
        "ALTER TABLE other RENAME TO another",
        "ALTER TABLE another DROP COLUMN b",
    ):
        db.execute(statement)
        value = "v" if statement.endswith("TO v") else "value"
        db.execute(f"UPDATE data SET {value} = ? WHERE key = 'a'", (statement,))
    if not running:
        store = opened()
        follower = Follower(store)
    follower.wait_key("a", statement.encode())
    db.execute("INSERT INTO data (key, value) VALUES ('b', 'x')")
    follower.wait_key("b", b"x")
    assert len(logs(db)) == 1


def test_an_update_of_other_columns_costs_no_line(make):
    db, opened = make(f"CREATE TABLE data ({TABLES['ours']})")
    store = opened()
    store["a"] = 1
    before = store.snapshot_batch().cursor
    db.execute("UPDATE data SET note = 'x'")
    assert store.snapshot_batch().cursor == before
    db.execute("UPDATE data SET note = 'x', value = '2'")
    assert store.snapshot_batch().cursor != before


def test_the_column_of_a_unique_index_can_be_dropped_after_the_index(make):
    db, opened = make(
        f"CREATE TABLE data ({TABLES['ours']})", "CREATE UNIQUE INDEX i ON data(note)"
    )
    follower = Follower(opened())
    db.execute("DROP INDEX i")
    trigger = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND sql LIKE '%note%'"
    eventually(lambda: db.execute(trigger).fetchone() == (0,), "a trigger less")
    db.execute("ALTER TABLE data DROP COLUMN note")
    db.execute("INSERT INTO data (key, value) VALUES ('b', 'x')")
    follower.wait_key("b", b"x")


def test_a_table_swapped_by_rename(make):
    db, opened = make(f"CREATE TABLE data ({TABLES['ours']})")
    store = opened()
    store.put_many({"same": "1", "changed": "1", "gone": "1"})
    follower = Follower(store)
    for statement in (
        "BEGIN",
        f"CREATE TABLE fresh ({TABLES['ours']})",
        "INSERT INTO fresh SELECT * FROM data WHERE key <> 'gone'",
        "UPDATE fresh SET value = '2' WHERE key = 'changed'",
        "ALTER TABLE data RENAME TO old",
        "ALTER TABLE fresh RENAME TO data",
        "COMMIT",
    ):
        db.execute(statement)
    follower.wait_state({"same": b"1", "changed": b"2"})
    db.execute("UPDATE old SET value = 'none of ours'")
    db.execute("UPDATE data SET value = '3' WHERE key = 'changed'")
    follower.wait_state({"same": b"1", "changed": b"3"})


@pytest.mark.parametrize("running", [True, False])
def test_a_table_rebuilt_by_sqlite_utils(make, path, running):
    db, opened = make(f"CREATE TABLE data ({TABLES['ours']})")
    store = opened()
    store["a"] = "1"
    cursor = store.snapshot_batch().cursor
    if not running:
        store.close()
    tools = sqlite_utils.Database(path)
    tools["data"].transform(drop={"note"}, rename={"updated_at": "changed"})
    tools["data"].upsert({"key": "b", "value": "2"}, pk="key")
    tools.close()
    if not running:
        store = opened()
    follower = Follower(store)
    follower.wait_state({"a": b"1", "b": b"2"})
    batches = []
    store.watch_batches(since=cursor).subscribe(batches.append).dispose()
    assert batches[0].reset
    db.execute("INSERT INTO data (key, value) VALUES ('c', '3')")
    follower.wait_key("c", b"3")


def test_triggers_removed_from_the_schema_itself_are_made_anew(make):
    db, opened = make("CREATE TABLE data (key TEXT PRIMARY KEY, value)")
    store = opened()
    store["a"] = "1"
    follower = Follower(store)
    hidden(db)
    db.execute("UPDATE data SET value = '2'")
    follower.wait_state({"a": b"2"})
    db.execute("UPDATE data SET value = '3'")
    follower.wait_state({"a": b"3"})
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone()[0]


def test_a_log_that_was_dropped_is_made_anew(make):
    db, opened = make(f"CREATE TABLE data ({TABLES['ours']})")
    store = opened()
    store["a"] = "1"
    for name in logs(db):
        db.execute(f'DROP TABLE "{name}"')
    store["b"] = "2"
    assert len(logs(db)) == 1
    db.execute("INSERT INTO data (key, value) VALUES ('c', '3')")
    assert dict(store) == {"a": "1", "b": "2", "c": "3"}


# --- tables as others make them ---


def test_a_generated_value_is_followed(make):
    db, opened = make(
        "CREATE TABLE data (key TEXT PRIMARY KEY, doc TEXT, "
        "value TEXT GENERATED ALWAYS AS (json_extract(doc, '$.v')) STORED, "
        "value_type TEXT AS ('str'))",
        """INSERT INTO data (key, doc) VALUES ('a', '{"v": 1}')""",
    )
    store = opened()
    assert Feature.LOG in store.features
    follower = Follower(store)
    assert follower.state == {"a": b"1"}
    db.execute("""UPDATE data SET doc = '{"v": 2}'""")
    follower.wait_state({"a": b"2"})
    with pytest.raises(ReadOnly, match="can only be read: SQLite generates its column 'value'; "):
        store["a"] = "3"


REBUILT = {
    "a value that is generated": (
        "CREATE TABLE new (key TEXT PRIMARY KEY, doc, value TEXT AS (doc || '!') STORED)",
        "INSERT INTO new (key, doc) SELECT key, value FROM data",
        "DROP TABLE data",
        "ALTER TABLE new RENAME TO data",
    ),
    "a key that is generated": (
        "CREATE TABLE new (doc, value, key TEXT AS (doc) STORED UNIQUE)",
        "INSERT INTO new (doc, value) SELECT key, value || '!' FROM data",
        "DROP TABLE data",
        "ALTER TABLE new RENAME TO data",
    ),
    "a view": (
        "ALTER TABLE data RENAME TO base",
        "CREATE VIEW data AS SELECT key, value || '!' AS value FROM base",
    ),
}


@pytest.mark.parametrize("migration", REBUILT)
def test_what_can_only_be_read_after_a_migration_refuses_writes(make, migration):
    db, opened = make("CREATE TABLE data (key TEXT PRIMARY KEY, value)")
    store = opened()
    store["a"] = "1"
    follower = Follower(store)
    db.execute("BEGIN")
    for statement in REBUILT[migration]:
        db.execute(statement)
    db.execute("COMMIT")
    for write in (
        lambda: store.put("a", "2"),
        lambda: store.put_many({"b": "1", "c": "2"}),
        lambda: store.delete("a"),
    ):
        with pytest.raises(
            ReadOnly, match=r"can only be read now: (it is a view|SQLite generates)"
        ):
            write()
    follower.wait_state({"a": b"1!"})


@pytest.mark.parametrize("kind", ["STORED", "VIRTUAL"])
@pytest.mark.parametrize("recursive", [0, 1])
def test_a_generated_key_is_followed(make, kind, recursive):
    db, opened = make(
        "CREATE TABLE data (doc TEXT, value TEXT, "
        f"key TEXT GENERATED ALWAYS AS (json_extract(doc, '$.k')) {kind} UNIQUE)",
        f"PRAGMA recursive_triggers={recursive}",
    )
    store = opened()
    follower = Follower(store)
    insert = "INSERT OR REPLACE INTO data (doc, value) VALUES (?, ?)"
    db.execute(insert, ('{"k": "a"}', "1"))
    db.execute(insert, ('{"k": "b"}', "1"))
    follower.wait_state({"a": b"1", "b": b"1"})
    cursor = store.snapshot_batch().cursor
    db.execute("""UPDATE data SET doc = '{"k": "c"}' WHERE key = 'a'""")
    follower.wait_state({"c": b"1", "b": b"1"})
    db.execute(insert, ('{"k": "b"}', "2"))
    db.execute("DELETE FROM data WHERE key = 'c'")
    follower.wait_state({"b": b"2"})
    batches = []
    store.watch_batches(since=cursor).subscribe(batches.append).dispose()
    assert {entry.key: entry.value for entry in batches[0].entries}["b"] == b"2"


def test_columns_that_take_anything_in_a_strict_table(make):
    db, opened = make("CREATE TABLE data (key ANY PRIMARY KEY, value ANY) STRICT -- (a comment)")
    db.execute("INSERT INTO data VALUES ('a', 1), (2, 'x')")
    store = opened()
    follower = Follower(store)
    assert follower.state == {"a": b"1", "2": b"x"}
    store["b"] = 1
    db.execute("UPDATE data SET value = 'y' WHERE key = 2")
    follower.wait_state({"a": b"1", "2": b"y", "b": b"1"})
    assert db.execute("SELECT typeof(key), typeof(value) FROM data WHERE key = 'b'").fetchall() == [
        ("text", "integer")
    ]


def test_names_in_another_case(make):
    """As SQLite compares them; one log serves all spellings."""
    db, opened = make("CREATE TABLE Settings (Key TEXT PRIMARY KEY, Value, Updated_At TEXT)")
    stores = [
        opened(table="settings"),
        opened(table="SETTINGS", key="KEY", updated_at="updated_at"),
    ]
    followers = [Follower(store) for store in stores]
    stores[0]["a"] = "1"
    stores[1]["b"] = "2"
    for follower in followers:
        follower.wait_state({"a": b"1", "b": b"2"})
    assert stores[0].entry("a").updated_at is not None
    assert len(logs(db)) == 1


@pytest.mark.parametrize("running", [True, False])
def test_a_migration_that_changes_the_case_of_names(make, running):
    """SQLite takes our triggers for those that are there; one log serves both spellings."""
    db, opened = make("CREATE TABLE data (key TEXT PRIMARY KEY, value)")
    store = opened()
    store["a"] = "1"
    follower = Follower(store)
    if not running:
        store.close()
    for statement in (
        "ALTER TABLE data RENAME TO other",
        "ALTER TABLE other RENAME TO Data",
        "ALTER TABLE data RENAME COLUMN value TO Value",
    ):
        db.execute(statement)
    db.execute("UPDATE data SET value = '2'")
    if not running:
        store = opened()
        follower = Follower(store)
    follower.wait_state({"a": b"2"})
    store["b"] = "3"
    db.execute("DELETE FROM data WHERE key = 'a'")
    follower.wait_state({"b": b"3"})
    assert len(logs(db)) == 1


def test_the_default_table_in_another_case(make):
    db, opened = make("CREATE TABLE DATA (key TEXT PRIMARY KEY, value)")
    follower = Follower(opened())
    db.execute("INSERT INTO data VALUES ('a', 'x')")
    follower.wait_state({"a": b"x"})
    assert db.execute(
        "SELECT count(*) FROM sqlite_master WHERE lower(name) = 'data'"
    ).fetchone() == (1,)
