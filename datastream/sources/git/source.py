"""A branch of a git repository: keys are paths, values the files' contents, commits the batches.

Read is always one commit's tree, never the work tree, and never through dates: what changed is
the difference of two trees, whatever lies between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from datastream.source import Write, Written
from datastream.sources._common.paths import fixed, local_path
from datastream.sources._common.wake import jittered
from datastream.sources.git.branch import LocalBranch
from datastream.sources.git.branch_source import BranchSource, folder_of
from datastream.sources.git.commit import Signing
from datastream.sources.git.errors import local_errors
from datastream.sources.git.files import Files, Known
from datastream.sources.git.handles import Handles
from datastream.sources.git.identity import Identities
from datastream.sources.git.keys import key_of
from datastream.sources.git.objects import Objects, config_of, open_repo, reopen_repo
from datastream.sources.git.past import Past
from datastream.sources.git.remote_source import RemoteGitSource
from datastream.sources.git.tree import Change
from datastream.url import Location, Seconds, check_port, checks_options, configured

LOOK = 1.0
"""Seconds between polls of a local branch whose file system sends no notifications."""


class GitSource(BranchSource):
    """A Source over a branch of a repository on this machine, bare or not.

    Args:
        path: the folder that holds ``.git``, or a bare repository.
        branch: "" follows HEAD, also when another branch is checked out.
        prefix: only files below this folder; keys do not contain it.
        author, email: of the commits that writes make; "" takes git's configuration.
        message: of those commits; ``{keys}`` stands for what is written. "" names it by itself.
        interval: seconds between polls where the file system sends no notifications.

    Raises:
        DatastreamError: no repository there, no such branch, or nothing a commit can hold.
    """

    @checks_options
    def __init__(
        self,
        path: str | Path,
        *,
        branch: str = "",
        prefix: str = "",
        author: str = "",
        email: str = "",
        message: str = "",
        interval: Seconds = LOOK,
    ) -> None:
        path = fixed(path)
        below = folder_of(prefix)
        signing = Signing(Identities(partial(config_of, path), author, email), message)
        self._interval = interval
        repo = open_repo(path)
        known = Known()
        handles = Handles(
            lambda: Files(Objects(reopen_repo(path), known.trees), below, known),
            Files(Objects(repo, known.trees), below, known),
        )
        try:
            with local_errors(path):
                self._local = LocalBranch(repo, branch, path, self._restore)
        except BaseException:
            handles.close()
            raise
        super().__init__(handles, self._local, path, below, signing)

    def wait(self, timeout: float | None) -> None:
        interval = jittered(self._interval)
        seconds = interval if timeout is None else min(interval, timeout)
        self._local.watch.wait(self._seen, self._wake, seconds)
        self._tell_health()

    def write(self, writes: Sequence[Write]) -> Written:
        written = super().write(writes)
        self._tell_health()
        return written

    def release(self) -> None:
        self._local.watch.release()

    def _restore(self, lost: Sequence[Change]) -> None:
        """Commit once more what git commit has taken back, unless it was changed since."""
        with self._handles.lend() as files:
            writes = [
                Write(
                    key_of(path[len(self._prefix) :].lstrip(b"/")),
                    None if new is None else files.objects.content(new),
                    expect=old.decode() if old else "",
                    message="Put again what git commit took back",
                )
                for path, old, new in lost
            ]
        self.write(writes)

    @property
    def _degraded(self) -> str:
        return "; ".join(filter(None, (self._local.degraded, super()._degraded)))

    def _past(self, point: str | datetime | None) -> Past:
        return Past(self._handles, self._local.tip(), self._where)


def open_git(location: Location, **options: object) -> BranchSource:
    """The Source of ``git:PATH``, ``git+https://…``, ``git+ssh://…`` and ``git+file:///…``."""
    if location.scheme != "git":
        check_port(location)
        remote = partial(RemoteGitSource, f"{location.scheme}:{location.path}")
        return configured(remote, location, options)
    path = local_path(location, "git:PATH, or git+https://… for a remote", "folder")
    return configured(partial(GitSource, path), location, options)
