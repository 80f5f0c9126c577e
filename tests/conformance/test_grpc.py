import pytest
from datastream_grpc import GrpcSource, serve

from datastream import Store
from datastream.sources.memory import MemorySource
from datastream.sources.sqlite import SqliteSource
from datastream.testing import Conformance, Harness


class GrpcHarness(Harness):
    """A served store; sources under test and the writer elsewhere are its clients."""

    def __init__(self, backing):
        self.backing = Store(backing, name="served")
        self.server = serve(self.backing, "127.0.0.1:0")

    def source(self):
        return GrpcSource(self.server.address)

    def close(self):
        self.server.stop()
        self.backing.close()


class TestGrpcOverMemory(Conformance):
    @pytest.fixture
    def harness(self):
        return GrpcHarness(MemorySource())


@pytest.mark.chaos
class TestGrpcOverSqlite(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return GrpcHarness(SqliteSource(tmp_path / "store.db"))


@pytest.mark.chaos
class TestGrpcWithAnotherWriter(Conformance):
    """What another process commits to the file reaches clients of the served store too."""

    @pytest.fixture
    def harness(self, tmp_path):
        path = tmp_path / "store.db"
        harness = GrpcHarness(SqliteSource(path))
        harness.writer = lambda: Store(SqliteSource(path), name="elsewhere")
        return harness
