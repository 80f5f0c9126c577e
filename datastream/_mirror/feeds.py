"""Following the two stores of a mirror."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from datastream._mirror.events import Events, Inbox
from datastream.entry import Batch
from datastream.errors import SourceUnavailable, StoreClosed
from datastream.selection import Selection
from datastream.source import Feature
from datastream.status import State
from datastream.store import Store


class First(NamedTuple):
    """The first batch of each."""

    source: Batch
    target: Batch
    resumed: bool
    """They hold what changed since the cursors, and not all there is."""


class Feeds:
    """The watches of both stores.

    Args:
        source, target: the stores.
        selection: which keys.
        events: wakes the thread that takes.
        stopped: set when the mirror ends.
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        selection: Selection,
        events: Events,
        stopped: threading.Event,
    ) -> None:
        self._stores = source, target
        self._selection = selection
        self._events = events
        self._stopped = stopped
        self._ends: list[Callable[[], object]] = []
        self.source: Inbox | None = None
        self.target: Inbox | None = None
        self.degraded = ""
        """Why one of the stores runs degraded."""

    def start_statuses(self) -> Callable[[], None]:
        """Wake the thread whenever one of the stores changes its status; the answer ends that."""
        ends = [store.status.subscribe(self._events.take_status) for store in self._stores]

        def stop() -> None:
            for end in ends:
                end.dispose()

        return stop

    def join(self, cursors: tuple[str, str] | None) -> First | None:
        """Follow both anew: from cursors, else from all there is; None if the mirror was stopped.

        Without cursors, the target is only read: see `follow_target`.

        Raises:
            DatastreamError: one of them is away, or closed.
        """
        if cursors is not None:
            first = self._follow(*cursors)
            if first is None or not (first[0].reset or first[1].reset):
                return None if first is None else First(*first, resumed=True)
        first = self._follow(None, None)
        return None if first is None else First(*first, resumed=False)

    def follow_target(self) -> Batch | None:
        """Watch the target; all that it holds, None if the mirror was stopped.

        It is not watched while very much is written, since all of that would have to be read back.
        """
        inbox = self._watch(self._stores[1], None)
        try:
            batch = self._first(inbox)
        except BaseException:
            # Begun anew: what comes first has to be taken for all that there is.
            self._ends.pop()()
            self._events.discard(inbox)
            raise
        self.target = inbox
        return batch

    def leave(self) -> None:
        """Follow neither."""
        self._events.forget()
        self.source = self.target = None
        ends, self._ends = self._ends, []
        for end in ends:
            end()

    def check(self) -> None:
        """Raise if one of the stores is in trouble.

        Raises:
            SourceUnavailable: it is away.
            StoreClosed: it was closed.
        """
        for what, store in zip(("source", "target"), self._stores, strict=True):
            status = store._status.current
            if status.state is State.CLOSED:
                raise StoreClosed(f"the {what} {store.name} was closed, which ends its mirror")
            if status.error is not None:
                kind = type(status.error) if status.state is State.FAILED else SourceUnavailable
                raise kind(f"{what} {store.name}: {status.error}")
        named = [(store.name, store._status.current.degraded) for store in self._stores]
        self.degraded = "; ".join(f"{name}: {text}" for name, text in named if text)

    def _follow(self, since: str | None, target_since: str | None) -> tuple[Batch, Batch] | None:
        self.leave()
        source, target = self._stores
        # The target first: its trouble must not have the source read again and again.
        if target_since is None:
            theirs: Batch | None = target._core.state(self._selection)
        else:
            self.target = self._watch(target, target_since)
            theirs = self._first(self.target)
        if theirs is None:
            return None
        self.source = self._watch(source, since)
        ours = self._first(self.source)
        return None if ours is None else (ours, theirs)

    def _watch(self, store: Store, since: str | None) -> Inbox:
        # Where nothing is written together, the newest state of each key is all that is needed.
        inbox = self._events.inbox(batches=Feature.ATOMIC in self._stores[1].features)
        subscription = store._core.subscribe(self._selection, inbox, since)
        self._ends.append(partial(store._core.unsubscribe, subscription))
        return inbox

    def _first(self, inbox: Inbox) -> Batch | None:
        while not inbox:
            self.check()
            self._events.wait(None, partial(bool, inbox))
            if self._stopped.is_set():
                return None
        batch = inbox.take()
        if batch is None:
            self.check()
            raise StoreClosed("a store was closed, which ends its mirror")
        return batch
