"""The write-ahead log beside a file, which SQLite finds by its name alone."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from time import time_ns
from typing import NamedTuple

from datastream.sources.sqlite.connection import FileId

ASIDE = ".replaced"
"""Added to the name of a write-ahead log whose file was replaced."""
RECENT = 0.1
"""Seconds for which the time of a write may be that of a later one, too: systems count ticks."""

log = logging.getLogger("datastream")


class Beside(NamedTuple):
    """Which files lie beside a database; None for one that does not."""

    wal: FileId | None = None
    shm: FileId | None = None


class WriteAheadLog:
    """The log of one file, told from the one of a later file of the same name.

    SQLite applies whatever log it finds beside a file: the log of a file that was replaced
    would corrupt the file that came in its place.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self._log = f"{path}-wal"
        self._index = f"{path}-shm"
        self.known = Beside()
        """Those of the file."""
        # Of the log, once it is old enough to tell of a later write.
        self._stamp: tuple[int, int, int] | None = None

    def exists(self) -> bool:
        """Whether there is one that holds anything, or that somebody has open."""
        return _size(self._log) > 0 or _size(self._index) > 0

    def is_still(self) -> bool:
        """Whether nothing was written to it since this last said that something may have been.

        To ask SQLite costs some ten times as much.
        """
        try:
            stat = os.stat(self._log)  # noqa: PTH116
        except OSError:
            return False
        then, stamp = self._stamp, (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        self._stamp = stamp if time_ns() - stat.st_mtime_ns > RECENT * 1e9 else None
        return stamp == then

    def doubt(self) -> None:
        """Have `is_still` answer no the next time: what was written is not known yet."""
        self._stamp = None

    def now(self) -> Beside:
        """What is there now."""
        return Beside(_id(self._log), _id(self._index))

    def put_aside(self) -> None:
        """Once the file was replaced: move its log out of the way, if it is still there."""
        known = self.known
        if known.wal is None or _id(self._log) != known.wal:
            return
        is_empty = _size(self._log) == 0
        # The index first: without its log, it makes others read frames that are not there.
        if _move(self._index, known.shm):
            _unlink(self._index + ASIDE)
        if not _move(self._log, known.wal):
            return
        if is_empty:
            _unlink(self._log + ASIDE)
            return
        log.warning(
            "%s belongs to a file that was replaced while it was open, and SQLite would apply it "
            "to the new one: moved to %s%s; replace files by `datastream sqlite restore`",
            self._log,
            self._log,
            ASIDE,
        )


def _move(path: str, known: FileId | None) -> bool:
    """Add `ASIDE` to the name of a file; False if it is not that one."""
    if known is None or _id(path) != known:
        return False
    aside = path + ASIDE
    with suppress(OSError):
        os.replace(path, aside)  # noqa: PTH105
        if _id(aside) == known:
            return True
        # Another process was faster, and this is the new file's already.
        os.link(aside, path)
        _unlink(aside)
    return False


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108


def _size(path: str) -> int:
    """-1: there is no such file."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1


def _id(path: str) -> FileId | None:
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
