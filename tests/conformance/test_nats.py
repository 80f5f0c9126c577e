import pytest

from datastream.sources.nats import NatsSource
from datastream.testing import Conformance, Harness
from tests.servers.nats import new_bucket, server
from tests.servers.served import Served


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
