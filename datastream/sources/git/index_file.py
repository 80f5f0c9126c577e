"""git's index, read and written: every version, split and sparse indexes.

dulwich's knows no split index, expands sparse ones, and misreads long prefixes of version 4.
What an entry holds is kept as bytes, so that what is not changed is written as it was read.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from dulwich.objects import ObjectID

CHECKSUM = 20
"""Bytes at the end of the file; zeros where git is told to leave it out."""
SPARSE_DIRECTORY = 0o040000
"""Mode of an entry that stands for all files of a directory, none of which is checked out."""

_HEADER = struct.Struct(">4sII")
_STAT = struct.Struct(">10I")
_FIXED = 62
"""Bytes that an entry of every version begins with: ten numbers, the id and the flags."""
_MTIME, _MODE, _SIZE, _ID, _FLAGS = 8, 24, 36, 40, 60
_NAME = 0x0FFF
_EXTENDED, _ASSUMED = 0x4000, 0x8000
_SKIPPED, _INTENDED = 0x4000, 0x2000
_RESOLVED, _SPLIT, _SPARSE = b"REUC", b"link", b"sdir"


class BrokenIndex(ValueError):
    """The file is no index, or one of a kind that is not known."""


class Entry(NamedTuple):
    """What the index says of one path, less the path."""

    fixed: bytes
    extended: int = 0

    @classmethod
    def of(
        cls, mode: int, blob: ObjectID, stat: Iterable[int] = (), *, skipped: bool = False
    ) -> Entry:
        """An entry; without `stat`, git looks into the file to know whether it has changed.

        Args:
            stat: seconds and nanoseconds of ctime and mtime, device, inode, user, group, size.
            skipped: the file is not to be checked out.
        """
        *numbers, user, group, size = tuple(stat) or (0,) * 9
        raw = _STAT.pack(*(n & 0xFFFFFFFF for n in (*numbers, mode, user, group, size)))
        return cls(raw + bytes.fromhex(blob.decode()) + bytes(2), _SKIPPED if skipped else 0)

    @property
    def mode(self) -> int:
        return int.from_bytes(self.fixed[_MODE : _MODE + 4], "big")

    @property
    def blob(self) -> ObjectID:
        return ObjectID(self.fixed[_ID:_FLAGS].hex().encode())

    @property
    def times(self) -> tuple[int, int]:
        """Of the inode's and of the content's last change, in nanoseconds."""
        numbers = _STAT.unpack_from(self.fixed)
        return numbers[0] * 10**9 + numbers[1], numbers[2] * 10**9 + numbers[3]

    @property
    def changed(self) -> int:
        """When the content changed last, in seconds."""
        return int.from_bytes(self.fixed[_MTIME : _MTIME + 4], "big")

    @property
    def size(self) -> int:
        """Of the file, in its lowest 32 bits."""
        return int.from_bytes(self.fixed[_SIZE:_ID], "big")

    @property
    def skipped(self) -> bool:
        """Whether the file is not to be checked out."""
        return bool(self.extended & _SKIPPED)

    @property
    def intended(self) -> bool:
        """Whether it is only a promise to add the file."""
        return bool(self.extended & _INTENDED)

    @property
    def assumed(self) -> bool:
        """Whether git never looks at the file."""
        return bool(self._flags & _ASSUMED)

    def unsure(self) -> Entry:
        """The same, but git looks into the file to know whether it has changed."""
        return self._replace(fixed=self.fixed[:_SIZE] + bytes(4) + self.fixed[_ID:])

    def holding(self, blob: ObjectID) -> Entry:
        """The same path with another content, which may not be in the file."""
        mode = self.fixed[_MODE : _MODE + 4]
        start = bytes(_MODE) + mode + bytes(_ID - _MODE - 4)
        return self._replace(fixed=start + bytes.fromhex(blob.decode()) + self.fixed[_FLAGS:])

    @property
    def _flags(self) -> int:
        return int.from_bytes(self.fixed[_FLAGS:], "big")

    @property
    def _stage(self) -> int:
        return self._flags >> 12 & 3


class Index:
    """The entries of an index; those of a path that is in conflict are kept aside.

    Args:
        version: of the file's format.
        resolved: what git remembers of conflicts, as it is in the file.
    """

    def __init__(self, version: int = 2, resolved: bytes = b"") -> None:
        self.entries: dict[bytes, Entry] = {}
        self.conflicts: dict[bytes, list[Entry]] = {}
        self._version = version
        self._resolved = resolved

    @classmethod
    def read(cls, raw: bytes, shared: Callable[[str], bytes]) -> Index:
        """The index that a file holds.

        Args:
            shared: reads the file ``sharedindex.ID`` that a split index is based on.

        Raises:
            BrokenIndex: it is cut, damaged, or of a kind that is not known.
        """
        try:
            version, found, extensions = _parsed(raw)
            link = extensions.get(_SPLIT, b"")
            if any(link[:CHECKSUM]):
                base = _parsed(shared(link[:CHECKSUM].hex()))[1]
                found = list(_merged(base, found, link[CHECKSUM:]))
        except BrokenIndex:
            raise
        except (struct.error, IndexError, ValueError) as error:
            raise BrokenIndex("the index is cut") from error
        index = cls(version, extensions.get(_RESOLVED, b""))
        for name, entry in found:
            if entry._stage:
                index.conflicts.setdefault(name, []).append(entry)
            else:
                index.entries[name] = entry
        return index

    def written(self) -> bytes:
        """The file that holds it, in one piece."""
        parts = [(name, entry) for name, found in self.conflicts.items() for entry in found]
        parts += self.entries.items()
        parts.sort(key=lambda item: (item[0], item[1]._stage))
        extended = any(entry.extended for _, entry in parts)
        version = 4 if self._version == 4 else 2 + extended
        raw = [_HEADER.pack(b"DIRC", version, len(parts))]
        before = b""
        for name, entry in parts:
            raw.append(_entry(name, entry, before if version == 4 else None))
            before = name
        # Other extensions say what is outdated now, such as which trees the entries make.
        if any(entry.mode == SPARSE_DIRECTORY for _, entry in parts):
            raw.append(_extension(_SPARSE, b""))
        if self._resolved:
            raw.append(_extension(_RESOLVED, self._resolved))
        data = b"".join(raw)
        return data + hashlib.sha1(data, usedforsecurity=False).digest()


_Named = tuple[bytes, Entry]


def _parsed(raw: bytes) -> tuple[int, list[_Named], dict[bytes, bytes]]:
    """The version, the entries and the extensions of a file."""
    end = len(raw) - CHECKSUM
    signature, version, count = _HEADER.unpack_from(raw)
    if signature != b"DIRC" or version not in (2, 3, 4):
        raise BrokenIndex("it is no index, or one of a version that is not known")
    stored = raw[end:]
    digest = hashlib.sha1(raw[:end], usedforsecurity=False).digest()
    if stored != digest and stored != bytes(CHECKSUM):
        raise BrokenIndex("the checksum of the index is wrong")
    found, at = [], _HEADER.size
    name = b""
    for _ in range(count):
        name, entry, at = _read_entry(raw, at, name if version == 4 else None)
        found.append((name, entry))
    return version, found, dict(_extensions(raw, at, end))


def _read_entry(raw: bytes, start: int, before: bytes | None) -> tuple[bytes, Entry, int]:
    """An entry and where it ends; `before` is the name before it where names are compressed."""
    fixed, at = raw[start : start + _FIXED], start + _FIXED
    (flags,) = struct.unpack_from(">H", raw, start + _FLAGS)
    extended = 0
    if flags & _EXTENDED:
        (extended,) = struct.unpack_from(">H", raw, at)
        at += 2
    if before is not None:
        cut, at = _number(raw, at)
        end = raw.index(b"\0", at)
        name = before[: len(before) - cut] + raw[at:end]
        return name, Entry(fixed, extended), end + 1
    length = flags & _NAME
    end = at + length if length < _NAME else raw.index(b"\0", at + length)
    return raw[at:end], Entry(fixed, extended), start + (end - start + 8 & ~7)


def _entry(name: bytes, entry: Entry, before: bytes | None) -> bytes:
    flags = entry._flags & ~(_NAME | _EXTENDED) | min(len(name), _NAME)
    extra = b""
    if entry.extended:
        flags |= _EXTENDED
        extra = entry.extended.to_bytes(2, "big")
    raw = entry.fixed[:_FLAGS] + flags.to_bytes(2, "big") + extra
    if before is not None:
        common = _common(before, name)
        return raw + _as_number(len(before) - common) + name[common:] + b"\0"
    raw += name
    return raw + bytes((len(raw) + 8 & ~7) - len(raw))


def _common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    end = min(len(one), len(other))
    return next((n for n in range(end) if one[n] != other[n]), end)


def _number(raw: bytes, at: int) -> tuple[int, int]:
    """A number as git packs offsets: seven bits a byte, each further byte adds one."""
    value = raw[at] & 127
    while raw[at] & 128:
        at += 1
        value = (value + 1 << 7) + (raw[at] & 127)
    return value, at + 1


def _as_number(value: int) -> bytes:
    parts = [value & 127]
    while value := value >> 7:
        value -= 1
        parts.append(128 | value & 127)
    return bytes(reversed(parts))


def _extensions(raw: bytes, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    while at < end:
        name, size = struct.unpack_from(">4sI", raw, at)
        # git marks with small letters what a program must know.
        if name[:1].islower() and name not in (_SPLIT, _SPARSE):
            raise BrokenIndex(f"the index has an extension that is not known: {name!r}")
        yield name, raw[at + 8 : at + 8 + size]
        at += 8 + size


def _extension(name: bytes, data: bytes) -> bytes:
    return name + len(data).to_bytes(4, "big") + data


# Split indexes: a file with most entries, and what differs from it.


def _merged(base: list[_Named], news: list[_Named], link: bytes) -> Iterator[_Named]:
    deleted, at = _bitmap(link, 0) if link else (set(), 0)
    replaced = _bitmap(link, at)[0] if link else set()
    changed = iter(news)
    for number, (name, entry) in enumerate(base):
        # Those that replace one come first, in the same order, and without a name.
        _, latest = next(changed, (name, entry)) if number in replaced else (name, entry)
        if number not in deleted:
            yield name, latest
    yield from changed


def _bitmap(raw: bytes, at: int) -> tuple[set[int], int]:
    """The numbers of the bits that are set in a bitmap in the format EWAH, and where it ends."""
    _, words = struct.unpack_from(">II", raw, at)
    at += 8
    bits: set[int] = set()
    place, end = 0, at + 8 * words
    while at < end:
        (marker,) = struct.unpack_from(">Q", raw, at)
        at += 8
        run = 64 * (marker >> 1 & 0xFFFFFFFF)
        if marker & 1:
            bits.update(range(place, place + run))
        place += run
        for _ in range(marker >> 33):
            (word,) = struct.unpack_from(">Q", raw, at)
            at += 8
            bits.update(place + n for n in range(64) if word >> n & 1)
            place += 64
    return bits, end + 4
