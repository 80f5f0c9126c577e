"""What keeps a state in memory current: one subscription of a store, shared by who wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from reactivex.abc import DisposableBase, ObserverBase

from datastream._view.changes import Listeners
from datastream._view.status import Forget, Standing
from datastream._watch.subscription import Since
from datastream.entry import Batch
from datastream.errors import DatastreamError, StoreClosed
from datastream.selection import Selection

if TYPE_CHECKING:
    from datastream.store import Store


class Follows(Protocol):
    """A state that batches are applied to, by one thread at a time."""

    @property
    def listeners(self) -> Listeners: ...
    @property
    def exists(self) -> bool:
        """There is a state."""
        ...

    @property
    def complaint(self) -> str:
        """Why the newest state is not in force, if it is not."""
        ...

    @property
    def error(self) -> Exception | None:
        """Why there is no state although the backend answered."""
        ...

    def apply(self, batch: Batch) -> None:
        """Take in a batch; never raises."""
        ...


S = TypeVar("S", bound=Follows)


class Keeper(ObserverBase[Batch], Generic[S]):
    """Applies what a store's subscription brings to a state.

    Args:
        store: kept open as long as this is.
        selection: which keys.
        state: takes the batches.
        known_at: when a state that is there already was good.
    """

    def __init__(
        self, store: Store, selection: Selection, state: S, known_at: datetime | None = None
    ) -> None:
        self.store = store
        self.selection = selection
        self.state = state
        self.known_at = known_at
        self.made_at = datetime.now(UTC)
        self.live_at: datetime | None = None
        """When the first state came from the backend."""
        self.ended = False
        self.error: Exception | None = None
        """Why the subscription ended, if not because something was closed."""
        self.handles = 0
        """Views that share it; the registry counts."""
        self.opened = threading.Event()
        """The subscription was made, or could not be."""
        self.after: Callable[[], object] = _nothing
        """Called when a batch was applied, for what is written behind."""
        self._lock = threading.Lock()
        self._subscription: DisposableBase | None = None
        self._moves: tuple[Callable[[], object], ...] = ()

    @property
    def standing(self) -> Standing:
        """What of this decides the status of a view."""
        state = self.state
        return Standing(
            made_at=self.made_at,
            known_at=self.known_at,
            live_at=self.live_at,
            exists=state.exists,
            complaint=state.complaint,
            error=self.error or state.error,
            ended=self.ended or self.is_forked,
        )

    @property
    def is_forked(self) -> bool:
        return self.store._core.is_forked

    def open(self, since: Since = None) -> None:
        """Subscribe: with a backend that answers, the state is there on return.

        Raises:
            DatastreamError: what `Store.watch` raises.
        """
        try:
            subscription = self.store._follow(self, self.selection, since)
            with self._lock:
                self._subscription = subscription
                closed = self.ended
            if closed:
                subscription.dispose()
        finally:
            self.opened.set()

    def close(self) -> None:
        """Follow no more; the state stays as it is."""
        if self.is_forked:
            return
        with self._lock:
            self.ended = True
            subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.dispose()
        self._end(None)

    def on_move(self, call: Callable[[], object]) -> Forget:
        """Have `call` called when the standing may have changed."""
        with self._lock:
            self._moves += (call,)

        def forget() -> None:
            with self._lock:
                self._moves = tuple(other for other in self._moves if other is not call)

        return forget

    # The observer of the subscription.

    def on_next(self, value: Batch) -> None:
        state = self.state
        before = (self.live_at is None, state.complaint)
        try:
            state.apply(value)
        except BaseException as error:
            # Such as sys.exit() in a validator. The store calls this no more, so that is said.
            raised = type(error).__name__
            self.on_error(DatastreamError(f"what makes its values raised {raised}; view it anew"))
            raise
        if self.live_at is None:
            self.live_at = datetime.now(UTC)
        if before != (False, state.complaint):
            self._moved()
        self.after()

    def on_error(self, error: Exception) -> None:
        if isinstance(error, StoreClosed):
            # It was closed while this was joining, which is an end as any other.
            self.on_completed()
            return
        self.error = error
        self.ended = True
        self._end(error)

    def on_completed(self) -> None:
        self.ended = True
        self._end(None)

    def _moved(self) -> None:
        for call in self._moves:
            call()

    def _end(self, error: Exception | None) -> None:
        self._moved()
        self.state.listeners.end(error)


class Keepers:
    """The keepers of one store that views share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keepers: dict[Hashable, Keeper[Any]] = {}

    def share(
        self, key: Hashable, make: Callable[[], Keeper[S]], open_: Callable[[Keeper[S]], None]
    ) -> Keeper[S]:
        """The keeper under `key`, made and opened if there is none yet; `release` it once."""
        while True:
            with self._lock:
                shared: Keeper[S] | None = self._keepers.get(key)
                is_new = shared is None or shared.ended
                keeper = make() if shared is None or is_new else shared
                self._keepers[key] = keeper
                keeper.handles += 1
            if is_new:
                self._open(key, keeper, open_)
                return keeper
            # The other one makes the very call that this one would have to make.
            keeper.opened.wait()
            if not keeper.ended:
                return keeper
            self.release(key, keeper)

    def release(self, key: Hashable, keeper: Keeper[S]) -> None:
        """One handle less; the last one closes the keeper."""
        if keeper.is_forked:
            return
        with self._lock:
            keeper.handles -= 1
            last = keeper.handles == 0
            if last and self._keepers.get(key) is keeper:
                del self._keepers[key]
        if last:
            keeper.close()

    def _open(self, key: Hashable, keeper: Keeper[S], open_: Callable[[Keeper[S]], None]) -> None:
        try:
            open_(keeper)
        except BaseException:
            keeper.ended = True
            self.release(key, keeper)
            raise
        finally:
            keeper.opened.set()


def _nothing() -> None:
    pass
