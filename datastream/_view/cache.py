"""The last good state of a view in a file: written whole and atomically, believed if undamaged.

The first line names the format and the checksum of the rest; then come a header and chunks of
rows in columns, each a line of JSON. Nothing in it is executed, unlike in a pickle.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import stat
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from glob import escape
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from datastream._columns import EntryColumns
from datastream.errors import DatastreamError
from datastream.selection import Selection

MAGIC = b"datastream cache 1 "
MAX_BYTES = 256 << 20
"""Largest cache; a larger state is not kept."""
CHUNK = 1_000
"""Rows of one line: while a line is made or read, no other thread runs."""
ABANDONED = 600.0
"""Seconds after which what a killed process left half-written is removed."""

log = logging.getLogger("datastream")

_numbers = count()


RawRow = tuple[bytes, str, str]
"""Value, type and revision: what is kept of an entry besides its key. Plain, for zip makes it."""


class Cached(NamedTuple):
    """What a cache holds."""

    good: list[EntryColumns]
    """Entries whose values were good, in chunks; no time is kept of any."""
    refused: list[EntryColumns]
    """The newest entries of keys whose value was not."""
    cursor: str
    saved_at: datetime


class TooLarge(DatastreamError):
    """The state does not fit the bound of a cache."""


class CacheFile:
    """A cache of one selection of one store.

    Args:
        path: the file; its directory exists.
        store: the name of the store: another one's cache is none of this one.
        selection: of the view, likewise.
    """

    def __init__(self, path: str | os.PathLike[str], store: str, selection: Selection) -> None:
        self.path = Path(path).absolute()
        self._of = {"store": store, "selection": _listed(selection)}

    def read(self) -> Cached | None:
        """What the cache holds; None if there is none, or none to be believed, with a warning."""
        try:
            return self._parse(self._content())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("cache %s is ignored: %s", self.path, error)
            return None

    def write(self, cached: Cached) -> None:
        """Replace the file, atomically.

        Raises:
            OSError: it cannot be written.
            TooLarge: it would be larger than `MAX_BYTES`; there is no cache then.
        """
        lines, size, checksum = [], 0, 0
        for line in self._lines(cached):
            size += len(line)
            if size > MAX_BYTES:
                self.path.unlink(missing_ok=True)
                raise TooLarge(f"a cache has {MAX_BYTES >> 20} MiB at most; select fewer keys")
            checksum = zlib.crc32(line, checksum)
            lines.append(line)
        self._replace([MAGIC + b"%08x\n" % checksum, *lines])

    def remove_abandoned(self) -> None:
        """Remove what processes that were killed while writing have left."""
        with suppress(OSError):
            for path in self.path.parent.glob(f".{escape(self.path.name)}.*.tmp"):
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > ABANDONED:
                        path.unlink()

    def _content(self) -> bytes:
        with open(self.path, "rb", opener=_opened_at_once) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("it is no file")
            if about.st_size > MAX_BYTES:
                raise ValueError("it is too large")
            if hasattr(os, "geteuid") and (
                about.st_uid not in (os.geteuid(), 0) or about.st_mode & 0o022
            ):
                raise ValueError("others may write it")
            return file.read(MAX_BYTES + 1)

    def _parse(self, content: bytes) -> Cached:
        first, _, rest = content.partition(b"\n")
        if not first.startswith(MAGIC):
            raise ValueError("it is of another program or format")
        if zlib.crc32(rest) != int(first[len(MAGIC) :], 16):
            raise ValueError("it is damaged")
        head, *chunks = rest.splitlines()
        header = json.loads(head)
        if header["of"] != self._of:
            raise ValueError("it is of another store or selection")
        saved_at = datetime.fromtimestamp(header["saved_at"], UTC)
        cached = Cached([], [], header["cursor"], saved_at)
        for line in chunks:
            chunk = json.loads(line)
            (cached.refused if chunk["refused"] else cached.good).append(_columns(chunk))
        return cached

    def _lines(self, cached: Cached) -> Iterator[bytes]:
        yield _line(
            {"of": self._of, "cursor": cached.cursor, "saved_at": cached.saved_at.timestamp()}
        )
        for refused, some in ((False, cached.good), (True, cached.refused)):
            for columns in some:
                yield _line({"refused": refused, **_written(columns)})

    def _replace(self, lines: Iterable[bytes]) -> None:
        # Named anew each time: another process, or another store of this one, may write too.
        name = f".{self.path.name}.{os.getpid()}-{next(_numbers)}.tmp"
        temporary = self.path.with_name(name)
        try:
            with open(temporary, "xb", opener=_opened_for_one) as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _opened_for_one(path: str, flags: int) -> int:
    """What is created can be read by this user alone."""
    return os.open(path, flags, 0o600)


def _opened_at_once(path: str, flags: int) -> int:
    """Opening a named pipe would wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _listed(selection: Selection) -> list[list[str]]:
    parts = (selection.keys, selection.prefixes, selection.patterns, selection.exclude)
    return [sorted(part) for part in parts]


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def in_chunks(rows: Mapping[str, RawRow]) -> Iterator[EntryColumns]:
    """The entries of some thousand rows each."""
    rest = iter(rows.items())
    while some := list(islice(rest, CHUNK)):
        keys, kept = zip(*some, strict=True)
        yield _entries(keys, *zip(*kept, strict=True))


def rows_of(columns: EntryColumns) -> Iterator[tuple[str, RawRow]]:
    """Each key with what is kept of its entry."""
    rows = zip(columns.values, columns.types, columns.revisions, strict=True)
    return zip(columns.keys, rows, strict=True)


def _written(columns: EntryColumns) -> dict[str, Any]:
    try:
        coding, texts = "utf-8", [value.decode() for value in columns.values]
    except UnicodeDecodeError:
        coding, texts = "base64", [base64.b64encode(value).decode() for value in columns.values]
    types: Any = columns.types
    if len(set(types)) == 1:
        types = types[0]
    return {
        "keys": columns.keys,
        "values": texts,
        "in": coding,
        "types": types,
        "revisions": columns.revisions,
    }


def _columns(chunk: dict[str, Any]) -> EntryColumns:
    keys, texts, types = chunk["keys"], chunk["values"], chunk["types"]
    read = str.encode if chunk["in"] == "utf-8" else base64.b64decode
    kinds = [types] * len(keys) if isinstance(types, str) else types
    columns = keys, list(map(read, texts)), kinds, chunk["revisions"]
    if len({len(column) for column in columns}) > 1:
        raise ValueError("its columns differ in length")
    return _entries(*columns)


def _entries(
    keys: Sequence[str], values: Sequence[bytes], types: Sequence[str], revisions: Sequence[str]
) -> EntryColumns:
    return EntryColumns(keys, values, types, [None] * len(keys), revisions)
