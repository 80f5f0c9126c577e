"""What any program commits to a PostgreSQL table, in any way, is seen."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import count

import psycopg
import pytest

import datastream
from datastream import Operation, Selection, SourceUnavailable, State
from datastream.sources.postgres import PostgresSource, listener
from datastream.sources.postgres import log as _log_module
from datastream.sources.postgres.ahead import Ahead
from datastream.sources.postgres.pool import KEPT
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT, Follower, Statuses, eventually
from tests.servers.postgres import psql

TABLE = "CREATE TABLE data (key text PRIMARY KEY, value text)"
INSTALLED = (
    "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema::regnamespace "
    "AND relname LIKE '%datastream%' UNION SELECT proname::text FROM pg_proc "
    "WHERE pronamespace = current_schema::regnamespace AND proname LIKE '%datastream%' "
    "UNION SELECT tgname::text FROM pg_trigger WHERE tgname LIKE '%datastream%' "
    "AND tgrelid = to_regclass('data')"
)


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@pytest.fixture
def make(postgres, db):
    opened = []

    def make(*statements, **options):
        for statement in statements:
            db.execute(statement)
        store = datastream.open(postgres, **{"mode": "notify"} | options)
        opened.append(store)
        return store, Follower(store)

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def source(postgres, db):
    db.execute(TABLE)
    source = PostgresSource(postgres)
    yield source
    source.close()


def state(db):
    rows = db.execute("SELECT key, value FROM data").fetchall()
    return {key: value.encode() for key, value in rows}


def test_every_kind_of_statement(make, db, postgres):
    _, follower = make(TABLE, "CREATE TABLE other (k text PRIMARY KEY, v text)")
    for statement in (
        "INSERT INTO data VALUES ('a', '1'), ('b', '1'), ('c', '1')",
        "INSERT INTO data VALUES ('a', '2'), ('d', '1') "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        "UPDATE data SET key = 'e' WHERE key = 'b'",
        "UPDATE data SET key = key || '2', value = 'x'",
        "WITH gone AS (DELETE FROM data WHERE key = 'a2' RETURNING *) "
        "INSERT INTO data SELECT 'from ' || key, value FROM gone",
        "INSERT INTO other VALUES ('c2', 'merged'), ('new', 'merged')",
        "MERGE INTO data USING other ON key = k WHEN MATCHED THEN UPDATE SET value = v "
        "WHEN NOT MATCHED THEN INSERT VALUES (k, v)",
        "DO $$ BEGIN INSERT INTO data VALUES ('do', '1'); "
        "BEGIN INSERT INTO data VALUES ('undone', '1'); RAISE 'x'; "
        "EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
        "DELETE FROM data WHERE key LIKE '%2'",
        "TRUNCATE data",
        "INSERT INTO data VALUES ('end', '1')",
    ):
        db.execute(statement)
        follower.wait_state(state(db))
    psql(postgres, "BEGIN; INSERT INTO data VALUES ('psql', '1'); COMMIT", "DELETE FROM data")
    follower.wait_state({})
    with db.cursor() as cursor, cursor.copy("COPY data FROM STDIN") as copy:
        for number in range(1000):
            copy.write_row((f"copied/{number}", str(number)))
    follower.wait_state(state(db))
    assert len(follower.state) == 1000


def test_what_foreign_keys_do(make, db):
    _, follower = make(
        "CREATE TABLE parent (id text PRIMARY KEY)",
        "CREATE TABLE data (key text PRIMARY KEY, value text REFERENCES parent "
        "ON DELETE CASCADE ON UPDATE CASCADE)",
        "INSERT INTO parent VALUES ('p'), ('q')",
    )
    db.execute("INSERT INTO data VALUES ('a', 'p'), ('b', 'q')")
    db.execute("UPDATE parent SET id = 'r' WHERE id = 'p'")
    follower.wait_state({"a": b"r", "b": b"q"})
    db.execute("DELETE FROM parent WHERE id = 'q'")
    follower.wait_state({"a": b"r"})


def test_writers_with_their_triggers_switched_off(make, db):
    """As replication and pg_restore do it."""
    _, follower = make(TABLE)
    db.execute("SET session_replication_role = replica")
    db.execute("INSERT INTO data VALUES ('a', '1')")
    follower.wait_state({"a": b"1"})


def test_a_transaction_left_open_while_later_ones_commit(make, db, postgres):
    store, _ = make(TABLE)
    recorder = Recorder(store)
    with psycopg.connect(postgres) as slow:
        slow.execute("INSERT INTO data VALUES ('slow/1', '1'), ('slow/2', '1')")
        for number in range(20):
            db.execute("INSERT INTO data VALUES (%s, '1')", (f"k{number}",))
        recorder.wait(lambda r: len(r.state) == 20)
        slow.execute("UPDATE data SET value = '2' WHERE key = 'slow/2'")
        db.execute("INSERT INTO data VALUES ('later', '1')")
        recorder.wait(lambda r: "later" in r.state)
        assert "slow/1" not in recorder.state
    recorder.wait(lambda r: "slow/1" in r.state)
    together = [b for b in recorder.batches if any(e.key == "slow/1" for e in b.entries)]
    assert {entry.key for entry in together[0].entries} >= {"slow/1", "slow/2"}
    db.execute("INSERT INTO data VALUES ('end', '1')")
    recorder.wait_state(state(db))


def test_a_transaction_is_one_batch(make, db):
    store, _ = make(TABLE)
    recorder = Recorder(store)
    for number in range(30):
        with db.transaction():
            for part in "abc":
                db.execute(
                    "INSERT INTO data VALUES (%s, %s) ON CONFLICT (key) "
                    "DO UPDATE SET value = excluded.value",
                    (part, str(number)),
                )
    recorder.wait_state(dict.fromkeys("abc", b"29"))
    for known in recorder.states[2:]:
        assert len(set(known.values())) == 1, "a transaction in part"


def test_what_changes_nothing_is_not_delivered(make, db):
    _, follower = make(TABLE, "INSERT INTO data VALUES ('a', '1')")
    db.execute("UPDATE data SET value = value")
    db.execute("INSERT INTO data VALUES ('x', '1')")
    db.execute("DELETE FROM data WHERE key = 'x'")
    db.execute("INSERT INTO data VALUES ('end', '1')")
    follower.wait_key("end", b"1")
    assert [entry.key for entry in follower.entries if entry.key == "a"] == ["a"]


def test_rolled_back(make, db):
    _, follower = make(TABLE)
    with db.transaction(force_rollback=True):
        db.execute("INSERT INTO data VALUES ('a', '1')")
    db.execute("INSERT INTO data VALUES ('b', '1')")
    follower.wait_state({"b": b"1"})
    assert {entry.key for entry in follower.entries} == {"b"}


def test_what_happened_before_a_wait_ends_it(source, db):
    """Also before it listened at all."""
    for _ in range(2):
        source.wait(0.01)
    source.release()
    for number in range(3):
        source.read(Selection(), None)
        db.execute("INSERT INTO data VALUES (%s, '1')", (f"k{number}",))
        thread = threading.Thread(target=source.wait, args=(None,), daemon=True)
        thread.start()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    source.wait(0)


def test_truncate_is_read_as_deletes(source, db):
    db.execute("INSERT INTO data VALUES ('a', '1'), ('b', '1')")
    position = source.read(Selection(), None).position
    db.execute("TRUNCATE data")
    reading = source.read(Selection(), position)
    assert not reading.complete
    assert {(entry.key, entry.operation) for entry in reading.entries} == {
        ("a", Operation.DELETE), ("b", Operation.DELETE)
    }  # fmt: skip
    position = reading.position
    db.execute("INSERT INTO data VALUES ('a', '1')")
    with db.transaction():
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        db.execute("TRUNCATE data")
    assert source.read(Selection(), position).complete, "not every key was to be seen"


def test_a_reader_older_than_the_pruning_gets_the_full_state(source, db, postgres, monkeypatch):
    monkeypatch.setattr(_log_module, "KEPT", 10)
    source.install()
    first = source.read(Selection(), None).position
    for number in range(30):
        db.execute("INSERT INTO data VALUES (%s, '1')", (f"k{number}",))
    recent = source.read(Selection(), None).position
    db.execute("INSERT INTO data VALUES ('new', '1')")
    assert len(source.read(Selection(), first).entries) == 31
    eventually(lambda: _prune(source) or _lines(db) < 20, "the log is cut")
    reading = source.read(Selection(), recent)
    assert not reading.complete
    assert [entry.key for entry in reading.entries] == ["new"]
    with psycopg.connect(postgres) as slow:
        slow.execute("INSERT INTO data VALUES ('slow', '1')")
        for number in range(30):
            db.execute("INSERT INTO data VALUES (%s, '1')", (f"l{number}",))
        meanwhile = source.read(Selection(), None).position
        # What an open transaction will say must not be cut off before it has.
        _prune(source)
        db.execute("INSERT INTO data VALUES ('newer', '1')")
    assert _lines(db) < 60
    assert source.read(Selection(), first).complete
    reading = source.read(Selection(), meanwhile)
    assert not reading.complete
    assert {entry.key for entry in reading.entries} == {"newer", "slow"}


def test_writers_prune_too(source, db, monkeypatch):
    """Also a log that nobody reads is bounded."""
    monkeypatch.setattr(_log_module, "KEPT", 10)
    monkeypatch.setattr(_log_module, "PRUNED_BY_WRITERS", 0)
    source.install()
    numbers = count()

    def write():
        db.execute("INSERT INTO data VALUES (%s, '1')", (f"k{next(numbers)}",))
        return next(numbers) > 50 and _lines(db) < 15

    eventually(write, "the log is cut")
    with db.transaction():
        db.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        db.execute("INSERT INTO data VALUES ('serializable', '1')")


def _log(db):
    return min((name for (name,) in db.execute(INSTALLED)), key=len)


def _lines(db):
    # Transactions of other tests hold back the cutting, for as long as they are open.
    return db.execute(f'SELECT count(*) FROM "{_log(db)}"').fetchone()[0]


def _prune(source):
    source.prune()


@pytest.mark.parametrize("change", [
    lambda p: p.replace(":", ":1", 1), lambda p: p[:-1] + ("0" if p[-1] != "0" else "1"),
    lambda p: "'; DROP TABLE data; --", lambda p: p + "\0", lambda p: p + "\ud800", lambda p: "",
    lambda p: p.upper(), lambda p: f"{p.split('/')[0]}/1:1:/0.0/{p.split('/')[-1]}",
    lambda p: "state:" + p,
])  # fmt: skip
def test_positions_that_were_made_up(source, db, change):
    db.execute("INSERT INTO data VALUES ('a', '1')")
    position = source.read(Selection(), None).position
    assert not source.read(Selection(), position).complete
    reading = source.read(Selection(), change(position))
    assert reading.complete
    assert [entry.key for entry in reading.entries] == ["a"]


def test_altered_tables(make, db):
    """The writers of a table do not suffer from what watches it, and nothing is missed."""
    store, follower = make(TABLE, "INSERT INTO data VALUES ('a', '1')", mode="", interval=0.05)
    db.execute("ALTER TABLE data ALTER value TYPE int USING value::int")
    follower.wait_key("a", b"1")
    db.execute("INSERT INTO data VALUES ('b', 2)")
    follower.wait_state({"a": b"1", "b": b"2"})
    assert store.entry("a").value_type == "int"
    db.execute("ALTER TABLE data RENAME key TO name")
    db.execute("INSERT INTO data VALUES ('c', 3)")
    db.execute("ALTER TABLE data RENAME name TO key")
    db.execute("INSERT INTO data VALUES ('d', 4)")
    follower.wait_state({"a": b"1", "b": b"2", "c": b"3", "d": b"4"})
    db.execute(f'DROP TABLE "{_log(db)}"')
    db.execute("INSERT INTO data VALUES ('e', 5)")
    assert store["e"] == 5
    store.refresh()
    follower.wait_key("e", b"5")


def test_a_change_that_is_published_without_a_poll_ends_a_passing_trouble(make, db, monkeypatch):
    waits, prepare = [], Ahead.prepare

    def prepared(ahead, statement):
        prepare(ahead, statement)
        waits.append(ahead)

    def away(key):
        raise SourceUnavailable("it is away")

    monkeypatch.setattr(Ahead, "prepare", prepared)
    store, follower = make(TABLE)
    statuses = Statuses(store)
    eventually(lambda: waits, "a wait that asks ahead")
    db.execute("INSERT INTO data VALUES ('a', '1')")
    follower.wait_key("a", b"1")
    eventually(lambda: len(waits) > 1, "it waits on")
    monkeypatch.setattr(store._core._source, "get", away)
    with pytest.raises(SourceUnavailable):
        store.get("a")
    assert store.status.current.state is State.STALE
    db.execute("INSERT INTO data VALUES ('b', '1')")
    follower.wait_key("b", b"1")
    statuses.wait(State.READY)


def test_nothing_is_left_behind(make, db, monkeypatch):
    listening, listen = set(), listener._listen

    def noting(session, channel):
        listen(session, channel)
        listening.add(session.db.info.backend_pid)

    monkeypatch.setattr(listener, "_listen", noting)
    # Other tests may run on the same server: only sessions of this schema count.
    sessions = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND application_name = 'only here'"
    )

    def found():
        return {pid for (pid,) in db.execute(sessions)}

    store, follower = make(TABLE, application_name="only here")
    store["a"] = "1"
    follower.wait_state({"a": b"1"})
    eventually(lambda: listening, "listens")
    db.execute("INSERT INTO data VALUES ('b', '1')")
    follower.wait_key("b", b"1")
    assert listening < found(), "reads and writes, and listens"
    assert len(found()) <= KEPT + 1
    follower.dispose()
    eventually(lambda: not listening & found(), "listens to nothing")
    again = Follower(store)
    db.execute("INSERT INTO data VALUES ('c', '1')")
    again.wait_key("c", b"1")
    store.close()
    eventually(lambda: not found(), "is gone")
    assert db.execute("SELECT pg_notification_queue_usage()").fetchone()[0] < 0.01


def test_two_processes_install_at_once(db, postgres):
    db.execute(TABLE)
    program = (
        "import sys, datastream; sys.stdin.readline(); "
        "store = datastream.open(sys.argv[1], mode='notify'); print(store.features); store.close()"
    )
    command = [sys.executable, "-c", program, postgres]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    programs = [subprocess.Popen(command, **pipes) for _ in range(3)]
    answers = [program.communicate("go\n", timeout=60)[0] for program in programs]
    assert all("LOG" in answer for answer in answers), answers


def test_partitions_are_polled(postgres, db):
    db.execute("CREATE TABLE data (key text PRIMARY KEY, value text) PARTITION BY HASH (key)")
    for part in (0, 1):
        db.execute(
            f"CREATE TABLE part{part} PARTITION OF data "
            f"FOR VALUES WITH (modulus 2, remainder {part})"
        )
    with datastream.open(postgres, interval=0.05) as store:
        follower = Follower(store)
        store["a"] = "1"
        store["b"] = "1"
        follower.wait_state({"a": b"1", "b": b"1"})
        db.execute("TRUNCATE part0")
        db.execute("UPDATE part1 SET value = '2'")
        follower.wait_state(state(db))


@pytest.mark.parametrize(
    ("statements", "transient"),
    [
        (["INSERT INTO data VALUES ('x', '1')", "DELETE FROM data WHERE key = 'x'"], {"x"}),
        (["DELETE FROM data WHERE key = 'a'"], set()),
        (["UPDATE data SET value = '2'", "DELETE FROM data WHERE key = 'a'"], set()),
        (["UPDATE data SET key = 'x'", "UPDATE data SET key = 'y'"], {"x"}),
        (["UPDATE data SET key = 'x'", "UPDATE data SET key = 'a'"], {"x"}),
        (["INSERT INTO data VALUES ('x', '1')", "TRUNCATE data"], {"x"}),
        (
            ["DELETE FROM data", "INSERT INTO data VALUES ('a', '2')", "DELETE FROM data"],
            set(),
        ),
        (
            ["INSERT INTO data SELECT 'x/' || n FROM generate_series(1, 2500) n",
             "INSERT INTO data VALUES ('x/1', '1'), ('a', '1') ON CONFLICT (key) DO UPDATE "
             "SET value = excluded.value", "DELETE FROM data"],
            {f"x/{n}" for n in range(1, 2501)},
        ),
        (
            ["BEGIN; INSERT INTO data VALUES ('x', '1'); SAVEPOINT s; DELETE FROM data; "
             "ROLLBACK TO s; COMMIT", "DELETE FROM data WHERE key = 'x'"],
            {"x"},
        ),
    ],
)  # fmt: skip
def test_keys_that_came_and_went_are_known_as_such(source, db, statements, transient):
    db.execute("INSERT INTO data VALUES ('a', '1')")
    position = source.read(Selection(), None).position
    for statement in statements:
        db.execute(statement)
    reading = source.read(Selection(), position)
    assert not reading.complete
    gone = {entry.key for entry in reading.entries if entry.operation is Operation.DELETE}
    assert reading.created & gone == transient
    assert reading.created - gone == state(db).keys() - {"a"}
    assert transient <= gone
    assert gone - transient == {"a"} - state(db).keys()


def test_a_log_of_an_older_form_is_replaced(source, db, postgres):
    before = source.read(Selection(), None).position
    db.execute(f"UPDATE \"{_log(db)}_state\" SET form = '1'")
    with datastream.open(postgres, mode="notify") as store:
        follower = Follower(store)
        db.execute("INSERT INTO data VALUES ('b', '1')")
        follower.wait_state({"b": b"1"})
    assert source.read(Selection(), before).complete


@pytest.mark.parametrize("statement", ["TRUNCATE", "DELETE FROM"])
def test_a_log_that_somebody_empties_tells_nothing_of_before(source, db, statement):
    before = source.read(Selection(), None).position
    db.execute("INSERT INTO data VALUES ('b', '1')")
    db.execute(f'{statement} "{_log(db)}"')
    assert source.read(Selection(), before).complete
