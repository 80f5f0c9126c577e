"""Many threads on one PostgreSQL source: nobody waits for another's I/O, and little is kept."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psutil
import psycopg
import pytest

from datastream.entry import Operation
from datastream.errors import DatastreamError, RevisionConflict, SourceUnavailable, StoreClosed
from datastream.selection import Selection
from datastream.source import Write
from datastream.sources.postgres import PostgresSource
from datastream.sources.postgres import access as _access
from datastream.sources.postgres import pool as _pool
from datastream.sources.postgres.catalogue import Inspector
from datastream.sources.postgres.connection import Connector
from datastream.sources.postgres.log import _lock
from datastream.sources.postgres.options import parameters
from tests.servers.postgres import Server

# Each test presses for seconds.
pytestmark = pytest.mark.chaos

TABLE = (
    "CREATE TABLE data (key text PRIMARY KEY, value bytea, value_type text, updated_at timestamptz)"
)
SOON = 8.0
"""Seconds within which a call that waits for nobody returns, on a busy machine."""
MOST = sum(_pool.LIMITS.values()) + 1
"""Connections a source may have at a time, the listener's included."""
EVERYTHING = Selection()


@pytest.fixture(autouse=True)
def switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


@pytest.fixture
def name(db):
    return db.execute("SELECT current_schema").fetchone()[0]


@pytest.fixture
def open_source(postgres, db, name):
    """Opens sources whose connections `connections` counts."""
    with ExitStack() as stack:

        def open_source(**options):
            source = PostgresSource(
                postgres, libpq={"application_name": name} | options.pop("libpq", {}), **options
            )
            stack.callback(source.close)
            return source

        yield open_source


@pytest.fixture
def source(open_source):
    return open_source()


@pytest.fixture
def connections(db, name):
    def count():
        return db.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (name,)
        ).fetchone()[0]

    return count


@contextmanager
def running(*actions, workers=None):
    """Call each action over and over in a thread of its own; what it raises is raised here."""
    stop, problems = threading.Event(), []

    def repeat(action):
        while not stop.is_set():
            try:
                action()
            except Exception as error:
                problems.append(error)
                stop.set()

    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    if problems:
        raise problems[0]


@contextmanager
def locked_row(url, key):
    with psycopg.connect(url) as other:
        other.execute("UPDATE data SET value = 'locked' WHERE key = %s", (key,))
        yield
        other.rollback()


def put(source, key, value=b"1", **more):
    return source.write([Write(key, value, "bytes", **more)])[0]


def until(condition, what, timeout=30.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


def seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class Poller:
    """Follows a source as the store does, and knows the state."""

    def __init__(self, source):
        self.source = source
        reading = source.read(EVERYTHING, None)
        self.position = reading.position
        self.state = {entry.key: entry.value for entry in reading.entries}

    def __call__(self):
        reading = self.source.read(EVERYTHING, self.position)
        if reading.complete:
            self.state.clear()
        for entry in reading.entries:
            if entry.operation is Operation.DELETE:
                self.state.pop(entry.key, None)
            else:
                self.state[entry.key] = entry.value
        self.position = reading.position
        self.source.wait(0.05)


# --- traffic ---


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"mode": "poll", "interval": 0.02}, marks=pytest.mark.chaos)]
)
def test_fifty_threads_mix_everything(open_source, connections, db, options):
    source = open_source(**options)
    poller, chance = Poller(source), random.Random(7)
    counts = []

    def gets():
        key = f"k{chance.randrange(20)}"
        entry = source.get(key)
        assert entry is None or entry.key == key

    def puts():
        put(source, f"k{chance.randrange(20)}", b"%d" % chance.randrange(1000))

    def batches():
        value = b"%d" % chance.randrange(1000)
        source.write([Write(f"pair/{half}", value, "bytes") for half in "ab"])

    def snapshots():
        entries = source.read(Selection(prefixes=frozenset({"pair/"})), None).entries
        assert len({entry.value for entry in entries}) <= 1, "a transaction in part"

    def lists():
        source.capabilities()

    def resumes():
        source.read(EVERYTHING, poller.position)
        source.wake()

    others = [gets] * 20 + [puts] * 12 + [batches] * 6 + [snapshots] * 4 + [lists] * 4
    with running(poller, *others, *[resumes] * 3):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            counts.append(connections())
            time.sleep(0.1)
    assert max(counts) <= MOST
    poller()
    poller()
    assert poller.state == dict(db.execute("SELECT key, value FROM data").fetchall())


