"""The rows of a live table: kept by key, sorted, filtered, and given out page by page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from math import isnan
from typing import Any, NamedTuple

from datastream.entry import Entry, Operation
from datastream.errors import InvalidValue
from datastream.notebook._parts import SHORT_CHARS, visible
from datastream.notebook._values import Shown, shown_entry, shown_value

PAGE = 25
"""Rows of a page, unless a display asks for another number."""
MOST = 200
"""Rows that a display may ask for."""
_NOTHING: Any = object()


class Row:
    """One key, and when its value changed here."""

    __slots__ = ("_shown", "changed", "entry", "key", "value")

    def __init__(self, key: str, entry: Entry | None, value: Any, changed: float) -> None:
        self.key = key
        self.entry = entry
        self.value = value
        self.changed = changed
        """Milliseconds since 1970; 0 of what was there from the beginning."""
        self._shown: Shown | None = None

    @property
    def shown(self) -> Shown:
        """What is to be seen of the value, made when somebody looks."""
        if self._shown is None:
            is_stored = self.value is _NOTHING and self.entry is not None
            self._shown = (
                shown_entry(self.entry)
                if is_stored and self.entry is not None
                else shown_value(self.key, self.value)
            )
        return self._shown

    @property
    def kind(self) -> str:
        """The type."""
        if self.entry is not None and self.value is _NOTHING:
            return self.entry.value_type
        return type(self.value).__name__

    @property
    def time(self) -> float | None:
        """When it was written, or else when it changed here; None where neither is known."""
        written = None if self.entry is None else self.entry.updated_at
        if written is not None:
            return written.timestamp() * 1_000
        return self.changed or None

    def rank(self) -> tuple[int, float, str]:
        """Its place when sorted by value: numbers before texts."""
        value = self.value if self.value is not _NOTHING else _decoded(self.entry)
        # NaN compares with nothing: it is a text.
        if isinstance(value, int | float) and not _is_nan(value):
            return (0, value, "")
        return (1, 0.0, self.shown.text)


class Page(NamedTuple):
    """What a display asks for."""

    sort: str = "key"
    down: bool = False
    filter: str = ""
    first: int = 0
    size: int = PAGE

    @classmethod
    def of(cls, ask: dict[str, Any]) -> Page:
        """Out of a message, which may hold anything."""
        sort = ask.get("sort")
        return cls(
            sort if isinstance(sort, str) and sort in _ORDERS else "key",
            bool(ask.get("down")),
            str(ask.get("filter") or "")[:200].casefold(),
            _number(ask.get("first"), 0, 1 << 31),
            _number(ask.get("size"), PAGE, MOST),
        )


_ORDERS: dict[str, Callable[[Row], Any]] = {
    "key": lambda row: row.key,
    "value": Row.rank,
    "type": lambda row: row.kind,
    "age": lambda row: -(row.time or 0.0),
    "revision": lambda row: row.entry.revision if row.entry is not None else "",
}


class TableRows:
    """All rows of a table. One thread changes them, another takes pages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, Row] = {}
        self._keys_version = 0
        self._keys: tuple[int, list[str]] = (-1, [])

    def take(self, entries: Iterable[Entry], *, initial: bool) -> None:
        """Put or remove what a batch brings."""
        changed = 0.0 if initial else now()
        with self._lock:
            for entry in entries:
                if entry.operation is Operation.DELETE:
                    self._remove(entry.key)
                else:
                    self._put(Row(entry.key, entry, _NOTHING, changed))

    def put(self, key: str, value: Any, entry: Entry | None, *, initial: bool) -> None:
        """Put a decoded value."""
        with self._lock:
            self._put(Row(key, entry, value, 0.0 if initial else now()))

    def remove(self, key: str) -> None:
        """Remove a key, if it is there."""
        with self._lock:
            self._remove(key)

    def clear(self) -> None:
        """Remove all."""
        with self._lock:
            self._rows.clear()
            self._keys_version += 1

    def page(self, page: Page) -> tuple[list[Row], int, int]:
        """The rows of a page, how many match its filter, and how many there are."""
        with self._lock:
            rows = self._ordered(page)
            return rows[page.first : page.first + page.size], len(rows), len(self._rows)

    def _put(self, row: Row) -> None:
        if row.key not in self._rows:
            self._keys_version += 1
        self._rows[row.key] = row

    def _remove(self, key: str) -> None:
        if self._rows.pop(key, None) is not None:
            self._keys_version += 1

    def _ordered(self, page: Page) -> list[Row]:
        rows = (self._rows[key] for key in self._sorted_keys())
        found = [row for row in rows if _matches(row, page.filter)] if page.filter else list(rows)
        if page.sort != "key":
            found.sort(key=_ORDERS[page.sort])
        if page.down:
            found.reverse()
        return found

    def _sorted_keys(self) -> list[str]:
        version, keys = self._keys
        if version != self._keys_version:
            # Nearly sorted already, which costs next to nothing to sort.
            known = [key for key in keys if key in self._rows]
            new = self._rows.keys() - set(known)
            keys = sorted([*known, *new])
            self._keys = (self._keys_version, keys)
        return keys


def cells(row: Row) -> dict[str, str]:
    """By column, what a page shows of a row."""
    return {
        "key": visible(row.key),
        "value": "\u2003".join(filter(None, row.shown)),
        "type": visible(row.kind, SHORT_CHARS),
        # A page counts on by itself.
        "age": "",
        "revision": "" if row.entry is None else visible(row.entry.revision, SHORT_CHARS),
    }


def now() -> float:
    """Milliseconds since 1970."""
    return datetime.now(UTC).timestamp() * 1_000


def _matches(row: Row, words: str) -> bool:
    return words in row.key.casefold() or words in row.shown.text.casefold()


def _is_nan(value: float) -> bool:
    # A large int is none, and no float either.
    return isinstance(value, float) and isnan(value)


def _decoded(entry: Entry | None) -> Any:
    try:
        return None if entry is None else entry.decode()
    except InvalidValue:
        return None


def _number(value: Any, default: int, most: int) -> int:
    is_number = isinstance(value, int | float) and 0 <= value < 1 << 53
    return min(int(value), most) if is_number else default
