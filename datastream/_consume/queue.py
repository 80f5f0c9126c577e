"""Hands tasks to workers: those of one key one after the other, in the order they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Sequence
from time import monotonic
from typing import NamedTuple

from datastream.entry import Batch, Entry

CAPACITY = 10_000
"""Tasks that wait or run; whoever brings more waits."""


class Step:
    """Changes of one cursor, counted down as they are handled."""

    __slots__ = ("began", "cursor", "left")

    def __init__(self, cursor: str, left: int) -> None:
        self.cursor = cursor
        self.left = left
        self.began = monotonic()


class Task(NamedTuple):
    """What a handler is called with."""

    key: Hashable
    item: Entry | Batch
    entries: Sequence[Entry]
    step: Step


class TaskQueue:
    """Tasks by key. None is taken any more once it is closed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # The tasks of each key that wait; a key that runs has a queue, too, perhaps an empty one.
        self._waiting: dict[Hashable, deque[Task]] = {}
        self._ready: deque[Hashable] = deque()
        self._count = 0
        self._closed = False

    def __len__(self) -> int:
        """Tasks that wait or run."""
        return self._count

    def put(self, task: Task) -> bool:
        """Add a task, once there is room; False if the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._count < CAPACITY or self._closed)
            if self._closed:
                return False
            self._count += 1
            waiting = self._waiting.get(task.key)
            if waiting is None:
                self._waiting[task.key] = deque((task,))
                self._ready.append(task.key)
                self._changed.notify_all()
            else:
                waiting.append(task)
            return True

    def take(self) -> Task | None:
        """The next task of a key of which none is running; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed)
            if self._closed:
                return None
            return self._waiting[self._ready.popleft()].popleft()

    def done(self, task: Task) -> None:
        """A task that was taken is over."""
        with self._changed:
            self._count -= 1
            if self._waiting[task.key]:
                self._ready.append(task.key)
            else:
                del self._waiting[task.key]
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits or runs, or the queue is closed; whether nothing does."""
        with self._changed:
            self._changed.wait_for(lambda: not self._count or self._closed, timeout)
            return not self._count

    def close(self) -> None:
        """Give out no task any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
