"""`Store`: what users hold."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from datastream import codecs
from datastream._watch.board import StatusBoard
from datastream._watch.buffer import Mailbox
from datastream._watch.dispatcher import Courier
from datastream._watch.hub import Hub, Since
from datastream._watch.replay import Replays, Script, live_part
from datastream._watch.routing import Sink
from datastream._watch.subscriber import Lane
from datastream.aio import AsyncWatch, Threads
from datastream.entry import Batch, Capability, Change, Entry
from datastream.errors import (
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    ReadOnly,
    StoreClosed,
    Unsupported,
    shown,
)
from datastream.selection import Selection, check_key
from datastream.source import ANY_REVISION, NO_PAST, Feature, Source, Write
from datastream.status import Status

T = TypeVar("T")

FLUSH_TIMEOUT = 1.0
"""Seconds `close` gives subscribers to take what was already offered."""


class Store(MutableMapping[str, Any]):
    """An observable key-value store over one backend.

    Reads and writes like a dict of decoded values, with `Entry` for all that belongs to a value.
    Every method is safe to call from any thread. Keep a reference to it while you watch: when
    the last one goes, the store closes.

    Args:
        source: the backend; the store owns it and closes it.
        name: what error texts and `repr` call it; never put a secret in it.
    """

    def __init__(self, source: Source, *, name: str = "") -> None:
        self.name = name or type(source).__name__
        self.features = frozenset(source.features)
        """What the backend can do, see `Feature`."""
        self._can_write = Feature.WRITE in self.features
        self._can_expect = Feature.COMPARE_AND_SET in self.features
        self.threads = Threads(instant=source.instant)
        """How a coroutine makes blocking calls: ``await store.threads.call(store.put, "k", 1)``."""
        self._courier = Courier(f"datastream {self.name}")
        self._board = StatusBoard(self._courier, lambda: source.note)
        self._source = source
        self._hub = Hub(source, self._board.report)
        self._replays = Replays()
        self._finalizer = weakref.finalize(
            self, _abandon, self._replays, self._hub, self._courier, self.threads
        )

    # Like a dict, of decoded values.

    def __getitem__(self, key: str) -> Any:
        return self.entry(key).decode()

    def __setitem__(self, key: str, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: str) -> None:
        self.delete(key)

    def __iter__(self) -> Iterator[str]:
        return iter([capability.key for capability in self.capabilities()])

    def __len__(self) -> int:
        return len(self.capabilities())

    def __contains__(self, key: object) -> bool:
        try:
            self.entry(key)  # type: ignore[arg-type]
        except (KeyNotFound, InvalidKey):
            return False
        return True

    # Two stores are never "equal": comparing means reading both, and a store is hashable.
    __eq__ = object.__eq__
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def clear(self) -> None:
        """Remove every key, in one batch where the backend can."""
        keys = list(self)
        if keys:
            self.write(*(Write(key, None) for key in keys))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """`dict.update`, as one `put_many`."""
        self.put_many(dict(*args, **kwargs))

    # State.

    def capabilities(self) -> Sequence[Capability]:
        """Every key there is, with its type."""
        return tuple(self._hub.capabilities())

    def entry(self, key: str) -> Entry:
        """The entry of one key.

        Raises:
            KeyNotFound: the key holds nothing.
        """
        check_key(key)
        entries = self._hub.snapshot(Selection(frozenset((key,)))).entries
        if not entries:
            raise KeyNotFound(
                f"{self.name} holds nothing at {shown(key)}; list(store) gives its keys"
            )
        return entries[0]

    def snapshot(self, *keys: str, match: str | Iterable[str] = ()) -> dict[str, Entry]:
        """What the selected keys hold now, all of one moment; missing keys are left out.

        Args:
            keys: exact keys, and prefixes ending in "/"; with neither keys nor match, everything.
            match: globs: ``*`` within a segment, ``**`` across.
        """
        batch = self.snapshot_batch(*keys, match=match)
        return {entry.key: entry for entry in batch.entries}

    def snapshot_batch(self, *keys: str, match: str | Iterable[str] = ()) -> Batch:
        """`snapshot` with the cursor from which a watch would go on."""
        return self._hub.snapshot(Selection.of(*keys, match=match))

    # Writing.

    def put(
        self,
        key: str,
        value: Any,
        *,
        value_type: str | None = None,
        expect: str | None = None,
        updated_at: datetime | None = None,
    ) -> Entry:
        """Store a value; returns it as stored, after every watcher here was offered it.

        Args:
            key: not empty, not ending in "/".
            value: bytes as they are, or what fits the type.
            value_type: inferred from the value when None.
            expect: the revision the key must have, "" for "must not exist".
            updated_at: with time zone; metadata only. The backend's time when None.

        Raises:
            RevisionConflict: `expect` did not hold; nothing was written.
            InvalidKey, InvalidValue: this cannot be stored; nothing was written.
            ReadOnly, Unsupported: the backend cannot be written, or not with `expect`.
        """
        data, name = codecs.encode(value, value_type, key=key)
        return self.write(Write(key, data, name, expect, updated_at))[0]

    def put_many(
        self, values: Mapping[str, Any], *, expect: Mapping[str, str] | None = None
    ) -> list[Entry]:
        """Store several values as one `Batch` where the backend has transactions or commits.

        Args:
            values: like `put`, types inferred; an `Entry` gives its value and type.
            expect: revisions of those keys that must match, "" for "must not exist".
        """
        expected = expect or {}
        writes = []
        for key, value in values.items():
            if isinstance(value, Entry):
                data, name = value.value, value.value_type
            else:
                data, name = codecs.encode(value, key=key)
            writes.append(Write(key, data, name, expected.get(key)))
        for key in expected:
            if key not in values:
                raise InvalidKey(f"expect names {shown(key)}, which is not among the values to put")
        return list(self.write(*writes))

    def delete(self, key: str, *, expect: str | None = None, missing_ok: bool = False) -> None:
        """Remove a key.

        Raises:
            KeyNotFound: the key holds nothing, unless `missing_ok`.
            RevisionConflict: `expect` did not hold.
        """
        unconditional = None if missing_ok else ANY_REVISION
        self.write(Write(key, None, expect=unconditional if expect is None else expect))

    def write(self, *writes: Write) -> Sequence[Entry]:
        """Puts and deletes in one go: what `put`, `put_many` and `delete` are made of.

        Returns the entries as stored, in the same order.
        """
        for write in writes:
            _check_write(write)
        if len(writes) > 1 and len({write.key for write in writes}) < len(writes):
            raise InvalidKey("a key is written twice at once; write each key once")
        self._check_features(writes)
        return self._hub.write(writes) if writes else ()

    # Watching.

    def watch(self, *keys: str, match: str | Iterable[str] = ()) -> Observable[Entry]:
        """The selected keys' entries now, then every change, deletes included.

        Each subscription starts with the current state, delivered before ``subscribe`` returns.
        Changes are delivered one at a time on a thread of the store. A subscriber that cannot
        keep up gets the newest entry of each key; one that raises is logged and disposed.

        Args:
            keys: exact keys, and prefixes ending in "/"; with neither keys nor match, everything.
            match: globs: ``*`` within a segment, ``**`` across.

        Raises:
            InvalidKey: at once, not at ``subscribe``.
        """
        return self._observable(Selection.of(*keys, match=match), None, _emit_entries)

    def watch_batches(
        self, *keys: str, match: str | Iterable[str] = (), since: Since = None
    ) -> Observable[Batch]:
        """Like `watch`, in batches: what was committed together, with cursor and marks.

        Args:
            since: the cursor of an earlier batch, or a mapping of key to revision: the first
                batch then holds only what differs. If the cursor is too old or of another
                epoch, that batch has ``reset=True`` and holds the full state.
        """
        return self._observable(Selection.of(*keys, match=match), since, _emit_batch)

    def awatch(self, *keys: str, match: str | Iterable[str] = ()) -> AsyncWatch[Entry]:
        """`watch` for ``async for``: bounded memory, the newest entry per key if slow."""
        return self._async_watch(Selection.of(*keys, match=match), None, _entries)

    def awatch_batches(
        self, *keys: str, match: str | Iterable[str] = (), since: Since = None
    ) -> AsyncWatch[Batch]:
        """`watch_batches` for ``async for``."""
        return self._async_watch(Selection.of(*keys, match=match), since, _whole)

    @property
    def status(self) -> Observable[Status]:
        """How the store stands with its backend: the current `Status` first, then each change."""
        return self._board.observable

    def poke(self) -> None:
        """Look at the backend now, instead of when it notifies or its interval is over."""
        self._hub.poke()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every watcher has been called with all that was offered so far.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            False if a subscriber was still busy after `timeout`.
        """
        return self._courier.flush(timeout)

    # The past.

    def history(self, key: str) -> Iterator[Change]:
        """Every revision of a key, newest first, read from the backend as you go on.

        Raises:
            Unsupported: the backend keeps none.
        """
        check_key(key)
        self._check_past(Feature.HISTORY)
        return self._source.history(key)

    def at(self, point: str | datetime) -> Store:
        """A store that can only be read, as this one was at `point`; close it after use.

        Args:
            point: a time with time zone, as datetime or in ISO 8601; `Change.point`; or what else
                the backend names its states by, such as git's tags.

        Raises:
            Unsupported: the backend keeps no earlier states.
            DatastreamError: there is no such point.
        """
        self._check_past(Feature.AT)
        if isinstance(point, datetime) and point.tzinfo is None:
            raise InvalidValue(f"{point} has no time zone; give one, such as datetime.UTC")
        return Store(self._source.at(point), name=f"{self.name} at {point}")

    def replay(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        since: str | datetime | None = None,
        speed: float | None = None,
    ) -> Observable[Batch]:
        """What happened to the selected keys, then, without a gap, what happens.

        The first batch is the state at `since` and marked initial; then comes one batch for what
        was committed together, oldest first. The subscriber sets the pace; it is called on a
        thread of the subscription, and once the past is over like any watcher. What the past
        cannot be read for goes to ``on_error``.

        Args:
            keys, match: as for `watch`.
            since: what `at` takes; None begins at the beginning.
            speed: a multiple of the time in which it happened, by `Entry.updated_at`; None is as
                fast as it is read.

        Raises:
            Unsupported: the backend does not keep what was committed together.
            InvalidKey, InvalidValue: at once, not at ``subscribe``.
        """
        self._check_past(Feature.REPLAY)
        if isinstance(since, datetime) and since.tzinfo is None:
            raise InvalidValue(f"{since} has no time zone; give one, such as datetime.UTC")
        if speed is not None and not 0 < speed < math.inf:
            raise InvalidValue(f"speed {speed} is no multiple of time; give 1, 60, or None")
        selection = Selection.of(*keys, match=match)
        script = Script(
            partial(self._source.replay, selection, since),
            selection,
            speed,
            partial(_go_live, self._hub, self._courier, selection),
        )

        def subscribe(
            observer: ObserverBase[Batch], scheduler: SchedulerBase | None = None
        ) -> DisposableBase:
            self._check_past(Feature.REPLAY)
            return self._replays.start(script, observer)

        return Observable(subscribe)

    # The end.

    def close(self) -> None:
        """Complete every watch and free every thread, socket and file. Idempotent."""
        self._finalizer.detach()
        self.threads.close()
        self._replays.close(FLUSH_TIMEOUT)
        self._hub.close()
        self._board.close()
        self._courier.close(FLUSH_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.name} {self._board.current.state}>"

    def _repr_html_(self) -> str:
        from datastream.notebook import _html

        return _html.store_table(self)

    # Inside.

    def _check_features(self, writes: Sequence[Write]) -> None:
        if not self._can_write:
            raise ReadOnly(f"{self.name} can only be read; nothing was written")
        if self._can_expect:
            return
        for write in writes:
            if write.expect not in (None, ANY_REVISION):
                raise Unsupported(f"{self.name} has no compare-and-set; put without expect")

    def _check_past(self, feature: Feature) -> None:
        if self._hub.closed:
            raise StoreClosed("this store was closed; open it again to go on")
        if feature not in self.features:
            pasts = (Feature.HISTORY, Feature.AT, Feature.REPLAY)
            offered = [f"{past.name.lower()}()" for past in pasts if past in self.features]
            if offered:
                raise Unsupported(
                    f"{self.name} has {' and '.join(offered)}, but no {feature.name.lower()}()"
                )
            raise Unsupported(f"{self.name} cannot go back: {NO_PAST}")

    def _observable(self, selection: Selection, since: Since, emit: Any) -> Observable[Any]:
        def subscribe(
            observer: ObserverBase[Any], scheduler: SchedulerBase | None = None
        ) -> DisposableBase:
            return self._subscribe(observer, selection, since, emit)

        return Observable(subscribe)

    def _subscribe(
        self, observer: ObserverBase[Any], selection: Selection, since: Since, emit: Any
    ) -> DisposableBase:
        lane = Lane(observer, emit, Mailbox(), self._courier)
        return _seated(self._hub, lane, selection, since)

    def _async_watch(
        self, selection: Selection, since: Since, unpack: Callable[[Batch], Iterable[T]]
    ) -> AsyncWatch[T]:
        def subscribe(inbox: Sink) -> Callable[[], None]:
            # Naming the store keeps it open as long as the iterator is.
            hub = self._hub
            seat = hub.subscribe(selection, inbox, since)
            return lambda: hub.unsubscribe(seat)

        return AsyncWatch(subscribe, unpack, self.threads)


