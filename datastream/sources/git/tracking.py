"""A remote's branch, as its clone keeps track of it."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from pathlib import Path

import tenacity
from dulwich.file import FileLocked
from dulwich.objects import ZERO_SHA, ObjectID
from dulwich.refs import DiskRefsContainer
from dulwich.repo import Repo

from datastream.errors import DatastreamError, SourceUnavailable, shown
from datastream.sources.git.branch import RefWatch
from datastream.sources.git.clone import TIP, folder_for, free_stale_lock, inode, open_clone
from datastream.sources.git.commit import NewCommit
from datastream.sources.git.errors import Damaged
from datastream.sources.git.moving import Moved
from datastream.sources.git.objects import Objects, State, reopen_repo
from datastream.sources.git.refs import HEADS, Place, Refs
from datastream.sources.git.remote import Head, Progress, Remote
from datastream.sources.git.turns import Turns

log = logging.getLogger("datastream")

LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process that moves the clone's ref."""
LOOKS = 20
"""How often the remote is asked anew because another process moved the clone's ref meanwhile."""


class RemoteBranch:
    """Reads the clone, asks the remote, and pushes to it. Safe to use from several threads.

    The clone's own ref is moved from what it was before the remote was asked, or not at all: an
    answer that is older than that of another thread or process never replaces it.
    """

    def __init__(self, remote: Remote, branch: str, cache: str | Path, progress: Progress | None):
        self._remote = remote
        self._name = branch
        self._progress = progress
        self._folder = folder_for(cache, remote.where, branch)
        self._head: Head | None = None
        self._inode = 0
        # A commit that was pushed although the clone's ref could not be moved, and the one before.
        self._pushed: tuple[ObjectID | None, ObjectID] | None = None
        self._refs = Refs(self._folder, self._folder, TIP, remote.where)
        self._alive = False
        self._turns = Turns()
        self.watch = RefWatch(self._folder, self._folder, self._place)

    def open(self) -> Repo:
        """The clone; made, or made anew, unless another process has."""
        repo = open_clone(self._folder, self._fill, broken=self._inode)
        self._inode = inode(self._folder)
        self._pushed = None
        try:
            self._alive = self._refs.find().commit is not None
        except BaseException:
            repo.close()
            raise
        return repo

    def handle(self) -> Repo:
        """Another handle on the clone."""
        return reopen_repo(self._folder)

    @property
    def replaced(self) -> bool:
        """Whether another process, or thread, has made the clone anew, or is about to."""
        return inode(self._folder) != self._inode

    @property
    def asked(self) -> bool:
        """Whether the remote has answered yet."""
        return self._head is not None

    def names(self) -> tuple[str, ...]:
        """What stands for the newest commit."""
        ref = self._head.ref if self._head else b""
        followed = ref.removeprefix(HEADS).decode("utf-8", "replace")
        return tuple(name for name in ("HEAD", "@", self._name, followed) if name)

    def tip(self) -> ObjectID | None:
        """The commit last seen at the remote.

        Raises:
            Damaged: the clone has lost it.
        """
        # Before the look: another thread may see the first commit right after it.
        was_alive = self._alive
        commit = self._place().commit
        if commit is None and was_alive:
            raise self._lost()
        if commit is not None:
            self._alive = True
        return commit

    def catch_up(self) -> None:
        """Have `tip` show where the remote's branch is."""
        self.look()

    def give_way(self) -> None:
        """Let other stores push, if this one has done so for long."""
        if (seconds := self._turns.due()) > 0:
            time.sleep(seconds)

    def check_unborn(self) -> None:
        """Refuse to take the branch for unborn: the clone has a commit that was on it.

        Raises:
            Damaged: always.
        """
        raise self._lost()

    def look(self) -> Head:
        """Ask the remote where the branch is, and get what is new.

        Raises:
            SourceUnavailable: it is away, or has the branch no more.
        """
        pushed = self._pushed
        for _ in range(LOOKS):
            before = self._refs.find().commit
            head = self._remote.head(self._name)
            self._head = head
            if head.commit is None and before is not None:
                raise SourceUnavailable(
                    f"{self._remote.where}: {head.ref.decode()} was deleted there; make it again, "
                    "or open another branch"
                )
            if head.commit is None or head.commit == before or self._follow(head, before):
                if self._pushed is pushed:
                    # The clone shows a state of the remote that is at least as new.
                    self._pushed = None
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

    def publish(self, objects: Objects, base: State, new: NewCommit) -> None:
        """Push a commit, made on top of `base`.

        Raises:
            Moved: somebody else pushed meanwhile.
        """
        ref, commit = (self._head or self.look()).ref, new.commit.id
        # First, so that all that can fail once it is pushed is to note it.
        objects.add(new.objects, objects.shared)
        with self._turns.push():
            self._remote.push(Head(ref, base.commit), new)
        # It is pushed, which is what counts: from here on it is read, also if noting it fails.
        self._pushed = base.commit, commit
        try:
            # A clone that was made anew meanwhile lacks the objects; the look fetches them.
            if objects.has_commit(commit) and _move(objects.repo, base.commit, commit):
                self._pushed = None
            else:
                self.look()
        except (SourceUnavailable, FileLocked) as error:
            log.warning("pushed, but not yet in the clone: %s", error)

    def fetch_named(self, repo: Repo, name: str) -> None:
        self._remote.fetch_named(repo, name)

    def close(self) -> None:
        self.watch.close()
        self._remote.close()

    def _place(self) -> Place:
        # In this order: what is not taken for pushed any more has been noted by then.
        pushed = self._pushed
        noted = self._refs.find()
        if pushed is not None and noted.commit == pushed[0]:
            return noted._replace(commit=pushed[1])
        return noted

    def _lost(self) -> Damaged:
        return Damaged(f"{self._folder}: the clone lost the commit of its branch")

    def _fill(self, repo: Repo) -> None:
        head = self._head = self._remote.head(self._name)
        if head.commit is not None:
            # If another process has noted one meanwhile, that is at least as new.
            _move(repo, None, self._remote.fetch(repo, head, self._progress))
        elif self._name and self._remote.head("").commit is not None:
            raise DatastreamError(f"{self._remote.where} has no branch {shown(self._name)}")

    def _follow(self, head: Head, before: ObjectID | None) -> bool:
        """Fetch what is missing; whether the clone's ref could be moved to it."""
        with closing(reopen_repo(self._folder)) as repo:
            commit = head.commit
            if commit is None or commit not in repo.object_store:
                commit = self._remote.fetch(repo, head, None)
            return _move(repo, before, commit)


def _move(repo: Repo, before: ObjectID | None, commit: ObjectID) -> bool:
    """Move a clone's ref; False if it is not at `before` any more."""
    folder = Path(repo.controldir())
    free_stale_lock(folder)
    refs = DiskRefsContainer(folder)
    retrying = tenacity.Retrying(
        # It is held while a file is synced to the disk.
        retry=tenacity.retry_if_exception_type(FileLocked),
        wait=tenacity.wait_random(0.001, 0.02),
        stop=tenacity.stop_after_delay(LOCK_TIMEOUT),
        reraise=True,
    )
    return retrying(refs.set_if_equals, TIP, before or ZERO_SHA, commit)
