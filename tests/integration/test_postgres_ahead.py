"""What is asked when a notification arrives is the answer to the poll that follows, or none."""

from __future__ import annotations

import threading
from contextlib import suppress

import psycopg
import pytest

from datastream import Selection
from datastream.sources.postgres import PostgresSource
from datastream.sources.postgres.ahead import Ahead
from datastream.sources.postgres.changes import ChangedRows
from tests.integration.test_postgres_watch import TABLE

EVERYTHING = Selection()


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


def name(db):
    """Of the sessions of this test, on a server that others use too."""
    return db.execute("SELECT current_schema").fetchone()[0]


@pytest.fixture
def source(postgres, db):
    source = PostgresSource(postgres, mode="notify", libpq={"application_name": name(db)})
    yield source
    source.close()


@pytest.fixture
def asked(monkeypatch):
    """The positions that were asked for when the poll came."""
    asked = []
    read = ChangedRows.read

    def note(rows, db, selection, since):
        asked.append(since)
        return read(rows, db, selection, since)

    monkeypatch.setattr(ChangedRows, "read", note)
    return asked


@pytest.fixture
def notified(source, db, monkeypatch):
    """Write a row while the source waits: the position from before."""
    prepare = Ahead.prepare
    to_write = []

    def write(ahead, statement):
        prepare(ahead, statement)
        # It is about to wait.
        while to_write:
            db.execute("INSERT INTO data VALUES (%s, '1')", (to_write.pop(),))

    monkeypatch.setattr(Ahead, "prepare", write)

    def notified(number):
        for _ in range(2):
            source.wait(0)
        position = source.read(EVERYTHING, None).position
        to_write.append(f"k{number}")
        source.wait(10)
        assert not to_write
        return position

    return notified


def changed(reading):
    assert not reading.complete
    return {entry.key for entry in reading.entries}


def test_it_is_the_answer(source, notified, asked):
    for number in range(3):
        position = notified(number)
        asked.clear()
        assert changed(source.read(EVERYTHING, position)) == {f"k{number}"}
        assert asked == []


def test_what_came_meanwhile_ends_the_next_wait(source, db, notified):
    position = notified(0)
    db.execute("INSERT INTO data VALUES ('later', '1')")
    reading = source.read(EVERYTHING, position)
    assert "k0" in changed(reading)
    source.wait(None)
    later = source.read(EVERYTHING, reading.position)
    assert changed(reading) | changed(later) == {"k0", "later"}


def test_another_question_is_answered_in_its_turn(source, notified, asked):
    first = notified(0)
    assert source.read(EVERYTHING, None).complete
    second = notified(1)
    asked.clear()
    assert changed(source.read(EVERYTHING, first)) == {"k0", "k1"}
    assert changed(source.read(EVERYTHING, second)) == {"k1"}
    assert asked == [first, second]


def test_an_answer_from_before_a_wake_is_none(source, db, notified):
    """Who calls `refresh` wants what is there now, also what no trigger tells."""
    position = notified(0)
    db.execute("ALTER TABLE data ALTER value TYPE text USING 'other'")
    source.wake()
    reading = source.read(EVERYTHING, position)
    assert reading.complete
    assert {entry.value for entry in reading.entries} == {b"other"}


def test_nobody_takes_it(source, notified):
    for number in range(3):
        notified(number)
        source.wait(0)
    thread = threading.Thread(target=source.wait, args=(0,))
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    notified(3)
    source.release()
    assert len(source.read(EVERYTHING, None).entries) == 4


def test_its_connection_is_lost(source, db, notified):
    position = notified(0)
    db.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s",
        (name(db),),
    )
    assert changed(source.read(EVERYTHING, position)) == {"k0"}
    db.execute("INSERT INTO data VALUES ('later', '1')")
    with suppress(psycopg.Error):
        source.wait(None)
    assert changed(source.read(EVERYTHING, position)) == {"k0", "later"}
