"""One thread works; others that need the same result wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from datastream.errors import SourceUnavailable

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs an action in one thread at a time; threads that ask meanwhile get its result."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Future[T] | None = None

    def run(self, action: Callable[[], T], timeout: float) -> T:
        """The result of `action`, or of the one that runs already.

        Raises:
            TimeoutError: that one took longer than `timeout` seconds.
        """
        mine: Future[T] = Future()
        with self._lock:
            running = self._running
            if running is None:
                self._running = mine
        if running is not None:
            return running.result(timeout)
        try:
            result = action()
        except BaseException as error:
            self._end()
            # An interrupt was meant for the thread that works, not for those that wait.
            passed_on = isinstance(error, Exception)
            mine.set_exception(error if passed_on else SourceUnavailable("interrupted; retry"))
            raise
        self._end()
        mine.set_result(result)
        return result

    def _end(self) -> None:
        with self._lock:
            self._running = None
