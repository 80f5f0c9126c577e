"""Many writers with transactions of any length: every watcher ends with what is there."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack

import psycopg
import pytest

import datastream
from datastream.testing import Recorder
from tests.integration._programs.tools import eventually

WRITERS = 8
COMMITS = 1000
KEYS = [f"k/{number}" for number in range(200)]
ERRORS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class Writer(threading.Thread):
    """Commits, rolls back, dawdles; every commit also counts up a pair that must stay equal."""

    def __init__(self, url, seed, number, commits, stopped):
        super().__init__(name=f"writer {number}")
        self.random = random.Random(f"{seed}/{number}")
        self.url, self.number, self.commits, self.stopped = url, number, commits, stopped
        self.problem = None

    def run(self):
        try:
            with psycopg.connect(self.url, autocommit=True) as connection:
                # They deadlock often; what is to be tested is not their patience.
                connection.execute("SET deadlock_timeout = '10ms'")
                done = 0
                while done < self.commits:
                    done += self.transact(connection, done)
        except Exception as error:
            self.problem = error

    def transact(self, connection, done):
        commits = self.random.random() > 0.1
        try:
            with connection.transaction(force_rollback=not commits):
                if self.random.random() < 0.2:
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                for _ in range(self.random.randint(1, 4)):
                    self.write(connection)
                    if self.random.random() < 0.03:
                        # Open for a while, during which others commit.
                        self.stopped.wait(self.random.random() * 0.1)
                for half in "ab":
                    connection.execute(_UPSERT, (f"pair/{self.number}/{half}", str(done)))
        except ERRORS:
            return 0
        return commits

    def write(self, connection):
        key, value = self.random.choice(KEYS), str(self.random.random())
        kind = self.random.random()
        if kind < 0.6:
            connection.execute(_UPSERT, (key, value))
        elif kind < 0.8:
            connection.execute("DELETE FROM data WHERE key = %s", (key,))
        elif kind < 0.99:
            connection.execute("UPDATE data SET value = %s WHERE key LIKE %s", (value, f"{key}%"))
        else:
            with connection.cursor() as cursor, cursor.copy("COPY data FROM STDIN") as copy:
                for _ in range(5):
                    copy.write_row((f"copied/{self.random.random()}", value))


_UPSERT = "INSERT INTO data VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_missed(postgres, seed):
    stopped = threading.Event()
    options = [{}, {"mode": "notify"}, {"mode": "poll", "interval": 0.1}]
    with ExitStack() as stack, psycopg.connect(postgres, autocommit=True) as db:
        db.execute("CREATE TABLE data (key text PRIMARY KEY, value text)")
        stores = [stack.enter_context(datastream.open(postgres, **each)) for each in options]
        recorders = [Recorder(store, *keys) for store in stores for keys in ((), ("pair/",))]
        writers = [
            Writer(postgres, seed, number, COMMITS // WRITERS, stopped) for number in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        _resume_now_and_then(stores[0], recorders, writers, random.Random(seed))
        for writer in writers:
            writer.join()
            assert writer.problem is None
        rows = {k: v.encode() for k, v in db.execute("SELECT key, value FROM data")}
        pairs = {key: value for key, value in rows.items() if key.startswith("pair/")}
        for number, recorder in enumerate(recorders):
            recorder.wait_state(pairs if number % 2 else rows)
            for state in recorder.states:
                _check_pairs(state)
            _check_repeats(recorder)
        eventually(lambda: db.execute("SELECT pg_notification_queue_usage()").fetchone() == (0,),
                   "the notification queue is empty")  # fmt: skip


def _resume_now_and_then(store, recorders, writers, chance):
    """Leave and come back by cursor, while all are writing."""
    while any(writer.is_alive() for writer in writers):
        writers[0].join(0.2 * chance.random())
        before = recorders[0]
        before.wait_ready()
        before.dispose()
        recorders[0] = Recorder(store, since=before.cursor, had=before.state)
        recorders[0].wait_ready()
        assert not recorders[0].batches[0].reset


def _check_pairs(state):
    for number in range(WRITERS):
        halves = {state.get(f"pair/{number}/{half}") for half in "ab"}
        assert len(halves) == 1, "a transaction in part"


def _check_repeats(recorder):
    last = {}
    for entry in recorder.entries:
        assert last.get(entry.key) != (entry.revision, entry.operation), "delivered twice"
        last[entry.key] = (entry.revision, entry.operation)
