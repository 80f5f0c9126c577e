"""Rows that cannot be read harm no others: they are left out, and named."""

from __future__ import annotations

import psycopg
import pytest

import datastream
from datastream import DatastreamError, State, Unreadable
from datastream.sources.postgres.table import RowTable
from tests.integration._programs.tools import Follower, Statuses, eventually
from tests.servers.postgres import fresh_database

VIEW = (
    "CREATE TABLE numbers (key text PRIMARY KEY, n text); CREATE VIEW data AS "
    "SELECT key, 12 / n::int AS value FROM numbers"
)


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


def test_rows_for_which_a_view_fails_are_left_out_and_named(postgres, db, caplog):
    db.execute(VIEW)
    db.execute("INSERT INTO numbers SELECT 'k/' || n, n FROM generate_series(1, 50) n")
    db.execute("INSERT INTO numbers VALUES ('zero', '0'), ('text', 'secret')")
    with datastream.open(postgres, interval=0.02) as store:
        statuses, follower = Statuses(store), Follower(store)
        follower.wait(lambda state: len(state) == 50)
        degraded = statuses.wait(State.READY).degraded
        assert "'text' (invalid input syntax for type integer), 'zero' (division by" in degraded
        assert "secret" not in degraded + caplog.text
        assert caplog.text.count("'zero' cannot be read and is left out") == 1
        assert len(store) == len(store.snapshot()) == 50
        assert store.snapshot("zero", "k/") == store.snapshot("k/")
        with pytest.raises(Unreadable, match=r"'zero': division by zero"):
            store.entry("zero")
        # One becomes readable, another one not: that is no delete.
        db.execute("UPDATE numbers SET n = '3' WHERE key = 'zero'")
        follower.wait_key("zero", b"4")
        db.execute("UPDATE numbers SET n = '0' WHERE key = 'k/1'")
        eventually(lambda: "k/1" in store.status.current.degraded, "it is named")
        db.execute("DELETE FROM numbers WHERE key IN ('text', 'k/2')")
        follower.wait_key("k/2", None)
        assert follower.state["k/1"] == b"12"
        db.execute("UPDATE numbers SET n = '4' WHERE key = 'k/1'")
        follower.wait_key("k/1", b"3")
        eventually(lambda: "cannot be read" not in store.status.current.degraded, "all is well")
        assert follower.state == {k: e.value for k, e in store.snapshot().items()}


@pytest.mark.parametrize(
    "view",
    [
        # Worked out before it is known which rows are wanted.
        "WITH m AS MATERIALIZED (SELECT key, 12 / n::int AS value FROM numbers) SELECT * FROM m",
        "SELECT key, n AS value FROM numbers WHERE 12 / n::int > 0",
    ],
)
def test_where_the_rows_cannot_be_told_all_is_kept(postgres, db, view):
    db.execute(f"{VIEW}; CREATE OR REPLACE VIEW other AS {view}")
    db.execute("INSERT INTO numbers VALUES ('a', '3')")
    with datastream.open(postgres, table="other", interval=0.02) as store:
        statuses, follower = Statuses(store), Follower(store)
        follower.wait(lambda state: "a" in state)
        db.execute("INSERT INTO numbers VALUES ('zero', '0')")
        error = str(statuses.wait(State.FAILED).error)
        assert "division by zero; a row" in error
        assert "written" not in error
        with pytest.raises(DatastreamError, match="division by zero"):
            store.snapshot()
        assert len(follower.state) == 1
        db.execute("DELETE FROM numbers WHERE key = 'zero'")
        statuses.wait(State.READY)


