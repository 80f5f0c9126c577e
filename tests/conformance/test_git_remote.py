import pytest

from datastream.sources.git import RemoteGitSource
from datastream.testing import Conformance, Harness
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)
from tests.servers.git_http import PASSWORD, USER, GitServer


@pytest.fixture
def repository(tmp_path):
    return Repository.new(tmp_path / "repository", bare=True)


class RemoteHarness(Harness):
    """The sources share a clone, as the processes of one user do."""

    def __init__(self, url, **options):
        self.url = url
        self.options = {"interval": 0.05} | options

    def source(self):
        return RemoteGitSource(self.url, **self.options)


@pytest.mark.chaos
class TestGitRemoteFile(Conformance):
    @pytest.fixture
    def harness(self, repository):
        return RemoteHarness(f"file://{repository.path}")


@pytest.mark.chaos
class TestGitRemoteHttp(Conformance):
    """Thousands of git processes: too long for a plain run."""

    @pytest.fixture
    def harness(self, repository):
        repository.git("config", "http.receivepack", "true")
        server = GitServer(repository.path.parent)
        url = f"{server.url}/{repository.path.name}"
        yield RemoteHarness(url, username=USER, password=PASSWORD)
        server.close()
