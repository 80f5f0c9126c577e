"""A directory that is held open: what is done in it is done there, wherever its name leads by then.

Between two system calls a path may come to lead somewhere else: the directory is renamed, replaced
by another one or by a link, mounted over or unmounted. So the directory is opened once for each
look and each write, and everything below it is reached from there.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datastream.sources.files.tree import Place

LINKS = 40
"""Symbolic links followed for one key, as many as Linux follows."""
PATH_MAX = 4095
"""Longest path that the system takes, in bytes. Deeper trees can be made all the same."""
TO_HOLD = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
TO_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR)


class Held:
    """One directory, open. All names are paths below it, without links unless said otherwise.

    Args:
        place: which one it is.
        handle: the open directory; the caller closes it.
    """

    __slots__ = ("_handle", "place")

    def __init__(self, place: Place, handle: int) -> None:
        self.place = place
        self._handle = handle

    # Looking.

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """`os.open`."""
        return os.open(name or ".", flags | os.O_CLOEXEC, mode, dir_fd=self._handle)

    def stat(self, name: str) -> os.stat_result:
        """`os.lstat`."""
        return os.stat(name or ".", dir_fd=self._handle, follow_symlinks=False)

    def find(self, name: str) -> os.stat_result | None:
        """`stat`, None if nothing is there."""
        try:
            return self.stat(name)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return None
            raise

    def check_entered(self) -> None:
        """Raise if nothing below can be reached at all."""
        self.find("-")

    def is_directory(self, name: str) -> bool:
        """Whether there is a directory."""
        info = self.find(name)
        return info is not None and stat.S_ISDIR(info.st_mode)

    def real(self, name: str) -> str | None:
        """Where `name` leads once all links on the way are followed; None if out of here."""
        done: list[str] = []
        left = name.split("/")[::-1]
        links = 0
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not done:
                    return self._real_outside(os.path.join(os.path.pardir, *left[::-1]))  # noqa: PTH118
                done.pop()
                continue
            done.append(part)
            target = self._target("/".join(done))
            if target is None:
                continue
            links += 1
            if links > LINKS:
                # In circles: it stays the link that it is.
                return name
            if target.startswith("/"):
                return self._real_outside(os.path.join(target, *left[::-1]))  # noqa: PTH118
            done.pop()
            left += target.split("/")[::-1]
        return "/".join(done)

    def _real_outside(self, path: str) -> str | None:
        """Where a path leads that passes through what is not below this directory."""
        real = os.path.realpath(os.path.join(self.place.root, path))  # noqa: PTH118
        return self.place.key_of(real)

    def _target(self, name: str) -> str | None:
        """What a link says, None if it is none."""
        try:
            return os.readlink(name, dir_fd=self._handle)
        except OSError:
            return None

    # Changing.

    def make(self, name: str) -> list[str]:
        """Make a directory with all that is missing above it.

        Returns it, and those which hold the new ones: they have got a name.
        """
        missing = []
        while name and self.find(name) is None:
            missing.append(name)
            name = parent_of(name)
        for new in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(new, dir_fd=self._handle)
        return [name, *missing]

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(name, dir_fd=self._handle)

    def remove_empty(self, name: str) -> str:
        """Remove directories that have become empty, so that their names can be keys.

        Returns the directory that has lost a name.
        """
        with suppress(OSError):
            while name:
                with suppress(FileNotFoundError):
                    os.rmdir(name, dir_fd=self._handle)
                name = parent_of(name)
        return name

    def rename(self, name: str, target: str) -> None:
        """`os.rename`."""
        os.rename(name, target, src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def move(self, name: str, target: str, beside: str) -> None:
        """`rename`, also to another filesystem: by a copy `beside` the target."""
        try:
            self.rename(name, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            try:
                self.copy(name, beside)
                self.rename(beside, target)
            finally:
                self.remove(beside)
            self.remove(name)

    def keep(self, name: str, kept: str) -> bool:
        """Hold on to a file under a second name; False if nothing is there."""
        handle = self._handle
        try:
            os.link(name, kept, src_dir_fd=handle, dst_dir_fd=handle, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return False
            self.copy(name, kept)
        return True

    def copy(self, name: str, target: str) -> None:
        """Copy a file to disk, with owner, permissions and time."""
        with (
            os.fdopen(self.open(name, os.O_RDONLY), "rb") as source,
            os.fdopen(
                self.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
            ) as copy,
        ):
            shutil.copyfileobj(source, copy)
            copy.flush()
            info = os.fstat(source.fileno())
            resemble(copy.fileno(), info)
            os.utime(copy.fileno(), ns=(info.st_atime_ns, info.st_mtime_ns))
            os.fsync(copy.fileno())

    def sync(self, name: str) -> None:
        """Get the names in a directory to disk."""
        # A directory that may be written need not be readable.
        with suppress(PermissionError):
            handle = self.open(name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


@contextmanager
def held(place: Place, handle: int) -> Iterator[Held]:
    """Use an open directory, then close it."""
    try:
        yield Held(place, handle)
    finally:
        os.close(handle)


def names_none(error: OSError, name: str) -> bool:
    """Whether no file can have a name; one whose path alone is too long may be there."""
    return error.errno == errno.ENAMETOOLONG and len(os.fsencode(name)) <= PATH_MAX


def parent_of(name: str) -> str:
    """The directory that `name` is in, "" for the one that is held."""
    return name.rpartition("/")[0]


def resemble(handle: int, like: os.stat_result) -> None:
    """Give an open file the owner and the permissions of another one."""
    if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
        with suppress(PermissionError):
            os.fchown(handle, like.st_uid, like.st_gid)
    # Last, because a new owner takes some permissions away.
    os.fchmod(handle, like.st_mode & 0o7777)
