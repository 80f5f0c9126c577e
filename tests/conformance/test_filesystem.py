import secrets

import pytest

from datastream import Store
from datastream.sources.filesystem import FilesystemSource
from datastream.testing import Conformance, Harness
from tests.servers.served import Served


class FsspecHarness(Harness):
    """A directory of its own in fsspec's memory."""

    def __init__(self, **options):
        self.url = f"memory://{secrets.token_hex(8)}"
        self.options = options
        FilesystemSource(self.url, create=True).close()

    def source(self):
        return FilesystemSource(self.url, interval=0.05, **self.options)

    def writer(self):
        return Store(FilesystemSource(self.url), name="elsewhere")


class TestFilesystem(Conformance):
    @pytest.fixture
    def harness(self):
        return FsspecHarness()


@pytest.mark.chaos
class TestFilesystemReadOnly(Conformance):
    @pytest.fixture
    def harness(self):
        return FsspecHarness(readonly=True)


@pytest.mark.chaos
class TestFilesystemOverGrpc(Conformance):
    @pytest.fixture
    def harness(self):
        return Served(FsspecHarness(), clients_write=True)
