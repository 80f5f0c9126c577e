"""A branch of a git repository: keys are paths, values the files' contents, commits the batches.

Read is always one commit's tree, never the work tree, and never through dates: what changed is
the difference of two trees, whatever lies between them.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path

from datastream.errors import DatastreamError
from datastream.sources._bell import jittered
from datastream.sources._git_branch import LocalBranch, Refs
from datastream.sources._git_commit import signature
from datastream.sources._git_files import Files
from datastream.sources._git_objects import Objects, open_repo
from datastream.sources._git_past import Past
from datastream.sources._git_source import BranchSource, folder_of
from datastream.url import Location, configured

LOOK = 1.0
"""Seconds between looks at a local branch that nobody tells of."""


class GitSource(BranchSource):
    """A Source over a branch of a repository on this machine, bare or not.

    Args:
        path: the folder that holds ``.git``, or a bare repository.
        branch: "" follows HEAD, also when another branch is checked out.
        prefix: only what lies below this folder, which is no part of the keys.
        author, email: of the commits that writes make; "" takes git's configuration.
        message: of those commits; ``{keys}`` stands for what is written. "" names it by itself.
        interval: seconds between looks at the branch where the file system tells of no changes.

    Raises:
        DatastreamError: no repository there, no such branch, or nothing a commit can hold.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        branch: str = "",
        prefix: str = "",
        author: str = "",
        email: str = "",
        message: str = "",
        interval: float = LOOK,
    ) -> None:
        folder_of(prefix)
        self._path, self._name, self._interval = Path(path), branch, interval
        objects = Objects(open_repo(path))
        try:
            who = signature(objects.repo.get_config_stack(), author, email, message)
            self._local = LocalBranch(objects, branch, str(path))
            super().__init__(objects, self._local, str(path), prefix, who)
        except BaseException:
            objects.close()
            raise

    def wait(self, timeout: float | None) -> None:
        look = jittered(self._interval)
        with self._guarded():
            self._local.watch.wait(
                self._seen, self._bell, look if timeout is None else min(look, timeout)
            )

    def release(self) -> None:
        self._local.watch.close()

    def _past(self, point: str | datetime | None) -> Past:
        objects = Objects(open_repo(self._path))
        _, tip = Refs(objects.repo, self._name).find()
        return Past(Files(objects, self._files.prefix), tip, self._where)


def open_git(location: Location, **options: object) -> BranchSource:
    """The Source of ``git:PATH``."""
    path = location.path.removeprefix("//") if location.path.startswith("///") else location.path
    if not path or path.startswith("//"):
        raise DatastreamError(
            f"{location.shown!r} names no folder; write git:PATH, or git+https://… for a remote"
        )
    return configured(partial(GitSource, path), location, options)


