"""Overlays of mixed layers: memory over SQLite over git, each of them written in turn."""

import secrets

import pytest

from datastream import Store
from datastream._overlay.layer import Layer
from datastream._overlay.source import OverlaySource
from datastream.sources.git import GitSource
from datastream.sources.memory import MemorySource
from datastream.sources.sqlite import SqliteSource
from datastream.testing import Conformance, Harness
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)
from tests.servers.served import Served

MEMORY, SQLITE, GIT = range(3)


class OverlayHarness(Harness):
    """Three backends; each source lays stores of its own over each other."""

    def __init__(self, directory, written):
        self.name = secrets.token_hex(8)
        # The table lives as long as a source over it does.
        self.keeper = MemorySource(self.name)
        self.path = directory / "store.db"
        SqliteSource(self.path, create=True).close()
        self.repository = Repository.new(directory / "repository", bare=True)
        self.written = written

    def stores(self):
        yield Store(MemorySource(self.name), name="memory")
        yield Store(SqliteSource(self.path), name="sqlite")
        yield Store(GitSource(self.repository.path), name="git")

    def source(self):
        # With something that opens it, a store belongs to its layer.
        return OverlaySource(
            [Layer(s.name, s, lambda: None, optional=False) for s in self.stores()], self.written
        )

    def close(self):
        self.keeper.close()


@pytest.mark.chaos
class TestOverlayWrittenAbove(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return OverlayHarness(tmp_path, MEMORY)


class TestOverlayWrittenBetween(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return OverlayHarness(tmp_path, SQLITE)


@pytest.mark.chaos
class TestOverlayWrittenBelow(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return OverlayHarness(tmp_path, GIT)


@pytest.mark.chaos
class TestOverlayOverGrpc(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return Served(OverlayHarness(tmp_path, SQLITE))
