from contextlib import suppress

import pytest

from datastream import SourceUnavailable
from datastream.sources.nats import NatsSource
from datastream.testing import Conformance, Harness
from tests.servers.nats import new_bucket, server
from tests.servers.nats_cluster import Cluster
from tests.servers.served import Served

ATTEMPTS = 10
"""To open a bucket of a cluster, of some seconds each."""


@pytest.fixture(scope="module")
def url():
    with server() as running:
        yield running.url


class NatsHarness(Harness):
    """A bucket of its own on shared servers."""

    def __init__(self, *servers, **settings):
        self.servers = servers
        self.settings = settings
        self.bucket = new_bucket()

    def source(self):
        return NatsSource(self.servers, self.bucket, create=True, **self.settings)


class TestNats(Conformance):
    @pytest.fixture
    def harness(self, url):
        return NatsHarness(url)


@pytest.mark.chaos
class TestNatsBehindGrpc(Conformance):
    @pytest.fixture
    def harness(self, url):
        return Served(NatsHarness(url), clients_write=True)


@pytest.fixture(scope="module")
def cluster():
    with Cluster.started() as running:
        yield running


class ClusterHarness(NatsHarness):
    """Sources under test and the writer elsewhere begin at different nodes."""

    effort = 0.2

    def __init__(self, cluster):
        super().__init__(*cluster.urls, replicas=3)
        self.opened = 0

    def source(self):
        self.opened += 1
        first = self.opened % 3
        servers = (*self.servers[first:], *self.servers[:first])
        for _ in range(ATTEMPTS):
            # A cluster on a busy machine may lose its leader, as any does when a node is slow.
            with suppress(SourceUnavailable):
                return NatsSource(servers, self.bucket, create=True, **self.settings)
        return NatsSource(servers, self.bucket, create=True, **self.settings)


@pytest.mark.chaos
@pytest.mark.timeout(240)
class TestNatsCluster(Conformance):
    @pytest.fixture
    def harness(self, cluster):
        return ClusterHarness(cluster)


@pytest.mark.chaos
@pytest.mark.timeout(240)
class TestNatsClusterBehindGrpc(Conformance):
    @pytest.fixture
    def harness(self, cluster):
        return Served(ClusterHarness(cluster), clients_write=True)
