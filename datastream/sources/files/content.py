"""What one file holds, and by what a change of it is recognised."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

from datastream.entry import Entry
from datastream.errors import SourceUnavailable, shown
from datastream.source import Summary
from datastream.sources._common.digests import digest_of
from datastream.sources._common.file_types import type_of
from datastream.sources._common.listing import fingerprint
from datastream.sources._common.look import Listed
from datastream.sources.files.held import Held, names_none

RACY_NS, COARSE_RACY_NS = 50_000_000, 2_000_000_000
"""Age up to which a file may change again under the same time stamp: fine clocks, coarse ones."""
PIECE = 1 << 20
"""Bytes that are read at once where a whole content is not needed."""
READ_TRIES = 8
"""How often a file is read anew because it changed meanwhile."""
READ_SECONDS = 0.2
"""And for how long, beyond three times."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_NOTHING_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


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


def read_file(held: Held, name: str) -> Content | None:
    """What is at `name`, None if no file is. Never half of one content and half of another.

    Raises:
        Busy: it changes all the time.
        OSError: it cannot be read.
    """
    handle = _open(held, name)
    if handle is None:
        return None
    try:
        return _read_whole(handle, name)
    finally:
        os.close(handle)


def read_start(held: Held, name: str, size: int) -> tuple[bytes, int] | None:
    """The first `size` bytes of a file and its length, None if there is none."""
    handle = _open(held, name)
    if handle is None:
        return None
    with os.fdopen(handle, "rb") as file:
        info = os.fstat(handle)
        return (file.read(size), info.st_size) if stat.S_ISREG(info.st_mode) else None


def digest_file(held: Held, name: str, algorithm: str) -> str:
    """The digest of what is at `name`, read in pieces; "" if no file is, or it changes meanwhile.

    Raises:
        OSError: it cannot be read.
    """
    handle = _open(held, name)
    if handle is None:
        return ""
    with os.fdopen(handle, "rb") as file:
        before = os.fstat(handle)
        digest = digest_of(algorithm, before.st_size, iter(partial(file.read, PIECE), b""))
        return digest if signature(before) == signature(os.fstat(handle)) else ""


def read_pieces(held: Held, name: str) -> Iterator[bytes]:
    """What is at `name`, in pieces; nothing if no file is.

    Raises:
        Busy: it changed meanwhile.
        OSError: it cannot be read.
    """
    handle = _open(held, name)
    if handle is None:
        return
    with os.fdopen(handle, "rb") as file:
        before = os.fstat(handle)
        yield from iter(partial(file.read, PIECE), b"")
        if signature(before) != signature(os.fstat(handle)):
            raise Busy(f"{shown(name)} changed while it was read; it is read again")


def summary(item: Listed, held: Held) -> Summary:
    """A listed file as it is compared with other stores."""
    if not isinstance(item.signature, tuple):
        # Written just now: only its size can be told, as it is at this moment.
        with suppress(OSError):
            info = held.find(item.key)
            return Summary(item.key, None if info is None else info.st_size)
        return Summary(item.key)
    modified, _, size, _ = item.signature
    return Summary(item.key, size, "", time_of(modified), item.signature)


def is_of_one(error: OSError) -> bool:
    """Whether the error is about one file or directory, not about what this process may use."""
    return error.errno not in _NOTHING_LEFT


def listed(key: str, info: os.stat_result, now: int) -> Listed:
    """A file as a listing shows it.

    Args:
        key: its key.
        info: its state.
        now: when that was looked up, in ns.
    """
    modified, changed = info.st_mtime_ns, info.st_ctime_ns
    # A time in the future was set by hand, so that it does not show when the file changed.
    latest = modified if changed < modified <= now else changed
    racy = RACY_NS if latest % 1_000_000_000 else COARSE_RACY_NS
    # Written just now, it may be written again without looking any different.
    if now - latest <= racy:
        return Listed(key, None)
    return Listed(key, (modified, changed, info.st_size, info.st_ino))


def signature(info: os.stat_result) -> tuple[int, int, int, int]:
    """What differs after a file was written."""
    return info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino


def time_of(nanoseconds: int) -> datetime | None:
    """A time stamp of a file, None if it is beyond what a datetime holds."""
    with suppress(OverflowError):
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return None


def time_stamp(at: datetime) -> int:
    """The reverse of `time_of`."""
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _open(held: Held, name: str) -> int | None:
    try:
        # Without NONBLOCK, opening a pipe would wait until somebody writes into it.
        return held.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _NO_FILE or names_none(error, name):
            return None
        raise


def _read_whole(handle: int, name: str) -> Content | None:
    until = time.monotonic() + READ_SECONDS
    for attempt in range(READ_TRIES):
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            return None
        data = _read_at_once(handle, before)
        if data is not None:
            return Content(data, before)
        if attempt > 1 and time.monotonic() > until:
            break
        # Most writers are done soon, so the first pauses are short.
        time.sleep(0.001 * attempt)
    raise Busy(f"{shown(name)} changes while it is read; write it elsewhere and rename it")


def _read_at_once(handle: int, before: os.stat_result) -> bytes | None:
    """What it holds; None if it is not what it was, which is noticed before its end is reached: a
    long log that grows all the time keeps the others waiting no longer than a short one."""
    size, expected = before.st_size, signature(before)
    # One byte more than there should be.
    pieces = [os.pread(handle, min(size + 1, PIECE), 0)]
    read = len(pieces[0])
    while signature(os.fstat(handle)) == expected:
        if read == size:
            return b"".join(pieces)
        pieces.append(os.pread(handle, min(size + 1 - read, PIECE), read))
        read += len(pieces[-1])
        if read > size or not pieces[-1]:
            return None
    return None