def test_connections_beyond_few_are_closed_when_idle(source, connections, monkeypatch):
    monkeypatch.setattr(_pool, "IDLE", 0.2)
    with running(*[lambda: source.get("k")] * 8, *[lambda: put(source, "k")] * 8):
        until(lambda: connections() > _pool.KEPT, "a burst makes more")
    until(lambda: connections() <= _pool.KEPT, "and afterwards they are closed")
    assert put(source, "a") == source.get("a")
    until(lambda: not _threads("datastream-postgres"), "no thread stays")


def test_one_caller_needs_one_connection(source, connections):
    for number in range(50):
        entry = put(source, "k", b"%d" % number)
        assert source.get("k") == entry
        source.read(EVERYTHING, None)
    assert connections() == 1


def test_a_get_is_one_statement(source, monkeypatch):
    put(source, "k")
    asked = []
    execute = psycopg.RawCursor.execute
    monkeypatch.setattr(
        psycopg.RawCursor,
        "execute",
        lambda cursor, query, *more, **options: (
            asked.append(query) or execute(cursor, query, *more, **options)
        ),
    )
    assert source.get("k").value == b"1"
    assert source.get("none") is None
    assert len(asked) == 2


def test_compare_and_set_counts_every_increment(source):
    put(source, "n", b"0")

    def increment():
        while True:
            entry = source.get("n")
            try:
                put(source, "n", b"%d" % (int(entry.value) + 1), expect=entry.revision)
            except RevisionConflict:
                continue
            return

    with ThreadPoolExecutor(16) as threads:
        for future in [threads.submit(increment) for _ in range(200)]:
            future.result()
    assert source.get("n").value == b"200"


# --- waiting ---


def test_a_locked_row_holds_up_one_put_and_nobody_else(source, postgres, db):
    db.execute("INSERT INTO data VALUES ('locked', '1'), ('free', '1')")
    poller = Poller(source)
    with ThreadPoolExecutor(1) as threads, locked_row(postgres, "locked"):
        waiting = threads.submit(put, source, "locked", b"2")
        until(lambda: _waits_for_lock(db), "the put waits")
        for number in range(20):
            value = b"%d" % number
            assert seconds(lambda value=value: put(source, "free", value)) < SOON
            assert seconds(lambda: source.get("locked")) < SOON
            assert seconds(poller) < SOON
            assert seconds(source.capabilities) < SOON
        assert poller.state == {"locked": b"1", "free": b"19"}
        assert not waiting.done()
    assert waiting.result().value == b"2"


def test_a_slow_read_holds_up_nobody(open_source, db, postgres):
    db.execute("INSERT INTO data VALUES ('a', '1')")
    # Other tests use the same database.
    lock = random.getrandbits(62)
    db.execute(
        "CREATE VIEW slow AS SELECT key, value, value_type, updated_at FROM data "
        f"WHERE key = 'a' OR pg_advisory_xact_lock_shared({lock}) IS NOT NULL"
    )
    db.execute("INSERT INTO data VALUES ('b', '1')")
    slow = open_source(table="slow", mode="poll")
    with ThreadPoolExecutor(2) as threads, psycopg.connect(postgres) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (lock,))
        polls = [threads.submit(slow.read, EVERYTHING, since) for since in (None, "state:0")]
        until(lambda: _waits_for_lock(db) == 2, "both wait")
        assert seconds(lambda: slow.get("a")) < SOON
        assert not any(poll.done() for poll in polls)
        other.rollback()
    assert all(len(poll.result().entries) == 2 for poll in polls)


def test_a_poll_has_a_connection_however_many_others_read(source, db, monkeypatch):
    monkeypatch.setattr(_pool, "PATIENCE", 30.0)
    put(source, "k")
    poller = Poller(source)
    poller()
    with ExitStack() as stack:
        for _ in range(_pool.LIMITS[_pool.Use.READ]):
            stack.enter_context(source._pool.lend(_pool.Use.READ))
        put(source, "k", b"2")
        assert seconds(poller) < SOON
        assert seconds(poller) < SOON
        assert poller.state == {"k": b"2"}


