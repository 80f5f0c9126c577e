import pytest
from datastream_grpc import GrpcSource, serve

from datastream import Store
from datastream.sources.files import FilesSource
from datastream.testing import Conformance, Harness


class FilesHarness(Harness):
    """A directory; `options` are those of the sources under test, not of the writer elsewhere."""

    def __init__(self, path, **options):
        self.path = path
        self.options = options

    def source(self):
        return FilesSource(self.path, **self.options)

    def writer(self):
        return Store(FilesSource(self.path), name="elsewhere")


class TestFiles(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return FilesHarness(tmp_path)


class TestFilesPolling(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return FilesHarness(tmp_path, polling=True, interval=0.05)


class TestFilesReadOnly(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return FilesHarness(tmp_path, readonly=True)


class ServedFiles(FilesHarness):
    def __init__(self, path):
        super().__init__(path)
        self.backing = Store(super().source(), name="served")
        self.server = serve(self.backing, "127.0.0.1:0")

    def source(self):
        source = GrpcSource(self.server.address)
        # The wire does not tell what the served store can do.
        source.features = self.backing.features
        return source

    def close(self):
        self.server.stop()
        self.backing.close()


class TestFilesOverGrpc(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return ServedFiles(tmp_path)
