"""The one thread that reads a Source while anybody watches: wait, read, publish."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from datastream._threads import join

LOOK_ANYWAY = 60.0
"""Seconds after which the backend is read although it announced nothing."""
RETRY_FIRST, RETRY_MOST = 0.05, 10.0
"""Seconds, at least and at most, between attempts to reach a backend in trouble."""


class Poller:
    """Polls from a thread that lives while it is wanted.

    Args:
        name: of the thread.
        wanted: whether anybody watches; asked anew before the thread ends, since somebody may come
            after the one who stops it has looked.
        poll: reads and publishes.
        wait: blocks until something may have changed, at most that many seconds.
        wake: ends `wait`.
        failed: takes what `poll` or `wait` raised.
        rest: called when polling ends because nobody watches any more.
    """

    def __init__(
        self,
        name: str,
        *,
        wanted: Callable[[], object],
        poll: Callable[[], None],
        wait: Callable[[float], None],
        wake: Callable[[], None],
        failed: Callable[[Exception], None],
        rest: Callable[[], None],
    ) -> None:
        self._name = name
        self._wanted = wanted
        self._poll, self._wait, self._wake = poll, wait, wake
        self._failed, self._rest = failed, rest
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._failures = 0

    @property
    def retries(self) -> bool:
        """Whether the last poll failed."""
        return self._failures > 0

    def start(self, *, anew: bool = False) -> None:
        """Poll from now on: somebody wants it.

        Args:
            anew: a thread that waits does so for others: it has to poll for this one.
        """
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                # Not before: `join` is for a thread that has started.
                self._thread = thread
                return
        if anew:
            self.wake()

    def stop(self) -> None:
        """End the thread soon, if it is not wanted any more."""
        with self._lock:
            if self._thread is None:
                return
        self.wake()

    def wake(self) -> None:
        """Poll now."""
        self._hurry.set()
        self._wake()

    def retry_soon(self) -> None:
        """Retry now, if this is the first attempt of a series: another call has just succeeded."""
        if self._failures == 1:
            self._hurry.set()

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended; False if it has not."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        join(thread, timeout)
        return not thread.is_alive()

    def _run(self) -> None:
        while self._goes_on():
            self._hurry.clear()
            try:
                self._poll()
                self._failures = 0
                if self._wanted():
                    self._wait(LOOK_ANYWAY)
            except Exception as error:  # noqa: BLE001
                self._failures += 1
                self._failed(error)
                self._pause()

    def _goes_on(self) -> bool:
        if self._wanted():
            return True
        self._rest()
        with self._lock:
            if self._wanted():
                return True
            # Who wants it from here on starts another one.
            self._thread = None
            return False

    def _pause(self) -> None:
        # At random, so that many readers of one backend do not come back as a herd.
        most = min(RETRY_MOST, RETRY_FIRST * 2 ** min(self._failures, 10))
        self._hurry.wait(random.uniform(RETRY_FIRST, most))  # noqa: S311
