"""Tables as they are found: any names, any types, and what does not fit."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import sql

import datastream
from datastream import (
    DatastreamError,
    Denied,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    ReadOnly,
    RevisionConflict,
    codecs,
)
from datastream.source import Feature, Write
from datastream.sources.postgres import PostgresSource
from datastream.sources.postgres.writer import Writing
from tests.integration._programs.tools import Follower

HOSTILE = """data"; DROP TABLE data; -- %s %(x)s $1 $$ ' \\ é"""


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@pytest.fixture
def make(postgres, db):
    """Make a table; a store on it and a follower."""
    opened = []

    def make(*statements, **options):
        for statement in statements:
            db.execute(statement)
        store = datastream.open(postgres, **options)
        opened.append(store)
        return store, Follower(store)

    yield make
    for store in opened:
        store.close()


def values(store):
    return {key: entry.value for key, entry in store.snapshot().items()}


def test_the_ancestors_table_is_made_when_asked(postgres, db):
    with pytest.raises(DatastreamError, match=r"no such table.*create=True"):
        datastream.open(postgres)
    with datastream.open(f"{postgres}&create=true") as store:
        store["a"] = 1
        assert store["a"] == 1
    row = db.execute("SELECT key, value, value_type FROM data").fetchone()
    assert row == ("a", b"1", "int")


@pytest.mark.parametrize("asked", [{"key": "name"}, {"key": "key,id"}, {"value": "title,done"}])
def test_no_table_is_made_without_the_columns_that_are_asked_for(postgres, db, asked):
    with pytest.raises(DatastreamError, match=r"would be made has no column.*it has key, value"):
        datastream.open(postgres, create=True, **asked)
    assert db.execute("SELECT to_regclass('data')").fetchone() == (None,)


def test_columns_of_any_names(make, db):
    store, follower = make(
        'CREATE TABLE "app settings" (id serial, "the %s name" text UNIQUE, content text, '
        'kind text, "changed on" timestamptz)',
        table="app settings",
        key="the %s name",
        value="content",
        value_type="kind",
        updated_at="changed on",
    )
    store["limit"] = 20
    assert db.execute('SELECT "the %s name", content, kind FROM "app settings"').fetchall() == [
        ("limit", "20", "int")
    ]
    db.execute("INSERT INTO \"app settings\" VALUES (7, 'a', '1.5', 'float', '2020-01-02 UTC')")
    follower.wait_state({"limit": b"20", "a": b"1.5"})
    entry = store.entry("a")
    assert (entry.decode(), entry.updated_at.year) == (1.5, 2020)


@pytest.mark.parametrize("name", [HOSTILE, "Ünï", "x" * 63, "a.b", '"', "%"], ids=ascii)
def test_hostile_names(postgres, db, name):
    names = [sql.Identifier(part) for part in (name, f"{name[:60]}.", name[:50] or "k")]
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value text)")
    db.execute(sql.SQL("CREATE TABLE {} ({} text PRIMARY KEY, {} text)").format(*names))
    options = {"table": name, "key": f"{name[:60]}.", "value": name[:50]}
    with datastream.open(postgres, history=True, **options) as store:
        follower = Follower(store)
        store.put_many({"a": "1", "b": "2"})
        store.put("a", "2", expect=store.entry("a").revision)
        db.execute(sql.SQL("DELETE FROM {}").format(names[0]))
        follower.wait_state({})
        assert [revision.entry.value for revision in store.history("a")] == [b"", b"2", b"1"]
    assert db.execute("SELECT count(*) FROM data").fetchone() == (0,)
    source = PostgresSource(postgres, mode="poll", **options)
    source.uninstall()
    source.close()


@pytest.mark.parametrize("name", ["x" * 64, "é" * 32, "nul\0", ""])
def test_names_that_postgresql_would_cut_are_refused(postgres, name):
    with pytest.raises(DatastreamError, match=r"names no|without NUL"):
        datastream.open(postgres, table=name)


