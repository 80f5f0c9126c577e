"""Calls subscribers on threads of the store's own, so that none can hold up another or a writer.

One worker calls all of them, one after the other: subscribers rarely take long, and their calls
do not interleave. When one takes longer than `PATIENCE`, a second worker goes on with the rest,
and so on; there are never more workers than subscribers that block, plus two.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from itertools import count
from time import monotonic
from typing import Protocol

from datastream._threads import join

PATIENCE = 0.02
"""Seconds after which a call counts as blocking and another worker takes over."""
IDLE = 2.0
"""Seconds without work after which a worker ends."""


class Job(Protocol):
    """Something with deliveries to make."""

    def deliver(self) -> bool:
        """Make some of them; True if there are more, which then go to the end of the queue."""
        ...


class Dispatcher:
    """A queue of jobs and the threads that work it off.

    Args:
        name: of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: deque[Job] = deque()
        self._later: list[tuple[float, int, Job]] = []
        self._count = count()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Of its own: the one whom a notification of work wakes is then always a worker.
        self._drained = threading.Condition(self._lock)
        self._threads: set[threading.Thread] = set()
        self._waiting = 0
        # Delivering just now: the worker in front, and since when.
        self._leader: threading.Thread | None = None
        self._leading_since = 0.0
        self._running = 0
        self._closed = False

    def submit(self, job: Job, delay: float = 0.0) -> None:
        """Let a worker deliver `job`, after `delay` seconds."""
        with self._changed:
            if delay > 0:
                heapq.heappush(self._later, (monotonic() + delay, next(self._count), job))
            else:
                self._queue.append(job)
            self._summon()

    def flush(self, timeout: float | None) -> bool:
        """Wait until nothing is left to deliver; False if `timeout` seconds were not enough."""
        with self._changed:
            self._hurry()
            mine = 1 if threading.current_thread() in self._threads else 0
            return self._drained.wait_for(
                lambda: not self._queue and self._running <= mine, timeout
            )

    def close(self, timeout: float) -> None:
        """End the workers once the queue is empty; one that still blocks is left to itself."""
        self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = self._threads - {threading.current_thread()}
        until = monotonic() + timeout
        for thread in threads:
            join(thread, max(0.0, until - monotonic()))

    def _summon(self) -> None:
        if self._waiting:
            self._changed.notify()
        else:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            thread.start()
            self._threads.add(thread)
            self._waiting += 1

    def _work(self) -> None:
        this = threading.current_thread()
        with self._changed:
            self._waiting -= 1
        while (job := self._next(this)) is not None:
            more = False
            try:
                more = job.deliver()
            finally:
                self._finish(this, job, more=more)

    def _finish(self, this: threading.Thread, job: Job, *, more: bool) -> None:
        with self._changed:
            self._running -= 1
            if self._leader is this:
                self._leader = None
            if more:
                self._queue.append(job)
            elif not self._queue:
                self._drained.notify_all()

    def _next(self, this: threading.Thread) -> Job | None:
        with self._changed:
            while not self._may_lead():
                if self._closed or not self._pause():
                    self._threads.discard(this)
                    return None
            self._leader, self._leading_since = this, monotonic()
            self._running += 1
            job = self._queue.popleft()
            if self._queue and not self._waiting:
                self._summon()
            return job

    def _may_lead(self) -> bool:
        if self._later:
            self._move_due()
        if not self._queue:
            return False
        return self._leader is None or monotonic() - self._leading_since > PATIENCE

    def _move_due(self) -> None:
        now = monotonic()
        while self._later and self._later[0][0] <= now:
            self._queue.append(heapq.heappop(self._later)[2])

    def _hurry(self) -> None:
        """Deliver now what was to come later."""
        self._queue.extend(job for _, _, job in self._later)
        self._later.clear()
        if self._queue:
            self._summon()

    def _pause(self) -> bool:
        """Wait for work; False if there was none for so long that this worker may end."""
        self._waiting += 1
        try:
            if self._queue:
                return self._changed.wait(PATIENCE) or bool(self._queue)
            if self._later:
                self._changed.wait(max(0.0, self._later[0][0] - monotonic()))
                return True
            return self._changed.wait(IDLE) or bool(self._queue)
        finally:
            self._waiting -= 1