def test_when_all_writers_wait_the_next_is_refused_in_time(source, postgres, db, monkeypatch):
    monkeypatch.setattr(_pool, "PATIENCE", 0.5)
    db.execute("INSERT INTO data VALUES ('locked', '1')")
    limit = _pool.LIMITS[_pool.Use.WRITE]
    with ThreadPoolExecutor(limit) as threads, locked_row(postgres, "locked"):
        waiting = [threads.submit(put, source, "locked", b"%d" % n) for n in range(limit)]
        until(lambda: _waits_for_lock(db) == limit, "all wait")
        with pytest.raises(SourceUnavailable, match="connections to write were in use"):
            put(source, "free")
        assert seconds(lambda: source.get("locked")) < SOON
        assert seconds(lambda: source.read(EVERYTHING, None)) < SOON
    assert len([future.result() for future in waiting]) == limit
    put(source, "free")


def _waits_for_lock(db):
    return db.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND application_name = current_schema"
    ).fetchone()[0]


# --- closing ---


def _threads(start):
    return [thread for thread in threading.enumerate() if thread.name.startswith(start)]


def test_close_during_traffic(open_source, connections):
    for _ in range(5):
        source = open_source()
        poller, problems = Poller(source), []

        def repeat(action, source=source, problems=problems):
            try:
                while True:
                    action()
            except Exception as error:
                problems.append(source.translate(error, None))

        gets = [lambda source=source: source.get("k")] * 6
        puts = [lambda source=source: put(source, "k")] * 5
        threads = [
            threading.Thread(target=repeat, args=(action,)) for action in [poller, *gets, *puts]
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert seconds(source.close) < SOON
        for thread in threads:
            thread.join(SOON)
            assert not thread.is_alive()
        assert {type(problem) for problem in problems} == {StoreClosed}
        until(lambda: connections() == 0, "all connections are closed")


def test_close_cancels_what_hangs(open_source, postgres, db, connections):
    db.execute("INSERT INTO data VALUES ('locked', '1')")
    source = open_source()
    with ThreadPoolExecutor(3) as threads, locked_row(postgres, "locked"):
        waiting = [threads.submit(put, source, "locked", b"%d" % n) for n in range(3)]
        until(lambda: _waits_for_lock(db) == 3, "they wait")
        assert seconds(source.close) < SOON
        for future in waiting:
            with pytest.raises((psycopg.Error, DatastreamError)):
                future.result(SOON)
        until(lambda: connections() == 0, "also on the server")
    assert db.execute("SELECT value FROM data").fetchone() == (b"1",)


@pytest.mark.chaos
def test_close_and_calls_while_the_server_is_frozen():
    with Server().start() as server:
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute(TABLE)
        source = PostgresSource(server.tcp, libpq={"connect_timeout": "2"})
        poller = Poller(source)
        poller()
        postmaster = int((server.data / "postmaster.pid").read_text().splitlines()[0])
        frozen = [*psutil.Process(postmaster).children(), psutil.Process(postmaster)]
        for process in frozen:
            os.kill(process.pid, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(4) as threads:
                calls = [
                    threads.submit(source.get, "k"),
                    threads.submit(put, source, "k"),
                    threads.submit(source.read, EVERYTHING, poller.position),
                    threads.submit(source.wait, None),
                ]
                time.sleep(0.3)
                assert seconds(source.close) < 2 * SOON
                for call in calls[:3]:
                    with pytest.raises((psycopg.Error, DatastreamError)):
                        call.result(2 * SOON)
                calls[3].result(SOON)
        finally:
            for process in frozen:
                os.kill(process.pid, signal.SIGCONT)


def test_wait_can_be_released_and_closed_from_other_threads(source, connections):
    source.wait(0)
    for end in (source.wake, source.release, source.close):
        thread = threading.Thread(target=source.wait, args=(None,))
        thread.start()
        time.sleep(0.05)
        end()
        thread.join(SOON)
        assert not thread.is_alive()
        source.wait(0)
    until(lambda: connections() == 0, "everything is closed")
    source.wake()


# --- trouble ---


@pytest.mark.chaos
def test_connections_killed_under_load(source, db, name):
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s"
    )
    acknowledged, problems = {}, set()

    def tolerant(action):
        def call():
            try:
                action()
            except (SourceUnavailable, psycopg.Error) as error:
                problems.add(type(source.translate(error, None)))

        return call

    def write(key):
        values = iter(range(10**9))

        def call():
            value = b"%d" % next(values)
            put(source, key, value)
            acknowledged[key] = value
            assert source.get(key).value == value

        return tolerant(call)

    poller = Poller(source)
    with running(tolerant(poller), *(write(f"k{n}") for n in range(16))):
        for _ in range(20):
            db.execute(kill, (name,))
            time.sleep(0.1)
        until(lambda: len(acknowledged) == 16, "each has written")
    assert problems <= {SourceUnavailable}
    entries = {entry.key: int(entry.value) for entry in source.read(EVERYTHING, None).entries}
    for key, value in acknowledged.items():
        assert entries[key] >= int(value), "acknowledged, and lost"
    for _ in range(4):
        # The last connections were killed after it had waited for the last time.
        tolerant(poller)()
    assert {key: int(value) for key, value in poller.state.items()} == entries


def test_an_altered_table_is_looked_up_once_for_all(source, db, monkeypatch):
    db.execute("INSERT INTO data VALUES ('k', '1')")
    db.execute("ALTER TABLE data DROP value_type")
    looked = []
    look_up = Inspector.look_up
    monkeypatch.setattr(
        Inspector,
        "look_up",
        lambda *given, **more: looked.append(1) or time.sleep(0.2) or look_up(*given, **more),
    )
    assert source.get("k").value_type == "bytes"
    looked.clear()
    for type in ("text", "bytea") * 3:
        cast = "convert_from(value, 'UTF8')" if type == "text" else "convert_to(value, 'UTF8')"
        looked.clear()
        db.execute(f"ALTER TABLE data ALTER value TYPE {type} USING {cast}")
        with ThreadPoolExecutor(20) as threads:
            found = [threads.submit(source.get, "k") for _ in range(40)]
            found += [threads.submit(source.capabilities) for _ in range(10)]
            kinds = {future.result().value_type for future in found[:40]}
            kinds |= {future.result()[0].value_type for future in found[40:]}
        assert kinds == {"str" if type == "text" else "bytes"}
        assert len(looked) == 1


def test_a_get_does_not_wait_until_triggers_can_be_made(source, db, postgres):
    poller = Poller(source)
    db.execute(f"DROP TABLE data; {TABLE}; INSERT INTO data VALUES ('a', '1')")
    with psycopg.connect(postgres) as slow:
        # Triggers cannot be made while this one writes.
        slow.execute("INSERT INTO data VALUES ('slow', '1')")
        assert seconds(lambda: source.get("a")) < SOON / 2
        assert seconds(lambda: put(source, "b")) < SOON / 2
    poller()
    poller()
    assert poller.state.keys() == {"a", "b", "slow"}
    assert source.health.degraded == ""
    position = poller.position
    put(source, "c")
    assert not source.read(EVERYTHING, position).complete, "there is a log again"


def test_two_who_install_at_once_make_one_log(postgres, db, open_source):
    """The second one has seen no triggers, and waits until the first has made them."""
    looking = PostgresSource(postgres, mode="poll")
    lock = _lock(looking._access.known.layout.mark)
    looking.close()
    with ThreadPoolExecutor(4) as threads, psycopg.connect(postgres) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (lock,))
        opening = [threads.submit(open_source, mode="notify", history=True) for _ in range(4)]
        until(lambda: _waits_for_lock(db) == 4, "all are about to install")
        other.rollback()
        sources = [future.result() for future in opening]
    epochs = {source.read(EVERYTHING, None).position.partition("/")[0] for source in sources}
    assert len(epochs) == 1


