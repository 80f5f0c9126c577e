"""How long values took that carry the time they left at."""

from __future__ import annotations

import threading
import time

TIMEOUT = 20.0
"""Seconds to wait for all values to arrive."""


def stamp() -> bytes:
    """The time now in nanoseconds: the same clock for every process of this machine."""
    return b"%d" % time.time_ns()


class Arrivals:
    """Collects the seconds each stamped value took."""

    def __init__(self) -> None:
        self._took: list[float] = []
        self._changed = threading.Condition()

    def note(self, value: bytes) -> None:
        took = (time.time_ns() - int(value)) / 1e9
        with self._changed:
            self._took.append(took)
            self._changed.notify()

    def forget(self) -> None:
        """Drop what came so far, such as the value that was there before."""
        with self._changed:
            self._took.clear()

    def take(self, number: int) -> list[float]:
        """Wait for `number` of them; fewer, if some never come."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._took) >= number, TIMEOUT)
            took, self._took = self._took, []
        return took
