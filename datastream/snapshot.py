"""`Snapshot`: the entries of one moment by their keys."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import Any

from datastream._columns import is_ascending, keys_of, places_of
from datastream.entry import Entry


class Snapshot(Mapping[str, Entry]):
    """What the selected keys of a store held at one moment; never changes.

    Made by `Store.snapshot`. It is equal to a dict of the same keys and entries; `copy` and
    ``dict(snapshot)`` are one. Where a backend brings many entries at once, each is made when it
    is read.
    """

    __slots__ = ("_entries", "_found", "_keys")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._found: dict[str, int] | None = None
        keys = keys_of(entries)
        if not is_ascending(keys):
            self._found = places = places_of(keys)
            if len(places) < len(keys):
                # A source has named a key twice: the last one holds, as in a dict.
                entries = [entries[place] for place in places.values()]
                keys, self._found = list(places), None
        self._entries = entries
        self._keys = keys

    @property
    def _places(self) -> dict[str, int]:
        # Not before somebody asks for a key: of very many that takes as long as to read them.
        if self._found is None:
            self._found = places_of(self._keys)
        return self._found

    def __getitem__(self, key: str) -> Entry:
        return self._entries[self._places[key]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

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
        return dict(zip(self._keys, self._entries, strict=True))

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.copy(), **other} if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self.copy()} if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce__(self) -> tuple[Any, ...]:
        return Snapshot, (tuple(self._entries),)


class _Items(ItemsView[str, Entry]):
    _mapping: Snapshot

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return zip(self._mapping._keys, self._mapping._entries, strict=True)


class _Values(ValuesView[Entry]):
    _mapping: Snapshot

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._mapping._entries)