def test_who_reads_the_log_and_who_makes_it_anew_wait_for_each_other(postgres, db, open_source):
    """The server ends the one or the other; both try again."""
    source = open_source(mode="notify")
    put(source, "k")
    log = source._access.known.layout.mark
    with ThreadPoolExecutor(2) as threads, psycopg.connect(postgres) as other:
        # Of all who wait, this one looks for deadlocks last.
        other.execute("SET deadlock_timeout = '30s'")
        other.commit()
        # As readers of earlier editions: the log, then the table.
        other.execute(f'LOCK TABLE "{log}" IN ACCESS SHARE MODE')
        opening = threads.submit(open_source, history=True)
        until(lambda: _waits_for_lock(db) == 1, "it is about to drop the log")
        assert other.execute("SELECT count(*) FROM data").fetchone() == (1,)
        other.rollback()
        assert opening.result().get("k") is not None


def test_a_table_altered_while_it_is_looked_up(postgres, db, monkeypatch):
    """What is found belongs together, or is looked up again."""
    from datastream.sources.postgres import layout as _layout

    db.execute("ALTER TABLE data DROP value_type; INSERT INTO data VALUES ('k', '1')")
    columns = _layout._columns
    altered = []

    def alter_then_look(connection, oid):
        found = columns(connection, oid)
        if not altered:
            altered.append(1)
            db.execute("ALTER TABLE data ALTER value TYPE int USING 1")
        return found

    monkeypatch.setattr(_layout, "_columns", alter_then_look)
    source = PostgresSource(postgres)
    try:
        assert source.get("k").value_type == "int"
    finally:
        source.close()


