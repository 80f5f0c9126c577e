"""A place in a file: each save appends one line; now and then the file is written anew.

Each line has a checksum. Only the end of the file can be torn, by the end of the process or of
the machine in mid-write; what is torn was never acknowledged, so it is cut off.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from datastream import _flock
from datastream._consume.progress import Handled, Progress
from datastream.errors import DatastreamError, shown
from datastream.selection import Selection

FORMAT = "datastream place 1"
ROWS = 1_000
"""Revisions in one line of a file that is written anew."""
SLACK = 1 << 20
"""Bytes of old lines that are no reason to write a file anew."""

log = logging.getLogger("datastream")

_numbers = count()


class Taken(DatastreamError):
    """Another consumer keeps its place there."""


class FilePlace:
    """A place in a file of its own, which nobody else may use meanwhile.

    Args:
        path: the file; made if it is missing, its directory is not.
        name: of the consumer, which is the only one that may go on from there.
        selection: which keys.
        store: which store, see `identity_of`.

    Raises:
        Taken: a consumer is using it.
        DatastreamError: it is the place of another consumer, or no place at all.
    """

    def __init__(
        self, path: str | PathLike[str], name: str, selection: Selection, store: str = ""
    ) -> None:
        self._path = Path(path).absolute()
        self._process = os.getpid()
        self._name = name
        self.progress = Progress(selection, store)
        self._size = self._least = 0
        self._is_sound = True
        try:
            self._fd = _opened(self._path)
        except OSError as error:
            raise DatastreamError(f"no place can be kept in {self._path}: {error}") from error
        try:
            self._load()
        except BaseException:
            os.close(self._fd)
            raise

    def save(self, handled: Handled, cursor: str | None, *, durable: bool = True) -> None:
        self.progress.advance(handled, cursor)
        is_there = self._is_there()
        if not (is_there and self._is_sound) or self._size > 2 * self._least + SLACK:
            self._write_anew()
            return
        line = _line({"cursor": cursor, "revisions": dict(handled)})
        # After an error nobody knows what of it is on the disk, so the next save begins anew.
        self._is_sound = False
        _write(self._fd, line)
        if durable:
            getattr(os, "fdatasync", os.fsync)(self._fd)
        self._is_sound = True
        self._size += len(line)

    def close(self) -> None:
        """Leave it to others; in a child process, to the parent."""
        if os.getpid() == self._process:
            # A child that was forked just now has the file open, too.
            _flock.unlock(self._fd)
        os.close(self._fd)

    def _is_there(self) -> bool:
        """Whether the file is still where the next start looks for it.

        Raises:
            Taken: another one is.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            log.warning("%s: it was removed or moved away; it is made anew", self._path)
            return False
        if not os.path.samestat(os.fstat(self._fd), found):
            raise Taken(
                f"another file is at {self._path}, which another consumer may use; stop that "
                "one, or name another file"
            )
        return True

    def _load(self) -> None:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            content = file.read()
        if not content:
            self._write_anew()
            return
        lines = _lines(content)
        head = next(lines, None)
        if head is None or head.content.get("format") != FORMAT:
            raise DatastreamError(f"{self._path} is no place of a consumer; name another file")
        self._check_name(head.content)
        self._take_in(head, lines)
        if self._size < len(content):
            log.warning("%s: its end is torn; what it said is handled again", self._path)
            os.ftruncate(self._fd, self._size)
        os.lseek(self._fd, 0, os.SEEK_END)

    def _check_name(self, head: dict[str, Any]) -> None:
        if head["name"] != self._name:
            raise DatastreamError(
                f"{self._path} is the place of the consumer {shown(head['name'])}, not of "
                f"{shown(self._name)}; name another file"
            )

    def _take_in(self, head: _Line, lines: Iterator[_Line]) -> None:
        seen = 0
        self._size = head.end
        for line in lines:
            self.progress.advance(line.content["revisions"], line.content["cursor"])
            seen += len(line.content["revisions"])
            self._size = line.end
        if self.progress.begun:
            store = head.content.get("store", "")
            self.progress.found(head.content["selection"], self.progress.cursor, store)
        # The header says which keys the cursor is about, and of which store.
        self._is_sound = head.content == self._head()
        self._least = self._size * len(self.progress.revisions) // max(1, seen)

    def _write_anew(self) -> None:
        """Replace the file by what is known now, atomically."""
        name = f".{self._path.name}.{os.getpid()}-{next(_numbers)}.tmp"
        temporary = self._path.with_name(name)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Before it gets its name: nobody else ever finds it unlocked.
            _lock(fd, self._path)
            size = sum(_write(fd, line) for line in self._whole())
            os.fsync(fd)
            temporary.replace(self._path)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        before, self._fd = self._fd, fd
        os.close(before)
        self._size = self._least = size
        self._is_sound = False
        _sync_directory(self._path.parent)
        self._is_sound = True

    def _head(self) -> dict[str, Any]:
        progress = self.progress
        head = {"format": FORMAT, "name": self._name, "selection": progress.selection}
        return {**head, "store": progress.store}

    def _whole(self) -> Iterator[bytes]:
        progress = self.progress
        yield _line(self._head())
        rows = iter(progress.revisions.items())
        while some := dict(islice(rows, ROWS)):
            yield _line({"cursor": None, "revisions": some})
        if progress.begun:
            yield _line({"cursor": progress.cursor, "revisions": {}})


class _Line(NamedTuple):
    content: dict[str, Any]
    end: int
    """Its end in the file."""


def _opened(path: Path) -> int:
    """The file at `path`, locked; made if it is missing."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o600)
        try:
            _check_regular(fd, path)
            _lock(fd, path)
            if _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        # Another consumer wrote the file anew meanwhile.
        os.close(fd)


def _check_regular(fd: int, path: Path) -> None:
    """Refuse devices and pipes: some never end, and all would be replaced by a file."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise DatastreamError(f"no place can be kept in {path}, which is no file; name a file")


def _is_at(fd: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False


def _lock(fd: int, path: Path) -> None:
    if not _flock.lock(fd, wait=False):
        raise Taken(
            f"another consumer is using the place {path}; stop it first, or name another file"
        )


def _sync_directory(path: Path) -> None:
    if os.name != "posix":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> int:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return len(data)


def _line(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(content: bytes) -> Iterator[_Line]:
    """The sound lines, up to the first one that is not."""
    at = 0
    while (end := content.find(b"\n", at)) >= 0:
        checksum, _, text = content[at:end].partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            return
        at = end + 1
        yield _Line(json.loads(text), at)
