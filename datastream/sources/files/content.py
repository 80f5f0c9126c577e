"""What one file holds, and what of it tells that it has changed."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from datastream.entry import Entry
from datastream.errors import SourceUnavailable
from datastream.sources._common.file_types import type_of
from datastream.sources._common.listing import fingerprint
from datastream.sources._common.look import Listed

RACY_NS, COARSE_RACY_NS = 50_000_000, 2_000_000_000
"""Age up to which a file may change again under the same time stamp: fine clocks, coarse ones."""
READ_TRIES = 8
"""How often a file is read anew because it changed meanwhile."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)


class Busy(SourceUnavailable):
    """A file changes all the time, so that it cannot be read at one moment."""


class Content(NamedTuple):
    """What a file held at one moment."""

    data: bytes
    info: os.stat_result

    def entry(self, key: str) -> Entry:
        """The same under its key."""
        return Entry(
            key,
            self.data,
            type_of(key, self.data),
            time_of(self.info.st_mtime_ns),
            fingerprint(self.data),
        )


def read_file(path: str, flags: int = 0) -> Content | None:
    """What is at `path`, None if no file is. Never half of one content and half of another.

    Args:
        path: where.
        flags: of `os.open`, besides those needed.

    Raises:
        Busy: it changes all the time.
        OSError: it cannot be read.
    """
    try:
        # Opening a pipe would otherwise wait for somebody to write into it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    try:
        return _read_whole(handle, path)
    finally:
        os.close(handle)


def read_start(path: str, size: int) -> tuple[bytes, int] | None:
    """The first `size` bytes of a file and its length, None if there is none."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(size), os.fstat(file.fileno()).st_size
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise


def listed(key: str, info: os.stat_result, now: int) -> Listed:
    """A file as a listing shows it.

    Args:
        key: its key.
        info: its state.
        now: when that was looked up, in ns.
    """
    modified, changed = info.st_mtime_ns, info.st_ctime_ns
    # A time to come was set by hand and tells nothing.
    latest = modified if changed < modified <= now else changed
    racy = RACY_NS if latest % 1_000_000_000 else COARSE_RACY_NS
    # Written just now, it may be written again without looking any different.
    if now - latest <= racy:
        return Listed(key, None)
    return Listed(key, (modified, changed, info.st_size, info.st_ino))


def signature(info: os.stat_result) -> tuple[int, int, int, int]:
    """What of a file differs after it was written."""
    return info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino


def time_of(nanoseconds: int) -> datetime | None:
    """A time stamp of a file, None if it is beyond what a datetime holds."""
    with suppress(OverflowError):
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return None


def time_stamp(at: datetime) -> int:
    """The reverse of `time_of`."""
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _read_whole(handle: int, path: str) -> Content | None:
    before = os.fstat(handle)
    if not stat.S_ISREG(before.st_mode):
        return None
    for attempt in range(READ_TRIES):
        data = os.pread(handle, before.st_size + 1, 0)
        while 0 < len(data) < before.st_size:
            more = os.pread(handle, before.st_size - len(data), len(data))
            if not more:
                break
            data += more
        after = os.fstat(handle)
        if signature(before) == signature(after) and len(data) == before.st_size:
            return Content(data, after)
        before = after
        # Whoever writes it is about to be done; the waiting gets longer each time.
        time.sleep(0.001 * attempt)
    raise Busy(f"{path} changes while it is read; write it elsewhere and rename it")
