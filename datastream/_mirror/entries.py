"""What two stores hold of a key, compared: pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from datastream.entry import Entry, Operation

RESERVED = "_datastream/"
"""Keys below it belong to mirrors and their like; they are neither compared nor copied."""


def is_reserved(key: str) -> bool:
    """Whether a key is one of a mirror's own."""
    return key.startswith(RESERVED)


def present(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Those that hold something and are nobody's own, by key."""
    return {
        entry.key: entry
        for entry in entries
        if entry.operation is Operation.PUT and not entry.key.startswith(RESERVED)
    }


def same(one: Entry | None, other: Entry | None, *, types: bool) -> bool:
    """Whether two keys hold the same.

    Args:
        types: both stores keep types, so that these count too.
    """
    if one is None or other is None:
        return one is other
    return one.value == other.value and (not types or one.value_type == other.value_type)


def digest(entry: Entry | None, *, types: bool = True) -> str:
    """What stands for value and type of an entry; "" where there is none."""
    if entry is None or entry.operation is Operation.DELETE:
        return ""
    name = entry.value_type.encode() if types else b""
    return blake2b(entry.value, digest_size=12, key=name[:64]).hexdigest()
