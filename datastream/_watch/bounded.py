"""A buffer for relays: a subscriber that falls behind costs no more than it was granted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from datastream._watch.buffer import Before, ConflatingBuffer
from datastream._watch.subscriber import Overflow
from datastream.entry import Batch, Entry

ENTRY_BYTES = 200
"""What an entry costs beside its value."""
FREE_ENTRIES, FREE_BYTES = 16, 4 << 10
"""What may wait uncharged: mostly it is sent at once, and to count it takes as long as that."""


class Charge(Protocol):
    """Counts what waits for a subscriber. Called under the buffer's lock: never blocks."""

    def take(self, size: int) -> bool:
        """Count more bytes; False if that is too much."""
        ...

    def set(self, size: int) -> bool:
        """Count just that many; False if that is too much."""
        ...


class BoundedBuffer(ConflatingBuffer):
    """Conflates, and ends the watch where even that takes more than is granted.

    A watch made anew from the last cursor is then cheaper than what waits.

    Args:
        charge: grants.
    """

    __slots__ = ("_charge", "_is_charged")

    # As many as a burst of changes has: each that waits here costs as much as it takes to send it.
    AHEAD: ClassVar = 8

    def __init__(self, charge: Charge) -> None:
        super().__init__()
        self._charge = charge
        self._is_charged = False

    def put(self, batch: Batch, before: Before = None, /) -> Exception | None:
        is_behind = bool(self._queue) or self._newest is not None
        super().put(batch, before)
        # Who keeps up has nothing waiting, and is not counted.
        if batch.initial or not is_behind or self._is_free():
            return None
        cost = _cost(batch.entries) if self._is_charged else self._cost()
        self._is_charged = True
        if self._charge.take(cost):
            return None
        # Of what was counted, conflation may have left little.
        if self._charge.set(2 * self._cost()):
            return None
        return Overflow("the subscriber is too far behind")

    def _is_free(self) -> bool:
        few = self._entries <= FREE_ENTRIES and self._bytes <= FREE_BYTES
        return few and self._newest is None and not self._is_charged

    def _caught_up(self) -> None:
        super()._caught_up()
        if self._is_charged:
            self._is_charged = False
            self._charge.set(0)

    def _cost(self) -> int:
        queued = sum(_cost(batch.entries) for batch, _ in self._queue or () if not batch.initial)
        return queued + _cost(list((self._newest or {}).values()))


def _cost(entries: Sequence[Entry]) -> int:
    return sum(ENTRY_BYTES + len(entry.value) for entry in entries)
