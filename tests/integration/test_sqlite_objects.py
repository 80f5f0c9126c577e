"""Rows of SQLite tables as values, and keys of several columns."""

import sqlite3
from contextlib import closing

import pytest

import datastream
from datastream import DatastreamError, InvalidKey, InvalidValue, KeyNotFound, RevisionConflict
from datastream.testing._tools import Recorder

TABLE = """
CREATE TABLE tasks (
  tenant TEXT NOT NULL, id INTEGER NOT NULL, title TEXT NOT NULL DEFAULT 'untitled',
  priority INTEGER, done BOOLEAN, tags JSON, icon BLOB, weight REAL,
  shout TEXT AS (upper(title)), PRIMARY KEY (tenant, id)
)
"""


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "app.db"
    execute(made, TABLE)
    return made


def execute(path, *statements):
    with closing(sqlite3.connect(path, timeout=30)) as db, db:
        for statement in statements:
            db.execute(statement)


def rows(path, query="SELECT * FROM tasks"):
    with closing(sqlite3.connect(path, timeout=30)) as db:
        return db.execute(query).fetchall()


def opened(path, **options):
    return datastream.open(f"sqlite:{path}", **{"table": "tasks", "key": "tenant,id"} | options)


def test_a_row_is_one_object_and_a_write_is_merged_into_it(path):
    with opened(path, value="*") as store:
        first = store.put("acme/7", {"priority": 2, "done": True, "tags": ["a", {"b": None}]})
        assert first.value_type == "json"
        assert store["acme/7"] == {
            "title": "untitled",
            "priority": 2,
            "done": True,
            "tags": ["a", {"b": None}],
            "icon": None,
            "weight": None,
            "shout": "UNTITLED",
        }
        stored = store.put("acme/7", {"title": "paint"}, expect=first.revision)
        assert stored.decode()["priority"] == 2
        assert stored.decode()["shout"] == "PAINT"
        assert store.put("acme/7", {"title": "paint"}) == stored
        assert store.put("acme/7", {}) == stored
        with pytest.raises(RevisionConflict):
            store.put("acme/7", {"title": "x"}, expect=first.revision)
        store["acme/8"] = {}
        del store["acme/7"]
        with pytest.raises(KeyNotFound):
            store.entry("acme/7")
    assert [(row[0], row[1], row[2]) for row in rows(path)] == [("acme", 8, "untitled")]


def test_some_columns_are_the_value(path):
    with opened(path, value="title,priority") as store:
        store["acme/7"] = {"title": "paint", "priority": 1}
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
        ({"title": ["x"]}, "holds no JSON"),
        ({"title": "x", "priority": 1 << 70}, "64 bits"),
        ({"title": None}, "acme/7"),
        (["title"], "put a JSON object"),
        ("title", "put a JSON object"),
        (5, "put a JSON object"),
    ],
)
def test_what_no_column_holds_is_refused_and_changes_nothing(path, value, words):
    with opened(path, value="*") as store:
        store["acme/7"] = {"title": "paint"}
        before = rows(path)
        with pytest.raises(InvalidValue, match=words):
            store["acme/7"] = value
        with pytest.raises(InvalidValue):
            store.put_many({"acme/9": {"title": "new"}, "acme/7": value})
        assert rows(path) == before


@pytest.mark.parametrize("key", ["acme", "acme/x", "acme/07", "acme/7/8", "/7"])
def test_keys_that_no_row_can_have_are_refused(path, key):
    with opened(path, value="*") as store:
        with pytest.raises(InvalidKey):
            store[key] = {"title": "x"}
        assert store.get(key) is None
    assert rows(path) == []


