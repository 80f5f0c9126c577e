"""Calls subscribers on threads of the store's own, so that none can hold up another or a writer.

One worker calls everybody, one after the other: subscribers rarely take long, and their calls
do not interleave. When one takes longer than `PATIENCE`, a second worker goes on with the rest,
and so on; there are never more workers than subscribers that block, plus two.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import Protocol

PATIENCE = 0.02
"""Seconds after which a call counts as blocking and another worker takes over."""
IDLE = 2.0
"""Seconds without work after which a worker ends."""


class Job(Protocol):
    """Something with deliveries to make."""

    def deliver(self) -> bool:
        """Make some of them; True if there are more, which then go to the end of the line."""
        ...


class Courier:
    """A line of jobs and the threads that work it off."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._waiting = 0
        # Delivering just now: the worker in front, and when it set out.
        self._leader: threading.Thread | None = None
        self._left_at = 0.0
        self._running = 0
        self._closed = False

    def submit(self, job: Job) -> None:
        with self._changed:
            self._line.append(job)
            self._summon()

    def flush(self, timeout: float | None) -> bool:
        """Wait until nothing is left to deliver; False if `timeout` seconds were not enough."""
        with self._changed:
            mine = 1 if threading.current_thread() in self._threads else 0
            return self._changed.wait_for(lambda: not self._line and self._running <= mine, timeout)

    def close(self, timeout: float) -> None:
        """End the workers once the line is empty; one that still blocks is left to itself."""
        self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = self._threads - {threading.current_thread()}
        until = monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))

    def abandon(self) -> None:
        """`close` for a garbage collector: lets the workers end by themselves."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _summon(self) -> None:
        if self._waiting:
            self._changed.notify()
        else:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.add(thread)
            self._waiting += 1
            thread.start()

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
                self._line.append(job)
            elif not self._line:
                self._changed.notify_all()

    def _next(self, this: threading.Thread) -> Job | None:
        with self._changed:
            while not self._may_lead():
                if self._closed or not self._pause():
                    self._threads.discard(this)
                    return None
            self._leader, self._left_at = this, monotonic()
            self._running += 1
            job = self._line.popleft()
            if self._line and not self._waiting:
                self._summon()
            return job

    def _may_lead(self) -> bool:
        if not self._line:
            return False
        return self._leader is None or monotonic() - self._left_at > PATIENCE

    def _pause(self) -> bool:
        """Wait for work; False if there was none for so long that this worker may end."""
        self._waiting += 1
        try:
            return self._changed.wait(PATIENCE if self._line else IDLE) or bool(self._line)
        finally:
            self._waiting -= 1
