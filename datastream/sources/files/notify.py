"""Notifications of changes below one directory, for as long as the operating system sends them."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from datastream.sources._common.wake import MODIFIED, FileNotifications, WakeEvent

_IN_ATTRIB = 4
_FULL = (errno.ENOSPC, errno.EMFILE)


class TreeNotifications:
    """What happens below `root`, from its creation on.

    Its library follows links, also those that lead out, to a home directory or a network's; and of
    a directory that may not be read, it leaves out what comes after it as well. Where there is one
    of either, each directory is watched by itself.

    Args:
        root: a directory.
        recursive: with all that lies deeper.
        apart: watch each directory by itself in any case.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: it is away, or was just now.
        OSError: it cannot be watched: there are too many watches already.
    """

    def __init__(self, root: str, *, recursive: bool = True, apart: bool = False) -> None:
        self._root = root
        self.failure = ""
        """Why no notification comes any more."""
        self.is_doubtful = False
        """Whether a directory may have no watch: it may have been made while it could not be read,
        or have stood in for another one when these began."""
        self._recursive = recursive
        self._folders: dict[str, int] = {}
        self._notifications = self._begin(apart=apart)
        try:
            self.check()
            if self.misses_folders():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
        except OSError:
            self.close()
            raise

    def _begin(self, *, apart: bool) -> FileNotifications:
        if not self._recursive:
            return _notifications([self._root], recursive=False)
        folders, leads_out = _folders_below(self._root)
        if not (apart or leads_out):
            with suppress(PermissionError):
                return _notifications([self._root], recursive=True)
        self._folders = folders
        return _notifications(folders, recursive=False)

    @property
    def is_apart(self) -> bool:
        """Whether each directory is watched by itself."""
        return bool(self._folders) or not self._recursive

    def misses_folders(self) -> bool:
        """Whether directories were made, replaced or opened that are not watched by themselves."""
        return bool(self._folders) and self._folders != _folders_below(self._root)[0]

    def check(self) -> None:
        """Raise if the system has no watch left: some directory has none then, silently."""
        # One that may not be read is none of these.
        if sys.platform == "linux":
            code = _try_one_more(self._root)
            if code in _FULL:
                raise OSError(code, os.strerror(code), self._root)

    def wait(self, wake: WakeEvent, timeout: float) -> set[str] | None:
        """The paths that changed, none after `timeout` s; None if all has to be looked at."""
        try:
            changes = self._notifications.changes(wake, timeout)
        except (RuntimeError, UnicodeError) as error:
            self.failure = str(error)
            return None
        if changes is None:
            return None
        self.is_doubtful = self.is_doubtful or any(self._may_miss(*change) for change in changes)
        return {path for _, path in changes}

    def _may_miss(self, what: int, path: str) -> bool:
        if path == self._root or path in self._folders:
            # One that was watched by itself and moved has lost its watch, also if it is back.
            return True
        return self._recursive and what == MODIFIED and Path(path).is_dir()

    def close(self) -> None:
        """Stop watching."""
        self.failure = self.failure or "closed"
        self._notifications.close()


def _notifications(paths: Iterable[str], *, recursive: bool) -> FileNotifications:
    try:
        return FileNotifications([*map(Path, paths)], recursive=recursive, strict=True)
    except (RuntimeError, UnicodeError) as error:
        # How its library reports too many instances, or a path that it cannot spell.
        raise OSError(errno.EMFILE, str(error)) from error


def _folders_below(root: str) -> tuple[dict[str, int], bool]:
    """`root` and all directories below it that may be read, with their inodes.

    And whether a link leads out of it.
    """
    folders: dict[str, int] = {}
    leads_out = False
    waiting = [(root, 0)]
    below = root.rstrip("/") + "/"
    while waiting:
        path, inode = waiting.pop()
        try:
            with os.scandir(path) as found:
                folders[path] = inode
                for entry in found:
                    if entry.is_symlink():
                        target = os.path.realpath(entry.path)
                        leads_out = leads_out or not f"{target}/".startswith(below)
                    elif entry.is_dir(follow_symlinks=False) and _is_text(entry.name):
                        waiting.append((entry.path, entry.inode()))
        except OSError:
            # It has gone, or may not be read: the look that follows tells.
            if path == root:
                raise
    return folders, leads_out


def _is_text(name: str) -> bool:
    """Whether it is UTF-8: what is not is no key, and the library cannot spell it."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _try_one_more(path: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_CLOEXEC)
    if handle < 0:
        return ctypes.get_errno()
    try:
        watch = libc.inotify_add_watch(handle, os.fsencode(path), _IN_ATTRIB)
        return 0 if watch >= 0 else ctypes.get_errno()
    finally:
        os.close(handle)
