import pytest

from datastream.sources.git import GitSource
from datastream.testing import Conformance, Harness
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)
from tests.servers.served import Served


class GitHarness(Harness):
    def __init__(self, repository, **options):
        self.repository = repository
        self.options = options

    def source(self):
        return GitSource(self.repository.path, **self.options)


@pytest.fixture
def repository(tmp_path):
    return Repository.new(tmp_path / "repository", bare=True)


class TestGitBare(Conformance):
    @pytest.fixture
    def harness(self, repository):
        return GitHarness(repository)


@pytest.mark.chaos
class TestGitCheckedOut(Conformance):
    """With a work tree, which is brought along, and below a prefix."""

    @pytest.fixture
    def harness(self, tmp_path):
        repository = Repository.new(tmp_path / "repository")
        repository.commit({"readme.md": "not below the prefix"})
        yield GitHarness(repository, prefix="config/live", branch="main")
        assert repository.git("status", "--porcelain") == ""


@pytest.mark.chaos
class TestGitOverGrpc(Conformance):
    @pytest.fixture
    def harness(self, repository):
        return Served(GitHarness(repository), clients_write=True)
