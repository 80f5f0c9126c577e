"""The random histories of `StoreMachine` over NATS: one node and three, alone and behind gRPC."""

import pytest

from datastream import Store
from datastream.sources.nats import NatsSource
from datastream.sources.nats.keys import to_subject
from tests.bench.nats import Bare
from tests.property.machine import Served, StoreMachine, search, searched
from tests.servers.nats import new_bucket, server
from tests.servers.nats_cluster import Cluster


@pytest.fixture(scope="module")
def one():
    with server() as running:
        yield [running.url]


@pytest.fixture(scope="module")
def three():
    with Cluster.started() as running:
        yield running.urls


class NatsMachine(StoreMachine):
    servers = ()

    def open(self):
        self.bucket = new_bucket()
        self.plain = Bare(self.servers[-1])
        stores = Store(self.source()), Store(self.source())
        self.kv = self.plain.run(self.plain.js.key_value(self.bucket))
        return stores

    def source(self):
        return NatsSource(self.servers, self.bucket, create=True, replicas=len(self.servers))

    def raw(self, key, value):
        if value is None:
            self.plain.run(self.kv.delete(to_subject(key)))
        else:
            self.plain.run(self.kv.put(to_subject(key), value))

    def teardown(self):
        super().teardown()
        self.plain.run(self.plain.js.delete_key_value(self.bucket))
        self.plain.close()


class GrpcMachine(Served, NatsMachine):
    pass


@searched((NatsMachine, 20, 20), (GrpcMachine, 10, 20))
@pytest.mark.timeout(300)
@pytest.mark.chaos
def test_random_histories(machine, examples, steps, one):
    machine.servers = one
    search(machine, examples, steps)


@searched((NatsMachine, 6, 15), (GrpcMachine, 4, 15))
@pytest.mark.timeout(300)
@pytest.mark.chaos
def test_random_histories_of_a_cluster(machine, examples, steps, three):
    machine.servers = three
    search(machine, examples, steps)
