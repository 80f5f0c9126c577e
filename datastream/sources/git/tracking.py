"""A remote's branch, as its clone keeps track of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import tenacity
from dulwich.file import FileLocked
from dulwich.objects import ZERO_SHA, Commit, ObjectID, ShaFile
from dulwich.refs import DiskRefsContainer
from dulwich.repo import Repo

from datastream.errors import DatastreamError, SourceUnavailable, shown
from datastream.sources.git.branch import HEADS, Moved, Refs, RefWatch
from datastream.sources.git.clone import TIP, folder_for, free_stale_lock, inode, open_clone
from datastream.sources.git.errors import local_errors
from datastream.sources.git.objects import Objects, State, open_repo
from datastream.sources.git.remote import Head, Progress, Remote
from datastream.sources.git.tree import Change

log = logging.getLogger("datastream")

LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process that notes something."""
LOOKS = 20
"""How often the remote is asked anew because another process noted something meanwhile."""


class RemoteBranch:
    """Reads the clone, asks the remote, and pushes to it.

    The clone's own ref is moved from what it was before the remote was asked, or not at all: an
    answer that is older than what another thread or process has noted never replaces it.
    """

    def __init__(self, remote: Remote, branch: str, cache: str | Path, told: Progress | None):
        self._remote = remote
        self._name = branch
        self._told = told
        self._folder = folder_for(cache, remote.where, branch)
        self._head: Head | None = None
        self._inode = 0
        self.watch = RefWatch(self._folder, self._folder, TIP)

    def open(self) -> Objects:
        """Open the clone, or make it; ask the remote, if it is there."""
        objects = self.reopen()
        try:
            if self._head is None:
                self._look_at_first()
        except BaseException:
            objects.close()
            raise
        return objects

    def reopen(self) -> Objects:
        """Make the clone anew, unless another process has."""
        self._objects = Objects(open_clone(self._folder, self._fill, broken=self._inode))
        self._inode = inode(self._folder)
        return self._objects

    def handle(self) -> Objects:
        """Another handle on the clone, for another thread."""
        return Objects(open_repo(self._folder))

    def names(self) -> tuple[str, ...]:
        """What stands for the newest commit."""
        ref = self._head.ref if self._head else b""
        followed = ref.removeprefix(HEADS).decode("utf-8", "replace")
        return tuple(name for name in ("HEAD", "@", self._name, followed) if name)

    def tip(self) -> ObjectID | None:
        """The commit last seen at the remote."""
        return self._refs().find()[1]

    def look(self) -> Head:
        """Ask the remote where the branch is, and get what is new.

        Raises:
            SourceUnavailable: it is away, or has the branch no more.
        """
        for _ in range(LOOKS):
            before = self.tip()
            head = self._remote.head(self._name)
            self._head = head
            if head.commit is None and before is not None:
                raise SourceUnavailable(
                    f"{self._remote.where}: {head.ref.decode()} was deleted there; make it again, "
                    "or open another branch"
                )
            if head.commit is None or head.commit == before or self._follow(head, before):
                return head
        raise SourceUnavailable(f"{self._remote.where}: other processes keep moving the clone")

    def confirm(self, base: State) -> None:
        """Make sure that `base` is what the remote has.

        Raises:
            Moved: it has moved on, and the clone with it.
        """
        self.look()
        if self.tip() != base.commit:
            raise Moved(f"{self._remote.where}: the branch moved")

    def publish(
        self, base: State, commit: Commit, objects: Sequence[ShaFile], changes: Sequence[Change]
    ) -> None:
        """Push `commit`, made on top of `base`.

        Raises:
            Moved: somebody else pushed meanwhile; the clone has it now.
        """
        ref = (self._head or self.look()).ref
        try:
            self._remote.push(Head(ref, base.commit), commit.id, objects)
        except Moved:
            self.look()
            raise
        self._objects.add(objects)
        try:
            if not self._note(base.commit, commit.id):
                self.look()
        except (SourceUnavailable, FileLocked) as error:
            # It is pushed, which is what counts; the clone will have it after the next look.
            log.warning("pushed, but not yet in the clone: %s", error)

    def fetch_named(self, repo: Repo, name: str) -> None:
        self._remote.fetch_named(repo, name)

    def close(self) -> None:
        self.watch.close()
        self._remote.close()

    def _fill(self, repo: Repo) -> None:
        head = self._head = self._remote.head(self._name)
        if head.commit is not None:
            commit = self._remote.fetch(repo, head, self._told)
            repo.refs.set_if_equals(TIP, None, commit)
        elif self._name and self._remote.head("").commit is not None:
            raise DatastreamError(f"{self._remote.where} has no branch {shown(self._name)}")

    def _look_at_first(self) -> None:
        """Catch up with the remote; if it is away, there is what was seen last."""
        try:
            self.look()
        except SourceUnavailable as error:
            log.warning("opened as of before: %s", error)

    def _follow(self, head: Head, before: ObjectID | None) -> bool:
        """Fetch what is missing; whether the clone's ref could be moved to it."""
        # A handle of its own: this runs in the thread that waits, beside reads.
        with local_errors(str(self._folder)):
            repo = open_repo(self._folder)
            try:
                commit = head.commit
                if commit is None or commit not in repo.object_store:
                    commit = self._remote.fetch(repo, head, None)
                return self._note(before, commit)
            finally:
                repo.close()

    def _refs(self) -> Refs:
        return Refs(self._folder, self._folder, TIP)

    def _note(self, before: ObjectID | None, commit: ObjectID) -> bool:
        """Move the clone's ref; False if it is not at `before` any more."""
        free_stale_lock(self._folder)
        refs = DiskRefsContainer(self._folder)
        retrying = tenacity.Retrying(
            # Whoever holds it syncs a file to the disk.
            retry=tenacity.retry_if_exception_type(FileLocked),
            wait=tenacity.wait_random(0.001, 0.02),
            stop=tenacity.stop_after_delay(LOCK_TIMEOUT),
            reraise=True,
        )
        return retrying(refs.set_if_equals, TIP, before or ZERO_SHA, commit)
