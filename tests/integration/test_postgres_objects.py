"""Rows of PostgreSQL tables as values, and keys of several columns."""

import psycopg
import pytest

import datastream
from datastream import DatastreamError, InvalidKey, InvalidValue, KeyNotFound, RevisionConflict
from datastream.entry import Operation
from datastream.source import Write
from datastream.testing._tools import Recorder

TABLE = """
CREATE TABLE tasks (
  tenant text NOT NULL, id int NOT NULL, title text NOT NULL, priority int DEFAULT 1,
  done bool, tags jsonb, labels text[], icon bytea, weight numeric(6, 2), due timestamptz,
  shout text GENERATED ALWAYS AS (upper(title)) STORED, PRIMARY KEY (tenant, id)
)
"""


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


@pytest.fixture
def opened(postgres, db):
    made = []

    def opened(**options):
        store = datastream.open(postgres, **{"table": "tasks", "key": "tenant,id"} | options)
        made.append(store)
        return store

    yield opened
    for store in made:
        store.close()


def rows(db, query="SELECT * FROM tasks ORDER BY 1, 2"):
    return db.execute(query).fetchall()


def test_a_row_is_one_object_and_a_write_is_merged_into_it(db, opened):
    store = opened(value="*")
    assert store.status.current.degraded == ""
    first = store.put("acme/7", {"title": "paint", "tags": ["a", {"b": None}], "labels": ["x"]})
    assert first.value_type == "json"
    assert store["acme/7"] == {
        "title": "paint", "priority": 1, "done": None, "tags": ["a", {"b": None}],
        "labels": ["x"], "icon": None, "weight": None, "due": None, "shout": "PAINT",
    }  # fmt: skip
    given = {"icon": "\\x00ff", "weight": 1.5, "due": "2026-01-02T03:04:05+01:00", "done": True}
    stored = store.put("acme/7", given, expect=first.revision)
    assert stored.decode()["icon"] == "\\x00ff"
    assert stored.decode()["weight"] == 1.5
    assert stored.decode()["due"] == "2026-01-02T02:04:05+00:00"
    assert rows(db, "SELECT icon, title, done FROM tasks") == [(b"\0\xff", "paint", True)]
    # A title is needed for a new row only.
    assert store.put("acme/7", given) == stored
    assert store.put("acme/7", {}) == stored
    with pytest.raises(RevisionConflict):
        store.put("acme/7", {"title": "x"}, expect=first.revision)
    with pytest.raises(RevisionConflict):
        store.put("acme/7", {"title": "x"}, expect="")
    store.put("acme/8", {"title": "new"}, expect="")
    store.put_many({"acme/9": {"title": "nine"}, "acme/8": {"priority": 3}})
    del store["acme/7"]
    with pytest.raises(KeyNotFound):
        store.entry("acme/7")
    with pytest.raises(KeyNotFound):
        store.put("acme/7", {"title": "x"}, expect="*")
    assert rows(db, "SELECT id, title, priority FROM tasks ORDER BY id") == [
        (8, "new", 3),
        (9, "nine", 1),
    ]


@pytest.fixture
def asked(monkeypatch):
    """The statements that stores ask for."""
    asked = []
    execute = psycopg.RawCursor.execute

    def noted(cursor, query, *more, **options):
        asked.append(query)
        return execute(cursor, query, *more, **options)

    monkeypatch.setattr(psycopg.RawCursor, "execute", noted)
    return asked


def test_many_rows_take_few_statements(db, opened, asked):
    store = opened(value="*")
    store.put_many({f"acme/{n}": {"title": "old"} for n in range(3)})
    values = {
        # What is there as it is, changes, is new, and is new with other members.
        "acme/0": {"title": "old"}, "acme/1": {"title": "new"}, "acme/2": {"done": True},
        "acme/3": {"done": False, "title": "é"}, "acme/4": {"title": "x", "done": None},
        **{f"acme/{n}": {"title": "x", "tags": [n]} for n in range(5, 50)},
    }  # fmt: skip
    asked.clear()
    stored = store.put_many(values)
    assert len(asked) < 20
    assert [entry.key for entry in stored] == list(values)
    assert {entry.key: entry for entry in stored} == store.snapshot()
    assert all(value.items() <= store[key].items() for key, value in values.items())
    assert store["acme/2"]["title"] == "old"
    with pytest.raises(InvalidValue):
        store.put_many({"acme/5": {"tags": []}, "acme/6": {"tags": []}, "acme/99": {"tags": []}})
    assert store["acme/5"]["tags"] == [5]


