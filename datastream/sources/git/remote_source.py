"""A branch of a repository elsewhere as a Source, read through a clone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from dulwich.objects import ObjectID
from dulwich.repo import Repo

from datastream.entry import Capability, Entry
from datastream.errors import DatastreamError, SourceUnavailable
from datastream.selection import Selects
from datastream.source import Health, Reading, Write, Written
from datastream.sources.git.address import Address
from datastream.sources.git.branch_source import BranchSource, folder_of
from datastream.sources.git.commit import Signing
from datastream.sources.git.errors import Damaged
from datastream.sources.git.files import Files, Known
from datastream.sources.git.handles import Handles
from datastream.sources.git.identity import Identities
from datastream.sources.git.naming import base_of
from datastream.sources.git.objects import NoRepository, Objects
from datastream.sources.git.past import Past
from datastream.sources.git.refs import Missing, branch_ref
from datastream.sources.git.remote import Progress, Remote
from datastream.sources.git.repository import user_config
from datastream.sources.git.schedule import Schedule
from datastream.sources.git.tracking import RemoteBranch
from datastream.sources.git.unread import Faults
from datastream.url import Program, Seconds, checks_options

log = logging.getLogger("datastream")

T = TypeVar("T")


class RemoteGitSource(BranchSource):
    """A Source over a branch of a repository elsewhere, through a clone in a cache directory.

    The remote is asked every `interval` where its branch is, and fetched from when it moved; by
    a thread that waits, so that reads are never held up. They answer from the clone, also while
    the remote is away. Without watchers, a read asks the remote itself when `interval` has passed.

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
        progress: called with lines of progress of the first clone.

    Raises:
        SourceUnavailable, Denied: the remote is away, or refuses, and there is no clone yet.
        DatastreamError: no repository there, no such branch, or nothing a commit can hold.
    """

    @checks_options
    def __init__(
        self,
        url: str,
        *,
        branch: str = "",
        prefix: str = "",
        interval: Seconds = 10.0,
        username: str = "",
        password: str = "",
        token: str = "",
        author: str = "",
        email: str = "",
        message: str = "",
        cache: str | Path = "",
        ssh_command: Program = "",
        timeout: Seconds = 20.0,
        progress: Progress | None = None,
    ) -> None:
        below = folder_of(prefix)
        branch_ref(branch)
        signing = Signing(Identities(user_config, author, email), message)
        self._watched = False
        self._schedule = Schedule(interval)
        self._asking, self._renewing = threading.Lock(), threading.Lock()
        self._accepting = threading.Lock()
        # Objects that a new clone lacks, too, or that none could be made for.
        self._hopeless: frozenset[ObjectID] = frozenset()
        self._renewal_due = False
        known = Known()

        def files(repo: Repo) -> Files:
            return Files(Objects(repo, known.trees), below, known)

        remote = Remote(Address.of(url, username, password, token), ssh_command, timeout)
        self._remote_branch = tracked = RemoteBranch(remote, branch, cache, progress)
        try:
            handles = Handles(lambda: files(tracked.handle()), files(tracked.open()))
        except BaseException:
            remote.close()
            raise
        super().__init__(handles, tracked, remote.where, below, signing)
        self._files: Callable[[Repo], Files] = files
        try:
            if not tracked.asked:
                self._look_at_first()
        except BaseException:
            self.close()
            raise

    def capabilities(self) -> Sequence[Capability]:
        self._refresh()
        return self._repaired(super().capabilities)

    def read(self, selection: Selects, since: str | None) -> Reading:
        self._refresh()
        return self._repaired(partial(super().read, selection, since))

    def get(self, key: str) -> Entry | None:
        self._refresh()
        return self._repaired(partial(super().get, key))

    def write(self, writes: Sequence[Write]) -> Written:
        written = self._repaired(partial(super().write, writes))
        # Every write talks to the remote, so it is there.
        self.health = self._well()
        return written

    def wait(self, timeout: float | None) -> None:
        self._watched = True
        if self._wake.is_set():
            self._wake.clear()
            return
        requests, left = self._schedule.requests, self._schedule.left()
        if left > 0:
            seconds = left if timeout is None else min(left, timeout)
            self._repaired(partial(self._follow_clone, seconds))
            if self._schedule.requests != requests or self._schedule.left() > 0:
                return
        self._look()

    def wake(self) -> None:
        # The wait that this ends returns at once; the one that follows asks the remote.
        self._schedule.request()
        super().wake()

    def release(self) -> None:
        self._watched = False
        self._remote_branch.watch.release()

    def _follow_clone(self, seconds: float) -> None:
        """Wait until another thread or process moves the clone, or for `seconds`."""
        self._remote_branch.watch.wait(self._seen, self._wake, seconds)

    def _look(self, pause: float = 0.0) -> None:
        """Ask the remote; if it is away, what was seen last is still there to be read.

        Args:
            pause: seconds before it is asked again if it is away, at least.
        """
        requests = self._schedule.requests
        try:
            self._repaired(self._remote_branch.look)
        except Exception as error:
            ours = self.translate(error, None)
            if not isinstance(ours, DatastreamError):
                raise
            if str(self.health.error) != str(ours):
                self.health = Health(error=ours, degraded=self._degraded)
            self._schedule.failed(requests, pause)
        else:
            self.health = self._well()
            self._schedule.succeeded(requests)
            self._renew_if_due()

    def _look_at_first(self) -> None:
        self._look()
        error = self.health.error
        if error is not None and not isinstance(error, SourceUnavailable):
            raise error
        if error is not None:
            log.warning("opened as of before: %s", error)

    def _refresh(self) -> None:
        """Ask the remote, unless a thread that waits does so anyway."""
        if self._watched or self._schedule.left() > 0:
            return
        # One asks for all who read just now. While the remote is away, the others do not wait.
        if self._asking.acquire(blocking=self.health.error is None):
            try:
                if self._schedule.left() <= 0:
                    self._look(self._schedule.interval)
            finally:
                self._asking.release()

    def _repaired(self, action: Callable[[], T]) -> T:
        """Do it again, on a new clone, if this one turns out to be broken."""
        generation = self._handles.generation
        try:
            return action()
        except Exception as error:
            ours = self.translate(error, None)
            if not isinstance(ours, Damaged) and not self._is_moved_away(error):
                raise
            self._renew(generation, ours)
            return action()

    def _well(self) -> Health:
        return Health(degraded=self._degraded)

    def _accept(self, faults: Faults, generation: int) -> bool:
        """First have the clone made anew: it holds nothing that could not be had again."""
        with self._accepting:
            if self._handles.generation != generation:
                return False
            new = faults.objects - self._hopeless
            if not new:
                return True
            self._hopeless |= new
            self._renewal_due = True
            self._renew_if_due()
            return False

    def _renew_if_due(self) -> None:
        """Make a clone anew that lacks objects; while the remote is away, all else is read."""
        if self._renewal_due:
            try:
                self._renew(self._handles.generation, Damaged("the clone lacks objects"))
            except DatastreamError as error:
                log.warning("the clone lacks objects and cannot be made anew: %s", error)
            else:
                self._renewal_due = False

    def _is_moved_away(self, error: Exception) -> bool:
        """Whether the clone itself is not where it was: somebody makes it anew."""
        gone = isinstance(error, FileNotFoundError | Missing | NoRepository)
        return gone and self._remote_branch.replaced

    def _renew(self, generation: int, error: Exception) -> None:
        with self._renewing:
            # Unless another call has done it already.
            if self._handles.generation == generation:
                log.warning("opening the clone anew: %s", error)
                self._handles.renew(self._files(self._remote_branch.open()))

    def _past(self, point: str | datetime | None) -> Past:
        self._refresh()
        branch = self._remote_branch
        past = self._repaired(
            lambda: Past(self._handles, branch.tip(), self._where, branch.names())
        )
        try:
            if isinstance(point, str):
                self._fetch_named(past, point)
        except BaseException:
            past.close()
            raise
        return past

    def _fetch_named(self, past: Past, point: str) -> None:
        name = base_of(point)
        if name in self._remote_branch.names() or past.named(name) is not None:
            return
        try:
            self._remote_branch.fetch_named(past.objects.repo, name)
        except SourceUnavailable as error:
            log.warning("%s: searched in the clone only: %s", point, error)
