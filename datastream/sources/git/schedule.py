"""When a remote is asked next."""

from __future__ import annotations

import threading
from time import monotonic

from datastream.sources._common.wake import jittered

FIRST_RETRY, SLOWEST_RETRY = 0.1, 5.0
"""Seconds until a remote that is away is asked again, doubled each time."""


class Schedule:
    """When to ask next. Safe to use from several threads.

    Args:
        interval: seconds between two questions.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.requests = 0
        """How often `request` was called."""
        self._lock = threading.Lock()
        self._due = 0.0
        self._failures = 0

    def left(self) -> float:
        """Seconds until the next question, 0 if it is due."""
        return max(0.0, self._due - monotonic())

    def request(self) -> None:
        """It is due now."""
        with self._lock:
            self.requests += 1
            self._due = 0.0

    def succeeded(self, requests: int) -> None:
        """The remote answered a question that was put after so many `requests`."""
        with self._lock:
            self._failures = 0
            self._next(requests, self.interval)

    def failed(self, requests: int, pause: float) -> None:
        """It did not; wait for `pause` seconds at least."""
        with self._lock:
            self._failures += 1
            slowest = min(SLOWEST_RETRY, max(self.interval, FIRST_RETRY))
            retry = min(slowest, FIRST_RETRY * 2.0 ** min(self._failures, 10))
            self._next(requests, max(retry, pause))

    def _next(self, requests: int, pause: float) -> None:
        # A request that came meanwhile wants a new question.
        if self.requests == requests:
            self._due = monotonic() + jittered(pause)
