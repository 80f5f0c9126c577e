"""`Consumer`: handles every change at least once, also after a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import UTC, datetime
from os import PathLike
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from datastream._consume.calling import Retry, Undeliverable
from datastream._consume.file_place import FilePlace, Taken
from datastream._consume.progress import MemoryPlace, Place
from datastream._consume.running import ConsumerCounts, Plan, Run
from datastream._consume.store_place import StorePlace
from datastream._consume.webhook import verify
from datastream._identity import identity_of, spoken
from datastream._secrets import presentable
from datastream._view.status import Forget, Standing, ViewStatus
from datastream._watches import StoreWatches
from datastream.aio import Threads
from datastream.errors import DatastreamError, InvalidValue, ReadOnly, shown
from datastream.selection import check_key
from datastream.source import Feature
from datastream.status import State, Status

if TYPE_CHECKING:
    from datastream.store import Store

__all__ = [
    "Consumer",
    "ConsumerCounts",
    "ConsumerStatus",
    "Lag",
    "Retry",
    "Taken",
    "Undeliverable",
    "verify",
]

STOP_TIMEOUT = 10.0
"""Seconds that `stop` gives handlers which run."""
CANCEL_GRACE = 1.0
"""Seconds that an async handler has to end once it was cancelled."""
MOST_WORKERS = 256


class Lag(NamedTuple):
    """How far a consumer is behind."""

    changes: int
    """Changes that the store has offered and that are not handled. A repository's commits are
    counted from when they are read."""
    seconds: float
    """For how long the oldest one that was taken is not handled; 0.0 if there is none."""


class ConsumerStatus(ViewStatus):
    """The current `Status` first, then each newer one; completes when the consumer has ended.

    READY; STALE, with `since` and `error`, while the backend is away, or something is tried again:
    a handler that raised, a place that cannot be kept; FAILED with the reason, once the consumer
    has stopped because of it; CLOSED, once it was stopped. `degraded` tells of a handler that does
    not return.
    """

    def __init__(self, run: Run, follower: _Follower) -> None:
        store = run.plan.store
        super().__init__(store.status, follower, store._dispatcher, run.plan.what)
        self._run = run

    @property
    def current(self) -> Status:
        """The status now: memory reads."""
        run, store = self._run, self._store.current
        if run.ended.is_set() or run.is_forked:
            state = State.FAILED if run.error else State.CLOSED
            return Status(state, run.ended_at or datetime.now(UTC), run.error)
        degraded = "; ".join(filter(None, (store.degraded, run.hung)))
        trouble = run.trouble
        if store.state is State.READY and trouble is not None:
            return Status(State.STALE, trouble.since, trouble.error, degraded)
        return store._replace(degraded=degraded)


class _Follower:
    """Tells the status of when it may have changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: tuple[tuple[Callable[[], object], Callable[[], object]], ...] = ()
        self.run: Run | None = None

    def is_forked(self) -> bool:
        return self.run is not None and self.run.is_forked

    def standing(self) -> Standing:
        return Standing(datetime.now(UTC))

    def on_move(self, call: Callable[[], object], end: Callable[[], object]) -> Forget:
        with self._lock:
            self._calls += ((call, end),)

        def forget() -> None:
            with self._lock:
                self._calls = tuple(pair for pair in self._calls if pair[0] is not call)

        return forget

    def moved(self) -> None:
        has_ended = self.run is not None and self.run.ended.is_set()
        for call, end in self._calls:
            call()
            if has_ended:
                end()


class Consumer(AbstractContextManager["Consumer"], AbstractAsyncContextManager["Consumer"]):
    """A handler at work on the changes of a store, until it is stopped or its store is closed.

    Made by `Store.consume`. It goes on without anybody holding it.
    """

    def __init__(self, run: Run, follower: _Follower) -> None:
        self._run = run
        self._follower = follower

    @property
    def name(self) -> str:
        """What it is called, in its place and in dead letters."""
        return self._run.plan.name

    @property
    def status(self) -> ConsumerStatus:
        """``status.current`` now, and as an Observable; see `ConsumerStatus`."""
        return ConsumerStatus(self._run, self._follower)

    @property
    def counts(self) -> ConsumerCounts:
        """What became of changes since the start."""
        return self._run.counts

    @property
    def lag(self) -> Lag:
        """How far it is behind now."""
        oldest = self._run.oldest
        return Lag(self._run.waiting, 0.0 if oldest is None else monotonic() - oldest)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that the store has offered is handled, and the place says so.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            False if that was not so after `timeout`, or the consumer has ended before.
        """
        return not self._run.is_forked and self._run.flush(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False if it has not after `timeout` seconds.

        Raises:
            DatastreamError: why it ended, if nobody had stopped it.
        """
        ended = self._run.is_forked or self._run.ended.wait(timeout)
        if ended and self._run.error is not None:
            raise self._run.error
        return ended

    def stop(self, timeout: float = STOP_TIMEOUT) -> bool:
        """Take no more changes, let handlers that run return, and save the place. Idempotent.

        Args:
            timeout: seconds for handlers to return; then async ones are cancelled. In a coroutine
                use `astop`, since async handlers need the loop to return.

        Returns:
            False if a handler still runs, as the one does that calls this: its change counts as
            not handled, until it returns.
        """
        run = self._run
        if run.is_forked:
            return True
        run.end()
        if run.is_inside() or run.ended.wait(timeout):
            return run.ended.is_set()
        run.keep()
        return run.cancel() and run.ended.wait(CANCEL_GRACE)

    async def aflush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """`flush`, without holding up the event loop."""
        return await Threads.run_once(lambda: self.flush(timeout))

    async def astop(self, timeout: float = STOP_TIMEOUT) -> bool:  # noqa: ASYNC109
        """`stop`, without holding up the event loop."""
        return await Threads.run_once(lambda: self.stop(timeout))

    def __exit__(self, *error: object) -> None:
        self.stop()

    async def __aexit__(self, *error: object) -> None:
        await self.astop()

    def __repr__(self) -> str:
        return f"<Consumer {self.name} {self.status.current.state}>"


