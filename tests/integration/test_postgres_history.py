"""What PostgreSQL keys held before, where it was asked to be kept."""

from __future__ import annotations

import psycopg
import pytest

import datastream
from datastream import Operation, Unsupported
from datastream.source import Feature
from datastream.sources.postgres import PostgresSource
from datastream.sources.postgres import history as _history
from datastream.testing import Recorder

TABLE = (
    "CREATE TABLE data (key text PRIMARY KEY, value bytea, value_type text, updated_at timestamptz)"
)


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


def past(store, key):
    return [
        None if revision.entry.operation is Operation.DELETE else revision.entry.value
        for revision in store.history(key)
    ]


def test_every_change_newest_first(postgres, db, monkeypatch):
    monkeypatch.setattr(_history, "CHUNK", 3)
    with datastream.open(postgres, history=True) as store:
        entries = [store.put("k", number) for number in range(10)]
        store.put("k", 9)
        db.execute("UPDATE data SET value = value")
        store.put("other", 1)
        revisions = list(store.history("k"))
        assert [revision.entry for revision in revisions] == entries[::-1]
        assert revisions[0].author == db.info.user
        del store["k"]
        db.execute("INSERT INTO data VALUES ('k', 'new', 'str')")
        db.execute("UPDATE data SET key = 'moved' WHERE key = 'k'")
        assert past(store, "k")[:4] == [None, b"new", None, b"9"]
        assert past(store, "moved") == [b"new"]
        db.execute("TRUNCATE data")
        assert past(store, "moved") == [None, b"new"]
        assert past(store, "never") == []


def test_what_was_there_before(postgres, db):
    db.execute("INSERT INTO data VALUES ('old', '1', 'int')")
    with datastream.open(postgres, history=True) as store:
        assert past(store, "old") == [b"1"]


def test_only_where_it_was_installed(postgres, db):
    with datastream.open(postgres) as store, pytest.raises(Unsupported):
        store.history("k")
    with datastream.open(postgres, history=True) as store:
        store["k"] = 1
    with datastream.open(postgres) as store:
        assert Feature.HISTORY in store.features
        assert past(store, "k") == [b"1"]
    with datastream.open(postgres, mode="poll", history=True) as store:
        assert Feature.HISTORY not in store.features


def kept(db):
    """The table of the past, quoted."""
    return db.execute(
        "SELECT quote_ident(relname) FROM pg_class WHERE relname LIKE '%_history' "
        "AND relnamespace = current_schema::regnamespace"
    ).fetchone()[0]


def test_writers_go_on_when_somebody_drops_it(postgres, db):
    with datastream.open(postgres, history=True) as store:
        recorder = Recorder(store)
        db.execute(f"DROP TABLE {kept(db)}")
        db.execute("INSERT INTO data VALUES ('k', '1', 'int')")
        recorder.wait_state({"k": b"1"})
    with datastream.open(postgres, history=True) as store:
        store["k"] = 2
        assert past(store, "k") == [b"2"], "it begins anew"


def test_numbers_that_come_again_stop_no_writer(postgres, db):
    """As after a dump of the data was loaded: that sets the sequence back."""
    with datastream.open(postgres, history=True) as store:
        store["k"] = 1
        db.execute(f"ALTER TABLE {kept(db)} ALTER id RESTART")
        db.execute("INSERT INTO data VALUES ('other', '1', 'int')")
        assert past(store, "other") == [b"1"]


def test_of_a_table_that_was_renamed(postgres, db):
    if db.info.server_version < 180000:
        pytest.skip("needs PostgreSQL 18, the first with virtual generated columns")
    db.execute("ALTER TABLE data DROP value, ADD value text GENERATED ALWAYS AS (key) VIRTUAL")
    with datastream.open(postgres, history=True) as store:
        db.execute("ALTER TABLE data RENAME TO away; INSERT INTO away VALUES ('k')")
        db.execute("ALTER TABLE away RENAME TO data")
        assert past(store, "k") == [b"k"]


@pytest.mark.parametrize("limit", [{"history_rows": 5}, {"history_days": 1.0}])
def test_it_is_bounded(postgres, db, limit):
    with datastream.open(postgres, history=True, **limit) as store:
        for number in range(20):
            store["k"] = number
        db.execute(f"UPDATE {kept(db)} SET at = at - interval '2 days' WHERE id <= 15")
        source = PostgresSource(postgres)
        source.prune()
        source.close()
        assert past(store, "k") == [b"%d" % number for number in range(19, 14, -1)]
