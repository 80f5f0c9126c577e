"""What is asked when a notification arrives is published by the thread that waits, or by a poll."""

from __future__ import annotations

import threading
from contextlib import suppress

import psycopg
import pytest

from datastream import Selection
from datastream.sources.postgres import PostgresSource, ahead
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


class Publisher:
    """Takes what a source publishes, or refuses it, and has the source not wait any longer."""

    def __init__(self, source):
        self.changes, self.asked = [], []
        self.takes = True
        self.then = source.wake

    def __call__(self, change, asked=None, /):
        self.changes.append(change)
        self.asked.append(asked)
        self.then()
        return self.takes

    @property
    def keys(self):
        return [{entry.key for entry in change.entries} for change in self.changes]


@pytest.fixture
def source(postgres, db):
    source = PostgresSource(postgres, mode="notify", libpq={"application_name": name(db)})
    yield source
    source.close()


@pytest.fixture
def publisher(source):
    publisher = Publisher(source)
    source.publish_to(publisher)
    return publisher


@pytest.fixture
def polled(monkeypatch):
    """The positions that polls have asked for."""
    polled = []
    read = ChangedRows.read

    def note(rows, db, selection, since):
        polled.append(since)
        return read(rows, db, selection, since)

    monkeypatch.setattr(ChangedRows, "read", note)
    return polled


@pytest.fixture
def notified(source, db, monkeypatch):
    """Run a statement while the source waits, which a poll has just preceded: its position."""
    prepare = Ahead.prepare
    to_run = []

    def run(ahead, statement):
        prepare(ahead, statement)
        # It is about to wait.
        while to_run:
            db.execute(to_run.pop())

    monkeypatch.setattr(Ahead, "prepare", run)

    def notified(*statements):
        for _ in range(2):
            source.wait(0)
        position = source.read(EVERYTHING, source.read(EVERYTHING, None).position).position
        to_run.extend(reversed(statements))
        source.wait(10)
        assert not to_run
        return position

    return notified


def put(key, value="1"):
    return f"INSERT INTO data VALUES ('{key}', '{value}')"


def changed(reading):
    assert not reading.complete
    return {entry.key for entry in reading.entries}


def test_it_is_published_and_begins_where_the_last_poll_ended(source, publisher, notified, polled):
    for number in range(3):
        position = notified(put(f"k{number}"))
        polled.clear()
        assert publisher.keys[number:] == [{f"k{number}"}]
        assert publisher.changes[-1].since == position
        assert publisher.asked[-1] is EVERYTHING
        end = publisher.changes[-1].position
        assert changed(source.read(EVERYTHING, end)) == set()
        assert polled == [end]


def test_it_waits_on_and_publishes_what_follows(source, db, publisher, notified, polled):
    def then():
        if len(publisher.changes) < 3:
            # Later than what is not asked about ahead, since it would be delivered still.
            threading.Timer(0.05, lambda: db.execute(put(f"k{len(publisher.changes)}"))).start()
        else:
            source.wake()

    publisher.then = then
    position = notified(put("k0"))
    assert publisher.keys == [{"k0"}, {"k1"}, {"k2"}]
    positions = [position, *(change.position for change in publisher.changes)]
    assert [change.since for change in publisher.changes] == positions[:-1]
    assert len(polled) == 2, "none since the wait began"


def test_commits_and_what_they_delete_come_as_they_are(source, publisher, notified):
    notified("INSERT INTO data VALUES ('a', '1'), ('b', '1'), ('c', NULL)")
    notified("DELETE FROM data WHERE key = 'a'")
    notified("UPDATE data SET value = NULL WHERE key = 'b'")
    notified("UPDATE data SET key = 'd' WHERE key = 'b'")
    state = {entry.key: entry for entry in source.read(EVERYTHING, None).entries}
    found = {}
    for change in publisher.changes:
        found |= {entry.key: entry for entry in change.entries}
    assert publisher.keys == [{"a", "b", "c"}, {"a"}, {"b"}, {"b", "d"}]
    assert {key: entry for key, entry in found.items() if entry.revision} == state
    assert {key for key, entry in found.items() if not entry.revision} == {"a", "b"}


def test_what_is_refused_is_read_by_the_poll(source, publisher, notified, polled):
    publisher.takes, publisher.then = False, lambda: None
    position = notified(put("a"))
    polled.clear()
    assert changed(source.read(EVERYTHING, position)) == {"a"}
    assert polled == [position]


def test_what_came_meanwhile_ends_the_wait(source, db, publisher, notified):
    publisher.then = lambda: db.execute(put("later"))
    notified(put("a"))
    assert publisher.keys == [{"a"}]
    assert changed(source.read(EVERYTHING, publisher.changes[0].position)) == {"later"}


def test_a_notification_of_nothing_is_waited_on_after(source, db, publisher, notified):
    (mark,) = db.execute(
        "SELECT replace(tgname, '_insert', '') FROM pg_trigger "
        "WHERE tgrelid = 'data'::regclass AND tgname LIKE '%insert'"
    ).fetchone()
    threading.Timer(0.05, lambda: db.execute(put("a"))).start()
    notified(f"SELECT pg_notify('{mark}', '')")
    assert publisher.keys == [{"a"}]


def test_an_answer_from_before_a_wake_is_none(source, db, publisher, notified, monkeypatch):
    """Who calls `refresh` wants what is there now, also what no trigger tells."""
    ask = Ahead.ask

    def woken(ahead, question):
        rows = ask(ahead, question)
        db.execute("ALTER TABLE data ALTER value TYPE text USING 'other'")
        source.wake()
        return rows

    monkeypatch.setattr(Ahead, "ask", woken)
    position = notified(put("a"))
    assert publisher.changes == []
    reading = source.read(EVERYTHING, position)
    assert reading.complete
    assert {entry.value for entry in reading.entries} == {b"other"}


def test_a_table_that_was_altered_is_read_anew(source, publisher, notified):
    position = notified("ALTER TABLE data ALTER value TYPE text USING 'other'", put("a"))
    assert publisher.changes == []
    assert source.read(EVERYTHING, position).complete


def test_an_answer_that_takes_long_is_left_to_the_poll(source, publisher, notified, monkeypatch):
    monkeypatch.setattr(ahead, "PATIENCE", 0.0)
    for number in range(3):
        position = notified(put(f"k{number}"))
        assert changed(source.read(EVERYTHING, position)) == {f"k{number}"}
    thread = threading.Thread(target=notified, args=(put("k3"),))
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    source.release()
    assert len(source.read(EVERYTHING, None).entries) == 4


def test_its_connection_is_lost(source, db, publisher, notified):
    publisher.then = lambda: db.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s",
        (name(db),),
    )
    with pytest.raises(psycopg.Error):
        notified(put("a"))
    position = publisher.changes[0].position
    assert changed(source.read(EVERYTHING, position)) == set()
    db.execute(put("later"))
    with suppress(psycopg.Error):
        source.wait(None)
    assert changed(source.read(EVERYTHING, position)) == {"later"}
