"""`Puts`: very many unconditional puts, field by field, until somebody asks for one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from operator import le
from typing import TypeVar, overload

from datastream._columns import EntryColumns
from datastream.source import Write

T = TypeVar("T")
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
        keys = entries.keys
        if all(map(le, keys, keys[1:])):
            return cls(entries)
        order = sorted(range(len(keys)), key=keys.__getitem__)

        def ordered(column: Sequence[T]) -> Sequence[T]:
            return [column[number] for number in order]

        return cls(
            EntryColumns(
                ordered(keys),
                ordered(entries.values),
                ordered(entries.types),
                ordered(entries.times),
                # Nobody asks what they had; to work it out takes long.
                [""] * len(order),
            )
        )

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
