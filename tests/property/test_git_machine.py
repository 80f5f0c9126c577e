"""The random histories of `StoreMachine` over repositories: local, bare, remote, behind gRPC."""

import shutil
import tempfile
from pathlib import Path

import pytest

from datastream import Store
from datastream.sources.git import GitSource, RemoteGitSource
from datastream.testing import Recorder
from tests.property.machine import Served, StoreMachine, search, searched
from tests.repositories import ENVIRONMENT, GIT, Repository

if GIT is None:
    pytest.skip("needs the git program: apt-get install git", allow_module_level=True)


class GitMachine(StoreMachine):
    """`raw` is the git program."""

    bare = True

    def open(self):
        self.directory = Path(tempfile.mkdtemp())
        self.repository = Repository.new(self.directory / "repository", bare=self.bare)
        return Store(self.source()), Store(self.source())

    def source(self):
        return GitSource(self.repository.path)

    def note(self, entry):
        """Revisions are contents, which come back: they tell nothing of the order."""

    def raw(self, key, value):
        self.repository.import_commit({key: value})

    def teardown(self):
        super().teardown()
        self.repository.fsck()
        shutil.rmtree(self.directory)


class CheckedOutMachine(GitMachine):
    bare = False

    def raw(self, key, value):
        if value is not None or (self.repository.path / key).exists():
            self.repository.commit({key: value})

    def source(self):
        return GitSource(self.repository.path, branch="main")


class RemoteMachine(GitMachine):
    """Two processes of one user, who share a clone; what git does is seen a little later."""

    def source(self):
        return RemoteGitSource(
            f"file://{self.repository.path}", cache=self.directory / "cache", interval=0.001
        )

    def raw(self, key, value):
        super().raw(key, value)
        # As a web hook would.
        for store in (self.store, self.elsewhere):
            recorder = Recorder(store, key)
            store.refresh()
            recorder.wait_state({} if value is None else {key: value})
            recorder.dispose()


class GrpcMachine(Served, GitMachine):
    pass


@pytest.fixture(autouse=True)
def git_environment(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@searched(
    (GitMachine, 15, 20), (CheckedOutMachine, 8, 15), (RemoteMachine, 6, 15), (GrpcMachine, 8, 20)
)
@pytest.mark.timeout(300)
def test_random_histories(machine, examples, steps):
    search(machine, examples, steps)
