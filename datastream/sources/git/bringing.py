"""What becomes of single paths of a work tree when its branch moves."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from dulwich.objects import Blob, ObjectID

from datastream.sources.git.errors import DAMAGE
from datastream.sources.git.index_file import SPARSE_DIRECTORY, Entry, Index
from datastream.sources.git.objects import Objects
from datastream.sources.git.tree import FILE, is_file

_SECOND = 1_000_000_000
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Step(NamedTuple):
    """What is to become of one path."""

    path: bytes
    before: frozenset[ObjectID | None]
    """What it may hold without being the user's; None for no file."""
    new: ObjectID | None
    """None for no file."""
    stale: Collection[ObjectID | None] = ()
    """What the index may hold besides, if the file does not: a git command has set it back."""


class Bringing:
    """Takes steps in an index, which is changed, and in the files beside it.

    Args:
        root: the folder with the files.
        written: when the index was written, in nanoseconds.
        objects: hold what is written.
        outside: makes what tells which new files are not to be checked out.
    """

    def __init__(
        self,
        root: Path,
        index: Index,
        written: int,
        objects: Objects,
        outside: Callable[[], Callable[[bytes], bool]],
    ) -> None:
        self._root = root
        self._index = index
        self._written = written
        self._objects = objects
        self._outside = outside
        # Whether there are files at all: a disk may be away, whose index is here.
        self._is_there = root.is_dir()
        self.without_room: set[bytes] = set()
        """The paths whose files wait, since the disk is full; their index has followed."""

    def take(self, step: Step) -> str:
        """Bring one path along; its name if the index or the file stays the user's."""
        self._open_directories(step.path)
        entry = self._index.entries.get(step.path)
        if entry is not None and entry.intended:
            # A promise to add the file is no content, and no commit has it.
            entry = None
        held = None if entry is None else entry.blob
        if step.path in self._index.conflicts or not self._may_hold(step, entry, held):
            return os.fsdecode(step.path)
        try:
            if step.new is None:
                self._index.entries.pop(step.path, None)
                followed = entry is None or entry.skipped or self._remove(step, entry)
            else:
                followed = self._put(step, entry, step.new)
        except (OSError, *DAMAGE) as error:
            # The index comes first, so it has followed.
            followed = isinstance(error, OSError) and error.errno in _FULL
            if followed:
                self.without_room.add(step.path)
        return "" if followed else os.fsdecode(step.path)

    def _may_hold(self, step: Step, entry: Entry | None, held: ObjectID | None) -> bool:
        """Whether what the index holds is not the user's."""
        known = step.before | {step.new}
        if held in known or held not in step.stale:
            return held in known
        return self._content(step.path, self._lstat(step.path), entry) in known

    def keep_unsure(self) -> None:
        """Have git look again into files that it could not be sure of.

        Those that changed in the second in which the index was written may have changed after git
        had looked. A newer index would hide that.
        """
        second = self._written // _SECOND
        for path, entry in self._index.entries.items():
            if entry.changed < second or not is_file(entry.mode):
                continue
            if not self._is_as_indexed(self._lstat(path), entry):
                self._index.entries[path] = entry.unsure()

    # The index.

    def _open_directories(self, path: bytes) -> None:
        """Have the directories on the way to `path` stand for themselves, not for their files."""
        end = path.find(b"/")
        while end >= 0:
            name = path[: end + 1]
            found = self._index.entries.get(name)
            if found is not None and found.mode == SPARSE_DIRECTORY:
                del self._index.entries[name]
                for item, (mode, content) in self._objects.items(found.blob).items():
                    below = name + item + (b"/" if stat.S_ISDIR(mode) else b"")
                    entry = Entry.of(_index_mode(mode), content, skipped=True)
                    self._index.entries[below] = entry
            end = path.find(b"/", end + 1)

    @cached_property
    def _is_outside(self) -> Callable[[bytes], bool]:
        return self._outside()

    @cached_property
    def _folders(self) -> set[bytes]:
        """The folders of all entries, as they are when the first path is added."""
        return {above for path in self._index.entries for above in _above(path)}

    def _has_room(self, path: bytes) -> bool:
        """Whether no other entry is a directory on the way, or lies below."""
        if path in self._folders or any(above in self._index.entries for above in _above(path)):
            return False
        self._folders.update(_above(path))
        return True

    # Files.

    def _put(self, step: Step, entry: Entry | None, new: ObjectID) -> bool:
        """Have index and file hold `new`; whether both do."""
        entries = self._index.entries
        if entry is None:
            if not self._has_room(step.path):
                return False
            entry = Entry.of(FILE, new, skipped=self._is_outside(step.path))
            held = None
        else:
            held = entry.blob
        if entry.skipped or entry.assumed:
            entries[step.path] = entry if held == new else entry.holding(new)
            return entry.skipped and not os.path.lexists(self._place(step.path))
        if held != new:
            # First of all, whatever becomes of the file: it is what git commit takes.
            entries[step.path] = entry.holding(new)
        found = self._lstat(step.path)
        content = self._content(step.path, found, entry if held is not None else None)
        if content == new:
            return True
        if content not in step.before or not self._leads_to(step.path):
            return False
        place = self._place(step.path)
        mode = entry.mode if found is None else found.st_mode
        _write(place, self._objects.content(new), 0o666 | mode & 0o111)
        entries[step.path] = Entry.of(entry.mode, new, _numbers(place.lstat()))
        return True

    def _remove(self, step: Step, entry: Entry) -> bool:
        """Remove a file that has no entry any more; whether it is gone."""
        found = self._lstat(step.path)
        content = self._content(step.path, found, entry)
        if content is None:
            return found is None
        if content not in step.before or not self._leads_to(step.path):
            return False
        place = self._place(step.path)
        place.unlink()
        with suppress(OSError):
            for folder in place.parents:
                if folder == self._root:
                    break
                folder.rmdir()
        return True

    def _content(
        self, path: bytes, found: os.stat_result | None, entry: Entry | None
    ) -> ObjectID | str | None:
        """The id of what a file holds; None if there is none, "" if it is none of git's."""
        if found is None or self._is_empty(path, found):
            return None
        if entry is not None and self._is_sure(found, entry):
            return entry.blob
        kind = stat.S_IFMT(found.st_mode)
        if entry is not None and kind != stat.S_IFMT(entry.mode):
            return ""
        return content_at(self._place(path), kind)

    def _is_empty(self, path: bytes, found: os.stat_result) -> bool:
        """Whether it was an empty directory, which git takes for none."""
        if stat.S_ISDIR(found.st_mode):
            with suppress(OSError):
                self._place(path).rmdir()
                return True
        return False

    def _is_sure(self, found: os.stat_result, entry: Entry) -> bool:
        """Whether a file need not be read to know that it is as the index has it, as for git.

        It is how a file is recognised that a filter wrote, such as one with other line ends.
        """
        return self._is_as_indexed(found, entry) and found.st_mtime_ns < self._written

    def _is_as_indexed(self, found: os.stat_result | None, entry: Entry) -> bool:
        if found is None:
            return entry.skipped
        same_kind = stat.S_IFMT(found.st_mode) == stat.S_IFMT(entry.mode)
        times = found.st_ctime_ns, found.st_mtime_ns
        return same_kind and entry.size == found.st_size & 0xFFFFFFFF and entry.times == times

    def _lstat(self, path: bytes) -> os.stat_result | None:
        try:
            return self._place(path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _leads_to(self, path: bytes) -> bool:
        """Whether all from the root down to the file's folder are directories, or not there."""
        if not self._is_there:
            return False
        folder = self._place(path).parent
        while folder != self._root:
            if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
                return False
            folder = folder.parent
        return True

    def _place(self, path: bytes) -> Path:
        return self._root / os.fsdecode(path)


def content_at(place: Path, mode: int) -> ObjectID | str:
    """The id of what a file of this mode holds; "" if it is none of git's."""
    if stat.S_ISLNK(mode):
        return Blob.from_string(os.fsencode(place.readlink())).id
    return Blob.from_string(place.read_bytes()).id if stat.S_ISREG(mode) else ""


def _above(path: bytes) -> Iterator[bytes]:
    """The folders that a path lies in."""
    end = path.find(b"/")
    while end >= 0:
        yield path[:end]
        end = path.find(b"/", end + 1)


def _index_mode(mode: int) -> int:
    """The mode of an entry for what a tree holds."""
    if not is_file(mode):
        return SPARSE_DIRECTORY if stat.S_ISDIR(mode) else mode
    return mode if stat.S_ISLNK(mode) else stat.S_IFREG | (0o755 if mode & 0o100 else 0o644)


def _numbers(found: os.stat_result) -> tuple[int, ...]:
    ctime, mtime = divmod(found.st_ctime_ns, _SECOND), divmod(found.st_mtime_ns, _SECOND)
    inode = found.st_dev, found.st_ino
    return *ctime, *mtime, *inode, found.st_uid, found.st_gid, found.st_size


def _write(place: Path, content: bytes, mode: int) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".datastream-{secrets.token_hex(6)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.replace(place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
