"""Being told of changes below one directory, for as long as the operating system can."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import sys
from pathlib import Path

from datastream.sources._common.wake import Bell, FileNotice

log = logging.getLogger("datastream")

_IN_ATTRIB = 4
_FULL = (errno.ENOSPC, errno.EMFILE)


class TreeNotice:
    """Tells what happened below `root`. Armed from when it is made.

    Raises:
        OSError: it cannot be watched: it is away, or there are too many watches already.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._ended = False
        try:
            self._notice = FileNotice([Path(root)])
        except (RuntimeError, UnicodeError) as error:
            # How its library says that there are too many instances, or that it cannot spell it.
            raise OSError(errno.EMFILE, str(error)) from error
        try:
            self.check()
        except OSError:
            self.close()
            raise

    def check(self) -> None:
        """Raise if the system has no watch left: some directory then has none, unsaid by it."""
        # Directories that may not be read are left out by the library, and so are these.
        if sys.platform == "linux":
            code = _try_one_more(self._root)
            if code in _FULL:
                raise OSError(code, os.strerror(code), self._root)

    def wait(self, bell: Bell, timeout: float) -> set[str] | None:
        """The paths told of, none after `timeout` s; None if all has to be looked at."""
        try:
            return self._notice.wait(bell, timeout)
        except RuntimeError as error:
            log.warning("%s: watching failed and begins anew: %s", self._root, error)
            self._ended = True
            return None

    @property
    def ended(self) -> bool:
        """Whether nothing will be told any more."""
        return self._ended

    def close(self) -> None:
        """Stop watching."""
        self._ended = True
        self._notice.close()


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
