"""`drift`: how two stores differ now, kept current."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from types import MappingProxyType

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable, SerialDisposable

from datastream._mirror.diff import Difference, differing, keep_types, opened
from datastream.entry import DELETE, Batch, Entry
from datastream.errors import StoreClosed
from datastream.selection import Selection, is_reserved
from datastream.source import is_below
from datastream.status import State, Status
from datastream.store import Store

Drift = Mapping[str, Difference]


def drift(
    a: Store | str,
    b: Store | str,
    *keys: str,
    match: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
) -> Observable[Mapping[str, Difference]]:
    """How two stores differ now, and again whenever that changes.

    Each item is the whole of it, sorted by key; empty while they are equal. While a store is away,
    or cannot read a key, what it held last stands; nothing is said of keys that it could not read
    from the start. Both stores' values are kept in memory while it is subscribed.

    Args:
        a, b: stores, or URLs of stores, which each subscription opens and closes.
        keys, match, exclude: as for `diff`.

    Raises:
        DatastreamError: at ``subscribe``: a store cannot be opened.
    """
    selection = Selection.of(*keys, match=match, exclude=exclude)

    def subscribe(
        observer: ObserverBase[Mapping[str, Difference]], scheduler: SchedulerBase | None = None
    ) -> DisposableBase:
        with ExitStack() as stack:
            drifting = _Drifting(observer, (opened(stack, a), opened(stack, b)), selection)
            drifting.start()
            return CompositeDisposable(drifting.ends, _Closing(stack.pop_all()))

    return Observable(subscribe)


class Table:
    """What two stores hold, and where they differ: memory only.

    Args:
        types: both keep types.
    """

    def __init__(self, *, types: bool) -> None:
        self._types = types
        self._held: tuple[dict[str, Entry], dict[str, Entry]] = ({}, {})
        self._unread: list[frozenset[str]] = [frozenset(), frozenset()]
        self._joined = [False, False]
        self._differences: dict[str, Difference] = {}

    @property
    def joined(self) -> bool:
        """Whether both have given their state."""
        return all(self._joined)

    @property
    def differences(self) -> dict[str, Difference]:
        """Where they differ, sorted by key."""
        return dict(sorted(self._differences.items()))

    def apply(self, side: int, batch: Batch) -> bool:
        """Take in a batch of one of them; True if what they differ by has changed."""
        held, was_joined = self._held[side], self.joined
        touched = {entry.key for entry in batch.entries}
        self._unread[side] = batch.unread if batch.initial else self._unread[side] - touched
        if batch.initial:
            # Of a key that lay below what could not be read, the other side may have told.
            touched |= held.keys() | self._held[1 - side].keys()
            for key in [key for key in held if not is_below(key, batch.unread)]:
                del held[key]
        for entry in batch.entries:
            if entry.operation is DELETE:
                held.pop(entry.key, None)
            elif not is_reserved(entry.key):
                held[entry.key] = entry
        self._joined[side] = True
        if not was_joined:
            touched |= self._held[0].keys() | self._held[1].keys() if self.joined else set()
        changed = [self._look_at(key) for key in touched] if self.joined else []
        return any(changed) or (self.joined and not was_joined)

    def is_partial(self, side: int) -> bool:
        """Whether one of them could not read all that it holds."""
        return bool(self._unread[side])

    def _look_at(self, key: str) -> bool:
        before = self._differences.pop(key, None)
        a, b = self._held[0].get(key), self._held[1].get(key)
        is_told = self._tells(0, key) and self._tells(1, key)
        now = differing(key, a, b, types=self._types) if is_told else None
        if now is not None:
            self._differences[key] = now
        return before != now

    def _tells(self, side: int, key: str) -> bool:
        return key in self._held[side] or not is_below(key, self._unread[side])


class _Drifting:
    """Tells one observer; the batches of two stores come on their threads."""

    def __init__(
        self, observer: ObserverBase[Drift], stores: tuple[Store, Store], selection: Selection
    ) -> None:
        self._observer = observer
        self._stores = stores
        self._selection = selection
        self._table = Table(types=keep_types(*stores))
        self._lock = threading.Lock()
        self._watches = SerialDisposable(), SerialDisposable()
        self._begun = [0, 0]
        self.ends = CompositeDisposable(*self._watches)
        """What ends it."""

    def start(self) -> None:
        """Watch both."""
        for side in (0, 1):
            self._watch(side)
        for side, store in enumerate(self._stores):
            self.ends.add(store.status.subscribe(partial(self._take_status, side)))

    def _watch(self, side: int) -> None:
        with self._lock:
            self._begun[side] += 1
            number = self._begun[side]
        batches = self._stores[side].watch_batches(
            *self._selection.keys,
            *self._selection.prefixes,
            match=self._selection.patterns,
            exclude=self._selection.exclude,
        )
        observer = self._observer
        self._watches[side].disposable = batches.subscribe(
            partial(self._take, side, number), observer.on_error, observer.on_completed
        )

    def _take(self, side: int, number: int, batch: Batch) -> None:
        # An observer is called by one thread at a time.
        with self._lock:
            if number == self._begun[side] and self._table.apply(side, batch):
                self._observer.on_next(MappingProxyType(self._table.differences))

    def _take_status(self, side: int, status: Status) -> None:
        """Begin anew if what could not be read may have gone: no watch tells of that."""
        if status.state is State.READY and self._table.is_partial(side):
            with suppress(StoreClosed):
                self._watch(side)


class _Closing(DisposableBase):
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def dispose(self) -> None:
        self._stack.close()
