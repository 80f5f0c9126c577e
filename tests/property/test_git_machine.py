"""The random histories of `StoreMachine` over repositories: local, bare, remote, behind gRPC."""

import shutil
import tempfile
from pathlib import Path

import pytest
from datastream_grpc import GrpcSource, serve

from datastream import Store
from datastream.sources.git import GitSource, RemoteGitSource
from datastream.testing import Recorder
from tests.property.test_state_machine import StoreMachine, _case
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
            f"file://{self.repository.path}", cache=self.directory / "cache", interval=0.0
        )

    def raw(self, key, value):
        super().raw(key, value)
        # As a web hook would.
        for store in (self.store, self.elsewhere):
            recorder = Recorder(store, key)
            store.poke()
            recorder.wait_state({} if value is None else {key: value})
            recorder.dispose()


class GrpcMachine(GitMachine):
    def open(self):
        self.served, elsewhere = super().open()
        elsewhere.close()
        self.server = serve(self.served, "127.0.0.1:0")
        address = self.server.address
        return Store(GrpcSource(address)), Store(GrpcSource(address))

    def teardown(self):
        self.store.close()
        self.elsewhere.close()
        self.server.stop()
        self.served.close()
        self.repository.fsck()
        shutil.rmtree(self.directory)


@pytest.fixture(autouse=True)
def git_environment(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


TestGitBare = _case(GitMachine, 15, 20)
TestGitCheckedOut = _case(CheckedOutMachine, 8, 15)
TestGitRemote = _case(RemoteMachine, 6, 15)
TestGitOverGrpc = _case(GrpcMachine, 8, 20)
