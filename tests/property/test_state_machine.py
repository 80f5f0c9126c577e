"""Random histories over memory and SQLite, alone and behind gRPC."""

import secrets
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from datastream import Store
from datastream.sources.memory import MemorySource
from datastream.sources.sqlite import SqliteSource
from tests.property.machine import Served, StoreMachine, search, searched


class MemoryMachine(StoreMachine):
    def open(self):
        name = secrets.token_hex(8)
        return Store(MemorySource(name)), Store(MemorySource(name))

    def raw(self, key, value):
        if value is None:
            self.elsewhere.delete(key, missing_ok=True)
        else:
            self.elsewhere.put(key, value)


class SqliteMachine(StoreMachine):
    def open(self):
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "store.db"
        stores = Store(SqliteSource(self.path)), Store(SqliteSource(self.path))
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        return stores

    def raw(self, key, value):
        if value is None:
            self.connection.execute("DELETE FROM data WHERE key = ?", (key,))
        else:
            self.connection.execute(
                "INSERT OR REPLACE INTO data (key, value, value_type) VALUES (?, ?, 'bytes')",
                (key, value),
            )

    def teardown(self):
        super().teardown()
        self.connection.close()
        shutil.rmtree(self.directory)


class GrpcMachine(Served, SqliteMachine):
    pass


@searched((MemoryMachine, 150, 30), (SqliteMachine, 80, 30), (GrpcMachine, 50, 30))
@pytest.mark.timeout(300)
def test_random_histories(machine, examples, steps):
    search(machine, examples, steps)
