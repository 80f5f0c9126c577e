"""Holds the status of a store, logs its changes and offers them to subscribers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from datetime import UTC, datetime
from functools import partial
from typing import cast

from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from datastream._secrets import NONE, Secrets, hide_in
from datastream._watch.calls import Unexpected
from datastream._watch.dispatcher import Dispatcher
from datastream._watch.subscriber import Subscriber
from datastream.errors import SourceUnavailable, presentable
from datastream.source import WELL, Health
from datastream.status import State, Status

KEPT = 100
"""Statuses kept for a subscriber that does not take them; the newest is never dropped."""

log = logging.getLogger("datastream")


class StatusHolder:
    """The status of one store.

    Args:
        name: of the store, for the log.
        dispatcher: calls the subscribers.
        secrets: of the store.
    """

    def __init__(self, name: str, dispatcher: Dispatcher, secrets: Secrets = NONE) -> None:
        self.name = name
        self._secrets = secrets
        self._dispatcher = dispatcher
        self._lock = threading.Lock()
        self._subscribers: tuple[Subscriber[Status], ...] = ()
        self._is_forked = False
        self.lasting = ""
        """Why the success of other calls than polls does not make it READY, if it does not."""
        self.current = Status(State.CONNECTING, datetime.now(UTC))
        self.health = WELL
        self.well = False
        """READY with the health last seen: nothing to report after a success."""

    def succeeded(self, health: Health, *, poll: bool = False) -> None:
        """Take in that a call went well.

        Args:
            health: of the source, now.
            poll: it was a poll; other calls do not answer for what prevents those.
        """
        with self._lock:
            if self.lasting and not poll:
                return
            self.lasting = ""
            self.health = health
            error = health.error
            if error is not None:
                self._become(_state_of(error), error, health.degraded, health.since)
            else:
                self._become(State.READY, None, health.degraded, health.since)

    def failed(self, error: Exception, *, lasting: str = "") -> None:
        """Take in that a call went wrong.

        Args:
            lasting: why the success of another call does not end it: only polls answer for it.
        """
        with self._lock:
            self.lasting = lasting or self.lasting
            self._become(_state_of(error), error, self.health.degraded)

    def forked(self) -> None:
        """In a child process, where another thread of the parent may have held the lock."""
        self._is_forked = True
        self._lock = threading.Lock()
        self._subscribers = ()
        self.well = False
        self.current = Status(State.CLOSED, datetime.now(UTC))

    def close(self) -> None:
        with self._lock:
            self._become(State.CLOSED, None, "")
            for subscriber in self._subscribers:
                subscriber.end()

    def subscribe_observer(
        self, observer: ObserverBase[Status], scheduler: SchedulerBase | None = None
    ) -> DisposableBase:
        with self._lock:
            subscriber = Subscriber(
                observer, _alone, _Kept(self.current), self._dispatcher, f"status of {self.name}"
            )
            subscriber.on_close = lambda: self._remove(subscriber)
            self._subscribers += (subscriber,)
            if self.current.state is State.CLOSED:
                subscriber.end()
        subscriber.start()
        return Disposable(partial(self._dispose, subscriber))

    def _dispose(self, subscriber: Subscriber[Status]) -> None:
        # In a child process, a thread of the parent may have held a lock.
        if not self._is_forked:
            subscriber.close()

    def _become(
        self, state: State, error: Exception | None, degraded: str, since: datetime | None = None
    ) -> None:
        before = self.current
        self.well = state is State.READY
        degraded = presentable(self._secrets.hide(degraded)) if degraded else ""
        if error is not None:
            error = cast(Exception, hide_in(error, self._secrets))
        same = (before.state, str(before.error), before.degraded) == (state, str(error), degraded)
        if same or before.state is State.CLOSED:
            return
        if since is None or (state is State.READY and before.error and since < before.since):
            # That a server has been so for long does not concern who was cut off from it.
            since = datetime.now(UTC)
        self.current = Status(state, since, error, degraded)
        _log_change(self.name, self.current)
        for subscriber in self._subscribers:
            subscriber.offer(self.current)

    def _remove(self, subscriber: Subscriber[Status]) -> None:
        with self._lock:
            self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)


class _Kept:
    """The statuses a subscriber has not taken yet."""

    def __init__(self, first: Status) -> None:
        self._queue = deque([first], maxlen=KEPT)

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(self, status: Status, before: object = None, /) -> None:
        self._queue.append(status)

    def take(self) -> Status | None:
        return self._queue.popleft() if self._queue else None

    def clear(self) -> None:
        self._queue.clear()


def _alone(status: Status) -> tuple[Status]:
    return (status,)


def _state_of(error: Exception) -> State:
    return State.STALE if isinstance(error, SourceUnavailable) else State.FAILED


def _log_change(name: str, status: Status) -> None:
    """One line for each change; what only the library's own bugs bring, with its traceback."""
    if status.error is not None:
        trace = status.error if isinstance(status.error, Unexpected) else None
        log.warning("%s: %s: %s", name, status.state, status.error, exc_info=trace)
    elif status.state is State.READY:
        degraded = f", {status.degraded}" if status.degraded else ""
        log.info("%s: READY%s", name, degraded)
