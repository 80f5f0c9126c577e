"""`Puts`: very many unconditional puts, field by field, until somebody asks for one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import overload

from datastream._columns import EntryColumns
from datastream.source import Write

# Past the constructor of the named tuple, which takes three times as long.
_write = partial(tuple.__new__, Write)
_NO_MORE = Write("", None)[5:]
"""The fields of a write behind its time, where there is nothing to say in them."""


class Puts(Sequence[Write]):
    """Puts of entries as they are, whatever is there, in the order of their keys; never changed.

    A backend that takes many rows at once takes them from the columns. To every other one this is
    a sequence of writes like any.
    """

    __slots__ = ("entries",)

    def __init__(self, entries: EntryColumns) -> None:
        self.entries = entries

    @classmethod
    def of(cls, entries: EntryColumns) -> Puts:
        """Those that put `entries`, which have each key once."""
        return cls(entries.sorted_by_key())

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Write]:
        entries = self.entries
        given = entries.keys, entries.values, entries.types, repeat(None), entries.times
        # The columns of what is put end together; what is repeated has no end.
        return map(_write, zip(*given, *map(repeat, _NO_MORE), strict=False))

    @overload
    def __getitem__(self, index: int) -> Write: ...
    @overload
    def __getitem__(self, index: slice) -> Puts: ...
    def __getitem__(self, index: int | slice) -> Write | Puts:
        if isinstance(index, slice):
            return Puts(self.entries[index])
        entry = self.entries[index]
        return Write(entry.key, entry.value, entry.value_type, None, entry.updated_at)
