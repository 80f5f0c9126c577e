"""How a store that pushes without a pause lets others get through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

BURST = 40
"""Pushes in a row after which others get a turn."""
LONGEST_BURST = 20.0
"""Seconds after which they get one anyway: who has lost tries again for a minute."""
TURN = 6.0
"""How many pushes that turn lasts: another store fetches, and then pushes."""
LONGEST_TURN = 3.0
"""Seconds."""


class Turns:
    """Counts pushes in a row, of one thread at a time.

    Who has just pushed knows the newest commit; another one has to fetch it first, and by then
    there is a newer one. It would lose every time.
    """

    def __init__(self) -> None:
        self._in_a_row = 0
        self._since = 0.0
        self._took = 0.0
        self._ended = 0.0

    def due(self) -> float:
        """Seconds to wait before the next push; the row ends with that."""
        left = min(LONGEST_TURN, TURN * self._took) - (monotonic() - self._ended)
        is_short = self._in_a_row < BURST and self._ended - self._since < LONGEST_BURST
        if left > 0 and is_short:
            return 0.0
        self._in_a_row = 0
        return max(0.0, left)

    @contextmanager
    def push(self) -> Iterator[None]:
        """Around a push; one that raises ends the row."""
        began = monotonic()
        in_a_row, self._in_a_row = self._in_a_row, 0
        if not in_a_row:
            self._since = began
        yield
        self._in_a_row = in_a_row + 1
        self._ended = monotonic()
        self._took = self._ended - began
