"""What two stores hold of a key, compared: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from datastream.entry import Entry, Operation
from datastream.selection import RESERVED
from datastream.source import is_below


def present(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Those that hold something and are nobody's own, by key."""
    return {
        entry.key: entry
        for entry in entries
        if entry.operation is Operation.PUT and not entry.key.startswith(RESERVED)
    }


def readable(entries: Mapping[str, Entry], unread: frozenset[str]) -> Mapping[str, Entry]:
    """Without what one of the stores cannot read, see `Batch.unread`."""
    if not unread:
        return entries
    return {key: entry for key, entry in entries.items() if not is_below(key, unread)}


def same(one: Entry | None, other: Entry | None, *, types: bool) -> bool:
    """Whether two keys hold the same.

    Args:
        types: both stores keep types, so that these count too.
    """
    if one is None or other is None:
        return one is other
    return one.value == other.value and (not types or one.value_type == other.value_type)
