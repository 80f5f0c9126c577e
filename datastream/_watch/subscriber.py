"""Calls one Rx observer with what it has not taken yet."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from reactivex.abc import ObserverBase

from datastream._watch.dispatcher import Dispatcher
from datastream.entry import Batch, Change, Entry
from datastream.errors import DatastreamError

T = TypeVar("T")

SLICE = 0.005
"""Seconds for which one subscriber is called before others get their turn."""
TOGETHER = 32
"""Items taken from a buffer under one lock. They are few, since what was taken is not conflated."""

log = logging.getLogger("datastream")


class Buffer(Protocol[T]):
    """What was offered and not taken yet. Its owner serialises the calls."""

    def put(self, item: T, before: Sequence[str | None] | None = None, /) -> Exception | None:
        """Keep an item; what is returned ends the subscription.

        Args:
            before: the revision of each key of a batch before it, if known.
        """
        ...

    def take(self) -> T | None: ...
    def clear(self) -> None: ...
    def __bool__(self) -> bool: ...


class Subscriber(Generic[T]):
    """Delivers items to one observer, in order, one call at a time.

    Args:
        observer: who is called.
        unpack: what the observer gets for one item.
        buffer: keeps what it has not taken yet.
        dispatcher: lends the thread.
        what: is watched, for the log.
        every: seconds, at least, between two deliveries.
        keep: is kept alive while it is subscribed.
    """

    __slots__ = (
        "_buffer", "_busy", "_closed", "_context", "_dispatcher", "_ended", "_error", "_every",
        "_keep", "_lock", "_next_at", "_observer", "_taken", "_unpack", "_what", "on_close",
    )  # fmt: skip

    def __init__(
        self,
        observer: ObserverBase[Any],
        unpack: Callable[[T], Iterable[Any]],
        buffer: Buffer[T],
        dispatcher: Dispatcher,
        what: str,
        *,
        every: float = 0.0,
        keep: object = None,
    ) -> None:
        self._observer = observer
        self._unpack = unpack
        self._buffer = buffer
        self._dispatcher = dispatcher
        self._what = what
        self._every = every
        self._keep = keep
        self._next_at = 0.0
        self._lock = threading.Lock()
        # Output printed by the subscriber belongs to the notebook cell that subscribed.
        self._context = copy_context()
        self._closed = self._ended = False
        # What was taken from the buffer and is delivered next, the first item last.
        self._taken: list[T] | None = None
        self._error: Exception | None = None
        # Born busy: the subscribing thread itself delivers what is there at once (`start`).
        self._busy = True
        self.on_close: Callable[[], None] | None = None

    def offer(self, item: T, before: Sequence[str | None] | None = None, /) -> None:
        with self._lock:
            if self._closed or self._ended:
                return
            overflow = self._buffer.put(item, before)
            if overflow is not None:
                self._buffer.clear()
                self._ended, self._error = True, overflow
            if self._busy:
                return
            self._busy = True
            delay = self._next_at - monotonic() if self._every else 0.0
        self._dispatcher.submit(self, delay)

    def end(self, error: Exception | None = None) -> None:
        """Complete the observer, or fail it with `error`, after all that was offered."""
        with self._lock:
            if not self._ended:
                self._ended, self._error = True, error
            if self._busy or self._closed:
                return
            self._busy = True
        self._dispatcher.submit(self)

    def close(self) -> None:
        """Deliver nothing more, and let go of what waits."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._buffer.clear()
            self._taken = None
        self._left()

    def start(self) -> None:
        """Deliver what the subscription itself brought, on the subscriber's own thread."""
        if self._context.copy().run(self._deliver, own_thread=True):
            self._dispatcher.submit(self)

    def deliver(self) -> bool:
        # A copy: the thread that delivered last may not have left the context yet.
        return self._context.copy().run(self._deliver, own_thread=False)

    def _deliver(self, *, own_thread: bool) -> bool:
        """Deliver for one slice; True if there is more."""
        until = monotonic() + SLICE
        item: Any = None
        try:
            while taken := self._taken or self._take():
                for item in self._unpack(taken.pop()):
                    self._observer.on_next(item)
                if self._every:
                    self._next_at = monotonic() + self._every
                    return self._pause()
                if monotonic() > until:
                    return True
        except BaseException as error:
            log.exception(
                "a subscriber of %s raised at %s and is disposed; the others go on",
                self._what,
                _described(item),
            )
            self.close()
            # Ctrl-C and sys.exit() are for the thread they happen in, unless it is a worker.
            if own_thread and not isinstance(error, Exception):
                raise
        return False

    def _pause(self) -> bool:
        """Come back for what waits when the time has come."""
        with self._lock:
            waiting = bool(self._buffer) or self._ended
            if not waiting or self._closed:
                self._busy = False
                return False
        self._dispatcher.submit(self, self._every)
        return False

    def _take(self) -> list[T] | None:
        """Take what comes next, the first item last; None if there is nothing just now."""
        take, most = self._buffer.take, 1 if self._every else TOGETHER
        with self._lock:
            taken: list[T] = []
            while len(taken) < most and (item := take()) is not None:
                taken.append(item)
            taken.reverse()
            self._taken = taken or None
            if taken:
                return taken
            self._busy = False
            ending = self._ended and not self._closed
            self._closed = self._closed or ending
        if ending:
            self._finish()
        return None

    def _finish(self) -> None:
        self._left()
        if self._error is not None:
            self._observer.on_error(self._error)
        else:
            self._observer.on_completed()

    def _left(self) -> None:
        self._keep = None
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()


class Overflow(DatastreamError):
    """A watch with ``conflate="never"`` fell further behind than its bound."""


def _described(item: object) -> str:
    if isinstance(item, Change):
        item = item.entry
    if isinstance(item, Batch) and item.entries:
        more = f" and {len(item) - 1} more" if len(item) > 1 else ""
        return _described(item.entries[0]) + more
    if isinstance(item, Entry):
        return f"{item.key!r}, revision {item.revision!r}"
    return type(item).__name__
