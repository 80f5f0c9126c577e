"""One spelling of PostgreSQL's keys and values, whoever writes and whoever reads."""

from __future__ import annotations

from urllib.parse import quote

import psycopg
import pytest

import datastream
from datastream import InvalidKey, InvalidValue, KeyNotFound, ReadOnly
from datastream.source import Feature, Write
from datastream.sources.postgres import PostgresSource
from datastream.testing import Recorder
from tests.integration._programs.tools import Follower, eventually
from tests.servers.postgres import fresh_database


def long(*values):
    """A case of the long runs."""
    return pytest.param(*values, marks=pytest.mark.chaos)


OTHER = (
    "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601'; "
    "SET extra_float_digits = -15; SET bytea_output = 'escape'; SET quote_all_identifiers = on"
)
TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (one int, two timestamptz); "
    "CREATE DOMAIN d1 AS timestamptz; CREATE DOMAIN d2 AS d1; CREATE DOMAIN t1 AS varchar(5); "
    "CREATE DOMAIN t2 AS t1; CREATE DOMAIN i1 AS int; CREATE DOMAIN i2 AS i1; "
    "CREATE DOMAIN b1 AS bytea; CREATE DOMAIN b2 AS b1; CREATE DOMAIN m1 AS mood"
)


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@pytest.fixture
def other(postgres):
    """A session whose settings are none of ours."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(OTHER)
        yield connection


@pytest.fixture
def role(postgres, db):
    """The URL for a role whose sessions begin with other settings."""
    name = f"r_{db.execute('SELECT current_schema').fetchone()[0]}"
    db.execute(f"CREATE ROLE {name} SUPERUSER LOGIN")
    for setting in OTHER.split("; "):
        db.execute(f"ALTER ROLE {name} {setting}")
    yield f"{postgres}&user={name}"
    db.execute(f"DROP ROLE {name}")


def state(store):
    return {key: entry.value for key, entry in store.snapshot().items()}


@pytest.mark.parametrize(
    ("type", "key", "again"),
    [
        ("timestamptz", "'2026-01-01 12:00+00'", None),
        ("d2", "'2026-01-01 12:00+00'", None),
        long("timestamp", "'2026-02-01'", None),
        long("date", "'2026-02-01'::date", None),
        ("interval", "'1 day'", "'24 hours'"),
        long("bytea", "'\\xff00'::bytea", None),
        long("date[]", "'{2026-02-01}'::date[]", None),
        ("float8", "0.1::float8 + 0.2", None),
        long("float8", "'0'", "'-0'"),
        ("numeric", "1.0", "1.00"),
        long("numeric[]", "ARRAY[1.0]", "ARRAY[1.00]"),
        ("jsonb", """'{"a": 1.0}'""", """'{"a": 1.00}'"""),
        ("char(5)", "'abc'", "'abc  '"),
        long("bit(3)", "B'101'", None),
        long("money", "5::money", None),
        long("mood", "'ok'", None),
        ("m1", "'ok'", None),
        ("pair", "ROW(1, '2026-01-01 12:00+00')", None),
        long("tstzrange", "'[2026-01-01, 2026-02-01)'", None),
        ("t2", "'abc'", None),
    ],
)
def test_keys_of_any_type_and_a_writer_with_other_settings(db, other, postgres, type, key, again):
    db.execute(f"{TYPES}; CREATE TABLE data (key {type} PRIMARY KEY, value text)")
    with datastream.open(postgres, mode="notify", history=True) as store:
        recorder = Recorder(store)
        for statement, value in (
            (f"INSERT INTO data VALUES ({key}, '1')", b"1"),
            ("UPDATE data SET value = '2'", b"2"),
            (f"UPDATE data SET key = {again or key}, value = '3'", b"3"),
        ):
            other.execute(statement)
            recorder.wait(lambda r, v=value: list(r.state.values()) == [v])
            assert recorder.state == state(store)
        (name,) = recorder.state
        assert store[name] == "3"
        assert set(store.snapshot(name, "no such key")) == {name}
        with pytest.raises(KeyNotFound):
            store.entry("no such key")
        other.execute("DELETE FROM data")
        recorder.wait_state({})
        assert not recorder.batches[-1].reset
        past = [revision.entry.value for revision in store.history(name)]
        assert past[:2] == [b"", b"3"]


def test_keys_whose_column_gets_another_type(db, other, postgres):
    """Triggers that needed no settings for the keys of before need them now."""
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value text)")
    db.execute("INSERT INTO data VALUES ('2026-02-01', '1')")
    with datastream.open(postgres, interval=0.05) as store:
        recorder = Recorder(store)
        recorder.wait_state({"2026-02-01": b"1"})
        db.execute("ALTER TABLE data ALTER key TYPE date USING key::date")
        store.refresh()
        eventually(lambda: triggers_set(db, "DateStyle"), "there are other triggers")
        eventually(lambda: not store.status.current.degraded, "and they are used")
        other.execute("UPDATE data SET value = '2'")
        recorder.wait_state({"2026-02-01": b"2"})
        other.execute("DELETE FROM data")
        recorder.wait_state({})


def triggers_set(db, name):
    return db.execute(
        "SELECT FROM pg_proc WHERE pronamespace = current_schema::regnamespace "
        "AND proname LIKE '%%_note' AND array_to_string(proconfig, ' ') LIKE %s",
        (f"%{name}%",),
    ).fetchall()


@pytest.mark.parametrize(
    "value",
    [
        "'1 day 2 hours'::interval",
        "ARRAY['\\xff00'::bytea]",
        long("'[2026-01-01,2026-02-01)'::tstzrange"),
        long("ARRAY['2026-02-01'::timestamp]"),
        long("'2026-02-01'::timestamptz"),
        long("5::money"),
        long("0.1::float4"),
        long("ARRAY[0.1::float8 + 0.2]"),
        long("'2026-02-01'::date"),
    ],
)
def test_two_roles_and_the_past_spell_alike(db, other, postgres, role, value):
    db.execute(f"CREATE TABLE data AS SELECT 'k' AS key, {value} AS value LIMIT 0")
    db.execute("ALTER TABLE data ADD PRIMARY KEY (key)")
    with datastream.open(postgres, history=True) as one, datastream.open(role) as two:
        first, second = Follower(one), Follower(two)
        other.execute(f"INSERT INTO data VALUES ('k', {value})")
        first.wait(lambda state: "k" in state)
        second.wait(lambda state: "k" in state)
        assert first.entries == second.entries == [one.entry("k")]
        (revision,) = one.history("k")
        assert revision.entry == one.entry("k")
        two.delete("k", expect=one.entry("k").revision)


def test_domains_over_domains(db, postgres):
    db.execute(TYPES)
    for column, given, value_type, value in (
        ("i2", 5, "int", b"5"), ("b2", b"\xff\0", "bytes", b"\xff\0"), ("t2", "abc", "str", b"abc"),
    ):  # fmt: skip
        db.execute(f"CREATE TABLE {column}s (key t2 PRIMARY KEY, value {column}, updated_at d2)")
        with datastream.open(postgres, table=f"{column}s") as store:
            entry = store.put("k", given)
            assert (entry.value_type, entry.value) == (value_type, value)
            assert entry.updated_at is not None
            assert store.entry("k") == entry
            assert "too long" not in store


@pytest.mark.parametrize(("type", "value"), [("char(5)", "abc"), ("bit(3)", "101")])
def test_values_of_types_whose_name_has_a_length(db, postgres, type, value):
    db.execute(f"CREATE TABLE data (key text PRIMARY KEY, value {type})")
    with datastream.open(postgres) as store:
        store["k"] = value
        store.put_many({"k": value, "l": value})
        assert store["l"].strip() == value


@pytest.mark.parametrize(
    "name", ["touched", "key", *map(long, ("_touched", "border", "delta", "line", "r", "tg_op"))]
)
def test_columns_called_like_something_in_the_triggers(db, postgres, name):
    db.execute(f'CREATE TABLE data ("{name}" text PRIMARY KEY, value text)')
    with datastream.open(postgres, mode="notify", key=name, history=True) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        cursor = recorder.cursor
        db.execute("INSERT INTO data VALUES ('a', '1'), ('b', '1')")
        db.execute(f"""UPDATE data SET value = '2', "{name}" = 'c' WHERE "{name}" = 'a'""")
        db.execute(f"""DELETE FROM data WHERE "{name}" = 'b'""")
        recorder.wait_state({"c": b"2"})
        db.execute("TRUNCATE data")
        recorder.wait_state({})
        assert [r.entry.value for r in store.history("c")] == [b"", b"2"]
        again = Recorder(store, since=cursor)
        again.wait_ready()
        assert not again.batches[0].reset


@pytest.mark.parametrize(
    ("columns", "generated"),
    [
        ("key int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, value text", "key"),
        ("key text PRIMARY KEY, raw text, value text GENERATED ALWAYS AS (raw) STORED", "value"),
        (
            "key text PRIMARY KEY, value bytea, value_type text GENERATED ALWAYS AS ('str') STORED",
            "value_type",
        ),
    ],
)
def test_what_the_server_generates_is_declared_as_only_read(db, postgres, columns, generated):
    db.execute(f"CREATE TABLE data ({columns})")
    with datastream.open(postgres, mode="notify") as store:
        assert Feature.WRITE not in store.features
        with pytest.raises(ReadOnly):
            store["1"] = "x"
        source = PostgresSource(postgres)
        with pytest.raises(ReadOnly, match=f"generates its column '{generated}'"):
            source.write([Write("1", b"x", "str")])
        source.close()
        recorder = Recorder(store)
        if generated == "value":
            db.execute("INSERT INTO data (key, raw) VALUES ('1', 'x')")
        elif generated == "key":
            db.execute("INSERT INTO data (value) VALUES ('x')")
        else:
            db.execute("INSERT INTO data (key, value) VALUES ('1', 'x')")
        recorder.wait_state({"1": b"x"})


def test_columns_that_are_generated_when_read_have_a_past(db, postgres):
    if db.info.server_version < 180000:
        pytest.skip("this server has none")
    db.execute(
        "CREATE TABLE data (key text PRIMARY KEY, raw text, "
        "value text GENERATED ALWAYS AS (upper(raw)) VIRTUAL)"
    )
    with datastream.open(postgres, mode="notify", history=True) as store:
        recorder = Recorder(store)
        for raw in ("x", "y"):
            db.execute(
                "INSERT INTO data (key, raw) VALUES ('k', %s) "
                "ON CONFLICT (key) DO UPDATE SET raw = excluded.raw",
                (raw,),
            )
            recorder.wait_state({"k": raw.upper().encode()})
        assert [r.entry.value for r in store.history("k")] == [b"Y", b"X"]


@pytest.mark.parametrize(
    "columns",
    [
        "key int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, value text",
        "key int PRIMARY KEY, value text, "
        "updated_at timestamptz GENERATED ALWAYS AS ('2020-01-01 UTC'::timestamptz) STORED",
    ],
)
def test_what_is_generated_and_need_not_be_written(db, postgres, columns):
    db.execute(f"CREATE TABLE data ({columns})")
    with datastream.open(postgres) as store:
        entry = store.put("1", "x")
        assert store.entry("1") == entry
        assert store.put("1", "y", expect=entry.revision).value == b"y"


def test_one_row_at_a_time_costs_no_subtransactions(db, postgres):
    """More than 64 in one transaction slow down every reader of the server."""
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value text)")
    with datastream.open(postgres, mode="notify", history=True):
        pass
    with db.transaction():
        db.execute("INSERT INTO data VALUES ('a', '1')")
        for _ in range(5):
            db.execute("UPDATE data SET value = value || 'x'")
        db.execute("DELETE FROM data")
        # Each part of a transaction that may fail alone writes lines with a number of its own.
        numbers = db.execute(
            f"SELECT count(*), count(DISTINCT xmin::text) FROM {_log(db)} WHERE size > 0"
        ).fetchone()
    assert numbers == (7, 1)


def _log(db):
    (name,) = db.execute(
        "SELECT quote_ident(relname) FROM pg_class WHERE relname ~ '^_datastream_data_[0-9a-f]*$' "
        "AND relkind = 'r' AND relnamespace = current_schema::regnamespace"
    ).fetchone()
    return name


def test_settings_of_the_url_do_not_win(db, postgres):
    """What a session is opened with is as much another's setting as what its role has."""
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value interval)")
    db.execute("INSERT INTO data VALUES ('k', '1 day')")
    settings = quote(" -cIntervalStyle=iso_8601")
    with datastream.open(f"{postgres}{settings}") as one, datastream.open(postgres) as two:
        assert one.entry("k") == two.entry("k")


