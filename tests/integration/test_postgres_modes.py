"""How a PostgreSQL table is watched where triggers cannot be had, and what the status says."""

from __future__ import annotations

import psycopg
import pytest
from click.testing import CliRunner

import datastream
from datastream import DatastreamError, ReadOnly, State
from datastream.cli import main
from datastream.source import Feature
from datastream.sources.postgres import PostgresSource
from datastream.sources.postgres import catalogue as _catalogue
from datastream.sources.postgres import log as _log
from tests.integration._programs.tools import Follower, Statuses, eventually
from tests.integration.test_postgres_watch import INSTALLED, TABLE
from tests.servers.pgbouncer import needs_pgbouncer, pgbouncer
from tests.servers.postgres import Server, fresh_database, run


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


@pytest.fixture
def reader(postgres, db):
    """The URL for a role that may read and write the table, and owns nothing."""
    schema = db.execute("SELECT current_schema").fetchone()[0]
    role = f"r_{schema}"
    db.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}")
    db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON data TO {role}")
    yield f"{postgres}&user={role}"
    db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def cli(*arguments):
    result = CliRunner().invoke(main, ["postgres", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def mark(db):
    """By which the names of what is installed begin."""
    (name,) = db.execute(
        "SELECT relname FROM pg_class WHERE relname ~ '^_datastream_data_[0-9a-f]+$' "
        "AND relnamespace = current_schema::regnamespace"
    ).fetchone()
    return name


def installed(db):
    return {name for (name,) in db.execute(INSTALLED)}


def test_who_watches_nothing_is_not_warned_of_polling(postgres, reader, caplog):
    with datastream.open(postgres, triggers=False) as store:
        store["a"] = "1"
    with datastream.open(reader) as store:
        assert store["a"] == "1"
        assert store.status.current.degraded.startswith("polling every 5 s")
    assert caplog.text == ""


def test_without_rights_it_polls_says_so_and_gets_better(postgres, db, reader, caplog):
    with datastream.open(reader, interval=0.05) as store:
        statuses, follower = Statuses(store), Follower(store)
        degraded = statuses.wait(State.READY).degraded
        assert degraded.startswith("polling every 0.05 s")
        assert "datastream postgres install" in degraded
        assert Feature.LOG not in store.features
        db.execute("INSERT INTO data VALUES ('a', '1')")
        follower.wait_state({"a": b"1"})
        eventually(lambda: degraded in caplog.text, "it warns once it waits")
        cli("install", postgres)
        eventually(lambda: statuses.seen[-1].degraded == "", "it learns of the triggers")
        db.execute("INSERT INTO data VALUES ('b', '1')")
        follower.wait_state({"a": b"1", "b": b"1"})
        store["c"] = "1"
        cli("uninstall", postgres)
        eventually(lambda: "polling" in statuses.seen[-1].degraded, "and that they are gone")
        db.execute("INSERT INTO data VALUES ('d', '1')")
        follower.wait_key("d", b"1")
        assert set(statuses.states) <= {State.CONNECTING, State.READY}
    assert len(follower.entries) == 4
    assert not installed(db)


def test_triggers_that_are_removed_stay_removed(postgres, db):
    with datastream.open(postgres, interval=0.05) as store:
        statuses, follower = Statuses(store), Follower(store)
        assert statuses.wait(State.READY).degraded == ""
        cli("uninstall", postgres)
        eventually(lambda: "were removed" in statuses.seen[-1].degraded, "it falls back by itself")
        db.execute("INSERT INTO data VALUES ('a', '1')")
        follower.wait_state({"a": b"1"})
        assert not installed(db)


@pytest.mark.parametrize("dropped", ["TABLE {}_state", "FUNCTION {}_note"])
def test_what_is_left_of_a_log_is_replaced(postgres, db, dropped):
    datastream.open(postgres, history=True).close()
    db.execute(f"DROP TABLE data; {TABLE}; DROP {dropped.format(mark(db))}")
    with datastream.open(postgres, mode="notify") as store:
        follower = Follower(store)
        db.execute("INSERT INTO data VALUES ('a', '1')")
        follower.wait_state({"a": b"1"})
    cli("uninstall", postgres)
    assert not installed(db)


def test_a_log_into_which_a_dump_was_loaded_is_replaced(postgres, db):
    """With what it says of itself, which is there twice then."""
    with datastream.open(postgres, interval=0.05) as store:
        follower = Follower(store)
        (state,) = db.execute(
            "SELECT quote_ident(relname) FROM pg_class WHERE relname LIKE '_datastream%_state' "
            "AND relnamespace = current_schema::regnamespace"
        ).fetchone()
        before = store.snapshot_batch().cursor
        db.execute(f"INSERT INTO {state} SELECT * FROM {state}")
        db.execute("INSERT INTO data VALUES ('a', '1')")
        follower.wait_state({"a": b"1"})

        def is_one():
            return db.execute(f"SELECT count(*) FROM {state}").fetchone() == (1,)

        eventually(is_one, "it is made anew")
        db.execute("INSERT INTO data VALUES ('b', '1')")
        follower.wait_state({"a": b"1", "b": b"1"})
        resumed = []
        store.watch_batches(since=before).subscribe(resumed.append)
        store.flush()
        assert resumed[0].reset


def test_a_database_that_lets_nobody_make_triggers(postgres, db):
    schema = db.execute("SELECT current_schema").fetchone()[0]
    db.execute(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'ask the administrator'; END $$"
    )
    db.execute(
        f"CREATE EVENT TRIGGER {schema} ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER') "
        "EXECUTE FUNCTION refuse()"
    )
    try:
        with datastream.open(postgres, interval=0.05) as store:
            statuses, follower = Statuses(store), Follower(store)
            assert "ask the administrator" in statuses.wait(State.READY).degraded
            store["a"] = "1"
            follower.wait_state({"a": b"1"})
    finally:
        db.execute(f"DROP EVENT TRIGGER {schema}")


@pytest.mark.parametrize("how", ["DISABLE TRIGGER ALL", "DISABLE TRIGGER USER"])
def test_triggers_that_are_switched_off(postgres, db, how):
    with datastream.open(postgres, interval=0.05) as store:
        follower = Follower(store)
        before = store.snapshot_batch().cursor
        db.execute(f"ALTER TABLE data {how}")
        db.execute("INSERT INTO data VALUES ('a', '1')")
        store.refresh()
        follower.wait_state({"a": b"1"})
        db.execute("INSERT INTO data VALUES ('b', '1')")
        follower.wait_state({"a": b"1", "b": b"1"})
    with datastream.open(postgres) as store:
        resumed = []
        store.watch_batches(since=before).subscribe(resumed.append)
        assert resumed[0].reset


@pytest.mark.parametrize(
    "how",
    [
        # Of a migration that was made from another state of the database.
        "CREATE OR REPLACE FUNCTION {} RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        "AS 'BEGIN RETURN NULL; END'",
        "ALTER FUNCTION {} SECURITY INVOKER",
    ],
)
def test_a_trigger_function_that_was_replaced(postgres, db, reader, how):
    with datastream.open(postgres) as owner:
        before = owner.snapshot_batch().cursor
    function = "SELECT tgfoid::regprocedure FROM pg_trigger WHERE tgrelid = 'data'::regclass"
    (name,) = db.execute(f"SELECT f::text FROM ({function} LIMIT 1) AS t (f)").fetchone()
    with datastream.open(reader, interval=0.05) as store:
        follower, statuses = Follower(store), Statuses(store)
        db.execute(how.format(name))
        db.execute("INSERT INTO data VALUES ('a', '1')")
        store.refresh()
        eventually(lambda: "was replaced" in statuses.seen[-1].degraded, "it polls, and says why")
        follower.wait_state({"a": b"1"})
        with datastream.open(postgres) as owner:
            followers = [follower, Follower(owner)]
            eventually(lambda: statuses.seen[-1].degraded == "", "the owner makes them anew")
            # While both watch.
            db.execute(how.format(name))
            db.execute("INSERT INTO data VALUES ('b', '1')")
            owner.refresh()
            followers[1].wait_state({"a": b"1", "b": b"1"})
            db.execute("INSERT INTO data VALUES ('c', '1')")
            for each in followers:
                each.wait_state({"a": b"1", "b": b"1", "c": b"1"})
            resumed = []
            owner.watch_batches(since=before).subscribe(resumed.append)
            assert resumed[0].reset


def wait_idly(db, url):
    """Until the server has ended a session that does nothing."""
    with psycopg.connect(url) as idle:
        lives = "SELECT FROM pg_stat_activity WHERE pid = %s"
        pid = (idle.info.backend_pid,)
        eventually(lambda: db.execute(lives, pid).fetchone() is None, "it is ended")


def test_a_limit_on_idle_sessions_does_not_end_the_one_that_waits(postgres, db, reader):
    role = reader.rpartition("=")[2]
    db.execute(f"ALTER ROLE {role} SET idle_session_timeout = '200ms'")
    with datastream.open(postgres), datastream.open(reader) as store:
        statuses, follower = Statuses(store), Follower(store)
        statuses.wait(State.READY)
        for _ in range(2):
            wait_idly(db, reader)
        db.execute("INSERT INTO data VALUES ('a', '1')")
        follower.wait_state({"a": b"1"})
        store["a"] = "2"
        follower.wait_state({"a": b"2"})
        assert set(statuses.states) <= {State.CONNECTING, State.READY}


def test_a_role_that_only_reads_for_a_while(postgres, db, monkeypatch):
    """As databases are set for maintenance. Sessions from then would go on so."""
    monkeypatch.setattr(_catalogue, "INSTALL_AGAIN", 0.1)
    role = f"r_{db.execute('SELECT current_schema').fetchone()[0]}"
    db.execute(f"CREATE ROLE {role} SUPERUSER LOGIN")
    db.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    try:
        with datastream.open(f"{postgres}&user={role}", interval=0.05) as store:
            statuses, follower = Statuses(store), Follower(store)
            assert "set to only read" in statuses.wait(State.READY).degraded
            for _ in range(3):
                with pytest.raises(ReadOnly):
                    store["a"] = "1"
            db.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")
            store["a"] = "1"
            store.put_many({"b": "1", "c": "1"})
            follower.wait_state(dict.fromkeys("abc", b"1"))
            eventually(lambda: statuses.seen[-1].degraded == "", "the triggers are made")
            db.execute("DELETE FROM data")
            follower.wait_state({})
    finally:
        db.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_table_that_is_being_written_gets_its_triggers_later(postgres, db, monkeypatch):
    monkeypatch.setattr(_log, "LOCK_TIMEOUT", 50)
    monkeypatch.setattr(_catalogue, "INSTALL_AGAIN", 0.1)
    with psycopg.connect(postgres) as slow:
        slow.execute("INSERT INTO data VALUES ('slow', '1')")
        store = datastream.open(postgres, interval=0.05)
        statuses, follower = Statuses(store), Follower(store)
        assert "being written" in statuses.wait(State.READY).degraded
    follower.wait_state({"slow": b"1"})
    eventually(lambda: statuses.seen[-1].degraded == "", "the triggers are made")
    store.close()


def test_the_command_line_shows_installs_and_removes(postgres, db):
    nothing = installed(db)
    sql = cli("install", f"{postgres}&history=true", "--dry-run")
    assert not installed(db) - nothing
    assert "CREATE TRIGGER" in sql
    assert "_history" in sql
    assert cli("install", f"{postgres}&history=true") == sql
    assert len(installed(db)) >= 9
    with datastream.open(postgres) as store:
        assert Feature.HISTORY in store.features
    assert "DROP TRIGGER" in cli("uninstall", postgres, "--dry-run")
    assert len(installed(db)) >= 9
    cli("uninstall", postgres)
    assert installed(db) == nothing == set()
    assert cli("uninstall", postgres) == "", "nothing to do"


@pytest.mark.parametrize(
    "gone",
    [
        "DROP TABLE data",
        "ALTER TABLE data DROP key",
        "ALTER TABLE data RENAME TO away; DROP TABLE away",
        # What tells the name of its table.
        "DROP TABLE data, {}_state",
    ],
)
@pytest.mark.parametrize("options", ["", "&key=value&value=key"])
def test_the_command_line_removes_what_is_left_of_a_table(postgres, db, gone, options):
    db.execute("ALTER TABLE data ADD UNIQUE (value)")
    cli("install", f"{postgres}&history=true{options}")
    db.execute(gone.format(mark(db)))
    assert "DROP TABLE" in cli("uninstall", f"{postgres}{options}", "--dry-run")
    cli("uninstall", f"{postgres}{options}")
    assert not installed(db)


def test_what_is_left_is_found_for_any_columns_and_in_its_schema_only(postgres, db):
    cli("install", f"{postgres}&key=key")
    cli("install", f"{postgres}&key=key&value=*")
    db.execute("DROP TABLE data")
    left = installed(db)
    for options in ("&schema=public", "&table=another"):
        result = CliRunner().invoke(main, ["postgres", "uninstall", f"{postgres}{options}"])
        assert result.exit_code == 1
        assert "no such table, and nothing is left of one" in result.stderr
    assert installed(db) == left
    cli("uninstall", postgres)
    assert not installed(db)
    result = CliRunner().invoke(main, ["postgres", "uninstall", postgres])
    assert result.exit_code == 1
    assert "no such table, and nothing is left of one" in result.stderr


def test_a_source_whose_table_was_dropped_removes_what_is_left(postgres, db):
    source = PostgresSource(postgres)
    db.execute("DROP TABLE data")
    source.uninstall()
    source.close()
    assert not installed(db)


def test_one_answer_installs_nothing(postgres, db):
    for command in (["put", postgres, "k", "v"], ["get", postgres, "k"], ["ls", postgres]):
        assert CliRunner().invoke(main, command).exit_code == 0
    assert not installed(db)


def test_the_command_line_refuses_other_urls(tmp_path):
    result = CliRunner().invoke(main, ["postgres", "install", f"sqlite:{tmp_path}/x.db"])
    assert result.exit_code == 2
    assert "no postgresql: URL" in result.stderr


def test_a_view_cannot_be_installed(postgres, db):
    db.execute("CREATE VIEW shown AS SELECT * FROM data")
    result = CliRunner().invoke(main, ["postgres", "install", f"{postgres}&table=shown"])
    assert result.exit_code == 1
    assert "no plain table" in result.stderr


def test_two_ways_to_read_one_table(postgres, db):
    """Each has a log of its own; one uninstall removes both."""
    db.execute("ALTER TABLE data ADD other text")
    with datastream.open(postgres) as one, datastream.open(postgres, value="other") as two:
        first, second = Follower(one), Follower(two)
        db.execute("INSERT INTO data VALUES ('a', '1', '2')")
        first.wait_state({"a": b"1"})
        second.wait_state({"a": b"2"})
    cli("uninstall", postgres)
    assert not installed(db)


@pytest.mark.chaos
def test_a_replica_is_polled_until_it_is_promoted():
    with Server(hot_standby_feedback="on").start() as primary:
        with psycopg.connect(primary.url, autocommit=True) as db:
            db.execute(TABLE)
            datastream.open(primary.url).close()
            db.execute("INSERT INTO data VALUES ('a', '1')")
            with Server(empty=True) as replica:
                run(
                    "pg_basebackup", "-D", replica.data, "-R", "-c", "fast", "-d", primary.url,
                    log=replica.folder / "commands.log",
                )  # fmt: skip
                replica.start()
                store = datastream.open(replica.url, interval=0.05)
                statuses, follower = Statuses(store), Follower(store)
                assert "replica" in statuses.wait(State.READY).degraded
                assert Feature.WRITE not in store.features
                db.execute("INSERT INTO data VALUES ('b', '1')")
                follower.wait_state({"a": b"1", "b": b"1"})
                cursor = store.snapshot_batch().cursor
                replica.command("pg_ctl", "-w", "promote")
                eventually(lambda: statuses.seen[-1].degraded == "", "it has triggers now")
                with psycopg.connect(replica.url, autocommit=True) as promoted:
                    promoted.execute("INSERT INTO data VALUES ('c', '1')")
                follower.wait_state({"a": b"1", "b": b"1", "c": b"1"})
                assert len(follower.entries) == 3
                assert cursor != store.snapshot_batch().cursor
                store.close()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_publication_of_all_tables(postgres_server, monkeypatch, is_first):
    """It lets nobody update or delete in a table without a replica identity."""
    monkeypatch.setattr(_log, "KEPT", 10)
    monkeypatch.setattr(_log, "PRUNED_BY_WRITERS", 0)
    publish = "CREATE PUBLICATION everything FOR ALL TABLES"
    with (
        fresh_database(postgres_server, "UTF8") as url,
        psycopg.connect(url, autocommit=True) as db,
    ):
        db.execute(TABLE)
        if is_first:
            db.execute(publish)
        with datastream.open(url, mode="notify", history=True) as store:
            follower = Follower(store)
            if not is_first:
                db.execute(publish)
            written = {f"k{number}": b"1" for number in range(30)}
            for key in written:
                db.execute("INSERT INTO data VALUES (%s, '1')", (key,))
            follower.wait_state(written)
            db.execute("DELETE FROM data")
            follower.wait_state({})


@needs_pgbouncer
@pytest.mark.parametrize(
    ("mode", "polls"),
    [("transaction", True), pytest.param("session", False, marks=pytest.mark.chaos)],
)
def test_behind_pgbouncer(mode, polls):
    with Server().start() as server, psycopg.connect(server.url, autocommit=True) as db:
        db.execute(TABLE)
        with pgbouncer(server, pool_mode=mode) as url:
            with datastream.open(url, interval=0.05) as store:
                statuses, follower = Statuses(store), Follower(store)
                assert ("pooler" in statuses.wait(State.READY).degraded) == polls
                for number in range(20):
                    store["k"] = str(number)
                    store.put_many({"a": str(number), "b": "x"})
                    db.execute("INSERT INTO data VALUES (%s, '1')", (f"n{number}",))
                follower.wait(lambda state: len(state) == 23 and state["a"] == b"19")
            if polls:
                with pytest.raises(DatastreamError, match="pooler"):
                    datastream.open(url, mode="notify")