def test_bytes_and_odd_numbers_have_a_spelling(path):
    with opened(path, value="icon,weight") as store:
        store["acme/7"] = {"icon": {"base64": "AP8="}, "weight": 1.5}
        assert rows(path, "SELECT icon, weight FROM tasks") == [(b"\0\xff", 1.5)]
        assert store["acme/7"] == {"icon": {"base64": "AP8="}, "weight": 1.5}
        execute(path, "UPDATE tasks SET weight = 9e999")
        assert store["acme/7"]["weight"] == "inf"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b'{"tags":[1e999]}', "'tags' holds JSON"),
        (b'{"title":"\\ud800"}', "'title' holds UTF-8"),
        ('{"title":"x"}'.encode("utf-16"), "put a JSON object"),
    ],
)
def test_json_that_no_column_can_spell_is_refused(path, value, words):
    with opened(path, value="*") as store:
        with pytest.raises(InvalidValue, match=words):
            store.put("acme/7", value, value_type="json")
        assert list(store) == []


@pytest.mark.parametrize("text", ["NaN", '{"a": [1e999]}', "[" * 900_000, "[" * 990 + "]" * 990])
def test_what_others_wrote_as_json_and_is_none_is_text(path, text):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO tasks (tenant, id, tags) VALUES ('acme', 1, ?)", (text,))
    with opened(path, value="tags,done") as store:
        store["acme/2"] = {"tags": [1]}
        assert store["acme/1"] == {"tags": text, "done": None}
        assert store["acme/2"] == {"tags": [1], "done": None}


def test_halves_of_characters_and_bytes_that_are_no_text_stop_no_other_row(path):
    half = '["\\ud800"]'
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO tasks (tenant, id, tags) VALUES ('acme', 1, ?)", (half,))
        db.execute("INSERT INTO tasks (tenant, id, title) VALUES ('acme', 2, CAST(x'ff' AS TEXT))")
    with opened(path, value="title,tags") as store:
        store.put("acme/3", b'{"tags":["\\ud83d"]}', value_type="json")
        found = {key: entry.value for key, entry in store.snapshot().items()}
    assert found == {
        "acme/1": b'{"title":"untitled","tags":["\\ud800"]}',
        "acme/2": b'{"title":"\\udcff","tags":null}',
        "acme/3": b'{"title":"untitled","tags":["\\ud83d"]}',
    }
    assert rows(path, "SELECT tags FROM tasks WHERE id = 3") == [('["\\ud83d"]',)]


def test_what_other_programs_write_is_watched(path):
    with opened(path, value="*") as store:
        everything, acme, one = Recorder(store), Recorder(store, "acme/"), Recorder(store, "b/1")
        execute(
            path,
            "INSERT INTO tasks (tenant, id, title) VALUES ('acme', 1, 'x'), ('b', 1, 'y')",
        )
        one.wait(lambda r: "b/1" in r.state)
        execute(path, "UPDATE tasks SET priority = 5 WHERE tenant = 'acme'")
        acme.wait(lambda r: b'"priority":5' in r.state.get("acme/1", b""))
        execute(path, "UPDATE tasks SET id = 2 WHERE tenant = 'acme'")
        acme.wait(lambda r: set(r.state) == {"acme/2"})
        execute(path, "UPDATE tasks SET tenant = 'c' WHERE tenant = 'b'")
        one.wait(lambda r: not r.state)
        execute(path, "INSERT OR REPLACE INTO tasks (tenant, id, title) VALUES ('c', 1, 'z')")
        everything.wait(lambda r: b'"z"' in r.state.get("c/1", b""))
        execute(path, "DELETE FROM tasks")
        everything.wait(lambda r: not r.state)
        assert store.status.current.degraded == ""


def test_a_resume_tells_what_changed_meanwhile(path):
    with opened(path, value="title") as store:
        store.update({"acme/1": "a", "acme/2": "b", "other/1": "c"})
        cursor = store.snapshot_batch().cursor
    execute(
        path,
        "UPDATE tasks SET title = 'B' WHERE id = 2",
        "DELETE FROM tasks WHERE tenant = 'other'",
    )
    with opened(path, value="title") as store:
        recorder = Recorder(store, since=cursor)
        recorder.wait_ready()
        [first] = recorder.batches
        assert not first.reset
        assert recorder.state == {"acme/2": b"B"}
        assert {entry.key for entry in first.entries} == {"acme/2", "other/1"}


