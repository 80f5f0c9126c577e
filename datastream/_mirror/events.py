"""What the watches of two stores bring, for the one thread of a mirror."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic

from datastream._watch.buffer import ConflatingBuffer, NewestBuffer
from datastream.entry import Batch
from datastream.status import State, Status


class Events:
    """Wakes the thread when there is something to take, or something else has happened."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inboxes: list[Inbox] = []
        self._woken = self._has_moved = self._is_back = False

    def inbox(self, *, batches: bool) -> Inbox:
        """A sink for one watch.

        Args:
            batches: keep those that wait apart, unless there are very many.
        """
        inbox = Inbox(self._changed, ConflatingBuffer() if batches else NewestBuffer())
        self._inboxes.append(inbox)
        return inbox

    def discard(self, inbox: Inbox) -> None:
        """Watch one less."""
        with self._changed:
            self._inboxes.remove(inbox)

    def forget(self) -> None:
        """Watch nothing any more; what was not taken is dropped."""
        with self._changed:
            self._inboxes.clear()

    def wake(self) -> None:
        """End the wait that runs, or the next one."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def take_status(self, status: Status) -> None:
        """One of the stores stands otherwise than before."""
        with self._changed:
            self._has_moved = True
            self._is_back |= status.state is State.READY
            self._changed.notify_all()

    @property
    def offered(self) -> int:
        """How often something came."""
        return sum(inbox.offered for inbox in self._inboxes)

    @property
    def is_empty(self) -> bool:
        """Nothing waits to be taken."""
        return not any(self._inboxes)

    def wait(self, timeout: float | None, until: Callable[[], bool]) -> None:
        """Wait until something holds, a status has changed, or somebody wakes the thread.

        Args:
            timeout: seconds, at most.
            until: of the inboxes; looked at whenever something comes.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._woken or self._has_moved or until(), timeout)
            self._woken = self._has_moved = self._is_back = False

    def pause(self, timeout: float, *, until_back: bool) -> bool:
        """Wait for so many seconds, or until somebody wakes the thread.

        Args:
            until_back: or until a store is READY again.

        Returns:
            Whether it ended because one is.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._woken or (until_back and self._is_back), timeout)
            is_back = until_back and self._is_back and not self._woken
            self._woken = self._has_moved = self._is_back = False
            return is_back


class Inbox:
    """The sink of one watch: what was not taken yet, conflated if that is much."""

    def __init__(self, changed: threading.Condition, buffer: ConflatingBuffer) -> None:
        self._changed = changed
        self._buffer = buffer
        self.offered = 0
        """How often something came."""
        self.oldest: float | None = None
        """When the oldest batch came that was not taken, by the monotonic clock."""
        self.ended: Exception | bool = False
        """The watch is over: its store was closed, or the error."""

    def __bool__(self) -> bool:
        return bool(self._buffer) or bool(self.ended)

    def offer(self, batch: Batch, before: Sequence[str | None] | None = None, /) -> None:
        with self._changed:
            self._buffer.put(batch, before)
            self.offered += 1
            if self.oldest is None:
                self.oldest = monotonic()
            self._changed.notify_all()

    def end(self, error: Exception | None = None) -> None:
        with self._changed:
            self.ended = error or True
            self._changed.notify_all()

    def take(self) -> Batch | None:
        """The oldest batch; None if there is none."""
        with self._changed:
            batch = self._buffer.take()
            if not self._buffer:
                self.oldest = None
            return batch
