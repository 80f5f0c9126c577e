"""The work tree of a checked-out branch, brought along when the branch moves.

Only what a commit touches is looked at. Where one of those files, or its place in the index, is
not what the commit before says, everything stays as it is: it is the user's.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, cast

import tenacity
from dulwich.file import FileLocked, GitFile
from dulwich.index import (
    ConflictedIndexEntry,
    IndexChecksumWriter,
    IndexEntry,
    index_entry_from_stat,
    read_index_dict_with_version,
    write_index_dict,
)
from dulwich.objects import Blob, ObjectID
from dulwich.refs import Ref
from dulwich.repo import Repo

from datastream.sources.git.errors import DAMAGE
from datastream.sources.git.objects import Objects
from datastream.sources.git.refs import HEAD, Refs
from datastream.sources.git.tree import FILE, Change

LOCK_TIMEOUT = 2.0
"""Seconds to wait for a git command that holds the index."""

_CHECKSUM = 20
_ASSUMED = 0x8000
"""Flag of an entry that git does not compare with the file."""

Entries = dict[bytes, IndexEntry | ConflictedIndexEntry]
Bring = Callable[[], None]

log = logging.getLogger("datastream")


class WorkTree:
    """The files and the index beside a repository, if it has any. One write at a time uses it."""

    def __init__(self, repo: Repo, where: str) -> None:
        self._bare = repo.bare
        self._root = Path(repo.path)
        self._index = Path(repo.index_path())
        self._head = Refs(repo.commondir(), repo.controldir(), HEAD, where)
        self._where = where
        # The lock that was waited for in vain.
        self._left: tuple[int, int] | None = None

    def following(
        self, objects: Objects, ref: Ref, changes: Sequence[Change]
    ) -> AbstractContextManager[Bring]:
        """Hold the index while `ref` moves; call what this gives once it has."""
        if self._bare or self._head.find().ref != ref:
            return nullcontext(lambda: None)
        return self._held(objects, changes)

    @contextmanager
    def _held(self, objects: Objects, changes: Sequence[Change]) -> Iterator[Bring]:
        # git commit and git add hold it too, so it does not change between our read and our write.
        lock = self._lock()
        if lock is None:
            yield lambda: self._warn("another git program holds the index")
            return
        try:
            entries = _read_index(self._index)
            reason = self._obstacle(entries, changes)
            if reason or entries is None:
                yield lambda: self._warn(reason)
            else:
                yield lambda: self._bring(objects, entries, changes, lock)
        finally:
            lock.abort()

    def _lock(self) -> GitFile | None:  # type: ignore[valid-type]
        # A lock that was waited for in vain is a killed program's, or an editor is open.
        patience = LOCK_TIMEOUT if self._left is None or self._left != self._lock_there() else 0
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(FileLocked),
            wait=tenacity.wait_random(0.001, 0.02),
            stop=tenacity.stop_after_delay(patience),
            retry_error_callback=lambda _: None,
        )
        lock = retrying(GitFile, str(self._index), "wb")
        self._left = self._lock_there() if lock is None else None
        return lock

    def _lock_there(self) -> tuple[int, int] | None:
        """Which lock it is that another program holds."""
        try:
            found = self._index.with_name(f"{self._index.name}.lock").stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _warn(self, reason: str) -> None:
        log.warning(
            "%s: committed, but the work tree was left as it is: %s. Files you have not changed "
            "yourself are brought up to date by git restore --staged --worktree",
            self._where,
            reason,
        )

    # Looking.

    def _obstacle(self, entries: Entries | None, changes: Sequence[Change]) -> str:
        """Why the work tree cannot be brought along; "" if nothing speaks against it."""
        if entries is None:
            return "its index is of a kind that is not supported"
        gone = {self._place(change.path) for change in changes if change.new is None}
        for change in changes:
            if not self._is_clean(change, entries.get(change.path), gone):
                return f"{os.fsdecode(change.path)!r} was changed there"
        return ""

    def _is_clean(
        self, change: Change, entry: IndexEntry | ConflictedIndexEntry | None, gone: set[Path]
    ) -> bool:
        place = self._place(change.path)
        if not self._leads_to(place.parent, gone):
            return False
        if change.old is None or entry is None:
            return change.old is None and entry is None and _is_free(place, gone)
        if isinstance(entry, ConflictedIndexEntry) or entry.sha != change.old:
            return False
        if entry.skip_worktree or entry.flags & _ASSUMED:
            return False
        return _holds(place, entry)

    def _leads_to(self, folder: Path, gone: set[Path]) -> bool:
        """Whether all from the root down to `folder` are directories, or will not be there."""
        while folder != self._root:
            if (
                folder not in gone
                and os.path.lexists(folder)
                and (folder.is_symlink() or not folder.is_dir())
            ):
                return False
            folder = folder.parent
        return True

    def _place(self, path: bytes) -> Path:
        return self._root / os.fsdecode(path)

    # Writing.

    def _bring(
        self, objects: Objects, entries: Entries, changes: Sequence[Change], lock: BinaryIO
    ) -> None:
        try:
            for change in sorted(changes, key=lambda change: change.new is not None):
                if change.new is None:
                    self._remove(change.path)
                    entries.pop(change.path, None)
                else:
                    content = objects.content(change.new)
                    self._write(entries, change.path, change.new, content)
        except (OSError, *DAMAGE) as error:
            self._warn(str(error))
        # Without git's extensions: what they say of the trees is outdated.
        writer = IndexChecksumWriter(lock)
        write_index_dict(writer, entries)
        writer.close()

    def _remove(self, path: bytes) -> None:
        place = self._place(path)
        place.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in place.parents:
                if folder == self._root:
                    break
                folder.rmdir()

    def _write(self, entries: Entries, path: bytes, blob: ObjectID, content: bytes) -> None:
        before = entries.get(path)
        mode = before.mode if isinstance(before, IndexEntry) else FILE
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".datastream-{secrets.token_hex(6)}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 | mode & 0o111)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            temporary.replace(place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        entries[path] = index_entry_from_stat(place.lstat(), blob, mode)


def _is_free(place: Path, gone: set[Path]) -> bool:
    """Whether nothing is there, or a directory of files that all go."""
    if place.is_dir() and not place.is_symlink():
        return all(_is_free(below, gone) for below in place.iterdir())
    return place in gone or not os.path.lexists(place)


def _holds(place: Path, entry: IndexEntry) -> bool:
    """Whether a file has the content that the index says it has."""
    try:
        found = place.lstat()
        if stat.S_IFMT(found.st_mode) != stat.S_IFMT(entry.mode):
            return False
        if stat.S_ISLNK(found.st_mode):
            content = os.fsencode(place.readlink())
        elif _is_as_indexed(found, entry):
            return True
        else:
            content = place.read_bytes()
    except OSError:
        return False
    return Blob.from_string(content).id == entry.sha


def _is_as_indexed(found: os.stat_result, entry: IndexEntry) -> bool:
    """What git does: same size and times mean the same content, read or not.

    It is how a file is recognised that a filter wrote, such as one with other line ends.
    """
    if not isinstance(entry.mtime, tuple) or found.st_size != entry.size:
        return False
    seconds, nanoseconds = entry.mtime
    return found.st_mtime_ns == seconds * 1_000_000_000 + nanoseconds


def _read_index(path: Path) -> Entries | None:
    """The entries of an index; None if it holds more than can be kept."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        entries, _, _ = read_index_dict_with_version(cast("BinaryIO", file))
        rest = path.stat().st_size - file.tell()
    # git marks with small letters what a program must know: split and sparse indexes.
    return entries if rest <= _CHECKSUM else None
