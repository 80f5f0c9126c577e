"""What two stores hold of a key, compared: pure."""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller

from datastream._columns import EntryColumns, by_key, keys_of, matching
from datastream.entry import PUT, Entry
from datastream.selection import RESERVED
from datastream.source import is_below

_is_own = methodcaller("startswith", RESERVED)


def visible(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Those that hold something and are nobody's own."""
    if not isinstance(entries, EntryColumns):
        entries = [entry for entry in entries if entry.operation is PUT]
    if not any(map(_is_own, keys_of(entries))):
        return entries
    return matching(entries, lambda key: not _is_own(key))


def present(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The same by key."""
    return by_key(visible(entries))


def readable(entries: Sequence[Entry], unread: frozenset[str]) -> Sequence[Entry]:
    """Without what one of the stores cannot read, see `Batch.unread`."""
    return matching(entries, lambda key: not is_below(key, unread)) if unread else entries


def same(one: Entry | None, other: Entry | None, *, types: bool) -> bool:
    """Whether two keys hold the same.

    Args:
        types: both stores keep types, so that these count too.
    """
    if one is None or other is None:
        return one is other
    return one.value == other.value and (not types or one.value_type == other.value_type)
