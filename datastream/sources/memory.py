"""A dictionary in this process: the simplest Source, and the one to copy from.

``memory:`` is private to its store; ``memory:NAME`` is shared by all stores of the process that
name it. Values live as long as a store over them does.
"""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from weakref import WeakValueDictionary

from datastream.entry import PUT, Capability, Entry, deleted
from datastream.selection import Selects, selected
from datastream.source import (
    WRITING,
    Feature,
    Reading,
    Source,
    Write,
    Written,
    check_expected,
)
from datastream.url import Location, configured

TOMBSTONES = 10_000
"""Deleted keys a table remembers; a reader that missed more gets the full state again."""

MOST_DIGITS = 20
"""Longest sequence number that a position can hold."""

LIVES = 50_000
"""Deletions of which a table remembers when the key had been created; a reader that missed more may
be told of deletes that are none to it."""


class MemorySource(Source):
    """A Source over a table in memory.

    Args:
        name: share the table of that name within the process; "" for one of its own.
    """

    features = WRITING | {Feature.TYPES, Feature.LOG, Feature.TRANSIENT}
    instant = True

    def __init__(self, name: str = "") -> None:
        self._table = _named_table(name) if name else _Table()
        self._is_shared = bool(name)
        self._changed = threading.Event()
        self._table.sources[id(self)] = self

    def capabilities(self) -> Sequence[Capability]:
        with self._table.lock:
            return [Capability(e.key, e.value_type) for e in self._table.entries.values()]

    def read(self, selection: Selects, since: str | None) -> Reading:
        table = self._table
        with table.lock:
            after = None if since is None else table.sequence_at(since)
            if after is None:
                return Reading(table.state(selection), table.position, True)
            return table.changes(after)

    def get(self, key: str) -> Entry | None:
        return self._table.entries.get(key)

    def wait(self, timeout: float | None) -> None:
        self._changed.wait(timeout)
        self._changed.clear()

    def wake(self) -> None:
        self._changed.set()

    def write(self, writes: Sequence[Write]) -> Written:
        table = self._table
        with table.lock:
            for write in writes:
                if write.expect is not None:
                    current = table.entries.get(write.key)
                    check_expected(write, current.revision if current else None)
            since = table.position
            stored = table.apply(writes)
            position = table.position
        # This source's own store knows from the answer.
        if self._is_shared and position is not since:
            self._wake_others()
        # Without `Written.__new__`, nor that of `Entry` below: they would take as long as the rest.
        return tuple.__new__(Written, (stored, position, since, "", "", ""))

    def _wake_others(self) -> None:
        # A list of its own: other threads add and remove sources meanwhile.
        for reference in self._table.sources.valuerefs():
            source = reference()
            if source is not None and source is not self:
                source.wake()

    def close(self) -> None:
        self._table.sources.pop(id(self), None)


class _Table:
    """Current entries and, in order of change, the sequence number of every key's last change."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sources: WeakValueDictionary[int, MemorySource] = WeakValueDictionary()
        self.entries: dict[str, Entry] = {}
        self.epoch = secrets.token_hex(4)
        self.sequence = 0
        self.position = f"{self.epoch}:0"
        # One item a key, moved to the end by each change: a log that compacts itself.
        self._log: dict[str, int] = {}
        # When each key was created, deleted, created again, and so on.
        self._lives: dict[str, list[int]] = {}
        # The deletions among them, the oldest first, and the last one that was forgotten.
        self._deletions: deque[tuple[int, str]] = deque()
        self._lives_forgotten = 0
        self._tombstones: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0

    def sequence_at(self, position: str) -> int | None:
        """The sequence number of a position, None if the table forgot what followed it."""
        epoch, _, digits = position.rpartition(":")
        # A client may have made it up: int() refuses thousands of digits, and takes odd ones.
        if epoch != self.epoch or len(digits) > MOST_DIGITS or not digits.isdecimal():
            return None
        sequence = int(digits)
        return sequence if self._forgotten <= sequence <= self.sequence else None

    def state(self, selection: Selects) -> list[Entry]:
        return selected(self.entries, selection)

    def changes(self, after: int) -> Reading:
        """What changed after a sequence number, each key once."""
        changed: list[Entry] = []
        created = []
        if after != self.sequence:
            for key, sequence in reversed(self._log.items()):
                if sequence <= after:
                    break
                entry = self.entries.get(key)
                if not self.existed(key, after):
                    created.append(key)
                changed.append(entry or deleted(key))
            changed.reverse()
        return Reading(changed, self.position, False, created=frozenset(created))

    def existed(self, key: str, at: int) -> bool:
        """Whether `key` held a value at a sequence number; True where that was forgotten."""
        before = bisect_right(self._lives.get(key, ()), at)
        return bool(before % 2) or at < self._lives_forgotten

    def apply(self, writes: Sequence[Write]) -> list[Entry]:
        # One time for all that is written together.
        now = datetime.now(UTC)
        stored = []
        for write in writes:
            if write.value is None:
                stored.append(self._delete(write, now))
            else:
                stored.append(self._put(write, write.value, now))
        return stored

    def _put(self, write: Write, value: bytes, now: datetime) -> Entry:
        key = write.key
        current = self.entries.get(key)
        if current is None:
            self._tombstones.pop(key, None)
            self._lives.setdefault(key, []).append(self.sequence + 1)
        elif current[1] == value and current[2] == write.value_type:
            return current
        self._touch(key)
        fields = (key, value, write.value_type, write.updated_at or now, self.position, PUT)
        entry = tuple.__new__(Entry, fields)
        self.entries[key] = entry
        return entry

    def _delete(self, write: Write, now: datetime) -> Entry:
        key = write.key
        if key in self.entries:
            del self.entries[key]
            self._tombstones[key] = self._touch(key)
            self._lives[key].append(self.sequence)
            self._deletions.append((self.sequence, key))
            self._forget()
        return deleted(key, write.updated_at or now)

    def _touch(self, key: str) -> int:
        self.sequence = sequence = self.sequence + 1
        # The revision too: with the epoch, no two tables ever give the same one.
        self.position = f"{self.epoch}:{sequence}"
        self._log.pop(key, None)
        self._log[key] = sequence
        return sequence

    def _forget(self) -> None:
        if len(self._tombstones) > TOMBSTONES:
            key, self._forgotten = self._tombstones.popitem(last=False)
            del self._log[key], self._lives[key]
        if len(self._deletions) > LIVES:
            sequence, key = self._deletions.popleft()
            lives = self._lives.get(key, [])
            # In pairs: the oldest that is left is a creation.
            del lives[: bisect_right(lives, sequence)]
            self._lives_forgotten = sequence


_tables: WeakValueDictionary[str, _Table] = WeakValueDictionary()
_tables_lock = threading.Lock()


def _named_table(name: str) -> _Table:
    with _tables_lock:
        table = _tables.get(name)
        if table is None:
            table = _tables[name] = _Table()
        return table


def open_memory(location: Location, **options: object) -> MemorySource:
    """The Source of ``memory:`` and ``memory:NAME``."""
    return configured(partial(MemorySource, location.path), location, options)