def test_many_that_are_there_and_many_deletes_take_few_statements(db, opened, asked):
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value numeric(9, 2))")
    store = opened(table="data", key="key")
    values = {str(number): number + 0.5 for number in range(50)}
    stored = store.put_many(values)
    asked.clear()
    assert store.put_many(values) == stored
    assert len(asked) < 8
    asked.clear()
    gone = store.write(*(Write(key, None) for key in ["7777", *values]))
    assert {entry.operation for entry in gone} == {Operation.DELETE}
    assert len(asked) < 8
    assert store.snapshot() == {}


def test_some_columns_are_the_value(opened):
    store = opened(value="title,priority")
    store["acme/7"] = {"title": "paint"}
    assert store["acme/7"] == {"title": "paint", "priority": 1}
    with pytest.raises(InvalidValue, match="'done' is no column that can be put"):
        store["acme/7"] = {"done": True}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"titel": "x"}, "did you mean 'title'"),
        ({"tenant": "x"}, "'tenant' is no column that can be put"),
        ({"TITLE": "x"}, "did you mean 'title'?"),
        ({"shout": "X"}, "'shout' is no column that can be put"),
        ({"priority": "many"}, "cannot hold it"),
        ({"priority": 1 << 40}, "cannot hold it"),
        ({"title": None}, "refuses this row"),
        ({"title": "nul\0"}, "acme/7"),
        (["title"], "put a JSON object"),
        (5, "put a JSON object"),
    ],
)
def test_what_no_column_holds_is_refused_and_changes_nothing(db, opened, value, words):
    store = opened(value="*")
    store["acme/7"] = {"title": "paint"}
    before = rows(db)
    with pytest.raises(InvalidValue, match=words):
        store["acme/7"] = value
    with pytest.raises(InvalidValue):
        store.put_many({"acme/9": {"title": "new"}, "acme/7": value})
    assert rows(db) == before


def test_json_in_another_encoding_is_refused(db, opened):
    store = opened(value="*")
    with pytest.raises(InvalidValue, match="put a JSON object"):
        store.put("acme/7", '{"title":"x"}'.encode("utf-16"), value_type="json")
    assert rows(db) == []


@pytest.mark.parametrize("key", ["acme", "acme/x", "acme/07", "acme/7/8", "/7"])
def test_keys_that_no_row_can_have_are_refused(db, opened, key):
    store = opened(value="*")
    with pytest.raises(InvalidKey):
        store[key] = {"title": "x"}
    assert store.get(key) is None
    assert store.snapshot(key, "x/") == {}
    assert rows(db) == []


def test_what_other_sessions_write_is_watched(db, opened):
    store = opened(value="*")
    everything, acme, one = Recorder(store), Recorder(store, "acme/"), Recorder(store, "b/1")
    db.execute("INSERT INTO tasks (tenant, id, title) VALUES ('acme', 1, 'x'), ('b', 1, 'y')")
    one.wait(lambda r: "b/1" in r.state)
    db.execute("UPDATE tasks SET priority = 5 WHERE tenant = 'acme'")
    acme.wait(lambda r: b'"priority": 5' in r.state.get("acme/1", b""))
    db.execute("UPDATE tasks SET id = 2 WHERE tenant = 'acme'")
    acme.wait(lambda r: set(r.state) == {"acme/2"})
    db.execute("UPDATE tasks SET tenant = 'c'")
    one.wait(lambda r: not r.state)
    everything.wait(lambda r: set(r.state) == {"c/1", "c/2"})
    db.execute("TRUNCATE tasks")
    everything.wait(lambda r: not r.state)


