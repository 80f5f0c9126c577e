"""What views and bindings have in common: a state in memory that follows a store."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from reactivex.abc import DisposableBase, ObserverBase
from reactivex.disposable import Disposable

from datastream._closing import AsyncClosing, Closing
from datastream._view.changes import Listener
from datastream._view.keeper import Follows, Keeper
from datastream._view.status import Forget, Standing, ViewStatus
from datastream._watch import reaper
from datastream._watch.subscriber import Buffer, Subscriber
from datastream.aio import AsyncWatch, Inbox
from datastream.errors import SourceUnavailable, StoreClosed
from datastream.status import State, Status

S = TypeVar("S", bound=Follows)

ENDS = (State.READY, State.CLOSED)


class Place(NamedTuple):
    """Where listeners of one kind are kept."""

    add: Callable[[Any], object]
    remove: Callable[[Any], object]


class Following(Closing, AsyncClosing, Generic[S]):
    """A state in memory, kept current until it is closed or its last reference goes.

    Args:
        keeper: keeps the state current, perhaps for others too.
        release: gives the keeper up.
        what: this is, for errors and the log.
        wait: seconds that a read waits for the first state.
    """

    def __init__(
        self, keeper: Keeper[S], release: Callable[[], object], what: str, wait: float
    ) -> None:
        self._keeper = keeper
        self._state = keeper.state
        self._what = what
        self._wait = wait
        self._lock = threading.Lock()
        self._closed = False
        self._ends: set[Callable[[], object]] = set()
        self._release = release
        self._finalizer = weakref.finalize(self, reaper.later, release)
        self._finalizer.atexit = False

    @property
    def name(self) -> str:
        """The store and what of it this follows, as in errors and the log."""
        return self._what

    @property
    def status(self) -> ViewStatus:
        """``status.current`` now, and as an Observable.

        CONNECTING before there is a state; READY; STALE, with `since` and `error`, while the
        backend is away and the last good state stands; `degraded` says what else is wrong.
        """
        keeper = self._keeper
        return ViewStatus(
            keeper.store.status, _Follower(self), keeper.store._dispatcher, self._what
        )

    def ready(self, timeout: float | None = None) -> bool:
        """Wait until the backend has answered and the state is the newest.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            False if it has not after `timeout`.

        Raises:
            StoreClosed: it was closed.
        """
        self.status.wait(_is_settled, timeout)
        return self._is_ready()

    async def aready(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """`ready`, without holding up the event loop."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def release(*_: object) -> None:
            loop.call_soon_threadsafe(lambda: None if ready.done() else ready.set_result(None))

        def look(status: Status) -> None:
            if _is_settled(status):
                release()

        subscription = self.status.subscribe(look, release, release)
        try:
            async with asyncio.timeout(timeout):
                await ready
        except TimeoutError:
            pass
        finally:
            subscription.dispose()
        return self._is_ready()

    def close(self) -> None:
        """Follow no more; what is in memory stays readable. Idempotent."""
        if self._finalizer.detach() is None or self._keeper.is_forked:
            return
        with self._lock:
            self._closed = True
            ends = list(self._ends)
        for end in ends:
            end()
        self._release()

    async def aclose(self) -> None:
        """`close`."""
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._what} {self.status.current.state}>"

    # Inside.

    def _listen(
        self,
        observer: ObserverBase[Any],
        unpack: Callable[[Any], Iterable[Any]],
        buffer: Buffer[Any],
        place: Place,
    ) -> DisposableBase:
        """Call `observer` with what changes from here on.

        Raises:
            StoreClosed: nothing can change any more.
        """
        dispatcher = self._keeper.store._dispatcher
        subscriber: Subscriber[Any] = Subscriber(
            observer, unpack, buffer, dispatcher, self._what, keep=self
        )
        subscriber.on_close = self._join(subscriber, place)
        subscriber.start()
        return Disposable(lambda: None if self._keeper.is_forked else subscriber.close())

    def _alisten(
        self,
        unpack: Callable[[Any], Iterable[Any]],
        buffer: Callable[[], Buffer[Any]],
        place: Place,
    ) -> AsyncWatch[Any]:
        """The same for ``async for``."""

        def subscribe(inbox: Inbox) -> Forget:
            return self._join(inbox, place)

        return AsyncWatch(subscribe, unpack, self._keeper.store.threads, buffer)

    def _join(self, listener: Listener, place: Place) -> Forget:
        """Offer `listener` what changes from here on; what is returned ends that."""
        self._keeper.store._core.check_open()
        forget = self._ending(listener.end)
        place.add(listener)

        def leave() -> None:
            if not self._keeper.is_forked:
                place.remove(listener)
                forget()

        return leave

    def _ending(self, end: Callable[[], object]) -> Forget:
        """Have `end` called when this is closed."""
        with self._lock:
            if self._closed or self._keeper.ended:
                raise StoreClosed(f"{self._what} was closed; make another")
            self._ends.add(end)

        def forget() -> None:
            with self._lock:
                self._ends.discard(end)

        return forget

    def _await_state(self) -> None:
        """Wait for the first state for as long as reads may.

        Raises:
            SourceUnavailable: there is none yet.
            StoreClosed: there will be none.
            InvalidValue: what there is does not validate.
        """
        state = self._state
        if not state.exists and self._wait > 0:
            self.status.wait(lambda status: state.exists or _is_over(status), self._wait)
        if state.exists:
            return
        if state.error is not None:
            raise state.error
        status = self.status.current
        if status.state is State.CLOSED:
            raise StoreClosed(f"{self._what} was closed before any state arrived; make another")
        reason = f": {status.error}" if status.error is not None else ""
        raise SourceUnavailable(
            f"{self._what} has no state yet{reason}; call ready(), or give wait= seconds"
        ) from status.error

    def _is_ready(self) -> bool:
        state = self.status.current.state
        if state is State.CLOSED:
            raise StoreClosed(f"{self._what} was closed; make another")
        return state is State.READY


class _Follower:
    """What the status of one view is derived from; the keeper may serve others too."""

    def __init__(self, following: Following[Any]) -> None:
        self._following = following

    def standing(self) -> Standing:
        standing: Standing = self._following._keeper.standing
        return standing._replace(ended=True) if self._following._closed else standing

    def is_forked(self) -> bool:
        return self._following._keeper.is_forked

    def on_move(self, call: Callable[[], object], end: Callable[[], object]) -> Forget:
        following = self._following
        if self.is_forked():
            # Nothing moves any more, and another thread of the parent may have held a lock.
            end()
            return _nothing
        forget_move = following._keeper.on_move(call)

        def close() -> None:
            call()
            end()

        try:
            forget_end = following._ending(close)
        except StoreClosed:
            close()
            return forget_move

        def forget() -> None:
            forget_move()
            forget_end()

        return forget


def _nothing() -> None:
    pass


def _is_settled(status: Status) -> bool:
    return status.state in ENDS


def _is_over(status: Status) -> bool:
    return status.state is State.CLOSED or isinstance(status.error, ValueError)
