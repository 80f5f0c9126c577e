"""One work tree: its index and files, brought along path by path when its branch moves.

A plain ``git commit`` commits what the index holds, so what the index keeps of an older commit
would take the newer one back. Each path is judged alone. What the user has staged, or changed in
the file, is the user's. What is as the commit before had it, or waits to be brought along, follows.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import tenacity
from dulwich.file import FileLocked, GitFile, SharedPerm, adjust_shared_perm
from dulwich.objects import ObjectID
from dulwich.sparse_patterns import sparse_path_matcher

from datastream.sources.git.bringing import Bringing, Step, content_at
from datastream.sources.git.errors import Damaged
from datastream.sources.git.index_file import Index
from datastream.sources.git.objects import Objects
from datastream.sources.git.refs import HEAD, Refs
from datastream.sources.git.repository import configuration
from datastream.sources.git.tree import Change, is_file, lookup

LOCK_TIMEOUT = 0.5
"""Seconds to wait for a git command that holds the index."""

RETRY = 1.0
"""Seconds until `bring` is tried again after something failed: git wants the index, too."""

SETTLING = 2.0
"""Seconds after which no git command writes an index any more that it had read before a put: it
reads first, and takes the lock then."""
STALE = 100
"""Contents of one path that are remembered for so long."""

_SPARSE = (b"core",), b"sparseCheckout"
_CONE = (b"core",), b"sparseCheckoutCone"


_File = tuple[int, int]


class Waiting(NamedTuple):
    """What waits to be brought along of one path."""

    before: frozenset[ObjectID | None]
    """What the work tree may hold of older commits."""
    new: ObjectID | None
    """What was committed last."""
    stale: tuple[ObjectID | None, ...] = ()
    """What only the index may hold, from where a git command had read it before; oldest first."""

    @property
    def is_brought(self) -> bool:
        """Whether it was brought along already, but for what a git command has done since."""
        return self.before == {self.new}


class _Brought(NamedTuple):
    """What was brought along of one path."""

    waiting: Waiting
    until: float
    """When it is settled."""


class WorkTree:
    """The index and the files of one work tree. Safe to use from several threads.

    Args:
        common, own: the repository's folder, and the one in it that is of this work tree.
        root: the folder with the files.
        where: the repository as error texts name it.
        shared: how files are made accessible to others; None leaves that to the umask.
    """

    def __init__(
        self, common: Path, own: Path, root: Path, where: str, shared: SharedPerm | None
    ) -> None:
        self.own, self.root = own, root
        self._common = common
        self._index, self._lock = own / "index", own / "index.lock"
        self._head = Refs(common, own, HEAD, where)
        self.shared = shared
        self.obstacle = ""
        """Why paths wait."""
        # Guards what follows, for memory work only.
        self._mutex = threading.Lock()
        self._behind: dict[bytes, Waiting] = {}
        self._branch = b""
        self._commit = ObjectID(b"")
        # What was brought along just now, and the index as it was seen to hold that.
        self._brought: dict[bytes, _Brought] = {}
        self._seen: _File | None = None
        # The lock that was waited for in vain, and the index that could not be read.
        self._left: _File | None = None
        self._broken: _File | None = None
        # When it is tried again after something failed.
        self._due = 0.0

    def ref(self) -> bytes:
        """The branch that is checked out; b"" if git itself could not tell."""
        try:
            return self._head.find().ref
        except (Damaged, OSError):
            return b""

    def lock(self, *, patient: bool = True) -> Any:
        """The lock of the index; None if it cannot be had, or not soon.

        git commit and git add hold it too: nothing changes between our read and our write.
        """
        # A lock that was waited for in vain is a killed program's, or an editor is open.
        known = self._left is not None and self._left == _file_at(self._lock)
        patience = LOCK_TIMEOUT if patient and not known else 0
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(FileLocked),
            wait=tenacity.wait_random(0.001, 0.02),
            stop=tenacity.stop_after_delay(patience),
            retry_error_callback=lambda _: None,
        )
        try:
            lock = retrying(GitFile, str(self._index), "wb", mask=0o666)
        except OSError:
            return None
        self._left = _file_at(self._lock) if lock is None else None
        return lock

    def is_due(self) -> bool:
        """Whether paths wait that `bring` may bring along now, after it could not."""
        is_broken = self._broken is not None and self._broken == _file_at(self._index)
        return bool(self._behind) and not is_broken and monotonic() >= self._due

    def late(self) -> list[str]:
        """The paths that wait for the index to be free."""
        with self._mutex:
            return [os.fsdecode(path) for path in self._behind]

    def leave_behind(self, ref: bytes, commit: ObjectID, changes: Iterable[Change]) -> None:
        """Have the paths that a commit changes on a branch wait until `bring` is called."""
        with self._mutex:
            if ref != self._branch:
                # What waited for another branch was left to who switched.
                self._branch = ref
                self._behind.clear()
                self._brought.clear()
            self._commit = commit
            for path, old, new in changes:
                waiting = self._behind.get(path)
                if waiting is None and path in self._brought:
                    waiting = self._brought.pop(path).waiting
                before, _, stale = waiting or Waiting(frozenset(), None)
                self._behind[path] = Waiting(before | {old}, new, stale)

    def is_settling(self) -> bool:
        """Whether a git command may still write an index that it had read before."""
        with self._mutex:
            now = monotonic()
            settled = [path for path, found in self._brought.items() if found.until < now]
            for path in settled:
                del self._brought[path]
            return bool(self._brought)

    def doubt(self) -> None:
        """Have those paths wait again that a git command has set back in the index.

        It had read the index before they were brought along, and has written what it had read.
        """
        if not self.is_settling() or (seen := _file_at(self._index)) == self._seen:
            return
        with self._mutex:
            brought = dict(self._brought)
        entries = self._read()[0].entries
        for path, one in brought.items():
            waiting, entry = one.waiting, entries.get(path)
            held = None if entry is None else entry.blob
            if held in waiting.stale and self._holds(path, waiting.new):
                self._wait_again(path, one)
        self._seen = seen

    def _wait_again(self, path: bytes, brought: _Brought) -> None:
        with self._mutex:
            if self._brought.get(path) is brought:
                del self._brought[path]
                self._behind[path] = brought.waiting
                self.obstacle = "a git command has set the index back"

    def leave_to_user(self, objects: Objects, tree: ObjectID) -> None:
        """Give up the paths that were brought along, and are not so in `tree`, the branch, now.

        Who has taken a commit back, as with git reset, may want to keep the file.
        """
        with self._mutex:
            waiting = dict(self._behind)
        for path, found in waiting.items():
            if found.is_brought and _file(objects, tree, path) != found.new:
                with self._mutex:
                    if self._behind.get(path) is found:
                        del self._behind[path]

    def taken_back(self, objects: Objects, tree: ObjectID) -> list[Change]:
        """What waited in vain: git commit has committed what the index still held.

        Args:
            tree: what the branch holds now.
        """
        with self._mutex:
            waiting, commit = dict(self._behind), self._commit
        found = [
            Change(path, held, new)
            for path, (before, new, stale) in waiting.items()
            if (held := _file(objects, tree, path)) != new
            and (held in before or (held in stale and self._holds(path, new)))
        ]
        return found if found and _has_committed(self.own / "logs" / "HEAD", commit) else []

    def tip(self) -> ObjectID | None:
        """The commit to which paths wait to be brought; None if they wait no more.

        Another branch may be checked out by now; or the work tree is not there any more.
        """
        ref, commit = self._head.find()
        with self._mutex:
            if ref != self._branch or commit is None:
                self._behind.clear()
                self._brought.clear()
                return None
        return commit

    def bring(self, objects: Objects, tree: ObjectID) -> list[str]:
        """Bring along the paths that wait, to what they are in `tree`; under the lock.

        Returns:
            the paths that are not as in the tree, because the user changed them.

        Raises:
            BrokenIndex, OSError: the index cannot be read or written; the paths wait.
        """
        self._due = monotonic() + RETRY
        self.leave_to_user(objects, tree)
        with self._mutex:
            waiting = dict(self._behind)
        steps = [
            Step(path, found.before, _file(objects, tree, path), found.stale)
            for path, found in waiting.items()
        ]
        index, written = self._read()
        bringing = Bringing(self.root, index, written, objects, self._outside)
        # Deletes first: they may make room.
        steps.sort(key=lambda step: step.new is not None)
        left = list(filter(None, map(bringing.take, steps)))
        bringing.keep_unsure()
        self._replace(index.written())
        if bringing.without_room:
            self.obstacle = "there is no room on the disk for its files"
        else:
            self._due = 0.0
        until = monotonic() + SETTLING
        with self._mutex:
            self._seen = _file_at(self._index)
            for path, new in ((step.path, step.new) for step in steps):
                # Unless it was left behind once more, meanwhile.
                if path in bringing.without_room or self._behind.get(path) != waiting[path]:
                    continue
                before, _, stale = self._behind.pop(path)
                if os.fsdecode(path) not in left:
                    stale = (*stale, *(before - {new}))[-STALE:]
                    brought = Waiting(frozenset({new}), new, stale)
                    self._brought[path] = _Brought(brought, until)
        return left

    def _holds(self, path: bytes, content: ObjectID | None) -> bool:
        """Whether the file is as it was written, so that only the index was set back."""
        place = self.root / os.fsdecode(path)
        try:
            return content_at(place, place.lstat().st_mode) == content
        except FileNotFoundError:
            return content is None
        except OSError:
            return False

    def _read(self) -> tuple[Index, int]:
        """The index, and when it was written, in nanoseconds."""
        try:
            found = _file_at(self._index)
            with self._index.open("rb") as file:
                written = os.fstat(file.fileno()).st_mtime_ns
                raw = file.read()
        except FileNotFoundError:
            return Index(), 0
        self._broken = found
        index = Index.read(raw, self._shared_index)
        self._broken = None
        return index, written

    def _replace(self, raw: bytes) -> None:
        # Not by renaming the lock, which is held until the branch has moved, too.
        temporary = self._index.with_name(f"index.datastream-{secrets.token_hex(6)}")
        try:
            temporary.write_bytes(raw)
            adjust_shared_perm(temporary, self.shared)
            temporary.replace(self._index)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _shared_index(self, name: str) -> bytes:
        return (self.own / f"sharedindex.{name}").read_bytes()

    def _outside(self) -> Callable[[bytes], bool]:
        """Tells which new files are not to be checked out."""
        config = configuration(self._common, self.own)
        patterns = self.own / "info" / "sparse-checkout"
        if not config.get_boolean(*_SPARSE, False) or not patterns.exists():
            return lambda path: False
        lines = patterns.read_text("utf-8", "surrogateescape").splitlines()
        inside = sparse_path_matcher(lines, bool(config.get_boolean(*_CONE, True)))
        return lambda path: not inside(os.fsdecode(path))


def _file_at(place: Path) -> _File | None:
    """Which file is there; another one, or one that was written, differs."""
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _has_committed(log: Path, since: ObjectID) -> bool:
    """Whether all that moved HEAD since a commit was git commit, or a store."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return False
    found = False
    for line in reversed(lines):
        head, _, message = line.partition(b"\t")
        if head.split(b" ")[1:2] == [since]:
            return found
        if message.startswith(b"commit"):
            found = True
        elif not message.startswith(b"datastream: "):
            return False
    return False


def _file(objects: Objects, tree: ObjectID, path: bytes) -> ObjectID | None:
    found = lookup(objects.items, tree, path)
    return found[1] if found is not None and is_file(found[0]) else None
