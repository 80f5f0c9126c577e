"""`drift`: how two stores differ now, kept current."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import MappingProxyType

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable

from datastream._mirror.diff import Difference, differing, keep_types, opened
from datastream.entry import DELETE, Batch, Entry
from datastream.selection import Selection, is_reserved
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
    what it held last stands. Both stores' values are kept in memory while it is subscribed.

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
            stores = opened(stack, a), opened(stack, b)
            drifting = _Drifting(observer, *stores)
            ends = [
                store.watch_batches(
                    *selection.keys,
                    *selection.prefixes,
                    match=selection.patterns,
                    exclude=selection.exclude,
                ).subscribe(drifting.takes(side), observer.on_error, observer.on_completed)
                for side, store in enumerate(stores)
            ]
            return CompositeDisposable(*ends, _Closing(stack.pop_all()))

    return Observable(subscribe)


class Table:
    """What two stores hold, and where they differ: memory only.

    Args:
        types: both keep types.
    """

    def __init__(self, *, types: bool) -> None:
        self._types = types
        self._held: tuple[dict[str, Entry], dict[str, Entry]] = ({}, {})
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
        if batch.initial:
            touched |= held.keys()
            held.clear()
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

    def _look_at(self, key: str) -> bool:
        before = self._differences.pop(key, None)
        a, b = self._held[0].get(key), self._held[1].get(key)
        now = differing(key, a, b, types=self._types)
        if now is not None:
            self._differences[key] = now
        return before != now


class _Drifting:
    """Tells one observer; the batches of two stores come on their threads."""

    def __init__(self, observer: ObserverBase[Drift], a: Store, b: Store) -> None:
        self._observer = observer
        self._table = Table(types=keep_types(a, b))
        self._lock = threading.Lock()

    def takes(self, side: int) -> Callable[[Batch], None]:
        def take(batch: Batch) -> None:
            # An observer is called by one thread at a time.
            with self._lock:
                if self._table.apply(side, batch):
                    self._observer.on_next(MappingProxyType(self._table.differences))

        return take


class _Closing(DisposableBase):
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def dispose(self) -> None:
        self._stack.close()
