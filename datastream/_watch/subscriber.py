"""One Rx subscriber: its mailbox, and the rule that its calls never overlap and never throw."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import copy_context
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from reactivex.abc import ObserverBase

from datastream._watch.dispatcher import Courier

SLICE = 0.01
"""Seconds one subscriber may be served while others stand in line."""

log = logging.getLogger("datastream")

T = TypeVar("T")


class Box(Protocol[T]):
    """Where a lane keeps what was offered and not yet delivered."""

    def put(self, item: T, /) -> None: ...
    def take(self) -> T | None: ...
    def clear(self) -> None: ...


class Lane(Generic[T]):
    """Carries items to one observer, in order, one call at a time.

    Args:
        observer: who is called.
        emit: calls it with one item.
        box: keeps what it has not taken yet.
        courier: lends the thread.
    """

    __slots__ = (
        "_box", "_busy", "_closed", "_context", "_courier", "_emit", "_ended", "_error", "_lock",
        "_observer", "on_close",
    )  # fmt: skip

    def __init__(
        self,
        observer: ObserverBase[Any],
        emit: Callable[[ObserverBase[Any], T], None],
        box: Box[T],
        courier: Courier,
    ) -> None:
        self._observer = observer
        self._emit = emit
        self._box = box
        self._courier = courier
        self._lock = threading.Lock()
        # Output printed by the subscriber belongs to the notebook cell that subscribed.
        self._context = copy_context()
        self._closed = self._ended = False
        self._error: Exception | None = None
        # Born busy: the subscribing thread itself delivers what is there at once (`start`).
        self._busy = True
        self.on_close: Callable[[], None] | None = None

    def offer(self, item: T, /) -> None:
        with self._lock:
            if self._closed:
                return
            self._box.put(item)
            if self._busy:
                return
            self._busy = True
        self._courier.submit(self)

    def end(self, error: Exception | None = None) -> None:
        """Complete the observer, or fail it with `error`, after all that was offered."""
        with self._lock:
            self._ended, self._error = True, error
            if self._busy or self._closed:
                return
            self._busy = True
        self._courier.submit(self)

    def close(self) -> None:
        """Deliver nothing more, and let go of what waits."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._box.clear()
        if self.on_close is not None:
            self.on_close()

    def start(self) -> None:
        """Deliver what the subscription itself brought, on the subscriber's own thread."""
        if self._context.run(self._deliver, own_thread=True):
            self._courier.submit(self)

    def deliver(self) -> bool:
        return self._context.run(self._deliver, own_thread=False)

    def _deliver(self, *, own_thread: bool) -> bool:
        """Deliver for one slice; True if there is more."""
        until = monotonic() + SLICE
        try:
            while (item := self._next()) is not None:
                self._emit(self._observer, item)
                if monotonic() > until:
                    return True
        except BaseException as error:
            log.exception("a subscriber raised and is disposed; the others go on")
            self.close()
            # Ctrl-C and sys.exit() are for the thread they happen in, unless it is the courier's.
            if own_thread and not isinstance(error, Exception):
                raise
        return False

    def _next(self) -> T | None:
        with self._lock:
            item = None if self._closed else self._box.take()
            if item is not None:
                return item
            self._busy = False
            ending = self._ended and not self._closed
            self._closed = self._closed or ending
        if ending and self._error is not None:
            self._observer.on_error(self._error)
        elif ending:
            self._observer.on_completed()
        return None
