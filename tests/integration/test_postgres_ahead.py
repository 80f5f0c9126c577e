"""What is asked when a notification arrives is published by the thread that waits, or by a poll."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import psycopg
import pytest

from datastream import Selection
from datastream.sources.postgres import PostgresSource, ahead
from datastream.sources.postgres.ahead import Ahead
from datastream.sources.postgres.changes import ChangedRows
from datastream.sources.postgres.glance import LINES
from datastream.sources.postgres.log import Names
from tests.integration._programs.tools import eventually
from tests.integration.test_postgres_watch import TABLE

EVERYTHING = Selection()


@pytest.fixture
def db(postgres, request):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(getattr(request, "param", TABLE))
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
    """Run statements and calls as the source is about to wait, just after a poll: its position."""
    question = ChangedRows.question
    to_run = []

    def run(rows, session, since):
        found = question(rows, session, since)
        # It is about to wait.
        while to_run:
            action = to_run.pop()
            action() if callable(action) else db.execute(action)
        return found

    monkeypatch.setattr(ChangedRows, "question", run)

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


@pytest.fixture
def installed(source, db):
    """Names of what is installed, for statements."""
    (mark,) = db.execute(
        "SELECT replace(tgname, '_insert', '') FROM pg_trigger "
        "WHERE tgrelid = 'data'::regclass AND tgname LIKE '%insert'"
    ).fetchone()
    return {**Names.marked(name(db), mark)._asdict(), "schema": name(db)}


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


def test_a_notification_of_nothing_is_waited_on_after(db, publisher, notified, installed):
    later = threading.Timer(0.05, lambda: db.execute(put("a")))
    notified(f"SELECT pg_notify('{installed['channel']}', '')", later.start)
    assert publisher.keys == [{"a"}]


def test_an_answer_from_before_a_wake_is_none(source, db, publisher, notified, monkeypatch):
    """Who calls `refresh` wants what is there now, also what no trigger tells."""
    notified(put("before"))
    ask = Ahead.ask

    def woken(ahead, question):
        rows = ask(ahead, question)
        db.execute("ALTER TABLE data ALTER value TYPE text USING 'other'")
        source.wake()
        return rows

    monkeypatch.setattr(Ahead, "ask", woken)
    position = notified(put("a"))
    assert publisher.keys == [{"before"}]
    reading = source.read(EVERYTHING, position)
    assert reading.complete
    assert {entry.value for entry in reading.entries} == {b"other"}


def test_a_table_that_was_altered_is_read_anew(source, publisher, notified):
    position = notified("ALTER TABLE data ALTER value TYPE text USING 'other'", put("a"))
    assert publisher.changes == []
    assert source.read(EVERYTHING, position).complete


@pytest.mark.parametrize(
    "statements",
    [
        "ALTER TABLE data RENAME value TO before; ALTER TABLE data ADD value text",
        "ALTER TABLE data SET UNLOGGED",
        "ALTER TABLE data DROP CONSTRAINT data_pkey",
        "CREATE TABLE child () INHERITS (data)",
        "CREATE TABLE parent (key text, value text); ALTER TABLE data INHERIT parent",
        "ALTER TABLE data DISABLE TRIGGER {channel}_delete",
        "ALTER TABLE data ENABLE TRIGGER {channel}_delete",
        "DROP TRIGGER {channel}_delete ON data",
        "ALTER FUNCTION {record} SET work_mem = '5MB'",
        "CREATE OR REPLACE FUNCTION {record} RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        "'BEGIN NOTIFY {channel};RETURN NULL;END'",
        "ALTER FUNCTION {record} OWNER TO pg_monitor",
        "GRANT SELECT ON {log} TO PUBLIC",
        "GRANT USAGE ON SCHEMA {schema} TO PUBLIC",
        "CREATE SUBSCRIPTION {schema} CONNECTION 'dbname=x' PUBLICATION x "
        "WITH (connect = false, slot_name = NONE); INSERT INTO pg_subscription_rel "
        "SELECT oid, 'data'::regclass, 'r' FROM pg_subscription WHERE subname = '{schema}'",
        "UPDATE {state} SET epoch = 'another'",
        "INSERT INTO {state} SELECT * FROM {state}",
        "INSERT INTO {state} SELECT form, relation, alone, 'another' FROM {state}",
        "DELETE FROM {state}",
        "DELETE FROM {log}",
        "TRUNCATE {log}",
    ],
)
def test_no_answer_counts_once_the_log_may_not_tell_all(
    source, db, publisher, notified, installed, statements
):
    notified(put("a"))
    assert publisher.keys == [{"a"}]
    db.execute("SET allow_system_table_mods = on")
    try:
        notified(*statements.format(**installed).split("; "), put("b"))
    finally:
        db.execute(f"DROP SUBSCRIPTION IF EXISTS {installed['schema']}")
    assert publisher.keys == [{"a"}]


def test_nor_where_another_table_has_the_name(source, publisher, notified):
    notified(
        "ALTER TABLE data RENAME TO old", f"{TABLE}", put("b"), put("b").replace("data", "old")
    )
    assert publisher.changes == []
    assert {entry.key for entry in source.read(EVERYTHING, None).entries} == {"b"}


@pytest.mark.parametrize(
    ("db", "statement"),
    [
        (
            "CREATE TYPE mood AS ENUM ('1', 'ok'); CREATE TABLE data (key text PRIMARY KEY, "
            "value mood)",
            "ALTER TYPE mood RENAME VALUE 'ok' TO 'well'",
        ),
        (
            "CREATE TYPE pair AS (one int); CREATE TABLE data (key text PRIMARY KEY, value pair)",
            "ALTER TYPE pair ADD ATTRIBUTE two int",
        ),
    ],
    indirect=["db"],
)
def test_nor_where_a_type_was_altered(publisher, notified, statement):
    notified(put("a", "1").replace("'1'", "NULL"))
    notified(statement, put("b", "1").replace("'1'", "NULL"))
    assert publisher.keys == [{"a"}]


@pytest.mark.parametrize(
    "decoy",
    [
        "CREATE FUNCTION row_security_active(int) RETURNS bool LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'called'; END $$",
        "CREATE FUNCTION same(oid, int) RETURNS bool LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'called'; END $$; "
        "CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = int, FUNCTION = same)",
        "CREATE FUNCTION same(text[], text[]) RETURNS bool LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'called'; END $$; "
        "CREATE OPERATOR = (LEFTARG = text[], RIGHTARG = text[], FUNCTION = same)",
    ],
)
@pytest.mark.parametrize(
    "db",
    ["CREATE TYPE mood AS ENUM ('1'); CREATE TABLE data (key text PRIMARY KEY, value mood)"],
    indirect=True,
)
def test_what_others_made_is_not_called(db, publisher, notified, decoy):
    db.execute(decoy)
    notified(put("a"))
    assert publisher.keys == [{"a"}]


def test_what_is_analysed_anew_is_trusted_after_a_poll(source, publisher, notified, polled):
    notified(put("a"))
    position = notified("CREATE INDEX ON data (value)", put("b"))
    assert changed(source.read(EVERYTHING, position)) == {"b"}
    notified(put("c"))
    assert publisher.keys == [{"a"}, {"c"}]


def test_more_keys_than_it_asks_for_are_polled(source, publisher, notified):
    values = ", ".join(f"('k{number}', '1')" for number in range(LINES))
    position = notified(f"INSERT INTO data VALUES {values}")
    assert publisher.changes == []
    assert len(changed(source.read(EVERYTHING, position))) == LINES
    # The lines of the last transaction are looked at again.
    notified(put("one"))
    notified(put("two"))
    assert publisher.keys == [{"two"}]


def test_a_transaction_that_began_earlier_commits_later(postgres, publisher, notified, db):
    with psycopg.connect(postgres) as early:
        early.execute(put("early"))
        notified(put("late"))
        assert publisher.keys == [{"late"}]
        notified(early.commit)
        assert publisher.keys == [{"late"}, {"early"}]
        early.execute(put("both"))
        notified("BEGIN", put("more"), "UPDATE data SET value = '2' WHERE key = 'more'", "COMMIT")
    assert publisher.keys[2:] == [{"more"}]


def run_while_waiting(source, db, *statements):
    """As `notified`, for any source."""
    for _ in range(2):
        source.wait(0)
    source.read(EVERYTHING, None)
    source.wait(0.1)
    timer = threading.Timer(0.05, lambda: [db.execute(text) for text in statements])
    timer.start()
    source.wait(10)
    timer.join()


def test_nor_where_another_schema_comes_first(postgres, db, installed):
    schema = name(db)
    first = f"{schema}_first"
    url = f"{postgres},{first}".replace(f"{schema},{first}", f"{first},{schema}")
    db.execute(f"CREATE SCHEMA {first}")
    try:
        with closing(PostgresSource(url)) as reader:
            told = Publisher(reader)
            reader.publish_to(told)
            run_while_waiting(reader, db, put("a"))
            assert told.keys == [{"a"}]
            comes = f"CREATE TABLE {first}.data (LIKE data INCLUDING ALL)"
            run_while_waiting(reader, db, comes, put("b").replace("data", f"{schema}.data"))
            assert told.keys == [{"a"}]
            assert reader.read(EVERYTHING, None).entries == []
    finally:
        db.execute(f"DROP SCHEMA {first} CASCADE")


def test_a_role_loses_the_right_to_see_all_rows(postgres, db, publisher, installed):
    role, url = f"r_{name(db)}", f"{postgres}&user=r_{name(db)}"
    db.execute(f"CREATE ROLE {role} LOGIN BYPASSRLS; GRANT USAGE ON SCHEMA {name(db)} TO {role}")
    try:
        for table in ("data", installed["log"], installed["state"]):
            db.execute(f"GRANT SELECT ON {table} TO {role}")
        db.execute("ALTER TABLE data ENABLE ROW LEVEL SECURITY")
        with closing(PostgresSource(url)) as reader:
            told = Publisher(reader)
            reader.publish_to(told)
            run_while_waiting(reader, db, put("a"))
            assert told.keys == [{"a"}]
            run_while_waiting(reader, db, f"ALTER ROLE {role} NOBYPASSRLS", put("secret"))
            assert told.keys == [{"a"}]
            assert reader.read(EVERYTHING, None).entries == []
    finally:
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


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


WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'data'::regclass"
LOCK_LOG = "SET LOCAL lock_timeout = 1; LOCK TABLE {log}, {state}"


def test_who_waits_for_the_table_does_not_hold_the_log(postgres, db, source, installed):
    """So who alters both waits for readers, and they for him, but neither for the other."""
    db.execute(put("k"))
    position = source.read(EVERYTHING, None).position
    with ThreadPoolExecutor(1) as threads, psycopg.connect(postgres) as other:
        # As it comes, prepared, and with a plan that is kept.
        for since in [None, position] * 3:
            other.execute("LOCK TABLE data")
            reading = threads.submit(source.read, EVERYTHING, since)
            eventually(lambda: db.execute(WAITING).fetchone() == (1,), "it waits for the table")
            other.execute(LOCK_LOG.format(**installed))
            other.rollback()
            assert len(reading.result().entries) == (0 if since else 1)


def test_nor_does_who_asks_ahead(postgres, db, publisher, notified, installed):
    locked = []
    with ThreadPoolExecutor(1) as threads, psycopg.connect(postgres) as other:

        def lock_log():
            eventually(lambda: db.execute(WAITING).fetchone() == (1,), "it waits for the table")
            try:
                other.execute(LOCK_LOG.format(**installed))
            finally:
                other.rollback()

        def lock():
            other.execute("LOCK TABLE data")
            locked.append(threads.submit(lock_log))

        notified(put("a"), lock)
        locked[0].result()
    assert publisher.keys == [{"a"}]


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