def test_text_is_utf_8_whatever_the_url_says(db, postgres):
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value text)")
    with datastream.open(f"{postgres}&client_encoding=LATIN1") as store:
        store.put_many({"é": "ü", "è": "€"})
        assert dict(store) == {"é": "ü", "è": "€"}
    assert dict(db.execute("TABLE data").fetchall()) == {"é": "ü", "è": "€"}


def test_a_session_that_takes_backslashes_for_escapes(db, postgres):
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value bytea, value_type text)")
    settings = quote(" -cstandard_conforming_strings=off")
    with datastream.open(f"{postgres}{settings}", history=True) as store:
        first = store.put("a\\b", b"\\x00", value_type="bytes")
        store.put("a\\b", "2", expect=first.revision)
        assert [revision.entry.value for revision in store.history("a\\b")] == [b"2", b"\\x00"]


@pytest.mark.parametrize("mode", ["", "poll"])
@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1251"])
def test_keys_that_the_encoding_of_a_database_lacks(postgres_server, stack, encoding, mode):
    """They are in no row: asking for them fails nothing, for nobody."""
    url = stack.enter_context(fresh_database(postgres_server, encoding))
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE TABLE data (key text PRIMARY KEY, value text)")
        has, lacks = ("ж", "é") if encoding == "WIN1251" else ("é", "ж")
        with datastream.open(url, mode=mode, interval=0.02, history=True) as store:
            everything = Recorder(store)
            some = Recorder(store, lacks, f"{lacks}/", f"{has}/")
            for watch in (everything, some):
                watch.wait_ready()
            store.put_many({f"{has}/1": has, "a": "1"})
            everything.wait_state({f"{has}/1": has.encode(), "a": b"1"})
            some.wait_state({f"{has}/1": has.encode()})
            assert store.get(lacks) is None
            assert lacks not in store
            assert store.snapshot(lacks, f"{lacks}/") == {}
            assert set(store.snapshot(match=[f"{lacks}*", "a"])) == {"a"}
            if not mode:
                assert list(store.history(lacks)) == []
            with pytest.raises(InvalidKey, match="encoding of this database"):
                store[lacks] = "1"
            with pytest.raises(InvalidValue, match="no equivalent in encoding"):
                store["a"] = lacks
            db.execute("DELETE FROM data")
            some.wait_state({})


