"""What changes the values of a PostgreSQL table without writing a row: watchers see it, and cursors
from before give a reset."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import datastream
from datastream import Selection, State
from datastream.sources.postgres import PostgresSource
from datastream.testing import Recorder
from tests.integration._programs.tools import Statuses, eventually
from tests.integration.test_postgres_watch import TABLE
from tests.servers.postgres import Server, run

MOOD = "CREATE TYPE mood AS ENUM ('sad', 'ok')"
PAIR = "CREATE TYPE pair AS (one int)"
EVERYWHERE = (
    "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema::regnamespace "
    "AND relname LIKE '%datastream%' UNION SELECT tgname::text FROM pg_trigger "
    "JOIN pg_class c ON c.oid = tgrelid WHERE tgname LIKE '%datastream%' "
    "AND relnamespace = current_schema::regnamespace"
)


def long(*values):
    """A case of the long runs."""
    return pytest.param(*values, marks=pytest.mark.chaos)


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


def state(store):
    return {key: entry.value for key, entry in store.snapshot().items()}


def resumed(url, cursor, **options):
    """Whether a reader with this cursor is told to begin anew."""
    with datastream.open(url, **options) as store:
        recorder = Recorder(store, since=cursor)
        recorder.wait_ready()
        return recorder.batches[0].reset


def follow(store, db, *statements):
    """A watcher sees what is there now, and what is written then; the cursor from before."""
    recorder = Recorder(store)
    recorder.wait_ready()
    cursor = recorder.cursor
    for statement in statements:
        db.execute(statement)
    store.refresh()
    recorder.wait_state(state(store))
    db.execute("INSERT INTO data (key) VALUES ('new')")
    recorder.wait(lambda r: "new" in r.state)
    assert recorder.state == state(store)
    return cursor


@pytest.mark.parametrize(
    ("value", "given", "statements"),
    [
        ("text", "'x'", ["ALTER TABLE data ALTER value TYPE text USING upper(value)"]),
        ("int", "1", ["ALTER TABLE data ALTER value TYPE bigint USING value * 100"]),
        (
            "int",
            "1",
            [
                "ALTER TABLE data ADD later int DEFAULT 7",
                "BEGIN",
                "ALTER TABLE data RENAME value TO before",
                "ALTER TABLE data RENAME later TO value",
                "COMMIT",
            ],
        ),
        long("int", "1", ["ALTER TABLE data DROP value, ADD value int DEFAULT 7"]),
        ("text", "'1'", ["ALTER TABLE data ADD value_type text DEFAULT 'int'"]),
        long("mood", "'sad'", ["ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'"]),
        long("mood[]", "'{sad}'", ["ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'"]),
        ("moods", "ROW('sad')", ["ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'"]),
        long("pair", "ROW(1)", ["ALTER TYPE pair ADD ATTRIBUTE two int"]),
        ("text", "'x'", ["ALTER TABLE data ALTER key TYPE text USING upper(key)"]),
        (
            "int GENERATED ALWAYS AS (length(key)) STORED",
            "DEFAULT",
            ["ALTER TABLE data ALTER value SET EXPRESSION AS (length(key) + 1)"],
        ),
        (
            "int GENERATED ALWAYS AS (length(key)) VIRTUAL",
            "DEFAULT",
            ["ALTER TABLE data ALTER value SET EXPRESSION AS (length(key) + 1)"],
        ),
    ],
)
def test_values_changed_by_altering(postgres, db, value, given, statements):
    db.execute(f"{MOOD}; {PAIR}; CREATE TYPE moods AS (one mood)")
    if "GENERATED" in value and db.info.server_version < 180000:
        pytest.skip("this server does not know it")
    db.execute(f"CREATE TABLE data (key text PRIMARY KEY, value {value})")
    db.execute(f"INSERT INTO data VALUES ('a', {given})")
    with datastream.open(postgres, interval=0.05) as store:
        cursor = follow(store, db, *statements)
        eventually(lambda: not store.status.current.degraded, "it is watched by its log again")
    assert resumed(postgres, cursor)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE data ADD note text",
        long("CREATE INDEX ON data (value)"),
        long("GRANT SELECT ON data TO PUBLIC"),
        long("ANALYZE data"),
        "VACUUM FULL data",
        "TRUNCATE data",
    ],
)
def test_what_leaves_the_values_alone_is_no_reset(postgres, db, statement):
    db.execute(TABLE)
    with datastream.open(postgres) as store:
        store["a"] = "1"
        cursor = store.snapshot_batch().cursor
        db.execute(statement)
        db.execute("INSERT INTO data VALUES ('b', '2')")
    assert not resumed(postgres, cursor)


SWAP = ["ALTER TABLE data RENAME TO data_old", "ALTER TABLE data_new RENAME TO data"]


@pytest.mark.parametrize(
    ("then", "mode"), [(None, ""), ("DROP TABLE data_old", ""), (None, "notify")]
)
def test_a_table_swapped_by_renaming(postgres, db, then, mode):
    db.execute(f"{TABLE}; INSERT INTO data VALUES ('a', 'old')")
    with datastream.open(postgres, interval=0.05, mode=mode) as store:
        db.execute("CREATE TABLE data_new (key text PRIMARY KEY, value text)")
        db.execute("INSERT INTO data_new VALUES ('a', 'new'), ('b', 'new')")
        swap = ["BEGIN", *SWAP, *([then] if then else []), "COMMIT"]
        cursor = follow(store, db, *swap)
        recorder = Recorder(store)
        store["own"] = "put"
        recorder.wait(lambda r: r.state.get("own") == b"put")
        eventually(lambda: not store.status.current.degraded, "it has triggers")
    assert resumed(postgres, cursor)


def test_what_a_table_that_was_swapped_away_had_is_found(postgres, db):
    db.execute(f"{TABLE}; ALTER TABLE data ADD other text")
    for value in ("value", "other"):
        datastream.open(postgres, value=value).close()
    db.execute("CREATE TABLE data_new (key text PRIMARY KEY, value text, other text)")
    for statement in SWAP:
        db.execute(statement)
    for options in ({"triggers": False}, {"mode": "poll"}):
        with datastream.open(postgres, **options) as store:
            assert store.snapshot() == {}
            assert "polling" in store.status.current.degraded
    source = PostgresSource(postgres, mode="poll")
    source.uninstall()
    source.close()
    assert not list(db.execute(EVERYWHERE))
    # What writes to the old one goes on.
    db.execute("INSERT INTO data_old VALUES ('a', '1')")


def test_a_table_that_was_renamed_and_truncated_logs_what_was_in_it(postgres, db):
    db.execute(f"{TABLE}; INSERT INTO data VALUES ('a', '1')")
    with datastream.open(postgres) as store:
        cursor = store.snapshot_batch().cursor
    db.execute("ALTER TABLE data RENAME TO away")
    db.execute("TRUNCATE away")
    db.execute("ALTER TABLE away RENAME TO data")
    with datastream.open(postgres) as store:
        recorder = Recorder(store, since=cursor, had={"a": b"1"})
        recorder.wait_state({})


def test_another_schema_is_found_first_or_takes_the_name(postgres, db):
    schema = db.execute("SELECT current_schema").fetchone()[0]
    first = f"{schema}_first"
    url = f"{postgres},{first}".replace(f"{schema},{first}", f"{first},{schema}")
    try:
        db.execute(f"{TABLE}; INSERT INTO data VALUES ('a', 'second')")
        with datastream.open(url, interval=0.05) as store:
            recorder = Recorder(store)
            recorder.wait_state({"a": b"second"})
            db.execute(
                f"CREATE SCHEMA {first}; CREATE TABLE {first}.data (LIKE data INCLUDING ALL)"
            )
            db.execute(f"INSERT INTO {first}.data VALUES ('b', 'first')")
            store.refresh()
            recorder.wait_state({"b": b"first"})
            db.execute(f"ALTER SCHEMA {first} RENAME TO {first}_away")
            store.refresh()
            recorder.wait_state({"a": b"second"})
    finally:
        db.execute(f"DROP SCHEMA IF EXISTS {first}, {first}_away CASCADE")


def test_a_schema_that_is_swapped(postgres, db):
    schema = db.execute("SELECT current_schema").fetchone()[0]
    blue, green, away = (f"{schema}_{name}" for name in ("blue", "green", "away"))
    url = postgres.partition("&options")[0]
    try:
        for name in (blue, green):
            db.execute(f"CREATE SCHEMA {name}; CREATE TABLE {name}.data (key text PRIMARY KEY)")
            db.execute(f"ALTER TABLE {name}.data ADD value text")
            db.execute(f"INSERT INTO {name}.data VALUES ('{name}')")
        with datastream.open(url, schema=blue, interval=0.05) as store:
            recorder = Recorder(store)
            recorder.wait(lambda r: set(r.state) == {blue})
            cursor = recorder.cursor
            with db.transaction():
                db.execute(f"ALTER SCHEMA {blue} RENAME TO {away}")
                db.execute(f"ALTER SCHEMA {green} RENAME TO {blue}")
            store.refresh()
            recorder.wait(lambda r: set(r.state) == {green})
            eventually(lambda: not store.status.current.degraded, "it has triggers")
            db.execute(f"INSERT INTO {away}.data VALUES ('not of this')")
            store["own"] = "1"
            recorder.wait(lambda r: set(r.state) == {green, "own"})
            assert not triggers(db, f"{away}.data"), "they would write to its log"
        assert resumed(url, cursor, schema=blue)
    finally:
        db.execute(f"DROP SCHEMA IF EXISTS {blue}, {green}, {away} CASCADE")


@pytest.mark.parametrize("meanwhile", [None, "swapped"])
def test_a_schema_that_had_another_name_for_a_while(postgres, db, meanwhile):
    """What is written then is in its log, and in that of no other schema."""
    schema = db.execute("SELECT current_schema").fetchone()[0]
    mine, away = (f"{schema}_{name}" for name in ("mine", "away"))
    made = f"CREATE SCHEMA {mine}; CREATE TABLE {mine}.data (key text PRIMARY KEY, value text)"
    url = postgres.partition("&options")[0]
    try:
        db.execute(made)
        with datastream.open(url, schema=mine, mode="notify") as store:
            store.update({"a": "1", "b": "1"})
            cursor = store.snapshot_batch().cursor
        db.execute(f"ALTER SCHEMA {mine} RENAME TO {away}")
        if meanwhile:
            db.execute(made)
            datastream.open(url, schema=mine, mode="notify").close()
        db.execute(f"INSERT INTO {away}.data VALUES ('c', '1')")
        db.execute(f"DELETE FROM {away}.data WHERE key = 'a'")
        if meanwhile:
            with datastream.open(url, schema=mine, mode="notify") as store:
                assert store.snapshot() == {}
            db.execute(f"DROP SCHEMA {mine} CASCADE")
        db.execute(f"ALTER SCHEMA {away} RENAME TO {mine}")
        with datastream.open(url, schema=mine, mode="notify") as store:
            recorder = Recorder(store, since=cursor, had={"a": b"1", "b": b"1"})
            recorder.wait_state({"b": b"1", "c": b"1"})
            db.execute(f"TRUNCATE {mine}.data")
            recorder.wait_state({})
    finally:
        db.execute(f"DROP SCHEMA IF EXISTS {mine}, {away} CASCADE")


def test_a_table_that_moves_takes_no_second_log_along(postgres, db):
    db.execute(TABLE)
    with datastream.open(postgres):
        pass
    db.execute("ALTER TABLE data RENAME TO moved")
    with datastream.open(postgres, table="moved", mode="notify") as store:
        recorder = Recorder(store)
        db.execute("INSERT INTO moved VALUES ('a', '1')")
        recorder.wait_state({"a": b"1"})
    assert len(triggers(db, "moved")) == 4


def triggers(db, table):
    return db.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(%s) "
        "AND tgname LIKE '%%datastream%%'",
        (table,),
    ).fetchall()


@pytest.mark.parametrize("key", ["_touched", "missing", "new_rows", "TG_OP"])
def test_a_key_that_is_called_like_something_of_the_triggers(postgres, db, key):
    """They find it, and find out that it has gone."""
    db.execute(f'CREATE TABLE data ("{key}" text PRIMARY KEY, value text)')
    with datastream.open(postgres, key=key, mode="notify") as store:
        recorder = Recorder(store)
        db.execute("INSERT INTO data VALUES ('a', '1')")
        recorder.wait_state({"a": b"1"})
        db.execute(f"ALTER TABLE data RENAME \"{key}\" TO away; INSERT INTO data VALUES ('b', '1')")
        db.execute("UPDATE data SET value = '2'; DELETE FROM data WHERE away = 'a'")
        db.execute(f'ALTER TABLE data RENAME away TO "{key}"')
        db.execute("INSERT INTO data VALUES ('c', '1')")
        recorder.wait_state({"b": b"2", "c": b"1"})


# --- what makes triggers insufficient ---


@pytest.mark.parametrize(
    ("appears", "writes", "goes", "reason"),
    [
        (
            "CREATE TABLE child () INHERITS (data)",
            "INSERT INTO child VALUES ('b', '1')",
            "DROP TABLE child",
            "inheritance",
        ),
        (
            "CREATE TABLE parent (key text, value text); ALTER TABLE data INHERIT parent",
            "UPDATE parent SET value = '2'",
            "ALTER TABLE data NO INHERIT parent",
            "inheritance",
        ),
        (
            "CREATE TABLE whole (key text NOT NULL, value text) PARTITION BY LIST (value); "
            "ALTER TABLE whole ATTACH PARTITION data DEFAULT",
            "UPDATE whole SET value = '2'",
            "ALTER TABLE whole DETACH PARTITION data",
            "partition",
        ),
        (
            "ALTER TABLE data DISABLE TRIGGER ALL",
            "INSERT INTO data VALUES ('b', '1')",
            "ALTER TABLE data ENABLE TRIGGER ALL",
            "switched off",
        ),
        (
            "ALTER TABLE data DROP CONSTRAINT data_pkey",
            "INSERT INTO data VALUES ('b', '1')",
            "ALTER TABLE data ADD PRIMARY KEY (key)",
            "unique index",
        ),
        (
            "CREATE SUBSCRIPTION {name} CONNECTION 'dbname=x' PUBLICATION x "
            "WITH (connect = false, slot_name = NONE); INSERT INTO pg_subscription_rel "
            "SELECT oid, 'data'::regclass, 'r' FROM pg_subscription WHERE subname = '{name}'",
            "UPDATE data SET value = '2'",
            "DROP SUBSCRIPTION {name}",
            "subscription",
        ),
    ],
)
def test_triggers_that_no_longer_tell_all(postgres, db, appears, writes, goes, reason):
    """Noticed when it appears, and when it has gone."""
    name = db.execute("SELECT current_schema").fetchone()[0]
    db.execute(f"{TABLE}; INSERT INTO data VALUES ('a', '1')")
    db.execute("SET allow_system_table_mods = on")
    with datastream.open(postgres, interval=0.05) as store:
        statuses, recorder = Statuses(store), Recorder(store)
        assert statuses.wait(State.READY).degraded == ""
        cursor = recorder.cursor
        for statement in appears.format(name=name).split("; "):
            db.execute(statement)
        store.refresh()
        eventually(lambda: reason in statuses.seen[-1].degraded, "it is polled")
        db.execute(writes)
        recorder.wait_state({key: value.encode() for key, value in rows(db).items()})
        db.execute(goes.format(name=name))
        eventually(lambda: not statuses.seen[-1].degraded, "it is watched by its log again")
        db.execute("INSERT INTO data VALUES ('z', '1')")
        recorder.wait_state({key: value.encode() for key, value in rows(db).items()})
    if "CREATE TABLE child" not in appears and "DROP CONSTRAINT" not in appears:
        assert resumed(postgres, cursor), "not all that happened is in the log"


def test_a_part_that_is_rewritten_while_it_is_read(postgres, db):
    """To a snapshot from before, it would look empty."""
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value text) PARTITION BY HASH (key)")
    for part in (0, 1):
        db.execute(
            f"CREATE TABLE part{part} PARTITION OF data "
            f"FOR VALUES WITH (modulus 2, remainder {part})"
        )
    db.execute("INSERT INTO data SELECT 'k' || n, '1' FROM generate_series(1, 20) n")
    source = PostgresSource(postgres, libpq={"application_name": "rewritten"})
    position = source.read(Selection(), None).position
    with psycopg.connect(postgres) as other, ThreadPoolExecutor() as pool:
        other.execute("ALTER TABLE part0 SET UNLOGGED")
        reading = pool.submit(source.read, Selection(), position)
        eventually(lambda: waits(db), "the read waits for it")
        other.commit()
        assert len(reading.result(30).entries) in (0, 20)
    assert source.read(Selection(), position).entries == ()
    source.close()


def waits(db):
    return db.execute(
        "SELECT FROM pg_stat_activity WHERE application_name = 'rewritten' "
        "AND wait_event_type = 'Lock'"
    ).fetchall()


def rows(db):
    return dict(db.execute("SELECT key, value FROM data").fetchall())


# --- servers and databases ---


@pytest.mark.chaos
def test_an_unlogged_table_that_recovery_empties():
    with Server().start() as server:
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute(TABLE.replace("CREATE", "CREATE UNLOGGED"))
            db.execute("INSERT INTO data VALUES ('a', '1'), ('b', '2')")
        with datastream.open(server.url, history=True, interval=0.05) as store:
            recorder = Recorder(store)
            recorder.wait_state({"a": b"1", "b": b"2"})
            cursor = recorder.cursor
            server.kill()
            server.start()
            store.refresh()
            recorder.wait_state({})
            with psycopg.connect(server.url, autocommit=True) as db:
                db.execute("INSERT INTO data VALUES ('c', '3')")
            recorder.wait_state({"c": b"3"})
            eventually(lambda: not store.status.current.degraded, "it has a log again")
        assert resumed(server.url, cursor)


def test_a_table_made_unlogged_has_an_unlogged_log(postgres, db):
    """Or recovery would empty the one without the other."""
    db.execute(TABLE)
    unlogged = (
        "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema::regnamespace "
        "AND relkind = 'r' AND relpersistence = 'u'"
    )
    with datastream.open(postgres, interval=0.05) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        cursor = recorder.cursor
        for how, number in (("UNLOGGED", 3), ("LOGGED", 0)):
            db.execute(f"ALTER TABLE data SET {how}")
            store.refresh()
            eventually(lambda n=number: len(list(db.execute(unlogged))) == n, f"its log is {how}")
        store["a"] = "1"
        recorder.wait_state({"a": b"1"})
    assert resumed(postgres, cursor)


@pytest.mark.chaos
def test_a_database_swapped_by_renaming():
    """Its copy has the same numbers of everything, and the same log."""
    with Server().start() as server:
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("CREATE DATABASE shop")
            url = server.url.replace("/postgres?", "/shop?")
            with psycopg.connect(url, autocommit=True) as db:
                db.execute(f"{TABLE}; INSERT INTO data VALUES ('a', '1')")
            with datastream.open(url) as store:
                cursor = store.snapshot_batch().cursor
            admin.execute("CREATE DATABASE copy TEMPLATE shop")
            with psycopg.connect(url.replace("/shop?", "/copy?"), autocommit=True) as db:
                db.execute("ALTER TABLE data DISABLE TRIGGER ALL")
                db.execute("UPDATE data SET value = '2'")
            with datastream.open(url, interval=0.05) as store:
                recorder = Recorder(store)
                recorder.wait_state({"a": b"1"})
                # It refuses to be renamed while it is used.
                admin.execute("ALTER DATABASE shop ALLOW_CONNECTIONS false")
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE datname = 'shop'"
                )
                admin.execute("ALTER DATABASE shop RENAME TO before")
                admin.execute("ALTER DATABASE copy RENAME TO shop")
                store.refresh()
                recorder.wait_state({"a": b"2"})
        assert resumed(url, cursor)


@pytest.mark.chaos
def test_restored_into_a_server_with_fewer_transactions():
    """The log that comes along is of numbers that are still to come there."""
    with Server().start() as server, Server().start() as fresh:
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute(f"{TABLE}; INSERT INTO data VALUES ('a', '1')")
            db.execute(
                "DO $$ BEGIN FOR n IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; "
                "END LOOP; END $$"
            )
            with datastream.open(server.url) as store:
                store["b"] = "2"
                cursor = store.snapshot_batch().cursor
        dump = server.folder / "dump.sql"
        server.folder.chmod(0o777)
        fresh.folder.chmod(0o777)
        run("pg_dump", "-f", dump, "-d", server.url, log=server.folder / "dump.log")
        run("psql", "-q", "-f", dump, "-d", fresh.url, log=fresh.folder / "restore.log")
        with datastream.open(fresh.url, mode="notify") as store:
            recorder = Recorder(store, since=cursor)
            recorder.wait_ready()
            assert recorder.batches[0].reset
            recorder.wait_state({"a": b"1", "b": b"2"})
            store["c"] = "3"
            recorder.wait(lambda r: "c" in r.state)
            mine = store.snapshot_batch().cursor
            store["d"] = "4"
        assert not resumed(fresh.url, mine)
