"""How a store that pushes without a pause lets others get through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

BURST = 40
"""Pushes in a row after which others get a turn."""
TURN = 6.0
"""How many pushes that turn lasts: another store fetches, and then pushes."""
LONGEST_TURN = 1.0
"""Seconds."""


class Turns:
    """Counts pushes in a row, of one thread at a time.

    Who has just pushed knows the newest commit; another one has to fetch it first, and by then
    there is a newer one. It would lose every time.
    """

    def __init__(self) -> None:
        self._in_a_row = 0
        self._took = 0.0
        self._ended = 0.0

    def due(self) -> float:
        """Seconds to wait before the next push; the row ends with that."""
        left = min(LONGEST_TURN, TURN * self._took) - (monotonic() - self._ended)
        if left > 0 and self._in_a_row < BURST:
            return 0.0
        self._in_a_row = 0
        return max(0.0, left)

    @contextmanager
    def push(self) -> Iterator[None]:
        """Around a push; one that raises ends the row."""
        began = monotonic()
        in_a_row, self._in_a_row = self._in_a_row, 0
        yield
        self._in_a_row = in_a_row + 1
        self._ended = monotonic()
        self._took = self._ended - began