def test_a_type_of_an_extension_that_the_session_does_not_see(postgres_server, stack):
    """Its operators are outside of the search_path, as it is itself."""
    url = stack.enter_context(fresh_database(postgres_server, "UTF8"))
    with psycopg.connect(url, autocommit=True) as db:
        has_it = "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"
        if db.execute(has_it).fetchone() == (0,):
            pytest.skip("needs a server with the extension vector (pgvector)")
        db.execute("CREATE SCHEMA hidden; CREATE EXTENSION vector SCHEMA hidden")
        db.execute(
            "CREATE TABLE data (key hidden.vector PRIMARY KEY, part int, value text, "
            "UNIQUE (key, part)); INSERT INTO data VALUES ('[1,2]', 1, 'x'), ('[3,4]', 2, 'y')"
        )
        with (
            datastream.open(url, mode="notify") as store,
            datastream.open(url, mode="notify", key="key,part") as several,
        ):
            recorder, parts = Recorder(store), Recorder(several)
            db.execute("UPDATE data SET value = 'z' WHERE part = 1")
            recorder.wait_state({"[1,2]": b"z", "[3,4]": b"y"})
            parts.wait_state({"[1,2]/1": b"z", "[3,4]/2": b"y"})
            assert store["[3,4]"] == "y"
            assert several["[3,4]/2"] == "y"
            assert set(several.snapshot("[1,2]/1")) == {"[1,2]/1"}


@pytest.mark.parametrize(
    ("type", "key"), [("json", '{"a": 1}'), ("jsonpath", '$."a"'), ("point", "(1,2)")]
)
def test_keys_of_types_without_equality(db, postgres, type, key):
    db.execute(f"CREATE TABLE data (key {type}, value text)")
    db.execute(f"INSERT INTO data VALUES ('{key}', '1')")
    with datastream.open(postgres, interval=0.02) as store:
        recorder = Recorder(store, key)
        recorder.wait_state({key: b"1"})
        assert store[key] == "1"
        db.execute("DELETE FROM data")
        recorder.wait_state({})
        assert key not in store
