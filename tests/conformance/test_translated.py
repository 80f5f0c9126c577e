"""Stores in other words: every promise holds through a translation, too."""

import secrets
from urllib.parse import quote, unquote

import pytest

from datastream import Store
from datastream._translated.rules import Pair, Translation
from datastream._translated.source import TranslatedSource
from datastream._upstream import Upstream
from datastream.sources.git import GitSource
from datastream.sources.memory import MemorySource
from datastream.sources.sqlite import SqliteSource
from datastream.testing import Conformance, Harness
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)


def mirrored(entry):
    return entry._replace(value=entry.value[::-1])


class TranslatedHarness(Harness):
    """A store below, opened anew for each source."""

    def __init__(self, below, translation):
        self.below = below
        self.translation = translation

    def source(self):
        store = Store(self.below(), name="below")
        return TranslatedSource(Upstream(store, owned=True), self.translation)


class TestTranslatedMemory(Conformance):
    @pytest.fixture
    def harness(self):
        name = secrets.token_hex(8)
        # The table lives as long as a source over it does.
        keeper = MemorySource(name)
        words = Translation.of(Pair(quote, unquote), Pair(mirrored, mirrored), None)
        yield TranslatedHarness(lambda: MemorySource(name), words)
        keeper.close()


@pytest.mark.chaos
class TestTranslatedSqlite(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        SqliteSource(tmp_path / "store.db", create=True).close()
        words = Translation.of(None, None, ("", "all/of/it/"))
        return TranslatedHarness(lambda: SqliteSource(tmp_path / "store.db"), words)


@pytest.mark.chaos
class TestTranslatedGit(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        repository = Repository.new(tmp_path / "repository", bare=True)
        words = Translation.of(None, None, ("", "below/"))
        return TranslatedHarness(lambda: GitSource(repository.path), words)