def test_an_update_of_other_columns_is_no_news_where_some_are_the_value(path):
    with opened(path, value="title,priority") as store:
        store["acme/1"] = {"title": "x"}
        cursor = store.snapshot_batch().cursor
        execute(path, "UPDATE tasks SET weight = 2.5")
        assert store.snapshot_batch().cursor == cursor


def test_a_column_that_is_added_belongs_to_the_row(path):
    with opened(path, value="*") as store:
        store["acme/1"] = {"title": "x"}
        recorder = Recorder(store)
        execute(path, "ALTER TABLE tasks ADD COLUMN colour TEXT DEFAULT 'red'")
        recorder.wait(lambda r: b'"colour":"red"' in r.state["acme/1"])
        store["acme/1"] = {"colour": "blue"}
        recorder.wait(lambda r: b'"colour":"blue"' in r.state["acme/1"])
        execute(path, "ALTER TABLE tasks DROP COLUMN colour")
        recorder.wait(lambda r: b"colour" not in r.state["acme/1"])


def test_rows_that_no_key_can_name_are_left_out(path):
    execute(path, "INSERT INTO tasks (tenant, id) VALUES ('a/b', 1), ('', 1), ('ok', 1)")
    with opened(path, value="*") as store:
        assert list(store) == ["ok/1"]
        assert [c.key for c in store.capabilities()] == ["ok/1"]


def test_the_time_of_a_row_is_a_column_that_is_named(tmp_path):
    path = tmp_path / "app.db"
    execute(path, "CREATE TABLE tasks (id TEXT PRIMARY KEY, title TEXT, updated_at TEXT)")
    with opened(path, key="id", value="*") as store:
        store["a"] = {"title": "x", "updated_at": "never"}
        assert store["a"] == {"title": "x", "updated_at": "never"}
    with opened(path, key="id", value="*", updated_at="updated_at") as store:
        entry = store.put("a", {"title": "y"})
        assert entry.updated_at is not None
        assert entry.decode() == {"title": "y"}


def test_a_view_and_a_read_only_file_are_compared(path):
    execute(path, "CREATE VIEW urgent AS SELECT * FROM tasks WHERE priority > 1")
    with opened(path, value="*") as tasks, opened(path, table="urgent", value="title") as urgent:
        recorder = Recorder(urgent)
        tasks["acme/1"] = {"title": "x", "priority": 2}
        recorder.wait(lambda r: r.state == {"acme/1": b"x"})
        tasks["acme/1"] = {"priority": 0}
        recorder.wait(lambda r: not r.state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "tenant,nr"}, "no column 'nr'"),
        ({"key": "tenant,tenant"}, "names a column twice"),
        ({"key": "tenant"}, "has no key"),
        ({"key": "tenant,title"}, "has no key: columns 'tenant', 'title' together"),
        ({"value": "title,prio"}, "no column 'prio'"),
        ({"value": "title,title"}, "value= names a column twice"),
        ({"value": "title,tenant"}, "column 'tenant' is the key"),
        ({"value": "*", "value_type": "title"}, "leave value_type= out"),
    ],
)
def test_options_that_name_no_row_are_refused(path, options, words):
    with pytest.raises(DatastreamError, match=words):
        opened(path, **{"value": "*"} | options)


def test_only_one_column_of_a_key_needs_to_be_unique(tmp_path):
    path = tmp_path / "app.db"
    execute(path, "CREATE TABLE tasks (id INTEGER PRIMARY KEY, tenant TEXT, title TEXT)")
    with opened(path, value="*") as store:
        recorder = Recorder(store)
        store["acme/1"] = {"title": "x"}
        execute(path, "INSERT OR REPLACE INTO tasks VALUES (1, 'b', 'y')")
        recorder.wait(lambda r: set(r.state) == {"b/1"})


def test_a_url_says_it(path):
    with datastream.open(f"sqlite:{path}?table=tasks&key=tenant,id&value=*") as store:
        store["acme/1"] = {"title": "x"}
        assert store["acme/1"]["title"] == "x"
