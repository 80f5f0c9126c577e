"""All work trees of a repository in which a branch is checked out."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from dulwich.file import SharedPerm
from dulwich.objects import ObjectID
from dulwich.repo import Repo

from datastream.errors import DatastreamError
from datastream.sources.git.errors import DAMAGE
from datastream.sources.git.keys import is_checked_out
from datastream.sources.git.objects import Objects
from datastream.sources.git.refs import HEAD
from datastream.sources.git.repository import LayoutNow
from datastream.sources.git.tree import Change
from datastream.sources.git.worktree import WorkTree

FIRST_PAUSE, SLOWEST_PAUSE = 0.0005, 0.1
"""Seconds between two looks at an index that another program holds."""
LOOKS = 200
"""How many pauses fit in the time for which it is held already."""
CLOSING = 1.0
"""Seconds that `close` waits for a look that is under way."""
NAMED = 5
"""Paths that a warning names."""


class News(NamedTuple):
    """A commit that a branch moves to."""

    objects: Objects
    commit: ObjectID
    root: ObjectID
    changes: Sequence[Change]


Bring = Callable[[News], None]
Restore = Callable[[Sequence[Change]], None]
"""Commits once more what git commit has taken back."""

log = logging.getLogger("datastream")


class WorkTrees:
    """Brings along every work tree in which a branch is checked out. Safe to use from threads.

    Args:
        repo: the repository, bare or not; it is not used later.
        where: the repository as error texts name it.
        reopen: opens it once more.
        restore: called by a thread of this object; None if nothing can be done.
        layout: what is configured of its files.
    """

    def __init__(
        self,
        repo: Repo,
        where: str,
        reopen: Callable[[], Repo],
        restore: Restore | None,
        layout: LayoutNow,
    ) -> None:
        self._common = Path(repo.commondir()).resolve()
        self._own = Path(repo.controldir()).resolve()
        self._layout = layout
        self._where = where
        self._reopen = reopen
        self._restore = restore
        # What is to be restored; a deque, since any thread may find it.
        self._lost: deque[list[Change]] = deque()
        self._known: dict[Path, WorkTree] = {}
        # Guards the thread; never held while a file is read or written.
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def degraded(self) -> str:
        """Which indexes wait; "" if none does."""
        trees = [tree for tree in list(self._known.values()) if tree.late()]
        return "; ".join(f"{tree.root} has not followed: {tree.obstacle}" for tree in trees)

    def folders(self, ref: bytes) -> list[Path]:
        """The repository's folders of the work trees in which `ref` is checked out."""
        return [tree.own for tree in self._at(ref)]

    @contextmanager
    def held(self, ref: bytes) -> Iterator[Bring]:
        """Hold the indexes where `ref` is checked out; gives what brings them along."""
        with ExitStack() as stack:
            locks = [(tree, tree.lock()) for tree in self._at(ref)]
            for _, lock in locks:
                if lock is not None:
                    stack.callback(lock.abort)

            def bring(news: News) -> None:
                # What git refuses to check out has no place in an index, nor in a folder.
                changes = [change for change in news.changes if is_checked_out(change.path)]
                for tree, lock in locks:
                    with self._passing_trouble():
                        tree.doubt()
                    self._note_lost(tree, tree.taken_back(news.objects, news.root), changes)
                    tree.leave_behind(ref, news.commit, changes)
                    if lock is None:
                        self._postpone(tree)
                    elif obstacle := self._attempt(tree, news.objects, news.root):
                        # Until there is room on the disk, or the index is mended.
                        self._warn(tree, obstacle)
                    self._start()

            yield bring

    def close(self) -> None:
        """Stop waiting for indexes, after a last look."""
        self._stop.set()
        with self._mutex:
            thread = self._thread
        if thread is not None:
            thread.join(CLOSING)
        for tree in list(self._known.values()):
            if late := tree.late():
                self._warn(tree, f"{_listed(late)} waited in vain: {tree.obstacle}")

    # Which they are.

    def _at(self, ref: bytes) -> list[WorkTree]:
        found = [tree for tree in self._all() if tree.ref() == ref]
        # Without a branch, a work tree has a HEAD of its own.
        return [tree for tree in found if ref != HEAD or tree.own == self._own]

    def _all(self) -> list[WorkTree]:
        linked = self._common / "worktrees"
        try:
            folders = [Path(found.path) for found in os.scandir(linked)]
        except OSError:
            folders = []
        layout = self._layout()
        self._follow(self._common, layout.root, layout.shared)
        for own in folders:
            self._follow(own, _linked_root(own), layout.shared)
        there = {self._common, *folders}
        self._forget(set(self._known) - there)
        return [tree for own, tree in sorted(self._known.items()) if own in there]

    def _forget(self, missing: Iterable[Path]) -> None:
        """Forget the work trees that were removed, unless the whole repository is away."""
        for own in missing:
            if not own.exists() and (self._common / "HEAD").exists():
                self._known.pop(own, None)

    def _follow(self, own: Path, root: Path | None, shared: SharedPerm | None) -> None:
        """Know a work tree, and where it is now; without `root`, what was known stays."""
        known = self._known.get(own)
        if known is not None:
            known.root, known.shared = root or known.root, shared
        elif root is not None:
            self._known[own] = WorkTree(self._common, own, root, self._where, shared)

    # Bringing along, now or later.

    def _postpone(self, tree: WorkTree) -> None:
        tree.obstacle = "another git program holds the index"
        log.warning(
            "%s: committed, but another git program holds the index of %s. It is brought along "
            "when that lets go; if no git program runs, remove %s",
            self._where,
            tree.root,
            tree.own / "index.lock",
        )

    def _note_lost(
        self, tree: WorkTree, lost: Sequence[Change], changes: Sequence[Change] = ()
    ) -> None:
        """Have what git commit has taken back restored, unless it is just written anew."""
        written = {change.path for change in changes}
        lost = [change for change in lost if change.path not in written]
        if not lost:
            return
        log.warning(
            "%s: git commit in %s took back %s from an index that had not followed%s",
            self._where,
            tree.root,
            _listed([os.fsdecode(change.path) for change in lost]),
            "" if self._restore is None else "; it is committed once more",
        )
        if self._restore is not None:
            self._lost.append(lost)
            self._start()

    def _start(self) -> None:
        with self._mutex:
            if self._thread is None and not self._stop.is_set():
                name = f"datastream index {self._where}"
                self._thread = threading.Thread(target=self._catch_up, name=name, daemon=True)
                self._thread.start()

    def _attempt(self, tree: WorkTree, objects: Objects, root: ObjectID) -> str:
        """Bring a work tree along; why paths wait all the same, "" if none does."""
        try:
            left = tree.bring(objects, root)
        except (OSError, *DAMAGE) as error:
            tree.obstacle = f"its index cannot be used: {error}"
            return tree.obstacle
        if left:
            self._warn(tree, f"{_listed(left)} was changed there")
        return tree.obstacle if tree.late() else ""

    def _warn(self, tree: WorkTree, reason: str) -> None:
        log.warning(
            "%s: committed, but the work tree %s has not followed everywhere: %s. Files you have "
            "not changed yourself are brought up to date by git restore --staged --worktree",
            self._where,
            tree.root,
            reason,
        )

    def _catch_up(self) -> None:
        """Look at the indexes until all have followed, and no git command sets them back."""
        began, objects = monotonic(), None
        try:
            while True:
                pause = SLOWEST_PAUSE
                if self._is_late():
                    pause = min(max(FIRST_PAUSE, (monotonic() - began) / LOOKS), pause)
                stopped = self._stop.wait(pause)
                with self._passing_trouble():
                    for tree in list(self._known.values()):
                        tree.doubt()
                    if self._is_late():
                        # Opened before the lock is taken, which others may want by then.
                        objects = objects or Objects(self._reopen())
                        self._look(objects)
                        self._restore_lost()
                if self._is_over(stopped=stopped):
                    return
        finally:
            if objects is not None:
                objects.close()

    @contextmanager
    def _passing_trouble(self) -> Iterator[None]:
        try:
            yield
        except (DatastreamError, OSError, *DAMAGE) as error:
            log.debug("%s: indexes have not followed yet: %s", self._where, error)

    def _is_over(self, *, stopped: bool) -> bool:
        """Whether the thread ends; then the next one may begin."""
        with self._mutex:
            trees = list(self._known.values())
            if stopped or not (self._is_late() or any(tree.is_settling() for tree in trees)):
                self._thread = None
                return True
        return False

    def _is_late(self) -> bool:
        return bool(self._lost) or any(tree.late() for tree in list(self._known.values()))

    def _look(self, objects: Objects) -> None:
        # They may have been moved meanwhile, or removed.
        for tree in self._all():
            if tree.is_due():
                with self._passing_trouble():
                    self._look_at(tree, objects)

    def _look_at(self, tree: WorkTree, objects: Objects) -> None:
        commit = tree.tip()
        if commit is None:
            return
        # Read before the lock is taken: a git program may want that by now.
        root = objects.state(commit).tree
        if root is not None and not tree.taken_back(objects, root):
            tree.leave_to_user(objects, root)
            if not tree.late():
                return
        lock = tree.lock(patient=False)
        if lock is not None:
            try:
                if root is not None and tree.tip() == commit:
                    self._note_lost(tree, tree.taken_back(objects, root))
                    self._attempt(tree, objects, root)
            finally:
                lock.abort()

    def _restore_lost(self) -> None:
        while self._lost and self._restore is not None:
            self._restore(self._lost.popleft())


def _linked_root(own: Path) -> Path | None:
    """The folder of the files of a linked work tree; None if it is none, or half made."""
    try:
        link = os.fsdecode((own / "gitdir").read_bytes().strip())
    except OSError:
        return None
    return (own / link).parent if link else None


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(repr(path) for path in paths[:NAMED]) + more
