"""Readers of a table of which some writes leave no line in the log: none lacks one of them."""

from __future__ import annotations

import random
import threading
import time

import pytest

import datastream
from datastream.entry import DELETE
from datastream.testing import TIMEOUT
from tests.integration._programs.tools import database
from tests.property.test_files_readers import SEEDS

KEYS = ("a", "b", "c", "d")
STEPS = 300
PAUSES = (0, 0, 0, 0.002, 0.02, 0.1)
MOST = 4
"""Readers beside the one that stays."""


class Reader:
    """What one has that was told everything from a cursor on."""

    def __init__(self, store, cursor=None, state=()):
        self.cursor, self.state = cursor, dict(state)
        self._changed = threading.Condition()
        watch = store.watch_batches(since=cursor)
        self._subscription = watch.subscribe(self._take)

    def _take(self, batch):
        with self._changed:
            if batch.reset or (batch.initial and self.cursor is None):
                self.state.clear()
            for entry in batch.entries:
                if entry.operation is DELETE:
                    self.state.pop(entry.key, None)
                else:
                    self.state[entry.key] = entry.value
            self.cursor = batch.cursor or self.cursor
            self._changed.notify_all()

    def wait(self, truth):
        with self._changed:
            assert self._changed.wait_for(lambda: self.state == truth, TIMEOUT), (
                f"it has {self.state}, and {truth} is there"
            )

    def leave(self):
        """What it takes along: a cursor, and the state that belongs to it."""
        self._subscription.dispose()
        with self._changed:
            return self.cursor, dict(self.state)


class World:
    """A store on a table, another program that writes it, and readers that come and go."""

    def __init__(self, store, table, chance):
        self._store, self._table, self._chance = store, table, chance
        self._stays = Reader(store)
        self._readers, self._left = [], []
        self.steps = (
            *(self.write_piecemeal, self.write_piecemeal, self.write, self.write_other),
            *(self.put, self.snapshot, self.come, self.resume, self.leave),
        )

    def _value(self):
        return b"%04d" % self._chance.randrange(10_000)

    def write_piecemeal(self):
        with self._table.blobopen("data", "value", self._chance.randrange(len(KEYS))) as blob:
            blob.write(self._value())

    def write(self):
        change = "UPDATE data SET value = ? WHERE key = ?"
        self._table.execute(change, (self._value(), self._chance.choice(KEYS)))

    def write_other(self):
        self._table.execute("INSERT INTO other VALUES (1)")

    def put(self):
        self._store[self._chance.choice(KEYS)] = self._value()

    def snapshot(self):
        batch = self._store.snapshot_batch()
        self._left.append((batch.cursor, {entry.key: entry.value for entry in batch.entries}))

    def come(self):
        self._readers.append(Reader(self._store))

    def resume(self):
        if self._left:
            self._readers.append(Reader(self._store, *self._chance.choice(self._left[-3:])))

    def leave(self):
        if self._readers:
            number = self._chance.randrange(len(self._readers))
            cursor, state = self._readers.pop(number).leave()
            self._left += [(cursor, state)] if cursor else []

    def check(self):
        truth = dict(self._table.execute("SELECT key, value FROM data"))
        for reader in (self._stays, *self._readers):
            reader.wait(truth)
        while len(self._readers) > MOST:
            self.leave()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_no_reader_lacks_what_the_log_does_not_tell(tmp_path, seed):
    chance, path = random.Random(seed), tmp_path / "app.db"
    table = "CREATE TABLE data (id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, value BLOB)"
    with database(path, "PRAGMA journal_mode=wal", table, "CREATE TABLE other (x)") as db:
        db.executemany("INSERT INTO data VALUES (?, ?, X'30303030')", enumerate(KEYS))
        with datastream.open(f"sqlite:{path}") as store:
            world = World(store, db, chance)
            for _ in range(STEPS):
                chance.choice(world.steps)()
                time.sleep(chance.choice(PAUSES))
                if chance.random() < 0.06:
                    world.check()
            world.check()
