"""Documents of each format: a file, and one that another store holds."""

import secrets

import pytest

from datastream import Store
from datastream._upstream import Upstream
from datastream.sources.document import DocumentSource
from datastream.sources.git import GitSource
from datastream.sources.memory import MemorySource
from datastream.testing import Conformance, Harness
from datastream.url import parse
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)
from tests.servers.served import Served


class FileHarness(Harness):
    """A file; `options` are those of the sources under test, not of the writer elsewhere."""

    effort = 0.5

    def __init__(self, path, **options):
        from datastream._documents import open_document

        self.open = open_document
        self.url = parse(f"file://{path}")
        self.options = options
        path.write_text("{}\n" if path.suffix == ".json" else "# nothing yet\n")

    def source(self):
        return self.open(self.url, **self.options)

    def writer(self):
        return Store(self.open(self.url), name="elsewhere")


class HeldHarness(Harness):
    """A document in another store."""

    effort = 0.5

    def __init__(self, holder, key):
        self.holder = holder
        self.key = key

    def source(self):
        store = Store(self.holder(), name="holder")
        return DocumentSource(Upstream(store, owned=True), self.key, create=True)


class TestTomlFile(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return FileHarness(tmp_path / "settings.toml")


@pytest.mark.chaos
class TestYamlFile(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return FileHarness(tmp_path / "settings.yaml")


@pytest.mark.chaos
class TestJsonDocument(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return FileHarness(tmp_path / "settings.json")


@pytest.mark.chaos
class TestDocumentReadOnly(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return FileHarness(tmp_path / "settings.json", readonly=True)


@pytest.mark.chaos
class TestDocumentInMemory(Conformance):
    @pytest.fixture
    def harness(self):
        name = secrets.token_hex(8)
        harness = HeldHarness(lambda: MemorySource(name), "conf/app.yaml")
        harness.keeper = MemorySource(name)
        return harness


class TestDocumentInGit(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        repository = Repository.new(tmp_path / "repository", bare=True)
        return HeldHarness(lambda: GitSource(repository.path), "app.toml")


@pytest.mark.chaos
class TestDocumentOverGrpc(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return Served(FileHarness(tmp_path / "settings.toml"))
