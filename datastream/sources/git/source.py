"""A branch of a git repository: keys are paths, values the files' contents, commits the batches.

Read is always one commit's tree, never the work tree, and never through dates: what changed is
the difference of two trees, whatever lies between them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar

from dulwich.config import StackedConfig

from datastream.entry import Capability, Entry
from datastream.errors import DatastreamError, SourceUnavailable
from datastream.selection import Selects
from datastream.source import Reading, Write
from datastream.sources._common.wake import jittered
from datastream.sources.git.address import Address
from datastream.sources.git.branch import LocalBranch, Refs, branch_ref
from datastream.sources.git.branch_source import BranchSource, folder_of
from datastream.sources.git.commit import signature
from datastream.sources.git.errors import Damaged
from datastream.sources.git.files import Files
from datastream.sources.git.objects import Objects, open_repo
from datastream.sources.git.past import Past
from datastream.sources.git.remote import Progress, Remote
from datastream.sources.git.tracking import RemoteBranch
from datastream.url import Location, configured

log = logging.getLogger("datastream")

T = TypeVar("T")

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
        repo = open_repo(self._path)
        objects = Objects(repo)
        _, tip = Refs(repo.commondir(), repo.controldir(), branch_ref(self._name)).find()
        return Past(Files(objects, self._files.prefix), tip, self._where)


class RemoteGitSource(BranchSource):
    """A Source over a branch of a repository elsewhere, through a clone in a cache directory.

    The remote is asked every `interval` where its branch is, and fetched from when it moved; by
    a thread that waits, so that reads are never held up. They answer from the clone, also while
    the remote is away. When nobody watches, a read asks itself, if that is due.

    Args:
        url: ``https://``, ``http://``, ``ssh://`` or ``file:///``, with or without ``git+``.
        branch: "" follows the remote's HEAD.
        prefix, author, email, message: as for `GitSource`.
        interval: seconds between questions where the branch is.
        username, password: for a private repository.
        token: instead of a password; needs no username.
        cache: where clones are kept; "" is the user's cache directory.
        ssh_command: what runs instead of ``ssh``; "" takes GIT_SSH_COMMAND or git's configuration.
        timeout: seconds without an answer after which the remote counts as away.
        progress: called with lines that tell how the first clone proceeds.

    Raises:
        SourceUnavailable, Denied: the remote is away, or refuses, and there is no clone yet.
        DatastreamError: no repository there, no such branch, or nothing a commit can hold.
    """

    keeps_copy = True

    def __init__(
        self,
        url: str,
        *,
        branch: str = "",
        prefix: str = "",
        interval: float = 10.0,
        username: str = "",
        password: str = "",
        token: str = "",
        author: str = "",
        email: str = "",
        message: str = "",
        cache: str | Path = "",
        ssh_command: str = "",
        timeout: float = 20.0,
        progress: Progress | None = None,
    ) -> None:
        folder_of(prefix)
        branch_ref(branch)
        who = signature(StackedConfig.default(), author, email, message)
        self._interval, self._due, self._watched, self._away = interval, 0.0, False, False
        self._trouble: DatastreamError | None = None
        remote = Remote(Address.of(url, username, password, token), ssh_command, timeout)
        self._remote_branch = RemoteBranch(remote, branch, cache, progress)
        try:
            objects = self._remote_branch.open()
        except BaseException:
            remote.close()
            raise
        super().__init__(objects, self._remote_branch, remote.where, prefix, who)

    def capabilities(self) -> Sequence[Capability]:
        self._refresh()
        return self._repaired(super().capabilities)

    def read(self, selection: Selects, since: str | None) -> Reading:
        if since is None:
            self._refresh()
        else:
            # Whoever reads so waits next, and that is where the remote is asked.
            self._watched = True
        return self._repaired(partial(super().read, selection, since))

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        return self._repaired(partial(super().write, writes))

    def wait(self, timeout: float | None) -> None:
        self._watched = True
        due = self._due
        if self._bell.is_set():
            self._bell.clear()
            if self._trouble is not None:
                # Woken is not well again: that only a look can tell, which comes next.
                raise type(self._trouble)(str(self._trouble))
            return
        with self._guarded():
            left = due - monotonic()
            if left > 0:
                seconds = left if timeout is None else min(left, timeout)
                self._remote_branch.watch.wait(self._seen, self._bell, seconds)
                if self._due != due or monotonic() < due:
                    return
            self._look()

    def wake(self) -> None:
        # The wait that this ends returns at once; the one that follows asks the remote.
        self._due = 0.0
        super().wake()

    def release(self) -> None:
        self._watched = False
        self._remote_branch.watch.close()

    def _look(self) -> None:
        self._due = monotonic() + jittered(self._interval)
        try:
            self._remote_branch.look()
        except DatastreamError as error:
            self._due, self._trouble = 0.0, error
            raise
        self._trouble = None

    def _refresh(self) -> None:
        """Ask the remote, unless a thread does that anyway."""
        if self._watched or monotonic() < self._due:
            return
        try:
            self._look()
            self._away = False
        except DatastreamError as error:
            self._due = monotonic() + jittered(self._interval)
            # Once, not with every read. What was last seen is still there to be read.
            log.log(
                logging.INFO if self._away else logging.WARNING, "answering as of before: %s", error
            )
            self._away = True

    def _repaired(self, action: Callable[[], T]) -> T:
        """Do it again, on a new clone, if this one turns out to be broken."""
        try:
            return action()
        except Damaged as error:
            log.warning("cloning anew: %s", error)
            self._objects.close()
            self._objects = self._files.objects = self._remote_branch.reopen()
            return action()

    def _past(self, point: str | datetime | None) -> Past:
        objects = self._remote_branch.handle()
        past = Past(
            Files(objects, self._files.prefix),
            self._remote_branch.tip(),
            self._where,
            self._remote_branch.names(),
        )
        if isinstance(point, str):
            self._fetch_named(past, point)
        return past

    def _fetch_named(self, past: Past, point: str) -> None:
        name = re.split("[~^]", point)[0]
        if name in self._remote_branch.names() or past.named(name) is not None:
            return
        try:
            self._remote_branch.fetch_named(past.objects.repo, name)
        except SourceUnavailable as error:
            log.warning("%s: looked for in the clone only: %s", point, error)
        except BaseException:
            past.close()
            raise


def open_git(location: Location, **options: object) -> BranchSource:
    """The Source of ``git:PATH``, ``git+https://…``, ``git+ssh://…`` and ``git+file:///…``."""
    if location.scheme != "git":
        remote = partial(RemoteGitSource, f"{location.scheme}:{location.path}")
        return configured(remote, location, options)
    path = location.path.removeprefix("//") if location.path.startswith("///") else location.path
    if not path or path.startswith("//"):
        raise DatastreamError(
            f"{location.shown!r} names no folder; write git:PATH, or git+https://… for a remote"
        )
    return configured(partial(GitSource, path), location, options)
