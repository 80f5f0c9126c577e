"""Repositories for tests, driven by the real git program."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest

GIT = shutil.which("git")

ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Somebody",
    "GIT_AUTHOR_EMAIL": "somebody@example.org",
    "GIT_COMMITTER_NAME": "Somebody",
    "GIT_COMMITTER_EMAIL": "somebody@example.org",
    "GIT_TERMINAL_PROMPT": "0",
}
_OF_THE_CALLER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_SSH_COMMAND")


@pytest.fixture(autouse=True)
def git_environment(monkeypatch, tmp_path):
    """The git program, with nobody's configuration and a cache of its own; sound at the end."""
    if GIT is None:
        pytest.skip("needs the git program: apt-get install git")
    for name in _OF_THE_CALLER:
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Repository.made.clear()
    yield
    for repository in [*Repository.made, *map(Repository, clones(tmp_path))]:
        if repository.path.exists():
            repository.fsck()


def clones(tmp_path):
    """The clones that sources made below the default cache."""
    return sorted(p for p in tmp_path.glob("cache/datastream/git/*") if p.is_dir())


class Repository:
    """A repository as other programs see it."""

    made: ClassVar = []

    def __init__(self, path):
        self.path = Path(path)

    @classmethod
    def new(cls, path, *, bare=False):
        repository = cls(path)
        repository.path.mkdir(parents=True)
        cls.made.append(repository)
        repository.git("init", "-q", "-b", "main", *(["--bare"] if bare else []))
        return repository

    def git(self, *arguments, data=None, check=True):
        """What git prints; as text, without the newline at its end."""
        return self.raw(*arguments, data=data, check=check).decode().removesuffix("\n")

    def raw(self, *arguments, data=None, check=True):
        result = subprocess.run(
            [GIT, *arguments],
            cwd=self.path,
            input=data,
            capture_output=True,
            check=False,
            timeout=100,
            env=os.environ | ENVIRONMENT,
        )
        assert result.returncode == 0 or not check, result.stderr.decode()
        return result.stdout

    def commit(self, files, message="by git"):
        """Commit `files` (path to text or bytes, None to remove) with the git program."""
        for path, content in files.items():
            place = self.path / path
            if content is None:
                place.unlink()
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                data = content.encode() if isinstance(content, str) else content
                place.write_bytes(data)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.head()

    def import_commit(self, files, branch="main"):
        """The same in a bare repository, or on a branch that is not checked out."""
        commands = [f"commit refs/heads/{branch}\ncommitter S <s@example.org> now\ndata 2\nok\n"]
        if self.git("rev-parse", "-q", "--verify", f"refs/heads/{branch}", check=False):
            commands.append(f"from refs/heads/{branch}^0\n")
        script = "".join(commands).encode()
        for path, content in files.items():
            quoted = b'"' + os.fsencode(path).replace(b"\\", b"\\\\") + b'"'
            if content is None:
                script += b"D " + quoted + b"\n"
            else:
                data = content.encode() if isinstance(content, str) else content
                script += b"M 644 inline " + quoted + b"\ndata %d\n" % len(data) + data + b"\n"
        self.git("fast-import", "--quiet", "--date-format=now", "--force", data=script)
        return self.head(branch)

    def head(self, ref="HEAD"):
        return self.git("rev-parse", ref)

    def files(self, ref="HEAD"):
        """Path to content of every file, as git has them."""
        listing = self.raw("ls-tree", "-r", "-z", ref).split(b"\0")[:-1]
        names = [line.partition(b"\t") for line in listing]
        blobs = [(name, meta.split()[2]) for meta, _, name in names if b" blob " in meta]
        ids = b"".join(blob + b"\n" for _, blob in blobs)
        output, contents, at = self.raw("cat-file", "--batch", data=ids), {}, 0
        for name, _ in blobs:
            end = output.index(b"\n", at)
            size = int(output[at:end].split()[2])
            contents[name] = output[end + 1 : end + 1 + size]
            at = end + 2 + size
        return contents

    def fsck(self):
        self.git("fsck", "--strict", "--no-dangling")
