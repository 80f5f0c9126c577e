import pytest

from datastream import Store
from datastream.sources.files import FilesSource
from datastream.testing import Conformance, Harness
from tests.servers.served import Served


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


@pytest.mark.chaos
class TestFilesPolling(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return FilesHarness(tmp_path, polling=True, interval=0.05)


@pytest.mark.chaos
class TestFilesReadOnly(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return FilesHarness(tmp_path, readonly=True)


@pytest.mark.chaos
class TestFilesOverGrpc(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return Served(FilesHarness(tmp_path))
