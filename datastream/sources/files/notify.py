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

    Raises:
        OSError: it cannot be watched: it is away, or there are too many watches already.
    """

    def __init__(self, root: str, *, recursive: bool = True) -> None:
        self._root = root
        self.failure = ""
        """Why no notification comes any more."""
        try:
            self._notifications = FileNotifications([Path(root)], recursive=recursive)
        except (RuntimeError, UnicodeError) as error:
            # How its library reports too many instances, or a path that it cannot spell.
            raise OSError(errno.EMFILE, str(error)) from error
        try:
            self.check()
        except OSError:
            self.close()
            raise

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
