"""Nobody learns of rows that they may not read: not live, by a cursor, the log or the past."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

import datastream
from datastream import State
from datastream.source import Feature
from datastream.sources.postgres import PostgresSource
from datastream.testing import Recorder
from tests.integration._programs.tools import Statuses, eventually

TABLE = "CREATE TABLE data (key text PRIMARY KEY, value text, tenant text)"
POLICY = (
    "CREATE POLICY tenants ON data TO {role} USING (tenant IN "
    "(SELECT tenant FROM members WHERE who = current_user))"
)


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"{TABLE}; CREATE TABLE members (who text, tenant text)")
        connection.execute("INSERT INTO data VALUES ('mine', '1', 't1'), ('secret', '1', 't2')")
        yield connection


@pytest.fixture
def schema(db):
    return db.execute("SELECT current_schema").fetchone()[0]


@pytest.fixture
def role(db, schema):
    name = f"r_{schema}"
    db.execute(f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {name}")
    db.execute(
        f"GRANT SELECT ON data, members TO {name}; INSERT INTO members VALUES ('{name}', 't1')"
    )
    yield name
    db.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def reader(postgres, role):
    return f"{postgres}&user={role}"


def secure(db, role):
    db.execute("ALTER TABLE data ENABLE ROW LEVEL SECURITY")
    db.execute(POLICY.format(role=role))


def told(recorder):
    return {entry.key for entry in recorder.entries}


def test_a_reader_of_some_rows_is_told_of_no_others(postgres, db, role, reader):
    secure(db, role)
    with datastream.open(postgres, history=True), datastream.open(reader, interval=0.05) as store:
        statuses, recorder = Statuses(store), Recorder(store)
        assert "row-level security" in statuses.wait(State.READY).degraded
        assert not store.features & {Feature.LOG, Feature.HISTORY}
        recorder.wait_state({"mine": b"1"})
        cursor = recorder.cursor
        db.execute("UPDATE data SET value = '2'; INSERT INTO data VALUES ('secret/2', '1', 't2')")
        recorder.wait_state({"mine": b"2"})
        db.execute("DELETE FROM data WHERE tenant = 't2'")
        db.execute("UPDATE data SET value = '3'")
        recorder.wait_state({"mine": b"3"})
        again = Recorder(store, since=cursor)
        again.wait_state({"mine": b"3"})
        assert told(recorder) == told(again) == {"mine"}
        # Rows come and go with what the policy reads, and with the policy.
        db.execute("INSERT INTO data VALUES ('other', '1', 't2')")
        db.execute(f"INSERT INTO members VALUES ('{role}', 't2')")
        recorder.wait_state({"mine": b"3", "other": b"1"})
        db.execute("DELETE FROM members WHERE tenant = 't2'")
        recorder.wait_state({"mine": b"3"})
        db.execute("DROP POLICY tenants ON data")
        recorder.wait_state({})


def test_row_security_that_comes_later(postgres, db, role, reader):
    """Nothing of before lets its reader look behind it."""
    with datastream.open(postgres, history=True) as owner, datastream.open(reader) as store:
        recorder = Recorder(store)
        recorder.wait_state({"mine": b"1", "secret": b"1"})
        cursor = recorder.cursor
        assert Feature.HISTORY in store.features
        secure(db, role)
        store.refresh()
        recorder.wait_state({"mine": b"1"})
        owner["secret/2"] = "1"
        owner["secret"] = "2"
        assert list(store.history("secret")) == []
        again = Recorder(store, since=cursor, had={"mine": b"1", "secret": b"1"})
        again.wait_state({"mine": b"1"})
        assert again.batches[0].reset
        assert "secret/2" not in told(recorder) | told(again)
        with psycopg.connect(reader, autocommit=True) as session:
            for (name,) in db.execute(
                "SELECT oid::regclass::text FROM pg_class WHERE relname LIKE '\\_datastream%' "
                "AND relkind = 'r' AND relnamespace = current_schema::regnamespace"
            ):
                assert session.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,)
        db.execute("ALTER TABLE data DISABLE ROW LEVEL SECURITY")
        store.refresh()
        eventually(lambda: not store.status.current.degraded, "its log is used again")
        recorder.wait_state({"mine": b"1", "secret": b"2", "secret/2": b"1"})


def test_a_role_whose_rights_are_taken(postgres, db, role, reader):
    """It may no longer read what the log says, either."""
    with datastream.open(postgres, history=True):
        pass
    db.execute(f"REVOKE SELECT ON data FROM {role}")
    with psycopg.connect(reader, autocommit=True) as session:
        for (name,) in db.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relname LIKE '\\_datastream%' "
            "AND relkind = 'r' AND relnamespace = current_schema::regnamespace"
        ):
            assert session.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,)


@pytest.mark.chaos
def test_the_owner_who_is_forced(postgres, db, role):
    """An owner under its own policies is polled, while others read the log of its table."""
    schema = db.execute("SELECT current_schema").fetchone()[0]
    db.execute(f"GRANT CREATE ON SCHEMA {schema} TO {role}; ALTER TABLE data OWNER TO {role}")
    with (
        datastream.open(f"{postgres}&user={role}", interval=0.05) as owner,
        datastream.open(postgres) as everything,
    ):
        mine, all_rows = Recorder(owner), Recorder(everything)
        mine.wait_state({"mine": b"1", "secret": b"1"})
        assert "LOG" in {feature.name for feature in owner.features}
        secure(db, role)
        owner.refresh()
        db.execute("INSERT INTO data VALUES ('other', '1', 't2')")
        mine.wait(lambda r: "other" in r.state)
        assert not owner.status.current.degraded, "an owner sees all"
        db.execute("ALTER TABLE data FORCE ROW LEVEL SECURITY")
        owner.refresh()
        mine.wait_state({"mine": b"1"})
        assert "row-level security" in owner.status.current.degraded
        assert not everything.status.current.degraded
        all_rows.wait(lambda r: len(r.state) == 3)
        db.execute("TRUNCATE data")
        all_rows.wait_state({})
        mine.wait_state({})
        db.execute("ALTER TABLE data NO FORCE ROW LEVEL SECURITY")
        eventually(lambda: not owner.status.current.degraded, "it has its log again")


def test_triggers_that_a_role_made_for_the_owner(postgres, db, role):
    """An owner that has never been granted anything may read what belongs to its table."""
    db.execute("DROP TABLE data")
    schema = db.execute("SELECT current_schema").fetchone()[0]
    db.execute(f"GRANT CREATE ON SCHEMA {schema} TO {role}; SET ROLE {role}; {TABLE}; RESET ROLE")
    datastream.open(postgres).close()
    with datastream.open(f"{postgres}&user={role}", mode="notify") as store:
        store["a"] = "1"
        assert Feature.LOG in store.features


TABLES = (
    "SELECT 'TABLE ' || oid::regclass FROM pg_class "
    "WHERE relkind = 'r' AND relnamespace = current_schema::regnamespace"
)
FUNCTIONS = (
    "SELECT 'FUNCTION ' || oid::regprocedure FROM pg_proc "
    "WHERE pronamespace = current_schema::regnamespace"
)
ALL_TABLES = "ALL ON ALL TABLES IN SCHEMA {schema}"


def alter(db, found, how):
    """What scripts do that go through all there is."""
    for (what,) in db.execute(found).fetchall():
        db.execute(f"ALTER {what} {how}")


def run(statement):
    return lambda db, names: db.execute(statement.format(**names))


@pytest.fixture
def owner(db, schema):
    """A role that owns the table, with the rights that takes."""
    name = f"o_{schema}"
    db.execute(f"CREATE ROLE {name} LOGIN; GRANT ALL ON SCHEMA {schema} TO {name}")
    db.execute(f"ALTER TABLE data OWNER TO {name}")
    yield name
    db.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@pytest.mark.parametrize(
    ("change", "undo"),
    [
        (
            lambda db, names: alter(db, TABLES, "OWNER TO CURRENT_USER"),
            lambda db, names: alter(db, TABLES, f"OWNER TO {names['owner']}"),
        ),
        (
            lambda db, names: alter(db, FUNCTIONS, f"OWNER TO {names['role']}"),
            lambda db, names: alter(db, FUNCTIONS, f"OWNER TO {names['owner']}"),
        ),
        (
            lambda db, _: alter(db, TABLES, "FORCE ROW LEVEL SECURITY"),
            lambda db, _: alter(db, TABLES, "NO FORCE ROW LEVEL SECURITY"),
        ),
        (run(f"REVOKE {ALL_TABLES} FROM {{owner}}"), run(f"GRANT {ALL_TABLES} TO {{owner}}")),
        (
            run("REVOKE ALL ON SCHEMA {schema} FROM {owner}"),
            run("GRANT ALL ON SCHEMA {schema} TO {owner}"),
        ),
        (
            run(f"REVOKE {ALL_TABLES} FROM {{role}}; GRANT SELECT ON data TO {{role}}"),
            run(f"GRANT {ALL_TABLES} TO {{role}}"),
        ),
    ],
    ids=["tables", "functions", "policies", "rights", "schema", "reader"],
)
def test_rights_to_the_log_that_change(postgres, db, schema, owner, role, reader, change, undo):
    """Writers of the table notice nothing, watchers are polled, and no cursor leads past it."""
    names = {"schema": schema, "owner": owner, "role": role}
    datastream.open(f"{postgres}&user={owner}", history=True).close()
    with datastream.open(reader, interval=0.05) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        assert not store.status.current.degraded
        cursor, had = recorder.cursor, recorder.state
        change(db, names)
        db.execute("INSERT INTO data VALUES ('new', '1')")
        recorder.wait_state({**had, "new": b"1"})
        db.execute("TRUNCATE data")
        recorder.wait_state({})
        db.execute("INSERT INTO data VALUES ('new', '1'), ('old', '1')")
        db.execute("UPDATE data SET value = '2'; DELETE FROM data WHERE key = 'old'")
        recorder.wait_state({"new": b"2"})
        assert store.status.current.degraded.startswith("polling")
        undo(db, names)
        eventually(lambda: not store.status.current.degraded, "its log is used again")
        db.execute("INSERT INTO data VALUES ('last', '1')")
        recorder.wait_state({"new": b"2", "last": b"1"})
        again = Recorder(store, since=cursor, had=had)
        again.wait_ready()
        assert again.state == recorder.state


DECOYS = (
    *("concat(text, text, text, text)", "concat(text, text)", "unnest(text[])", "to_jsonb(text)"),
    *('concat_ws(text, oid, xid, "char")', "concat_ws(text, oid, name)", "starts_with(name, text)"),
    *("hashtextextended(text, int)", "convert_to(text, text)", "pg_relation_filenode(int)"),
    *("has_table_privilege(regclass, text)", "has_table_privilege(oid, name)"),
    *("regexp_replace(name, text, text)", "obj_description(oid, text)", "quote_ident(name)"),
    *("acldefault(text, oid)", "pg_advisory_xact_lock(int)", "pg_advisory_xact_lock(text)"),
    *("to_json(timestamp)", "jsonb_build_object(text, text)", "format(text, name, name, name)"),
)
"""Where a call of ours has arguments that PostgreSQL would convert, these fit better."""


@pytest.mark.parametrize("options", [{"history": True}, {"value": "*"}, {"mode": "poll"}])
def test_functions_that_others_made_are_not_called(postgres, db, options):
    for decoy in DECOYS:
        db.execute(
            f"CREATE FUNCTION {decoy} RETURNS text LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE 'called: {decoy}'; END $$"
        )
    db.execute("ALTER TABLE data ADD updated_at timestamp")
    value = {"value": "1"} if "value" in options else "1"
    with datastream.open(postgres, interval=0.05, **options) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        first = store.put("a/b", value)
        store.delete("a/b", expect=first.revision)
        store.put_many({"c": value, "d": value})
        recorder.wait(lambda r: "d" in r.state)
        assert store.snapshot("c", "d/").keys() == {"c"}
        Recorder(store, since=recorder.cursor).wait_ready()
    with closing(PostgresSource(postgres, mode="poll")) as source:
        source.uninstall()
