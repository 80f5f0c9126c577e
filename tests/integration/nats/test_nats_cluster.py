"""Three nodes under a load of writers and watchers, each of which loses its node."""

import threading
from contextlib import contextmanager, suppress

import pytest

import datastream
from datastream import SourceUnavailable, State
from datastream.testing import Recorder
from datastream.testing._tools import eventually
from tests.servers.nats import await_true, new_bucket
from tests.servers.nats_cluster import FAILOVER, Cluster

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
KEYS = 5


@pytest.fixture
def cluster():
    with Cluster.started() as running:
        yield running


@pytest.fixture
def bucket():
    return new_bucket()


def opened(cluster, bucket, number, **options):
    """A store that begins at one node, and learns of the others there."""
    url = f"{cluster.servers[number].url}/{bucket}"
    return datastream.open(url, create=True, replicas=3, timeout=4, **options)


class Writer:
    """Counts up some keys of its own, and a pair of them, and remembers what was acknowledged."""

    def __init__(self, store, name):
        self.acknowledged = {}
        self.refused = 0
        self._store = store
        self._name = name
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self):
        self._stopped.set()
        self._thread.join()

    def _run(self):
        number = 0
        while not self._stopped.is_set():
            number += 1
            key = f"{self._name}/{number % KEYS}"
            pair = dict.fromkeys((f"{self._name}/one", f"{self._name}/two"), number)
            try:
                self._store.put(key, number)
                self.acknowledged[key] = number
                self._store.put_many(pair)
                self.acknowledged |= pair
            except SourceUnavailable:
                self.refused += 1

    def await_progress(self):
        """Wait until something more is acknowledged."""
        before = dict(self.acknowledged)
        await_true(lambda: self.acknowledged != before, "a write was acknowledged", FAILOVER)


@contextmanager
def load(cluster, bucket):
    """A writer and two watchers at each node; in the end all must agree on all of it."""
    stores = [opened(cluster, bucket, number, interval=1) for number in range(3)]
    writers = [Writer(store, f"w{number}") for number, store in enumerate(stores)]
    watchers = [Recorder(store, *keys) for store in stores for keys in ((), ("w0/", "w1/3"))]
    try:
        for writer in writers:
            writer.await_progress()
        yield writers
        for writer in writers:
            writer.await_progress()
    finally:
        for writer in writers:
            writer.stop()
    try:
        check(stores, writers, watchers)
        await_true(
            lambda: cluster.consumers(bucket) <= len(stores), "consumers did not pile up", FAILOVER
        )
    finally:
        for store in stores:
            store.close()
    await_true(lambda: cluster.consumers(bucket) == 0, "all consumers are gone", FAILOVER)


def check(stores, writers, watchers):
    final = {key: entry.value for key, entry in stores[0].snapshot().items()}
    for writer in writers:
        assert writer.acknowledged
        for key, number in writer.acknowledged.items():
            assert int(final[key]) >= number, f"{key}: {number} was acknowledged"
    for watcher in watchers:
        keys = watcher.state.keys() | final.keys()
        is_part = any(key.startswith("w2/") for key in watcher.state)
        expected = {k: final[k] for k in keys if is_part or k.startswith("w0/") or k == "w1/3"}
        watcher.wait_state(expected)
        for state in watcher.states:
            assert state.get("w0/one") == state.get("w0/two"), "a batch was torn"
        for key in expected:
            values = [int(entry.value) for entry in watcher.entries if entry.key == key]
            assert values == sorted(values), f"{key} went back"


def test_nodes_are_killed_in_turn(cluster, bucket):
    with load(cluster, bucket) as writers:
        for _ in range(3):
            # The leader each time: by then another one is.
            server = cluster.servers[cluster.leader(bucket)]
            server.kill()
            for writer in writers:
                writer.await_progress()
            server.start()


def test_nodes_are_killed_one_after_the_other(cluster, bucket):
    with load(cluster, bucket) as writers:
        for server in cluster.servers:
            server.kill()
            server.start()
            for writer in writers:
                writer.await_progress()


def test_nodes_hang(cluster, bucket):
    with load(cluster, bucket) as writers:
        for number in {cluster.leader(bucket), 0, 1, 2}:
            server = cluster.servers[number]
            server.pause()
            try:
                for writer in writers:
                    writer.await_progress()
            finally:
                server.go_on()


def test_a_minority_is_cut_off(cluster, bucket):
    with load(cluster, bucket) as writers:
        for number in (cluster.leader(bucket), (cluster.leader(bucket) + 1) % 3):
            cluster.cut_off(number)
            try:
                for other, writer in enumerate(writers):
                    if other != number:
                        writer.await_progress()
            finally:
                cluster.reconnect()
            for writer in writers:
                writer.await_progress()


def test_without_a_quorum_nothing_is_acknowledged(cluster, bucket):
    with opened(cluster, bucket, 0, interval=0.5) as store:
        store["a"] = "kept"
        recorder = Recorder(store)
        recorder.wait_state({"a": b"kept"})
        statuses = []
        store.status.subscribe(statuses.append)
        others = cluster.servers[1:]
        for server in others:
            server.kill()
        with pytest.raises(SourceUnavailable, match=r"quorum|not connected|leader"):
            store["a"] = "lost?"
        eventually(lambda: store.status.current.state is State.STALE, "the outage was told")
        assert recorder.state == {"a": b"kept"}
        for server in others:
            server.start()
        await_true(cluster.leads, "there is a leader again", FAILOVER)

        def writes():
            with suppress(SourceUnavailable):
                store["a"] = "again"
                return True

        await_true(writes, "it takes writes again", FAILOVER)
        recorder.wait(lambda r: r.state == {"a": b"again"})
        eventually(lambda: store.status.current.state is State.READY, "its end was told")


def test_a_reconnect_storm_leaks_no_consumer(cluster, bucket):
    with opened(cluster, bucket, 0, interval=1) as store:
        recorder = Recorder(store)
        for number in range(20):
            store.put("a", number)
            client = store._source._connection._client
            client._transport._io_writer.transport.abort()
            recorder.wait_state({"a": str(number).encode()})
        await_true(lambda: cluster.consumers(bucket) == 1, "one consumer is left", FAILOVER)
    await_true(lambda: cluster.consumers(bucket) == 0, "none is left", FAILOVER)


def test_a_call_while_the_leader_is_gone_is_answered_by_the_next(cluster, bucket):
    with opened(cluster, bucket, 0) as store:
        store["a"] = 1
        server = cluster.servers[cluster.leader(bucket)]
        server.kill()
        assert store["a"] == 1
        server.start()
