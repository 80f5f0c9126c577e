"""How long values took that carry the time they left at."""

from __future__ import annotations

import threading
import time

TIMEOUT = 20.0
"""Seconds to wait for the newest value to arrive."""


class Arrivals:
    """Collects the seconds each stamped value took.

    A value may be skipped by a reader that was held up, so the newest tells when all is there.
    """

    def __init__(self) -> None:
        self._took: list[float] = []
        self._newest = 0
        self._changed = threading.Condition()

    def note(self, value: bytes) -> None:
        """Take in a value: the time it left in nanoseconds, by the clock of this machine."""
        now, stamp = time.time_ns(), int(value)
        with self._changed:
            self._took.append((now - stamp) / 1e9)
            self._newest = stamp
            self._changed.notify()

    def forget(self) -> None:
        """Drop what came so far, such as the value that was there before."""
        with self._changed:
            self._took.clear()

    def until(self, stamp: int) -> list[float]:
        """The seconds each value took, up to the one of `stamp`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._newest >= stamp, TIMEOUT):
                raise TimeoutError("the newest value never arrived")
            took, self._took = self._took, []
        return took
