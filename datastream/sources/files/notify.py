"""Notifications of changes below one directory, for as long as the operating system sends them."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

from datastream.sources._common.wake import FileNotifications, WakeEvent

_IN_ATTRIB = 4
_FULL = (errno.ENOSPC, errno.EMFILE)


class TreeNotifications:
    """What happens below `root`, from its creation on.

    Its library follows links, also those that lead out, to a home directory or a network's. Where
    there is one, each directory is watched by itself.

    Raises:
        OSError: it cannot be watched: it is away, or there are too many watches already.
    """

    def __init__(self, root: str, *, recursive: bool = True) -> None:
        self._root = root
        self.failure = ""
        """Why no notification comes any more."""
        self._folders = _folders_beside_links_out(root) if recursive else {}
        paths = [Path(path) for path in self._folders] or [Path(root)]
        try:
            self._notifications = FileNotifications(
                paths, recursive=recursive and not self._folders
            )
        except (RuntimeError, UnicodeError) as error:
            # How its library reports too many instances, or a path that it cannot spell.
            raise OSError(errno.EMFILE, str(error)) from error
        try:
            self.check()
            if self.misses_folders():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
        except OSError:
            self.close()
            raise

    def misses_folders(self) -> bool:
        """Whether directories were made, or replaced, that are not watched by themselves."""
        return bool(self._folders) and self._folders != _folders_beside_links_out(self._root)

    def check(self) -> None:
        """Raise if the system has no watch left: some directory has none then, silently."""
        # Directories that may not be read are left out by the library, and so are these.
        if sys.platform == "linux":
            code = _try_one_more(self._root)
            if code in _FULL:
                raise OSError(code, os.strerror(code), self._root)

    def wait(self, wake: WakeEvent, timeout: float) -> set[str] | None:
        """The paths that changed, none after `timeout` s; None if all has to be looked at."""
        try:
            return self._notifications.wait(wake, timeout)
        except (RuntimeError, UnicodeError) as error:
            self.failure = str(error)
            return None

    def close(self) -> None:
        """Stop watching."""
        self.failure = self.failure or "closed"
        self._notifications.close()


def _folders_beside_links_out(root: str) -> dict[str, int]:
    """All directories below `root`, and their inodes, if a link leads out of it; else none."""
    folders = {root: 0}
    leads_out = False
    waiting = [root]
    below = root.rstrip("/") + "/"
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    if entry.is_symlink():
                        target = os.path.realpath(entry.path)
                        leads_out = leads_out or not f"{target}/".startswith(below)
                    elif entry.is_dir(follow_symlinks=False) and _is_text(entry.name):
                        folders[entry.path] = entry.inode()
                        waiting.append(entry.path)
        except OSError:
            # It has gone, or may not be read: the look that follows tells.
            continue
    return folders if leads_out else {}


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
