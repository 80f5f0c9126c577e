"""The rows of a live table: what keys hold now, sorted, and what changed just now. No I/O."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from datastream import Batch, Entry, Operation
from datastream.cli._output import one_line, shown_start

HIGHLIGHT = 2.0
"""Seconds for which a change is highlighted, and a removed key stays to be seen."""
MANY = 64
"""New keys from which sorting all beats finding the place of each."""


class Row(NamedTuple):
    """One key as it is shown."""

    value: str
    value_type: str
    updated_at: datetime | None
    changed_at: float
    """On the clock of `Rows.take`; -inf for what was there from the start."""
    is_gone: bool = False


class Rows:
    """All rows. Every method takes the time as `now`, in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._sorted: list[str] = []
        self._fresh: set[str] = set()

    def __len__(self) -> int:
        return len(self._sorted)

    def take(self, batch: Batch, now: float) -> None:
        """Put a batch into the table."""
        if batch.reset:
            held = {entry.key for entry in batch}
            for key in self._rows.keys() - held:
                self._remove(key, now)
        is_first = batch.initial and not self._rows
        new: list[str] = []
        for entry in batch:
            if entry.operation is Operation.DELETE:
                self._remove(entry.key, now)
            else:
                self._put(entry, new, float("-inf") if is_first else now)
        self._sort_in(new)

    def page(self, first: int, size: int) -> list[tuple[str, Row]]:
        """`size` rows from the one with the number `first`, in the order of their keys."""
        return [(key, self._rows[key]) for key in self._sorted[first : first + size]]

    def expire(self, now: float) -> bool:
        """End what was highlighted long enough; True if that changes the picture."""
        ended = {key for key in self._fresh if now - self._rows[key].changed_at >= HIGHLIGHT}
        self._fresh -= ended
        for key in ended:
            if self._rows[key].is_gone:
                del self._rows[key]
                del self._sorted[bisect_left(self._sorted, key)]
        return bool(ended)

    def is_fresh(self, key: str) -> bool:
        """It changed just now."""
        return key in self._fresh

    def _put(self, entry: Entry, new: list[str], now: float) -> None:
        known = self._rows.get(entry.key)
        row = Row(shown_start(entry), one_line(entry.value_type), entry.updated_at, now)
        if known is None:
            new.append(entry.key)
        self._rows[entry.key] = row
        if now > float("-inf"):
            self._fresh.add(entry.key)

    def _remove(self, key: str, now: float) -> None:
        known = self._rows.get(key)
        if known is not None:
            self._rows[key] = known._replace(changed_at=now, is_gone=True)
            self._fresh.add(key)

    def _sort_in(self, new: Sequence[str]) -> None:
        if len(new) < MANY:
            for key in new:
                insort(self._sorted, key)
        else:
            self._sorted = sorted(self._rows)
