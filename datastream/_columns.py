"""`EntryColumns`: very many entries, field by field, until somebody asks for one of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import chain, compress, repeat
from operator import itemgetter, le, lt
from typing import Any, overload

from datastream.entry import PUT, Entry

# What `Entry(*fields)` does, less a call of Python.
_entry = partial(tuple.__new__, Entry)

FEW = 256
"""Entries that are unpacked together: of more, the iterators would have Python's garbage collector
look at all that is young."""
STEP = 1024
"""Entries whose revisions are made before other threads, or tasks, get their turn."""

Revise = Callable[[Sequence[bytes], Sequence[str], Sequence[Any]], Sequence[str]]
"""Makes revisions of values, types and what else a source has of each."""


class EntryColumns(Sequence[Entry]):
    """Entries that hold something: a list of each field, all of one length, never changed.

    An `Entry` of each would take as long to make as a database takes to send its row, and the
    garbage collector would look at every one of them for good.

    Args:
        revisions: or, with `revise`, what that makes them of once somebody asks for them.
    """

    __slots__ = ("_revising", "keys", "times", "types", "values")

    def __init__(
        self,
        keys: Sequence[str],
        values: Sequence[bytes],
        types: Sequence[str],
        times: Sequence[datetime | None],
        revisions: Sequence[Any],
        *,
        revise: Revise | None = None,
    ) -> None:
        self.keys = keys
        self.values = values
        self.types = types
        self.times = times
        # Together, as threads may be the first to ask at once.
        self._revising = revisions, revise

    @property
    def revisions(self) -> Sequence[str]:
        """The revision of each."""
        found, revise = self._revising
        if revise is not None:
            found = revise(self.values, self.types, found)
            self._revising = found, None
        return found

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> EntryColumns | None:
        """The columns of entries; None if one of them is a DELETE."""
        if isinstance(entries, EntryColumns):
            return entries
        columns: tuple[list[Any], ...] = ([], [], [], [], [])
        for start in range(0, len(entries), FEW):
            *fields, operations = zip(*entries[start : start + FEW], strict=True)
            if operations.count(PUT) < len(operations):
                return None
            for column, field in zip(columns, fields, strict=True):
                column.extend(field)
        return cls(*columns)

    @classmethod
    def joined(cls, parts: Sequence[EntryColumns]) -> EntryColumns:
        """Those of all parts."""
        if len(parts) < 2:
            return parts[0] if parts else _NONE
        fields = zip(*(part._fields() for part in parts), strict=True)
        return cls(*(list(chain.from_iterable(columns)) for columns in fields))

    def unique(self) -> EntryColumns:
        """The last entry of each key."""
        return self if is_ascending(self.keys) else self._at(places_of(self.keys).values())

    def sorted_by_key(self) -> EntryColumns:
        """Sorted by their keys."""
        if all(map(le, self.keys, self.keys[1:])):
            return self
        return self._at(sorted(range(len(self)), key=self.keys.__getitem__))

    def by_revision(self) -> EntryColumns:
        """Sorted by their revisions."""
        return self._at(sorted(range(len(self)), key=self.revisions.__getitem__))

    def matching(self, matches: Callable[[str], bool]) -> EntryColumns:
        """Those whose key matches."""
        wanted = list(map(matches, self.keys))
        return self if all(wanted) else self._only(wanted)

    def differing(self, known: Mapping[str, str]) -> EntryColumns:
        """Those whose revision is another one than `known` has."""
        had = map(known.get, self.keys, repeat(""))
        return self._only([now != was for now, was in zip(self.revisions, had, strict=True)])

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Entry]:
        if self._revising[1] is None:
            return self._entries()
        return chain.from_iterable(part._entries() for part in self.steps())

    def steps(self) -> Iterator[EntryColumns]:
        """All of them, a few at a time: an event loop is not held up by the revisions of all."""
        for start in range(0, len(self), STEP):
            yield self[start : start + STEP]

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> EntryColumns: ...
    def __getitem__(self, index: int | slice) -> Entry | EntryColumns:
        if isinstance(index, slice):
            return self._picked(itemgetter(index))
        value, value_type, time = self.values[index], self.types[index], self.times[index]
        revisions, revise = self._revising
        revision = revisions[index]
        if revise is not None:
            (revision,) = revise((value,), (value_type,), (revision,))
        return _entry((self.keys[index], value, value_type, time, revision, PUT))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EntryColumns | tuple | list):
            return NotImplemented
        return tuple(self) == tuple(other)

    def __hash__(self) -> int:
        # As of the tuple that it is equal to.
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def _entries(self) -> Iterator[Entry]:
        return map(_entry, zip(*self._fields(), repeat(PUT)))

    def _fields(self) -> tuple[Sequence[Any], ...]:
        return self.keys, self.values, self.types, self.times, self.revisions

    def _at(self, places: Collection[int]) -> EntryColumns:
        return self._picked(lambda column: [column[place] for place in places])

    def _only(self, wanted: Sequence[bool]) -> EntryColumns:
        return self._picked(lambda column: list(compress(column, wanted)))

    def _picked(self, pick: Callable[[Sequence[Any]], Sequence[Any]]) -> EntryColumns:
        """Some of these entries, the same of each column."""
        revisions, revise = self._revising
        fields = self.keys, self.values, self.types, self.times, revisions
        return EntryColumns(*map(pick, fields), revise=revise)


class Gathered:
    """The entries of a state that comes in parts, put together as they come; if all parts are
    columns, in those."""

    def __init__(self) -> None:
        self._columns: tuple[list[Any], ...] = ([], [], [], [], [])
        self._others: list[Entry] = []

    def add(self, part: Sequence[Entry]) -> None:
        """Take the next part."""
        if not isinstance(part, EntryColumns):
            self._others += part
            return
        for column, more in zip(self._columns, part._fields(), strict=True):
            column.extend(more)

    def entries(self) -> Sequence[Entry]:
        """Those of all parts; none is added after that."""
        columns = EntryColumns(*self._columns)
        return [*columns, *self._others] if self._others else columns


_NONE = EntryColumns((), (), (), (), ())


def keys_of(entries: Sequence[Entry]) -> Sequence[str]:
    """The keys of entries."""
    return entries.keys if isinstance(entries, EntryColumns) else [entry.key for entry in entries]


def is_ascending(keys: Sequence[str]) -> bool:
    """Whether each comes after the one before it, so that none comes twice."""
    return all(map(lt, keys, keys[1:]))


def places_of(keys: Sequence[str]) -> dict[str, int]:
    """The place of each key, the last one if it has several."""
    return dict(zip(keys, range(len(keys)), strict=True))


def held(entries: Sequence[Entry]) -> Sequence[Entry]:
    """The same entries in a sequence that nobody changes."""
    return entries if isinstance(entries, EntryColumns) else tuple(entries)


def by_key(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Entries by their key."""
    return dict(zip(keys_of(entries), entries, strict=True))


def make_revisions(entries: Sequence[Entry]) -> None:
    """Make those of columns now, as when a lock is to be taken."""
    if isinstance(entries, EntryColumns):
        _ = entries.revisions


def revisions_of(entries: Sequence[Entry]) -> dict[str, str]:
    """The revision of each key."""
    if isinstance(entries, EntryColumns):
        return dict(zip(entries.keys, entries.revisions, strict=True))
    return {entry.key: entry.revision for entry in entries}


def matching(entries: Sequence[Entry], matches: Callable[[str], bool]) -> Sequence[Entry]:
    """The entries whose key matches."""
    if isinstance(entries, EntryColumns):
        return entries.matching(matches)
    return [entry for entry in entries if matches(entry.key)]


def differing(entries: Sequence[Entry], known: Mapping[str, str]) -> Sequence[Entry]:
    """The entries that `known`, the revision of each key, does not have; a DELETE has ""."""
    if isinstance(entries, EntryColumns):
        return entries.differing(known)
    return [entry for entry in entries if known.get(entry.key, "") != entry.revision]
