"""How a view or a binding stands with its backend: derived from its store and its own state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import NamedTuple, Protocol

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from datastream._watch.dispatcher import Dispatcher
from datastream._watch.subscriber import Subscriber
from datastream.status import State, Status

Forget = Callable[[], None]


class Standing(NamedTuple):
    """What a state in memory says of itself."""

    made_at: datetime
    known_at: datetime | None = None
    """When a state that came out of a cache was good."""
    live_at: datetime | None = None
    """When the first state came from the backend."""
    exists: bool = False
    complaint: str = ""
    """Why the newest state is not in force, if it is not."""
    error: Exception | None = None
    """Why there is no state although the backend answered, or no longer one that follows it."""
    ended: bool = False


def status_of(store: Status, standing: Standing) -> Status:
    """The status of a view, from that of its store and its own standing."""
    state, since, error, degraded = store
    degraded = "; ".join(filter(None, (degraded, standing.complaint)))
    if standing.ended or state is State.CLOSED:
        return Status(State.CLOSED, since, standing.error or error, degraded)
    if not standing.exists:
        # Nothing stands that could be stale.
        return Status(State.CONNECTING, standing.made_at, standing.error or error, degraded)
    if standing.live_at is None:
        return Status(State.STALE, standing.known_at or standing.made_at, error, degraded)
    if state is State.CONNECTING:
        state = State.READY
    return Status(state, max(since, standing.live_at), error, degraded)


class StoreStatus(Protocol):
    """The status of the store below."""

    @property
    def current(self) -> Status: ...
    def subscribe(
        self,
        on_next: Callable[[Status], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        on_completed: Callable[[], None] | None = None,
    ) -> DisposableBase: ...


class Follower(Protocol):
    """What a view's status is derived from."""

    def is_forked(self) -> bool: ...
    def standing(self) -> Standing: ...
    def on_move(self, call: Callable[[], object], end: Callable[[], object]) -> Forget:
        """Have `call` called when the standing may have changed, and `end` after the last time."""
        ...


class ViewStatus(Observable[Status]):
    """The current `Status` first, then each newer one; completes when the view or store closes.

    Args:
        store: the status of the store.
        follower: has a standing of its own.
        dispatcher: calls the subscribers.
        what: this is the status of, for the log.
    """

    def __init__(
        self, store: StoreStatus, follower: Follower, dispatcher: Dispatcher, what: str
    ) -> None:
        super().__init__(self._subscribe_observer)
        self._store = store
        self._follower = follower
        self._dispatcher = dispatcher
        self._what = what

    @property
    def current(self) -> Status:
        """The status now: memory reads."""
        return status_of(self._store.current, self._follower.standing())

    def __repr__(self) -> str:
        return f"<Observable status of {self._what}: {self.current.state}>"

    def _repr_html_(self) -> str:
        from datastream.notebook import _status

        return _status.observable_line(self._what, "status of", self.current)

    def wait(self, wanted: Callable[[Status], bool], timeout: float | None) -> bool:
        """Wait until the status is as wanted, or the view is closed; False after `timeout` s."""
        if wanted(self.current):
            return True
        done = threading.Event()
        subscription = self.subscribe(
            lambda status: done.set() if wanted(status) else None,
            lambda _: done.set(),
            done.set,
        )
        try:
            return done.wait(timeout)
        finally:
            subscription.dispose()

    def _subscribe_observer(
        self, observer: ObserverBase[Status], scheduler: SchedulerBase | None = None
    ) -> DisposableBase:
        subscriber: Subscriber[bool] = Subscriber(
            observer,
            _Newest(self),
            _Ticks(),
            self._dispatcher,
            f"status of {self._what}",
            keep=self._follower,
        )
        # A change is a mere hint: what the status is then is looked up where it is delivered, in
        # the one thread that calls this observer, so that the last one told is the last there was.
        hint = partial(subscriber.offer, True)
        forget = self._follower.on_move(hint, subscriber.end)
        below = self._store.subscribe(lambda _: hint(), on_completed=subscriber.end)

        def leave() -> None:
            forget()
            below.dispose()

        subscriber.on_close = leave
        if self.current.state is State.CLOSED:
            subscriber.end()
        subscriber.start()
        return Disposable(lambda: None if self._follower.is_forked() else subscriber.close())


class _Newest:
    """Gives the status of now, if it is another than it gave last."""

    def __init__(self, status: ViewStatus) -> None:
        self._status = status
        self._given: Status | None = None

    def __call__(self, _: bool) -> Iterator[Status]:
        now = self._status.current
        if self._given is None or _differ(self._given, now):
            self._given = now
            yield now


class _Ticks:
    """At most one hint waits; the first is there from the beginning."""

    def __init__(self) -> None:
        self._waits = True

    def __bool__(self) -> bool:
        return self._waits

    def put(self, item: bool, before: object = None, /) -> None:
        self._waits = True

    def take(self) -> bool | None:
        waits, self._waits = self._waits, False
        return True if waits else None

    def clear(self) -> None:
        self._waits = False


def _differ(a: Status, b: Status) -> bool:
    return (a.state, str(a.error), a.degraded) != (b.state, str(b.error), b.degraded)
