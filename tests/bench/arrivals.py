"""Values that carry the time they left at: writing them, and how long each took to arrive."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

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


def write_stamps(
    write: Callable[[bytes], object], times: int, pause: float
) -> tuple[int, list[float]]:
    """Write the time `times` times, about `pause` seconds apart.

    Returns:
        The last stamp, and the seconds that each write took.
    """
    stamp, took = 0, []
    for _ in range(times):
        # At random, so as not to keep step with the watcher's looks at the backend.
        time.sleep(pause * random.uniform(0.5, 1.5))
        begin = time.perf_counter()
        stamp = time.time_ns()
        write(b"%d" % stamp)
        took.append(time.perf_counter() - begin)
    return stamp, took