@pytest.mark.chaos
def test_all_connections_lead_to_one_of_several_servers():
    with Server().start() as one, Server().start() as two:
        for server in (one, two):
            with psycopg.connect(server.url, autocommit=True) as db:
                db.execute(f"{TABLE}; INSERT INTO data VALUES ('port', '{server.port}')")
        url = (
            f"postgresql://postgres@127.0.0.1:{one.port},127.0.0.1:{two.port}/postgres"
            "?load_balance_hosts=random"
        )
        source = PostgresSource(url)
        try:
            first = source.get("port").value
            with ThreadPoolExecutor(16) as threads:
                found = {
                    future.result().value
                    for future in [threads.submit(source.get, "port") for _ in range(200)]
                }
            assert found == {first}
            gone, other = (one, two) if first == b"%d" % one.port else (two, one)
            gone.stop()
            assert source.get("port").value == b"%d" % other.port
        finally:
            source.close()


# --- parts ---


def test_slots_are_given_in_the_order_of_asking():
    slots = _pool.FairSemaphore(1)
    assert slots.acquire(0)
    assert not slots.acquire(0.01)
    order, threads = [], []
    for number in range(20):
        thread = threading.Thread(
            target=lambda number=number: (
                slots.acquire(10),
                order.append(number),
                slots.release(),
            )
        )
        thread.start()
        until(lambda number=number: len(slots._waiting) == number + 1, "it waits")
        threads.append(thread)
    slots.release()
    for thread in threads:
        thread.join(SOON)
    assert order == list(range(20))
    assert slots.acquire(0)
    slots.open()
    assert slots.acquire(0)


def test_no_slot_is_lost_to_those_who_give_up():
    slots = _pool.FairSemaphore(2)
    held = []

    def hold():
        if slots.acquire(random.random() / 1000):
            held.append(1)
            assert len(held) <= 2
            held.pop()
            slots.release()

    with running(*[hold] * 20):
        time.sleep(1)
    assert slots.acquire(0)
    assert slots.acquire(0)
    assert not slots.acquire(0)


def test_one_look_up_serves_all_who_wait_also_when_it_fails():
    flight = _access.SingleFlight()
    begun, go = threading.Event(), threading.Event()
    calls = []

    def work():
        calls.append(1)
        begun.set()
        go.wait(30)
        raise SourceUnavailable("away")

    def wait():
        try:
            flight.run(work, 10)
        except SourceUnavailable as error:
            return str(error)

    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(wait)
        begun.wait(30)
        with pytest.raises(TimeoutError):
            flight.run(work, 0.01)
        others = [threads.submit(wait) for _ in range(7)]
        until(lambda: len(flight._running._condition._waiters) == 7, "the others wait")
        go.set()
        assert {future.result() for future in [first, *others]} == {"away"}
    assert len(calls) == 1
    assert flight.run(lambda: "again", 1) == "again"


def test_a_closed_connector_connects_no_more(postgres):
    connector = Connector(parameters(postgres, {}), "here")
    connector.close()
    with pytest.raises(StoreClosed, match="open it anew"):
        connector.connect()