@pytest.mark.parametrize(
    ("type", "given", "value_type", "stored", "decoded"),
    [
        ("text", "'é'", "str", "é".encode(), "é"),
        ("varchar(9)", "'v'", "str", b"v", "v"),
        ("bytea", "'\\xff00'::bytea", "bytes", b"\xff\0", b"\xff\0"),
        ("jsonb", """'{"b":1, "a":[]}'""", "json", b'{"a": [], "b": 1}', {"a": [], "b": 1}),
        ("json", """'[1,  2]'""", "json", b"[1,  2]", [1, 2]),
        ("int2", "-5", "int", b"-5", -5),
        ("bigint", "9223372036854775807", "int", b"9223372036854775807", 2**63 - 1),
        ("numeric", "1.50000000000000000001", "float", b"1.50000000000000000001", 1.5),
        ("float8", "0.1::float8 + 0.2", "float", b"0.30000000000000004", 0.1 + 0.2),
        ("real", "0.1", "float", b"0.1", 0.1),
        ("bool", "true", "bool", b"true", True),
        (
            "timestamptz",
            "'2020-01-02 03:04:05.6+02'",
            "str",
            b"2020-01-02T01:04:05.6+00:00",
            "2020-01-02T01:04:05.6+00:00",
        ),
        ("timestamp", "'2020-01-02'", "str", b"2020-01-02T00:00:00", "2020-01-02T00:00:00"),
        ("timestamptz", "'infinity'", "str", b"infinity", "infinity"),
        ("date", "'2020-01-02'", "str", b"2020-01-02", "2020-01-02"),
        ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "str", None, None),
        ("int[]", "'{1,2}'", "str", b"{1,2}", "{1,2}"),
        ("text", "NULL", "json", b"null", None),
    ],
)
def test_the_type_follows_from_the_column(make, db, type, given, value_type, stored, decoded):
    store, follower = make(f"CREATE TABLE data (key text PRIMARY KEY, value {type})")
    db.execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'")
    db.execute(f"INSERT INTO data VALUES ('k', {given})")
    follower.wait(lambda state: "k" in state)
    entry = store.entry("k")
    assert entry.value_type == value_type
    if stored is not None:
        assert (entry.value, entry.decode()) == (stored, decoded)
    if given != "NULL":
        # What was read can be put, and a compare-and-set finds its revision.
        assert store.put("k2", entry.value, value_type=entry.value_type).value == entry.value
        assert store.put("k", entry.value, value_type=value_type, expect=entry.revision) == entry
    store.delete("k", expect=entry.revision)


