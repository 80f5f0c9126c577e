"""What the subscribers of a view have not taken yet, and who wants which keys."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from datastream._watch.buffer import KEPT_ENTRIES
from datastream.entry import Change, ChangeBatch


class ChangeBuffer:
    """Every batch while they are few, then one change of each key, from the oldest to the newest.

    Not locked: the owner serialises the calls.
    """

    def __init__(self) -> None:
        self._queue: deque[ChangeBatch] = deque()
        self._changes = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(
        self, item: ChangeBatch, before: Sequence[str | None] | None = None, /
    ) -> Exception | None:
        self._queue.append(item)
        self._changes += len(item)
        if self._changes > KEPT_ENTRIES and len(self._queue) > 1:
            joined = conflated(self._queue)
            self._queue.clear()
            self._queue.append(joined)
            # So that as many more come before it is done again, however many keys there are.
            self._changes = 0
        return None

    def take(self) -> ChangeBatch | None:
        if not self._queue:
            return None
        item = self._queue.popleft()
        self._changes = max(0, self._changes - len(item)) if self._queue else 0
        return item

    def clear(self) -> None:
        self._queue.clear()
        self._changes = 0


def conflated(batches: Sequence[ChangeBatch] | deque[ChangeBatch]) -> ChangeBatch:
    """One batch with the oldest old and the newest new value of each key."""
    merged: dict[str, Change] = {}
    for batch in batches:
        for change in batch:
            first = merged.pop(change.key, None)
            merged[change.key] = change if first is None else change._replace(old=first.old)
    last = batches[-1]
    initial = any(batch.initial for batch in batches)
    return ChangeBatch(tuple(merged.values()), last.cursor, initial)


class Listener(Protocol):
    """Takes what changed; called under a lock, so it only puts it aside."""

    def offer(self, batch: Any, /) -> None: ...
    def end(self, error: Exception | None = None) -> None: ...


class Listeners:
    """The subscribers of one view: those of everything, and those of single keys."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: tuple[Listener, ...] = ()
        self._by_key: dict[str, tuple[Listener, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._all or self._by_key)

    def add(self, listener: Listener, key: str | None = None) -> None:
        """Offer it all changes from here on, or those of `key`."""
        with self._lock:
            if key is None:
                self._all += (listener,)
            else:
                self._by_key[key] = (*self._by_key.get(key, ()), listener)

    def remove(self, listener: Listener, key: str | None = None) -> None:
        with self._lock:
            if key is None:
                self._all = tuple(other for other in self._all if other is not listener)
                return
            left = tuple(o for o in self._by_key.get(key, ()) if o is not listener)
            if left:
                self._by_key[key] = left
            else:
                self._by_key.pop(key, None)

    def offer(self, batch: Any) -> None:
        """Offer a batch of changes, or anything else if nobody asked for single keys."""
        with self._lock:
            everybody, by_key = self._all, self._by_key
            some = [(o, c) for c in batch for o in by_key.get(c.key, ())] if by_key else ()
        for listener in everybody:
            listener.offer(batch)
        for listener, change in some:
            listener.offer(replace(batch, changes=(change,)))

    def end(self, error: Exception | None = None) -> None:
        """No change follows."""
        with self._lock:
            listeners = {*self._all, *(o for some in self._by_key.values() for o in some)}
        for listener in listeners:
            listener.end(error)