def _check_write(write: Write) -> None:
    check_key(write.key)
    codecs.check_type(write.value_type, key=write.key)
    if write.updated_at is not None and write.updated_at.tzinfo is None:
        raise InvalidValue(
            f"updated_at of {shown(write.key)} has no time zone; give one, such as datetime.UTC"
        )


def _seated(hub: Hub, lane: Lane[Batch], selection: Selection, since: Since) -> DisposableBase:
    seat = hub.subscribe(selection, lane, since)
    lane.on_close = lambda: hub.unsubscribe(seat)
    lane.start()
    return Disposable(lane.close)


def _go_live(
    hub: Hub, courier: Courier, selection: Selection, cursor: str, observer: ObserverBase[Batch]
) -> DisposableBase:
    """The second part of a replay: the watch from where the past ended."""
    lane = Lane(observer, live_part(_emit_batch), Mailbox(), courier)
    return _seated(hub, lane, selection, cursor)


def _emit_entries(observer: ObserverBase[Entry], batch: Batch) -> None:
    for entry in batch.entries:
        observer.on_next(entry)


def _emit_batch(observer: ObserverBase[Batch], batch: Batch) -> None:
    observer.on_next(batch)


def _entries(batch: Batch) -> tuple[Entry, ...]:
    return batch.entries


def _whole(batch: Batch) -> tuple[Batch]:
    return (batch,)


def _abandon(replays: Replays, hub: Hub, courier: Courier, threads: Threads) -> None:
    threads.close()
    replays.close(0)
    hub.abandon()
    courier.abandon()
