"""What one subscriber has not taken yet: every batch while they are few, then newest per key."""

from __future__ import annotations

from collections import deque

from datastream.entry import Batch, Entry

KEPT_ENTRIES = 4096
"""Entries kept one by one; beyond, only the newest of each key is."""
KEPT_BYTES = 1 << 20
"""Bytes of values kept one by one, for the same reason."""


class Mailbox:
    """A queue of batches whose memory is bounded by the number of keys, however many changes pass.

    Not locked: the owner serialises `put` and `take`.
    """

    __slots__ = ("_bytes", "_cursor", "_entries", "_newest", "_queue")

    def __init__(self) -> None:
        self._queue: deque[Batch] | None = None
        self._entries = 0
        self._bytes = 0
        self._newest: dict[str, Entry] | None = None
        self._cursor = ""

    def __bool__(self) -> bool:
        return bool(self._queue) or self._newest is not None

    def put(self, batch: Batch) -> None:
        if self._newest is None and self._fits(batch):
            if self._queue is None:
                self._queue = deque()
            self._queue.append(batch)
            return
        self._fold(batch)

    def take(self) -> Batch | None:
        """The oldest batch not yet taken, None if there is none."""
        if self._queue:
            batch = self._queue.popleft()
            if not self._queue:
                self._entries = self._bytes = 0
            return batch
        if self._newest is None:
            return None
        batch = Batch(tuple(self._newest.values()), self._cursor)
        # Whoever has caught up gets every batch again.
        self._newest = None
        self._entries = self._bytes = 0
        return batch

    def clear(self) -> None:
        self._queue = self._newest = None
        self._entries = self._bytes = 0

    def _fits(self, batch: Batch) -> bool:
        self._count(batch)
        if batch.initial or (self._entries <= KEPT_ENTRIES and self._bytes <= KEPT_BYTES):
            return True
        # Counted is all that came since nothing waited; see how much of it still does.
        self._entries = self._bytes = 0
        for waiting in self._queue or ():
            self._count(waiting)
        self._count(batch)
        return self._entries <= KEPT_ENTRIES // 2 and self._bytes <= KEPT_BYTES // 2

    def _count(self, batch: Batch) -> None:
        if not batch.initial:
            self._entries += len(batch.entries)
            for entry in batch.entries:
                self._bytes += len(entry.value)

    def _fold(self, batch: Batch) -> None:
        """Merge into one batch: whole batches only, so what belongs together stays together."""
        if self._newest is None:
            self._newest = {}
            self._fold_queued(self._newest)
        _newer(self._newest, batch)
        self._cursor = batch.cursor

    def _fold_queued(self, newest: dict[str, Entry]) -> None:
        # The initial batch stays as it is: it is marked, and its size is bounded by the state.
        queue = self._queue
        if not queue:
            return
        initial = queue.popleft() if queue[0].initial else None
        for queued in queue:
            _newer(newest, queued)
        queue.clear()
        if initial is not None:
            queue.append(initial)


def _newer(newest: dict[str, Entry], batch: Batch) -> None:
    for entry in batch.entries:
        # Moved to the end: the order is that of the newest change.
        newest.pop(entry.key, None)
        newest[entry.key] = entry
