"""Holds the status of a store and tells it to whoever subscribes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from datastream._watch.dispatcher import Courier
from datastream._watch.subscriber import Lane
from datastream.errors import SourceUnavailable
from datastream.status import State, Status

KEPT = 100
"""Statuses kept for a subscriber that does not take them; the newest is never dropped."""


class _Kept:
    """The statuses a subscriber has not taken yet."""

    def __init__(self, first: Status) -> None:
        self._queue = deque([first], maxlen=KEPT)

    def put(self, status: Status) -> None:
        self._queue.append(status)

    def take(self) -> Status | None:
        return self._queue.popleft() if self._queue else None

    def clear(self) -> None:
        self._queue.clear()


class StatusBoard:
    """Holds the current status and tells it to whoever subscribes.

    Args:
        note: how the source works just now.
    """

    def __init__(self, courier: Courier, note: Callable[[], str] = str) -> None:
        self.current = Status(State.READY, datetime.now(UTC), note=note())
        self._courier = courier
        self._note = note
        self._lanes: tuple[Lane[Status], ...] = ()
        self.observable: Observable[Status] = Observable(self._subscribe)

    def report(self, error: Exception | None) -> None:
        """Take in how a look at the backend went; tells subscribers if that is news."""
        if error is None:
            if self.current.state is not State.READY or self.current.note != self._note():
                self._change(State.READY, None)
            return
        state = State.STALE if isinstance(error, SourceUnavailable) else State.FAILED
        if self.current.state is not state or str(self.current.error) != str(error):
            self._change(state, error)

    def close(self) -> None:
        if self.current.state is not State.CLOSED:
            self._change(State.CLOSED, None)
            for lane in self._lanes:
                lane.end()

    def _change(self, state: State, error: Exception | None) -> None:
        if self.current.state is State.CLOSED:
            return
        self.current = Status(state, datetime.now(UTC), error, self._note())
        for lane in self._lanes:
            lane.offer(self.current)

    def _subscribe(
        self, observer: ObserverBase[Status], scheduler: SchedulerBase | None = None
    ) -> DisposableBase:
        lane = Lane(observer, _emit, _Kept(self.current), self._courier)
        lane.on_close = lambda: self._remove(lane)
        self._lanes += (lane,)
        if self.current.state is State.CLOSED:
            lane.end()
        lane.start()
        return Disposable(lane.close)

    def _remove(self, lane: Lane[Status]) -> None:
        self._lanes = tuple(other for other in self._lanes if other is not lane)


def _emit(observer: ObserverBase[Any], status: Status) -> None:
    observer.on_next(status)
