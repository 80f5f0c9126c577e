"""What one subscriber has not taken yet: every batch while they are few, then newest per key."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Literal

from datastream._watch.diff import revision_of
from datastream._watch.subscriber import Overflow
from datastream.entry import Batch, Entry
from datastream.selection import NOTHING

KEPT_ENTRIES = 4096
"""Entries kept one by one; beyond, only the newest of each key is."""
KEPT_BYTES = 1 << 20
"""Bytes of values kept one by one, for the same reason."""
BOUND = 100_000
"""Entries that a watch which never conflates may fall behind."""

BOUND_BYTES = 256 << 20
"""Bytes of values, for the same reason."""

Before = Sequence[str | None] | None
_Queued = tuple[Batch, Before]
Conflate = Literal["slow", "always", "never"]


class ConflatingBuffer:
    """A queue of batches whose memory is bounded by the number of keys, however many changes pass.

    What conflation makes no change at all is left out: a key that came and went meanwhile, or
    that is again what the subscriber was given last. Not locked: the owner serialises the calls.
    """

    __slots__ = ("_before", "_bytes", "_cursor", "_entries", "_newest", "_queue")

    AHEAD: ClassVar = 1
    """Small batches that may wait outside, for who mostly takes each before the next comes."""

    def __init__(self) -> None:
        self._queue: deque[_Queued] | None = None
        self._entries = 0
        self._bytes = 0
        self._newest: dict[str, Entry] | None = None
        # The revision of each conflated key that was delivered, or waits in the queue.
        self._before: dict[str, str | None] | None = None
        self._cursor = ""

    def __bool__(self) -> bool:
        return bool(self._queue) or self._newest is not None

    def put(self, batch: Batch, before: Before = None, /) -> Exception | None:
        """Keep a batch; what is returned ends the watch.

        Args:
            before: the revision of each of its keys before it, None for a missing one.
        """
        # What comes first is not counted: to conflate it alone would save nothing.
        if self._newest is not None or (self._queue and not self._fits(batch)):
            self._conflate(batch, before)
            return None
        if self._queue is None:
            self._queue = deque()
        self._queue.append((batch, before))
        return None

    def take(self) -> Batch | None:
        """The oldest batch not yet taken, None if there is none."""
        if self._queue:
            batch, _ = self._queue.popleft()
            if not self._queue:
                if self._entries and self._newest is None:
                    self._caught_up()
                if batch.initial:
                    # Most subscribers then wait for long, and an empty deque takes 760 bytes.
                    self._queue = None
            return batch
        if self._newest is None:
            return None
        news, cursor = tuple(self._newest.values()), self._cursor
        had = self._before or {}
        # Mostly none was created, which is found out at once: this is one step of an event loop.
        new = (entry.key for entry in news if had.get(entry.key, "") is None)
        created = frozenset(new) if None in had.values() else NOTHING
        # A subscriber that has caught up gets every batch again.
        self._newest = self._before = None
        self._caught_up()
        return Batch(news, cursor, created=created) if news else None

    def clear(self) -> None:
        self._queue = self._newest = self._before = None
        self._caught_up()

    def _caught_up(self) -> None:
        """Nothing waits any more."""
        self._entries = self._bytes = 0

    def _fits(self, batch: Batch) -> bool:
        if batch.initial:
            return True
        self._count(batch)
        if self._entries <= KEPT_ENTRIES and self._bytes <= KEPT_BYTES:
            return True
        # Counted is all that came since the queue was empty; count what still waits.
        self._entries = self._bytes = 0
        for waiting, _ in self._queue or ():
            if not waiting.initial:
                self._count(waiting)
        self._count(batch)
        return self._entries <= KEPT_ENTRIES // 2 and self._bytes <= KEPT_BYTES // 2

    def _count(self, batch: Batch) -> None:
        self._entries += len(batch.entries)
        for entry in batch.entries:
            self._bytes += len(entry.value)

    def _conflate(self, batch: Batch, before: Before) -> None:
        """Merge into one batch: whole batches only, so what belongs together stays together."""
        if self._newest is None or self._before is None:
            self._newest, self._before = {}, {}
            self._conflate_queued(self._newest, self._before)
        _add(self._newest, self._before, batch, before)
        self._cursor = batch.cursor

    def _conflate_queued(self, newest: dict[str, Entry], had: dict[str, str | None]) -> None:
        # The initial batch stays as it is: it is marked, and its size is bounded by the state.
        queue = self._queue
        if not queue:
            return
        initial = queue.popleft() if queue[0][0].initial else None
        for batch, before in queue:
            _add(newest, had, batch, before)
        queue.clear()
        if initial is not None:
            queue.append(initial)


class NewestBuffer(ConflatingBuffer):
    """Keeps the newest entry of each key only, however few there are."""

    __slots__ = ()

    def _fits(self, batch: Batch) -> bool:
        return batch.initial


class CompleteBuffer(ConflatingBuffer):
    """Keeps every batch, up to a bound that ends the watch.

    Args:
        what: is watched, for the error.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def put(self, batch: Batch, before: Before = None, /) -> Exception | None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append((batch, before))
        if not batch.initial:
            self._count(batch)
        if self._entries <= BOUND and self._bytes <= BOUND_BYTES:
            return None
        return Overflow(
            f"the subscriber of {self._what} is more than {BOUND} changes or "
            f'{BOUND_BYTES >> 20} MiB behind, and conflate="never" leaves none out; take them '
            "faster, or let it conflate"
        )

    def take(self) -> Batch | None:
        if not self._queue:
            return None
        batch, _ = self._queue.popleft()
        if not batch.initial:
            self._entries -= len(batch.entries)
            self._bytes -= sum(len(entry.value) for entry in batch.entries)
        return batch


def buffer_for(conflate: Conflate, what: str) -> ConflatingBuffer:
    """The buffer of one subscriber."""
    if conflate == "always":
        return NewestBuffer()
    return CompleteBuffer(what) if conflate == "never" else ConflatingBuffer()


def _add(
    newest: dict[str, Entry], had: dict[str, str | None], batch: Batch, before: Before
) -> None:
    """Conflate `batch` into `newest`; `had` has the revision of each key that was given last."""
    if before is not None:
        for entry, revision in zip(batch.entries, before, strict=True):
            had.setdefault(entry.key, revision)
    for entry in batch.entries:
        key = entry.key
        # Moved to the end: the order is that of the newest change.
        newest.pop(key, None)
        now = revision_of(entry)
        if key not in had or had[key] != now:
            newest[key] = entry