def consume(
    plan: Plan,
    place: str | PathLike[str] | Store | None,
    retry: Retry | int | None,
    *,
    moved: bool,
) -> Consumer:
    """Start the consumer of `plan`; see `Store.consume`."""
    _check(plan)
    made = plan._replace(retry=Retry.of(retry))
    follower = _Follower()
    kept = _place_of(made, place)
    try:
        _check_store(made, kept, moved=moved)
    except BaseException:
        kept.close()
        raise
    run = Run(made, kept, follower.moved)
    follower.run = run
    run.start()
    made.store._consumers.add(run)
    return Consumer(run, follower)


def _check(plan: Plan) -> None:
    if not callable(plan.handler):
        raise InvalidValue("handler is called with each change: give a function")
    check_key(plan.name)
    if not isinstance(plan.on_failure, StoreWatches) and plan.on_failure not in ("stop", "skip"):
        raise InvalidValue(
            f'on_failure={plan.on_failure!r}: give "stop", "skip", or a store for dead letters'
        )
    number = plan.concurrency
    if not isinstance(number, int) or not 1 <= number <= MOST_WORKERS:
        raise InvalidValue(f"concurrency={number!r}: give 1 to {MOST_WORKERS}")
    if plan.whole and number > 1:
        raise InvalidValue("batches are handled one after the other; leave concurrency out")
    if isinstance(plan.on_failure, StoreWatches):
        _check_writable(plan.on_failure, "dead letters")
    _check_apart(plan, plan.on_failure, "dead letters")


def _check_writable(store: Any, what: str) -> None:
    if Feature.WRITE not in store.features:
        raise ReadOnly(f"{store.name} can only be read, so it cannot take {what}; give another")


def _check_apart(plan: Plan, store: Any, what: str) -> None:
    """Refuse to consume what consuming itself writes."""
    key = f"{plan.name}/cursor"
    if store is plan.store and plan.selection.matches(key):
        raise InvalidValue(
            f"{what} go to {shown(plan.name + '/')} of the store that is consumed, which is "
            "selected: leave it out with exclude=, or give another store"
        )


def _check_store(plan: Plan, place: Place, *, moved: bool) -> None:
    """Refuse a place that is about another store: all keys of that one would be told as gone."""
    kept, store = place.progress.kept, plan.store
    if not place.progress.may_be_another:
        return
    if not moved:
        is_same = Feature.LOG in store.features and bool(kept.cursor)
        # Only the same log knows the cursor, wherever it is now.
        if not is_same or store._core.read_changes(plan.selection, kept.cursor).complete:
            raise DatastreamError(
                f"the place of {shown(plan.name)} is about {presentable(spoken(kept.store))}, not "
                f"{presentable(spoken(place.progress.store))}: keys that are missing here would be "
                "handled as deleted. Give this consumer another place, or moved=True if the "
                "same data is there now"
            )
    try:
        place.save({}, None)
    except OSError as error:
        raise DatastreamError(f"the place of {shown(plan.name)} cannot be kept: {error}") from error


def _place_of(plan: Plan, place: str | PathLike[str] | Store | None) -> Place:
    if place is None:
        return MemoryPlace(plan.selection)
    consumed = identity_of(plan.store.name, plan.store._source)
    if isinstance(place, StoreWatches):
        _check_writable(place, "places")
        _check_apart(plan, place, "places")
        return StorePlace(place, plan.name, plan.selection, consumed)
    if not isinstance(place, str | PathLike):
        raise InvalidValue("place is the path of a file, or a store, or None")
    return FilePlace(place, plan.name, plan.selection, consumed)
