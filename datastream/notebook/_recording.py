"""`Recording`: what keys held over time, as a table of times and keys."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, repeat
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple

from reactivex.abc import DisposableBase

from datastream._closing import Closing
from datastream.entry import Batch, Entry, Operation
from datastream.errors import InvalidValue
from datastream.notebook import _frames
from datastream.notebook import _parts as parts
from datastream.notebook._values import shown_value

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

TIME = "time"
MOST_CHANGES = 1_000_000
"""Changes that are kept, however long the time; the oldest ones go first."""


class Row(NamedTuple):
    """When a batch came, and the keys that it changed."""

    time: datetime
    keys: tuple[str, ...]


class Column:
    """The values of one key, each with the number of the row that brought it."""

    __slots__ = ("places", "values")

    def __init__(self) -> None:
        self.places: deque[int] = deque()
        self.values: deque[Any] = deque()

    def let_go(self, first: int) -> int:
        """Drop what no row from `first` on shows; returns how many values that were."""
        before = len(self.places)
        while len(self.places) > 1 and self.places[1] <= first:
            self.places.popleft()
            self.values.popleft()
        return before - len(self.places)

    def spread(self, first: int, end: int) -> list[Any]:
        """The value that held at each row; None before the first one."""
        start = max(self.places[0], first)
        nothing = [None] * (start - first)
        if len(self.values) == end - start:
            # Each row brought one, as they do of a key that changes all the time.
            return [*nothing, *self.values]
        starts = [start, *islice(self.places, 1, None)]
        lengths = map(sub, (*starts[1:], end), starts)
        return [*nothing, *chain.from_iterable(map(repeat, self.values, lengths))]


class Rows:
    """The rows of a span of time, column by column. Any thread adds, any reads.

    Args:
        span: what is older is let go; None keeps all.
    """

    def __init__(self, span: timedelta | None) -> None:
        self._span = span
        self._lock = threading.Lock()
        self._rows: deque[Row] = deque()
        self._first = 0
        """Number of the first row that is left."""
        self._columns: dict[str, Column] = {}
        self._changes = 0
        self.version = 0
        """Differs whenever the rows do."""

    def add(self, time: datetime, batch: Batch) -> None:
        """Append what a batch brings."""
        found = dict(_decoded(batch.entries))
        with self._lock:
            number = self._first + len(self._rows)
            for key, value in found.items():
                column = self._columns.get(key) or self._columns.setdefault(key, Column())
                column.places.append(number)
                column.values.append(value)
            self._rows.append(Row(time, tuple(found)))
            self._changes += len(found)
            self.version += 1
            self._trim(time)

    def table(self, now: datetime) -> tuple[list[datetime], dict[str, list[Any]], int]:
        """The times, by key the value that held at each, and the version."""
        with self._lock:
            self._trim(now)
            end = self._first + len(self._rows)
            times = [row.time for row in self._rows]
            columns = {
                key: self._columns[key].spread(self._first, end) for key in sorted(self._columns)
            }
            return times, columns, self.version

    def __len__(self) -> int:
        return len(self._rows)

    def _trim(self, now: datetime) -> None:
        # One row older than the span stays: it says what held where the span begins.
        while len(self._rows) > 1 and self._is_old(self._rows[1].time, now):
            self._rows.popleft()
            self._first += 1
            self.version += 1
            for key in self._rows[0].keys:
                self._changes -= self._columns[key].let_go(self._first)

    def _is_old(self, time: datetime, now: datetime) -> bool:
        return self._changes > MOST_CHANGES or (self._span is not None and time < now - self._span)


class Recording(Closing):
    """What the selected keys held over time, by when it arrived here.

    Made by `Store.window` and `Store.record`. Each row is the state after one batch: what did not
    change stands, a key that holds nothing has no value. It records until it is closed or its last
    reference goes; what was recorded stays readable.

    Args:
        what: is recorded, for `repr`.
        rows: that it fills.
    """

    def __init__(self, what: str, rows: Rows) -> None:
        self.name = what
        self._rows = rows
        self._subscription: DisposableBase | None = None
        self._built: tuple[int, pd.DataFrame] | None = None

    def follow(self, subscription: DisposableBase) -> None:
        """Keep what fills the rows, to end it with `close`."""
        self._subscription = subscription

    def to_pandas(self) -> pd.DataFrame:
        """A frame with the index ``time`` and a column of each key.

        It is made anew only when something came, so that asking again costs next to nothing.

        Raises:
            ImportError: pandas is not installed: the extra ``pandas``.
        """
        times, columns, version = self._rows.table(datetime.now(UTC))
        if self._built is None or self._built[0] != version:
            self._built = (version, _frames.to_pandas(columns, TIME, times))
        return self._built[1].copy(deep=False)

    def to_polars(self) -> pl.DataFrame:
        """The same as a frame of polars; ``time`` is ``_time`` where a key is called so.

        Raises:
            ImportError: polars is not installed: the extra ``polars``.
        """
        times, columns, _ = self._rows.table(datetime.now(UTC))
        name = TIME if TIME not in columns else f"_{TIME}"
        return _frames.to_polars({name: times, **columns})

    def close(self) -> None:
        """Record no more. Idempotent."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.dispose()

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Recording {self.name} {len(self)} rows>"

    def _repr_html_(self) -> str:
        times, columns, _ = self._rows.table(datetime.now(UTC))
        names = list(columns)[: parts.ROWS // 2]
        html = [
            _html_row(times[at], {name: columns[name][at] for name in names})
            for at in range(max(0, len(times) - parts.ROWS), len(times))
        ]
        head = parts.title(self.name, parts.dim(parts.counted(len(times), "row")))
        return parts.box(head, parts.table(html, (TIME, *names)))


def _decoded(entries: Iterable[Entry]) -> Iterator[tuple[str, Any]]:
    """Keys and values; of a value that does not decode, the one before stands."""
    for entry in entries:
        if entry.operation is Operation.DELETE:
            yield entry.key, None
            continue
        try:
            yield entry.key, entry.decode()
        except InvalidValue:
            continue


def _html_row(time: datetime, values: Mapping[str, Any]) -> str:
    cells = [parts.cell(parts.SLIM, parts.text(f"{time:%H:%M:%S.%f}"[:-3]))]
    for key, value in values.items():
        html = "" if value is None else shown_value(key, value, parts.SHORT_CHARS).html(40)
        cells.append(parts.cell(parts.SLIM, html))
    return "".join(cells)
