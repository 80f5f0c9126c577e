"""`Snapshot`: the entries of one moment by their keys."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import Any

from datastream._columns import EntryColumns, by_key
from datastream.entry import Entry


class Snapshot(Mapping[str, Entry]):
    """What the selected keys of a store held at one moment; never changes.

    Made by `Store.snapshot`. It is equal to a dict of the same keys and entries; `copy` and
    ``dict(snapshot)`` are one. Where a backend brings many entries at once, each is made when it
    is read.
    """

    __slots__ = ("_entries", "_places")

    def __init__(self, entries: Sequence[Entry]) -> None:
        if len(places := _places(entries)) < len(entries):
            # A source has named a key twice: the last one holds, as in a dict.
            entries = tuple(by_key(entries).values())
            places = _places(entries)
        self._entries = entries
        self._places = places

    def __getitem__(self, key: str) -> Entry:
        return self._entries[self._places[key]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def items(self) -> ItemsView[str, Entry]:
        """Keys and entries."""
        return _Items(self)

    def values(self) -> ValuesView[Entry]:
        """Entries."""
        return _Values(self)

    def copy(self) -> dict[str, Entry]:
        """A dict of the same, to be changed."""
        return dict(zip(self._places, self._entries, strict=True))

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.copy(), **other} if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self.copy()} if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce__(self) -> tuple[Any, ...]:
        return Snapshot, (tuple(self._entries),)


def _places(entries: Sequence[Entry]) -> dict[str, int]:
    if isinstance(entries, EntryColumns):
        return entries.places
    return {entry.key: place for place, entry in enumerate(entries)}


class _Items(ItemsView[str, Entry]):
    _mapping: Snapshot

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return zip(self._mapping._places, self._mapping._entries, strict=True)


class _Values(ValuesView[Entry]):
    _mapping: Snapshot

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._mapping._entries)