@pytest.mark.parametrize(
    ("type", "bad"),
    [
        ("text", 5), ("text", b"x"), ("bytea", "text"), ("jsonb", "text"), ("int", "x"),
        ("int", True), ("bool", 1), ("numeric", "1"), ("timestamptz", "tomorrowish"),
        ("varchar(3)", "long"), ("uuid", "x"), ("numeric(3,1)", 1000.0), ("text", "nul\0"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused(make, db, type, bad):
    store, _ = make(f"CREATE TABLE data (key text PRIMARY KEY, value {type})")
    for write in (lambda: store.put("k", bad), lambda: store.put_many({"k": bad, "l": bad})):
        with pytest.raises(InvalidValue, match="'k'") as caught:
            write()
        assert "tomorrowish" not in str(caught.value), "values may be secrets"
    assert db.execute("SELECT count(*) FROM data").fetchone() == (0,)


def test_a_put_returns_what_the_table_made_of_it(make):
    store, follower = make(
        "CREATE TABLE data (key text PRIMARY KEY, value numeric(6,2), updated_at timestamptz)"
    )
    entry = store.put("k", 1.239)
    assert entry.value == b"1.24"
    assert store.entry("k") == entry
    assert store.put("k", 1.241) == entry, "it changes nothing"
    follower.wait_state({"k": b"1.24"})
    assert store.put("k", 5).decode() == 5.0


@pytest.mark.parametrize("type", ["int", "bigint", "smallint", "uuid", "varchar(3)"])
def test_keys_of_other_types(make, db, type):
    store, follower = make(f"CREATE TABLE data (key {type} PRIMARY KEY, value text)")
    good = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11" if type == "uuid" else "5"
    store[good] = "five"
    follower.wait_state({good: b"five"})
    assert store[good] == "five"
    assert set(store.snapshot(good, "no key of this type")) == {good}
    for bad in ("no key", "05xx", "99999999999999999999", f"  {good.upper()} "):
        with pytest.raises(InvalidKey, match="key column"):
            store[bad] = "other"
        with pytest.raises(KeyNotFound):
            store.entry(bad)
        with pytest.raises((KeyNotFound, InvalidKey)):
            del store[bad]
    del store[good]
    follower.wait_state({})
    assert db.execute("SELECT count(*) FROM data").fetchone() == (0,)


def test_rows_that_no_store_can_name_are_left_out(make, db, caplog):
    store, follower = make("CREATE TABLE data (key text UNIQUE, value text)")
    db.execute("INSERT INTO data VALUES (NULL, 'none'), ('', 'empty'), ('a/', '0'), ('a', '1')")
    db.execute("INSERT INTO data VALUES (%s, 'too long')", ("k" * 2 * 16_384,))
    db.execute("INSERT INTO data VALUES ('b', '2')")
    follower.wait_state({"a": b"1", "b": b"2"})
    assert values(store) == {"a": b"1", "b": b"2"}
    assert set(store) == {"a", "b"}
    assert "a row is left out" in caplog.text
    db.execute("DELETE FROM data WHERE key IS NULL OR key <> 'b'")
    follower.wait_state({"b": b"2"})


def test_a_key_too_long_for_its_index(make):
    store, _ = make("CREATE TABLE data (key text PRIMARY KEY, value text)")
    key = "".join(chr(0x4E00 + 7919 * n % 20000) for n in range(5000))
    with pytest.raises(InvalidKey, match="too long"):
        store[key] = "x"


def test_a_table_without_a_unique_key_can_be_read(make, db):
    store, follower = make("CREATE TABLE data (key text, value text)", interval=0.05)
    assert Feature.WRITE not in store.features
    db.execute("INSERT INTO data VALUES ('a', '1'), ('b', '1'), ('b', '2')")
    follower.wait(lambda state: len(state) == 2)
    with pytest.raises(ReadOnly):
        store["a"] = "2"


def test_a_case_insensitive_key_is_not_written(make, db):
    try:
        db.execute(
            "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', "
            "deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported as error:
        pytest.skip(f"no such collation: {error}")
    store, _ = make("CREATE TABLE data (key text COLLATE nocase PRIMARY KEY, value text)")
    assert Feature.WRITE not in store.features


SOFT_DELETES = """
ALTER TABLE data ADD deletions integer DEFAULT 0;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN UPDATE data SET deletions = deletions + 1 WHERE key = OLD.key; RETURN NULL; END $$;
CREATE TRIGGER keep BEFORE DELETE ON data FOR EACH ROW WHEN (OLD.key <> 'gone')
  EXECUTE FUNCTION keep();
"""


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_delete_that_a_trigger_passes_over_is_refused_and_leaves_nothing(make, db, many):
    store, _ = make(
        "CREATE TABLE data (key text PRIMARY KEY, value text)",
        "INSERT INTO data VALUES ('kept', '1'), ('gone', '2'), ('rest', '3')",
        SOFT_DELETES,
    )
    writes = [Write("gone", None), Write("kept", None)][0 if many else 1 :]
    with pytest.raises(InvalidValue, match=r"'kept'.*one of its triggers"):
        store.write(*writes)
    assert sorted(db.execute("SELECT key, deletions FROM data")) == [
        ("gone", 0),
        ("kept", 0),
        ("rest", 0),
    ]
    store.delete("gone")
    assert sorted(store) == ["kept", "rest"]


def test_constraints_triggers_and_defaults_of_the_table(make, db):
    store, follower = make(
        "CREATE TABLE data (key text PRIMARY KEY, value int CHECK (value > 0), "
        "note text NOT NULL DEFAULT 'x', doubled int GENERATED ALWAYS AS (value * 2) STORED)"
    )
    with pytest.raises(InvalidValue, match="refuses"):
        store["k"] = -1
    with pytest.raises(InvalidValue):
        store.put_many({"good": 1, "bad": -1})
    store["k"] = 1
    assert db.execute("SELECT * FROM data").fetchall() == [("k", 1, "x", 2)]
    db.execute(
        "CREATE FUNCTION capped() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.key = 'never' THEN RETURN NULL; END IF; "
        "IF NEW.key = 'no' THEN RAISE 'malformed: \"%\"', NEW.value; END IF; "
        "NEW.value = least(NEW.value, 10); RETURN NEW; END $$"
    )
    db.execute(
        "CREATE TRIGGER cap BEFORE INSERT OR UPDATE ON data FOR EACH ROW EXECUTE FUNCTION capped()"
    )
    assert store.put("k", 99).decode() == 10
    with pytest.raises(InvalidValue, match="keeps no such row"):
        store["never"] = 1
    with pytest.raises(InvalidValue, match="malformed; a trigger"):
        store["no"] = 1
    follower.wait_state({"k": b"10"})


@pytest.mark.parametrize("time", ["timestamptz", "timestamp", "date", "text", "bigint", "numeric"])
def test_times_of_any_type(make, db, time):
    store, _ = make(f"CREATE TABLE data (key text PRIMARY KEY, value text, updated_at {time})")
    entry = store.put("k", "v")
    assert entry.updated_at is not None
    assert store.entry("k") == entry
    store.put("k", "w", expect=entry.revision)


def test_compare_and_set_in_all_its_forms(make):
    store, _ = make("CREATE TABLE data (key text PRIMARY KEY, value text, updated_at timestamptz)")
    first = store.put("k", "1", expect="")
    for expect in ("", "nonsense", "'; DROP TABLE data; --"):
        with pytest.raises(RevisionConflict):
            store.put("k", "2", expect=expect)
        with pytest.raises(RevisionConflict):
            store.delete("k", expect=expect)
    assert store.put("k", "1", expect=first.revision) == first
    second = store.put("k", "2", expect="*")
    third = store.put("k", "1", expect=second.revision)
    assert third.revision != first.revision, "written, replaced and written again"
    with pytest.raises(KeyNotFound):
        store.put("none", "1", expect="*")
    with pytest.raises(RevisionConflict):
        store.put_many({"new": "1", "k": "9"}, expect={"k": second.revision})
    assert values(store) == {"k": b"1"}
    store.delete("k", expect=third.revision)
    assert store.put("k", "1", expect="").revision not in (first.revision, third.revision)


def test_revisions_are_the_same_everywhere(make, postgres):
    store, follower = make("CREATE TABLE data (key text PRIMARY KEY, value jsonb)")
    stored = store.put_many({"a": {"x": 1.50}, "b": []})
    follower.wait(lambda state: len(state) == 2)
    with datastream.open(postgres, mode="poll") as other:
        assert [other.entry(entry.key) for entry in stored] == stored
    assert {e.key: e.revision for e in follower.entries} == {e.key: e.revision for e in stored}


UUIDS = [f"00000000-0000-0000-0000-00000000000{n}" for n in range(4)]
EARLY = datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("columns", "keys", "value"),
    [
        ("key text, value text, value_type text, updated_at timestamptz", "é,b,c,d", 'é{}"\\,NULL'),
        ("key varchar(9), value bytea, updated_at timestamp", "a,NULL,c,d", bytes(range(256))),
        ("key uuid, value numeric, updated_at date", ",".join(UUIDS), 1.50),
        ("key int, value jsonb, updated_at text", "1,2,3,4", {"a": [1]}),
        ("key bigint, value timestamptz, updated_at int8", "1,2,3,4", "2024-01-01T00:00:00+00:00"),
    ],
)
def test_what_is_put_together_is_stored_as_what_is_put_alone(make, columns, keys, value):
    store, _ = make(f"CREATE TABLE data ({columns}, UNIQUE (key))")
    data, value_type = codecs.encode(value)
    times = [EARLY, None, EARLY, None]
    writes = [
        Write(key, data, value_type, None, time)
        for key, time in zip(keys.split(","), times, strict=True)
    ]

    stored = [*store.write(*writes[:2]), *store.write(writes[2]), *store.write(writes[3])]

    assert [entry.key for entry in stored] == keys.split(",")
    assert len({(entry.value, entry.value_type) for entry in stored}) == 1
    assert stored[0].updated_at == stored[2].updated_at
    assert stored[0].revision == stored[2].revision
    assert store.snapshot() == {entry.key: entry for entry in stored}


def test_what_was_written_together_is_removed_together(make, postgres, monkeypatch):
    """Another transaction ends between what would be looks at one key and at the next."""
    store, _ = make("CREATE TABLE data (key text PRIMARY KEY, value bytea, value_type text)")
    with psycopg.connect(postgres) as other:
        other.execute("INSERT INTO data VALUES ('a', '1', 'int'), ('b', '1', 'int')")
        delete = Writing.delete

        def late(self, connection, write):
            if write.key == "b":
                other.commit()
            return delete(self, connection, write)

        monkeypatch.setattr(Writing, "delete", late)
        store.write(Write("a", None), Write("b", None))
        other.commit()
    assert len(store.snapshot()) in (0, 2)


@pytest.mark.chaos
def test_big_batches(make):
    store, follower = make("CREATE TABLE data (key text PRIMARY KEY, value bytea, value_type text)")
    store.put_many({f"k/{n}": n for n in range(5000)})
    follower.wait(lambda state: len(state) == 5000)
    assert len(store.snapshot("k/")) == 5000
    assert set(store.snapshot("k/17", "k/18", match="k/499?")) == {
        "k/17", "k/18", *(f"k/499{n}" for n in range(10))
    }  # fmt: skip
    store.clear()
    follower.wait_state({})


def test_rights(postgres, db):
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value text)")
    role = f"r_{db.execute('SELECT current_schema').fetchone()[0]}"
    schema = db.execute("SELECT current_schema").fetchone()[0]
    db.execute(f"CREATE ROLE {role} LOGIN")
    try:
        with pytest.raises(Denied, match="GRANT"):
            with datastream.open(postgres, user=role, schema=schema) as store:
                store.snapshot()
        db.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON data TO {role}")
        with datastream.open(postgres, user=role) as store:
            assert store.snapshot() == {}
            assert Feature.WRITE not in store.features
            with pytest.raises(ReadOnly):
                store["a"] = "1"
    finally:
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": "nope"}, "role sees.*shown"),
        ({"table": "shown", "value": "nope"}, r"no column 'nope'.*value="),
        ({"table": "shown", "mode": "notify"}, "cannot notify: it is no plain table"),
        ({"table": "shown", "mode": "loud"}, "no mode 'loud'"),
        ({"table": "shown", "no_such": "x"}, "no option 'no_such'"),
        ({"dbname": "nope"}, 'database "nope" does not exist'),
    ],
)
def test_what_is_wrong_is_explained(postgres, db, options, words):
    db.execute("CREATE VIEW shown AS SELECT 'a' AS key, 1 AS value")
    with pytest.raises(DatastreamError, match=words):
        datastream.open(postgres, **options)
