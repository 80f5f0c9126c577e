"""The random histories of `StoreMachine` over PostgreSQL, alone and behind gRPC."""

from typing import ClassVar

import psycopg
import pytest
from datastream_grpc import GrpcSource, serve

from datastream import Store
from datastream.sources.postgres import PostgresSource
from tests.property.machine import StoreMachine, search, searched
from tests.servers.postgres import fresh_schema


class PostgresMachine(StoreMachine):
    server = ""
    options: ClassVar = {}

    def open(self):
        self.schema = fresh_schema(self.server)
        self.url = self.schema.__enter__()
        elsewhere = Store(PostgresSource(self.url, create=True, mode="poll"))
        self.connection = psycopg.connect(self.url, autocommit=True)
        return self.open_store(), elsewhere

    def open_store(self):
        return Store(PostgresSource(self.url, **self.options))

    def raw(self, key, value):
        if value is None:
            self.connection.execute("DELETE FROM data WHERE key = %s", (key,))
        else:
            self.connection.execute(
                "INSERT INTO data (key, value, value_type) VALUES (%s, %s, 'bytes') "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value, value_type = 'bytes'",
                (key, value),
            )

    def teardown(self):
        super().teardown()
        self.connection.close()
        self.schema.__exit__(None, None, None)


class PolledMachine(PostgresMachine):
    options: ClassVar = {"mode": "poll", "interval": 0.02}


class ServedMachine(PostgresMachine):
    def open_store(self):
        self.served = super().open_store()
        self.grpc = serve(self.served, "127.0.0.1:0")
        return Store(GrpcSource(self.grpc.address))

    def teardown(self):
        self.store.close()
        self.grpc.stop()
        self.served.close()
        super().teardown()


@searched((PostgresMachine, 30, 25), (PolledMachine, 12, 25), (ServedMachine, 12, 25))
@pytest.mark.timeout(300)
def test_random_histories(machine, examples, steps, postgres_server):
    machine.server = postgres_server
    search(machine, examples, steps)