def test_a_resume_tells_what_changed_meanwhile(db, opened):
    store = opened(value="title", create=False)
    store.update({"acme/1": "a", "acme/2": "b", "other/1": "c"})
    cursor = store.snapshot_batch().cursor
    store.close()
    db.execute("UPDATE tasks SET title = 'B' WHERE id = 2")
    db.execute("DELETE FROM tasks WHERE tenant = 'other'")
    recorder = Recorder(opened(value="title"), since=cursor)
    recorder.wait_ready()
    [first] = recorder.batches
    assert not first.reset
    assert recorder.state == {"acme/2": b"B"}
    assert {entry.key for entry in first.entries} == {"acme/2", "other/1"}


def test_a_column_that_is_added_belongs_to_the_row(db, opened):
    store = opened(value="*")
    store["acme/1"] = {"title": "x"}
    recorder = Recorder(store)
    recorder.wait_ready()
    cursor = recorder.batches[-1].cursor
    db.execute("ALTER TABLE tasks ADD COLUMN colour text DEFAULT 'red'")
    store.refresh()
    recorder.wait(lambda r: b'"colour": "red"' in r.state["acme/1"])
    store["acme/1"] = {"colour": "blue"}
    recorder.wait(lambda r: b'"colour": "blue"' in r.state["acme/1"])
    resumed = Recorder(store, since=cursor)
    resumed.wait_ready()
    assert resumed.batches[0].reset


def test_the_past_of_rows_is_kept(opened):
    store = opened(value="title,priority", history=True)
    store["acme/1"] = {"title": "x"}
    store["acme/1"] = {"priority": 2}
    del store["acme/1"]
    entries = [revision.entry for revision in store.history("acme/1")]
    assert [entry.decode() if entry.value else None for entry in entries] == [
        None,
        {"title": "x", "priority": 2},
        {"title": "x", "priority": 1},
    ]


def test_rows_that_no_key_can_name_are_left_out(db, opened):
    db.execute(
        "INSERT INTO tasks (tenant, id, title) VALUES ('a/b', 1, ''), ('', 1, ''), ('ok', 1, '')"
    )
    store = opened(value="*")
    recorder = Recorder(store)
    recorder.wait_ready()
    assert list(store) == ["ok/1"]
    assert [c.key for c in store.capabilities()] == ["ok/1"]
    db.execute("UPDATE tasks SET priority = 9")
    recorder.wait(lambda r: b'"priority": 9' in r.state["ok/1"])
    assert set(recorder.state) == {"ok/1"}


def test_a_view_of_rows_is_compared(db, opened):
    db.execute("CREATE VIEW urgent AS SELECT * FROM tasks WHERE priority > 1")
    tasks = opened(value="*")
    recorder = Recorder(opened(table="urgent", value="title,priority", interval=0.05))
    tasks["acme/1"] = {"title": "x", "priority": 2}
    recorder.wait(lambda r: set(r.state) == {"acme/1"})
    tasks["acme/1"] = {"priority": 0}
    recorder.wait(lambda r: not r.state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "tenant,nr"}, "no column 'nr'"),
        ({"key": "tenant,tenant"}, "names a column twice"),
        ({"value": "title,prio"}, "no column 'prio'"),
        ({"value": "title,title"}, "value= names a column twice"),
        ({"value": "title,tenant"}, "column 'tenant' is the key"),
        ({"value": "*", "value_type": "title"}, "leave value_type= out"),
    ],
)
def test_options_that_name_no_row_are_refused(opened, options, words):
    with pytest.raises(DatastreamError, match=words):
        opened(**{"value": "*"} | options)


def test_a_key_that_is_not_unique_can_only_be_read(db, opened):
    store = opened(key="tenant,title", value="*", interval=0.05)
    db.execute("INSERT INTO tasks (tenant, id, title) VALUES ('a', 1, 'x')")
    assert list(store) == ["a/x"]
    with pytest.raises(datastream.ReadOnly, match="no plain unique index"):
        store["a/y"] = {"id": 1}


def test_many_columns_are_no_trouble(db, opened):
    columns = ", ".join(f"c{number} int DEFAULT {number}" for number in range(120))
    db.execute(f"CREATE TABLE wide (id text PRIMARY KEY, {columns})")
    store = opened(table="wide", key="id", value="*")
    store["a"] = {"c7": 8}
    assert store["a"] == {f"c{n}": n for n in range(120)} | {"c7": 8}
