"""One branch of a repository on disk: where it is, moving it, and being told that it moved."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from dulwich.objects import ZERO_SHA, Commit, ObjectID, ShaFile
from dulwich.refs import DiskRefsContainer, Ref, SymrefLoop, check_ref_format

from datastream.errors import DatastreamError, SourceUnavailable, shown
from datastream.sources._common.wake import Bell, FileNotice
from datastream.sources.git.objects import Objects, State
from datastream.sources.git.tree import Change
from datastream.sources.git.worktree import WorkTree

HEAD = Ref(b"HEAD")
HEADS = b"refs/heads/"

log = logging.getLogger("datastream")


class Moved(SourceUnavailable):
    """The branch is not any more where it was read; read again and retry."""


def branch_ref(name: str) -> Ref:
    """The ref of a branch; that of "" is HEAD.

    Raises:
        DatastreamError: no branch can have this name.
    """
    ref = Ref(HEADS + name.encode("utf-8", "replace")) if name else HEAD
    if name and not check_ref_format(ref):
        raise DatastreamError(f"{shown(name)} is no name that a branch can have")
    return ref


Place = tuple[Ref, ObjectID | None]
"""A ref, and the commit it is at; None while it is unborn."""


class Refs:
    """Where the branch is, as one thread looks it up.

    Args:
        common, own: the repository's folders; two where it has several work trees.
        name: the ref; HEAD for the branch that it stands for.
    """

    def __init__(self, common: str | Path, own: str | Path, name: Ref) -> None:
        self._refs = DiskRefsContainer(common, own)
        self._name = name

    def find(self) -> Place:
        try:
            names, commit = self._refs.follow(self._name)
        except SymrefLoop as error:
            raise DatastreamError(f"{self._name!r} leads in a circle; repair it") from error
        return names[-1], commit

    def names(self) -> list[str]:
        """All branches."""
        return sorted(ref.decode("utf-8", "replace") for ref in self._refs.subkeys(Ref(HEADS)))


class LocalBranch:
    """The branch of a local repository that a store reads and writes.

    Raises:
        DatastreamError: there is no such branch, though there are others.
    """

    def __init__(self, objects: Objects, name: str, where: str) -> None:
        self._objects = objects
        self._where = where
        folders = objects.repo.commondir(), objects.repo.controldir()
        self._refs = Refs(*folders, branch_ref(name))
        self._alive: Ref | None = None
        self.watch = RefWatch(*folders, branch_ref(name))
        self._work_tree = WorkTree(objects, where)
        self._check(name)

    def tip(self) -> ObjectID | None:
        """The newest commit, None if there is none yet.

        Raises:
            SourceUnavailable: the branch was deleted, or the repository is away. That is no reason
                to take all for deleted.
        """
        ref, commit = self._refs.find()
        if commit is not None:
            self._alive = ref
        elif not Path(self._objects.repo.controldir(), "HEAD").exists():
            raise SourceUnavailable(
                f"{self._where}: the repository is not there; nothing is taken for deleted while "
                "it is away"
            )
        elif ref == self._alive:
            raise SourceUnavailable(
                f"{self._where}: {ref.decode('utf-8', 'replace')} was deleted; make it again, or "
                "open another branch"
            )
        return commit

    def publish(
        self, base: State, commit: Commit, objects: Sequence[ShaFile], changes: Sequence[Change]
    ) -> None:
        """Make `commit` the newest one.

        Raises:
            Moved: the branch is not at `base` any more; nothing has changed.
        """
        ref, tip = self._refs.find()
        if tip != base.commit:
            raise Moved(f"{self._where}: the branch moved")
        self._objects.add(objects)
        with self._work_tree.following(ref, changes) as bring_along:
            self._move(ref, base.commit, commit)
            bring_along()

    def confirm(self, base: State) -> None:
        """Nothing is nearer to the truth than what was just read."""

    def close(self) -> None:
        self.watch.close()

    def _check(self, name: str) -> None:
        others = self._refs.names()
        if name and others and self.tip() is None:
            raise DatastreamError(
                f"{self._where} has no branch {shown(name)}; it has {', '.join(others[:9])}"
            )

    def _move(self, ref: Ref, old: ObjectID | None, commit: Commit) -> None:
        repo = self._objects.repo
        # As git does: who moved a ref is noted where somebody works, not in a bare repository.
        note = None if repo.bare else b"datastream: " + commit.message.partition(b"\n")[0]
        moved = repo.refs.set_if_equals(
            ref,
            ZERO_SHA if old is None else old,
            commit.id,
            committer=commit.committer,
            timestamp=commit.commit_time,
            timezone=commit.commit_timezone,
            message=note,
        )
        if not moved:
            raise Moved(f"{self._where}: the branch moved")


class RefWatch:
    """Waits until the branch is elsewhere than it was last seen."""

    def __init__(self, common: str | Path, own: str | Path, name: Ref) -> None:
        self._own, self._common = Path(own), Path(common)
        self._refs = Refs(common, own, name)
        self._notice: FileNotice | None = None
        self._armed: list[tuple[Path, int]] = []

    def wait(self, seen: ObjectID | None, bell: Bell, seconds: float) -> None:
        """Return when the branch is not at `seen`, may have moved, or `bell` rings.

        At the latest after `seconds`, since some file systems tell nothing.
        """
        # Armed first, looked then: what happens between is told.
        self._arm(self._refs.find()[0])
        if bell.is_set() or self._refs.find()[1] != seen:
            bell.clear()
        elif self._notice is None:
            bell.wait(seconds)
        else:
            self._notice.wait(bell, seconds)

    def close(self) -> None:
        notice, self._notice = self._notice, None
        self._armed = []
        if notice is not None:
            notice.close()

    def _arm(self, ref: Ref) -> None:
        """Listen at every folder in which the ref, HEAD or packed-refs may be replaced."""
        folders = [self._own, self._common]
        for part in ref.split(b"/")[:-1]:
            folders.append(folders[-1] / os.fsdecode(part))
        there = [(f, f.stat().st_ino) for f in dict.fromkeys(folders) if f.is_dir()]
        if there == self._armed:
            return
        self.close()
        self._armed = there
        try:
            self._notice = FileNotice([folder for folder, _ in there], recursive=False)
        except OSError as error:
            log.info("%s: looked at from time to time, nothing tells: %s", self._common, error)