def test_a_row_of_a_table_with_triggers_that_is_broken(postgres, db):
    db.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad')")
    db.execute("CREATE TABLE data (tenant text, id int, value mood, PRIMARY KEY (tenant, id))")
    db.execute("INSERT INTO data VALUES ('t', 1, 'ok'), ('t', 2, 'sad'), ('t', 3, 'glad')")
    with datastream.open(postgres, key="tenant,id") as store:
        follower = Follower(store)
        follower.wait(lambda state: len(state) == 3)
        # As people get rid of a label, who find that there is no statement for it.
        db.execute("DELETE FROM pg_enum WHERE enumlabel = 'sad' AND enumtypid = 'mood'::regtype")
        store.refresh()
        eventually(lambda: "'t/2' (invalid internal" in store.status.current.degraded, "named")
        db.execute("INSERT INTO data VALUES ('t', 4, 'ok')")
        follower.wait_key("t/4", b"ok")
        assert store.snapshot().keys() == {"t/1", "t/3", "t/4"}
        assert follower.state["t/2"] == b"sad"
        for put in (
            lambda: store.put("t/2", "ok"),
            lambda: store.put_many({"t/2": "ok", "t/5": "ok"}),
        ):
            with pytest.raises(Unreadable, match="'t/2'"):
                put()
        db.execute("UPDATE data SET value = 'glad' WHERE id = 2")
        follower.wait_key("t/2", b"glad")
        eventually(lambda: store.status.current.degraded == "", "all is well")
        db.execute("DELETE FROM pg_enum WHERE enumlabel = 'glad' AND enumtypid = 'mood'::regtype")
        assert store.snapshot().keys() == {"t/1", "t/4"}
        store.delete("t/2")
        follower.wait_key("t/2", None)
        eventually(lambda: "t/2" not in store.status.current.degraded, "it is forgotten")


def test_a_broken_row_that_goes_while_the_others_are_read(postgres, db, monkeypatch):
    db.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value mood)")
    db.execute("INSERT INTO data VALUES ('a', 'ok'), ('b', 'sad')")
    rows_where = RowTable.rows_where

    def delete_first(self, session, head, condition):
        if "<> ALL" in condition.text:
            db.execute("DELETE FROM data WHERE key = 'b'")
        return rows_where(self, session, head, condition)

    monkeypatch.setattr(RowTable, "rows_where", delete_first)
    with datastream.open(postgres) as store:
        follower = Follower(store)
        follower.wait_state({"a": b"ok", "b": b"sad"})
        db.execute("DELETE FROM pg_enum WHERE enumlabel = 'sad' AND enumtypid = 'mood'::regtype")
        store.refresh()
        follower.wait_state({"a": b"ok"})


def test_text_that_is_no_utf_8_in_a_database_without_encoding(postgres_server, stack):
    url = stack.enter_context(fresh_database(postgres_server, "SQL_ASCII"))
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE TABLE data (key text PRIMARY KEY, value text)")
        with datastream.open(url) as store:
            follower = Follower(store)
            db.execute("INSERT INTO data VALUES ('bad', E'\\xff'), ('é', 'ñ')".encode())
            follower.wait_state({"é": "ñ".encode()})
            assert "'bad' (invalid byte sequence" in store.status.current.degraded
            with pytest.raises(Unreadable, match="'bad'"):
                store.entry("bad")
            db.execute("UPDATE data SET value = '1' WHERE key = 'bad'")
            follower.wait_key("bad", b"1")


def test_a_materialized_view_that_is_empty_until_it_is_refreshed(postgres, db):
    db.execute("CREATE TABLE numbers (key text PRIMARY KEY, value text)")
    db.execute("INSERT INTO numbers VALUES ('a', '1')")
    db.execute("CREATE MATERIALIZED VIEW data AS SELECT * FROM numbers")
    with datastream.open(postgres, interval=0.02) as store:
        statuses, follower = Statuses(store), Follower(store)
        follower.wait_state({"a": b"1"})
        db.execute("REFRESH MATERIALIZED VIEW data WITH NO DATA")
        statuses.wait(State.STALE)
        assert follower.state == {"a": b"1"}
        db.execute("UPDATE numbers SET value = '2'")
        db.execute("REFRESH MATERIALIZED VIEW data")
        follower.wait_state({"a": b"2"})
        assert State.FAILED not in statuses.states
