"""`Store`: what users hold."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, cast, get_args

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from datastream import codecs
from datastream._async import AsyncTwins
from datastream._mapping import StoreMapping
from datastream._watch import reaper
from datastream._watch.buffer import Conflate, buffer_for
from datastream._watch.core import Core
from datastream._watch.dispatcher import Dispatcher
from datastream._watch.replay import Replays, Script, live_part
from datastream._watch.status import StatusHolder, StatusObservable
from datastream._watch.subscriber import Subscriber
from datastream._watch.subscription import Since, Sink
from datastream._watch.values import ValueChanges
from datastream.aio import AsyncWatch, Threads
from datastream.entry import Batch, Capability, Change, Entry, Revision
from datastream.errors import (
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    ReadOnly,
    Unsupported,
    printable,
    shown,
)
from datastream.selection import Selection, check_key
from datastream.source import (
    ANY_REVISION,
    NO_PAST,
    Feature,
    HasAt,
    HasHistory,
    HasReplay,
    Source,
    Write,
)

T = TypeVar("T")

FLUSH_TIMEOUT = 1.0
"""Seconds `close` gives subscribers to take what was already offered."""
FEW = 8
"""Keys of a watch that are checked for a missing slash."""

Unpack = Callable[[Batch], Iterable[Any]]

log = logging.getLogger("datastream")


class Store(AsyncTwins, StoreMapping):
    """An observable key-value store over one backend.

    Reads and writes like a dict of decoded values, with `Entry` for all that belongs to a value.
    Every method is safe to call from any thread, and none waits for another caller's I/O. A
    subscription keeps its store open; a store without one closes when its last reference goes.

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
        self._keeps_messages = Feature.MESSAGES in self.features
        self.threads = Threads(instant=source.instant)
        """How a coroutine makes blocking calls: ``await store.threads.call(store.put, "k", 1)``."""
        self._source = source
        self._dispatcher = Dispatcher(f"datastream {self.name}")
        self._status = StatusHolder(self.name, self._dispatcher)
        self._core = Core(source, self.name, self._status)
        self._replays = Replays()
        closing = partial(
            _close, self._core, self._dispatcher, self._status, self._replays, self.threads
        )
        self._finalizer = weakref.finalize(self, reaper.later, closing)
        self._finalizer.atexit = False
        self._closing = closing

    # State.

    def capabilities(self) -> Sequence[Capability]:
        """Every key there is, with its type."""
        return tuple(self._core.capabilities())

    def entry(self, key: str) -> Entry:
        """The entry of one key, read from the backend.

        Raises:
            KeyNotFound: the key holds nothing.
        """
        check_key(key)
        entry = self._core.get(key)
        if entry is None:
            raise KeyNotFound(
                f"{self.name} holds nothing at {shown(key)}; list(store) gives its keys"
            )
        return entry

    def snapshot(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> dict[str, Entry]:
        """What the selected keys hold now, all of one moment; missing keys are left out.

        Args:
            keys: exact keys, and prefixes ending in "/"; with neither keys nor match, everything.
            match: globs: ``*`` within a segment, ``**`` across.
            exclude: globs of what to leave out.
        """
        batch = self.snapshot_batch(*keys, match=match, exclude=exclude)
        return {entry.key: entry for entry in batch.entries}

    def snapshot_batch(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> Batch:
        """`snapshot` with the cursor from which a watch would go on."""
        return self._core.snapshot(Selection.of(*keys, match=match, exclude=exclude))

    # Writing.

    def put(
        self,
        key: str,
        value: Any,
        *,
        value_type: str | None = None,
        expect: str | None = None,
        updated_at: datetime | None = None,
        message: str = "",
        author: str = "",
    ) -> Entry:
        """Store a value; returns it as stored, after every watcher here was offered it.

        Args:
            key: not empty, not ending in "/".
            value: bytes as they are, or what fits the type.
            value_type: inferred from the value when None.
            expect: the revision the key must have, "" for "must not exist".
            updated_at: with time zone; metadata only. The backend's time when None.
            message, author: why and who (``Name <address>``), where the backend keeps them.

        Raises:
            RevisionConflict: `expect` did not hold; nothing was written.
            InvalidKey, InvalidValue: this cannot be stored; nothing was written.
            ReadOnly, Unsupported: the backend cannot be written, or not with `expect`, or keeps
                neither message nor author.
        """
        data, name = codecs.encode(value, value_type, key=key)
        return self.write(Write(key, data, name, expect, updated_at, message, author))[0]

    def put_many(
        self,
        values: Mapping[str, Any],
        *,
        expect: Mapping[str, str] | None = None,
        message: str = "",
        author: str = "",
    ) -> list[Entry]:
        """Store several values as one `Batch` where the backend has transactions or commits.

        Args:
            values: like `put`, types inferred; an `Entry` gives its value and type.
            expect: revisions of those keys that must match, "" for "must not exist".
            message, author: as for `put`.
        """
        expected = expect or {}
        writes = []
        for key, value in values.items():
            if isinstance(value, Entry):
                data, name = value.value, value.value_type
            else:
                data, name = codecs.encode(value, key=key)
            writes.append(Write(key, data, name, expected.get(key), None, message, author))
        for key in expected:
            if key not in values:
                raise InvalidKey(f"expect names {shown(key)}, which is not among the values to put")
        return list(self.write(*writes))

    def delete(
        self,
        key: str,
        *,
        expect: str | None = None,
        missing_ok: bool = False,
        message: str = "",
        author: str = "",
    ) -> None:
        """Remove a key.

        Raises:
            KeyNotFound: the key holds nothing, unless `missing_ok`.
            RevisionConflict: `expect` did not hold.
        """
        unconditional = None if missing_ok else ANY_REVISION
        wanted = unconditional if expect is None else expect
        self.write(Write(key, None, expect=wanted, message=message, author=author))

    def write(self, *writes: Write) -> Sequence[Entry]:
        """Puts and deletes in one go: what `put`, `put_many` and `delete` are made of.

        Returns the entries as stored, in the same order.
        """
        for write in writes:
            _check_write(write)
        if len(writes) > 1 and len({write.key for write in writes}) < len(writes):
            raise InvalidKey("a key is written twice at once; write each key once")
        self._check_features(writes)
        return self._core.write(writes) if writes else ()

    # Watching.

    def watch(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> Observable[Entry]:
        """The selected keys' entries now, then every change, deletes included.

        Each subscription starts with the current state, delivered before ``subscribe`` returns.
        Changes are delivered one at a time on a thread of the store. A subscriber that raises is
        logged and disposed. The subscription keeps the store open until it is disposed.

        Args:
            keys: exact keys, and prefixes ending in "/"; with neither keys nor match, everything.
            match: globs: ``*`` within a segment, ``**`` across.
            exclude: globs of what to leave out.
            initial: False for changes only.
            conflate: "slow": a subscriber that cannot keep up gets the newest entry of each key.
                "always": it gets only that, at most once in `every` seconds. "never": it gets
                every change; if it falls too far behind, the watch ends with an error.
            every: seconds between two deliveries, with ``conflate="always"``.

        Raises:
            InvalidKey, InvalidValue: at once, not at ``subscribe``.
        """
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = partial(_entries, initial=initial)
        return self._observable(selection, None, unpack, _Pace.of(conflate, every))

    def watch_batches(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        since: Since = None,
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> Observable[Batch]:
        """Like `watch`, in batches: what was committed together, with cursor and marks.

        Args:
            since: the cursor of an earlier batch, or a mapping of key to revision: the first
                batch then holds only what differs. If the cursor is too old or of another
                epoch, that batch has ``reset=True`` and holds the full state.
            keys, match, exclude, initial, conflate, every: as for `watch`.
        """
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = partial(_whole, initial=initial)
        return self._observable(selection, since, unpack, _Pace.of(conflate, every))

    def watch_values(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        as_: Callable[[Any], T] | None = None,
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> Observable[Change]:
        """Like `watch`, in decoded values: what each key held, and what it holds now.

        A value that does not decode, or that `as_` refuses, is logged and left out: the last
        good one stands, and the watch goes on.

        Args:
            as_: makes of a decoded value what you want, such as ``float``.
            keys, match, exclude, initial, conflate, every: as for `watch`.
        """
        selection = Selection.of(*keys, match=match, exclude=exclude)

        def unpack() -> ValueChanges:
            return ValueChanges(as_, _described(selection), initial=initial)

        return self._observable(selection, None, unpack, _Pace.of(conflate, every), fresh=True)

    def awatch(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> AsyncWatch[Entry]:
        """`watch` for ``async for``; other tasks run every few milliseconds meanwhile."""
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = partial(_entries, initial=initial)
        return self._async_watch(selection, None, unpack, _Pace.of(conflate, every))

    def awatch_batches(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        since: Since = None,
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
        transient: bool = False,
    ) -> AsyncWatch[Batch]:
        """`watch_batches` for ``async for``.

        Args:
            transient: for relays: after a cursor, the first batch has the DELETEs of keys too
                that were created after it.
        """
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = partial(_whole, initial=initial)
        pace = _Pace.of(conflate, every)
        return self._async_watch(selection, since, unpack, pace, transient=transient)

    def awatch_values(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        as_: Callable[[Any], T] | None = None,
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> AsyncWatch[Change]:
        """`watch_values` for ``async for``."""
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = ValueChanges(as_, _described(selection), initial=initial)
        return self._async_watch(selection, None, unpack, _Pace.of(conflate, every))

    @property
    def status(self) -> StatusObservable:
        """How the store stands with its backend: ``status.current`` now, and as an Observable."""
        return StatusObservable(self._status)

    def refresh(self) -> None:
        """Look at the backend now, instead of when it notifies or its interval is over."""
        self._core.refresh()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every watcher has been called with all that was offered so far.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            False if a subscriber was still busy after `timeout`.
        """
        # In a child process nothing is left to deliver, and no lock can be relied on.
        return self._core.is_forked or self._dispatcher.flush(timeout)

    # The past.

    def history(self, key: str) -> Iterator[Revision]:
        """Every revision of a key, newest first, read from the backend as you go on.

        Raises:
            Unsupported: the backend keeps none.
        """
        check_key(key)
        self._check_past(Feature.HISTORY)
        source = cast(HasHistory, self._source)
        return self._core.iterate(key, lambda: source.history(key))

    def at(self, point: str | datetime) -> Store:
        """A store that can only be read, as this one was at `point`; close it after use.

        Args:
            point: a time with time zone, as datetime or in ISO 8601; `Revision.point`; or what
                else the backend names its states by, such as git's tags.

        Raises:
            Unsupported: the backend keeps no earlier states.
            DatastreamError: there is no such point.
        """
        self._check_past(Feature.AT)
        _check_zone(point)
        past = self._core.ask_past(cast(HasAt, self._source).at, point)
        return Store(past, name=f"{self.name} at {point}")

    def replay(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        since: str | datetime | None = None,
        speed: float | None = None,
    ) -> Observable[Batch]:
        """What happened to the selected keys, then, without a gap, what happens.

        The first batch is the state at `since` and marked initial; then comes one batch for what
        was committed together, oldest first. The subscriber sets the pace; it is called on a
        thread of the subscription, and once the past is over like any watcher. Where the past
        cannot be read, ``on_error`` says why.

        Args:
            keys, match, exclude: as for `watch`.
            since: what `at` takes; None begins at the beginning.
            speed: a multiple of the time in which it happened, by `Entry.updated_at`; None is as
                fast as it is read.

        Raises:
            Unsupported: the backend does not keep what was committed together.
            InvalidKey, InvalidValue: at once, not at ``subscribe``.
        """
        self._check_past(Feature.REPLAY)
        _check_zone(since)
        if speed is not None and not 0 < speed < math.inf:
            raise InvalidValue(f"speed {speed} is no multiple of time; give 1, 60, or None")
        selection = Selection.of(*keys, match=match, exclude=exclude)
        source = cast(HasReplay, self._source)

        def subscribe(
            observer: ObserverBase[Batch], scheduler: SchedulerBase | None = None
        ) -> DisposableBase:
            self._check_past(Feature.REPLAY)
            readings = partial(self._core.iterate, None, lambda: source.replay(selection, since))
            go_live = partial(self._go_live, selection)
            return self._replays.start(Script(readings, selection, speed, go_live), observer)

        return Observable(subscribe)

    # The end.

    def close(self) -> None:
        """Complete every watch and free every thread, socket and file. Idempotent.

        Returns within some seconds, also if a call of the backend hangs.
        """
        self._finalizer.detach()
        if not self._core.is_forked:
            self._closing()

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
        return f"<Store {self.name} {self._status.current.state}>"

    def _repr_html_(self) -> str:
        from datastream.notebook import _html

        return _html.store_table(self)

    # Inside.

    def _check_features(self, writes: Sequence[Write]) -> None:
        if not self._can_write:
            raise ReadOnly(f"{self.name} can only be read; nothing was written")
        if self._can_expect and self._keeps_messages:
            return
        for write in writes:
            if write.expect not in (None, ANY_REVISION) and not self._can_expect:
                raise Unsupported(f"{self.name} has no compare-and-set; put without expect")
            if (write.message or write.author) and not self._keeps_messages:
                raise Unsupported(
                    f"{self.name} keeps neither message nor author of a write; leave them out"
                )

    def _check_past(self, feature: Feature) -> None:
        self._core.check_open()
        if feature not in self.features:
            pasts = (Feature.HISTORY, Feature.AT, Feature.REPLAY)
            offered = [f"{past.name.lower()}()" for past in pasts if past in self.features]
            if offered:
                raise Unsupported(
                    f"{self.name} has {' and '.join(offered)}, but no {feature.name.lower()}()"
                )
            raise Unsupported(f"{self.name} cannot go back: {NO_PAST}")

    def _observable(
        self,
        selection: Selection,
        since: Since,
        unpack: Callable[..., Any],
        pace: _Pace,
        *,
        fresh: bool = False,
    ) -> Observable[Any]:
        """An Observable over a watch.

        Args:
            unpack: what the observer gets for a batch; with `fresh`, makes that for each
                subscription.
        """

        def subscribe(
            observer: ObserverBase[Any], scheduler: SchedulerBase | None = None
        ) -> DisposableBase:
            made = unpack() if fresh else unpack
            return self._subscribe(observer, selection, since, made, pace)

        return Observable(subscribe)

    def _subscribe(
        self,
        observer: ObserverBase[Any],
        selection: Selection,
        since: Since,
        unpack: Unpack,
        pace: _Pace,
    ) -> DisposableBase:
        what = f"{self.name}, {_described(selection)}"
        subscriber: Subscriber[Batch] = Subscriber(
            observer,
            unpack,
            buffer_for(pace.conflate, what),
            self._dispatcher,
            what,
            every=pace.every,
            keep=self,
        )
        core = self._core
        subscription = core.subscribe(selection, subscriber, since)
        subscriber.on_close = partial(core.unsubscribe, subscription)
        self._warn_missing_slash(selection)
        subscriber.start()
        return Disposable(partial(self._dispose, subscriber))

    def _dispose(self, subscriber: Subscriber[Batch]) -> None:
        # In a child process, a thread of the parent may have held a lock.
        if not self._core.is_forked:
            subscriber.close()

    def _go_live(
        self, selection: Selection, cursor: str, observer: ObserverBase[Batch]
    ) -> DisposableBase:
        """The second part of a replay: the watch from where the past ended."""
        return self._subscribe(observer, selection, cursor, live_part, _Pace())

    def _async_watch(
        self,
        selection: Selection,
        since: Since,
        unpack: Callable[[Batch], Iterable[T]],
        pace: _Pace,
        *,
        transient: bool = False,
    ) -> AsyncWatch[T]:
        what = f"{self.name}, {_described(selection)}"

        def subscribe(inbox: Sink) -> Callable[[], None]:
            # Naming the store keeps it open as long as the iterator is.
            core = self._core
            subscription = core.subscribe(selection, inbox, since, keeps_transient=transient)
            self._warn_missing_slash(selection)
            return partial(core.unsubscribe, subscription)

        buffer = partial(buffer_for, pace.conflate, what)
        return AsyncWatch(subscribe, unpack, self.threads, buffer, pace.every)

    def _warn_missing_slash(self, selection: Selection) -> None:
        """A key that holds nothing while others lie below it was probably meant as a prefix."""
        if selection.prefixes or selection.patterns or not 0 < len(selection.keys) <= FEW:
            return
        for key in selection.keys:
            try:
                is_folder = self._core.is_folder(key)
            except Exception as error:  # noqa: BLE001
                log.debug("%s: %s", printable(self.name), printable(str(error)))
                return
            if is_folder:
                log.warning(
                    "%s: a watch of %s waits for that very key, while others lie below it; to "
                    "watch those, write %s",
                    printable(self.name),
                    shown(key),
                    shown(f"{key}/"),
                )
            elif "?" in key:
                log.warning(
                    "%s: a watch of %s waits for that very key, question mark included; for a "
                    "pattern, write match=%s",
                    printable(self.name),
                    shown(key),
                    shown(key),
                )


class _Pace(NamedTuple):
    """How often, and how much of what it missed, a subscriber gets."""

    conflate: Conflate = "slow"
    every: float = 0.0

    @classmethod
    def of(cls, conflate: Conflate, every: float) -> _Pace:
        """Checked.

        Raises:
            InvalidValue: there is no such pace.
        """
        if conflate not in get_args(Conflate):
            raise InvalidValue(
                f"conflate={conflate!r}: give one of {', '.join(map(repr, get_args(Conflate)))}"
            )
        if not 0 <= every < math.inf:
            raise InvalidValue(f"every={every}: give a number of seconds")
        if every and conflate != "always":
            raise InvalidValue(f'every={every} needs conflate="always"')
        return cls(conflate, every)


def _check_write(write: Write) -> None:
    check_key(write.key)
    codecs.check_type(write.value_type, key=write.key)
    if write.updated_at is not None and write.updated_at.tzinfo is None:
        raise InvalidValue(
            f"updated_at of {shown(write.key)} has no time zone; give one, such as datetime.UTC"
        )


def _check_zone(point: str | datetime | None) -> None:
    if isinstance(point, datetime) and point.tzinfo is None:
        raise InvalidValue(f"{point} has no time zone; give one, such as datetime.UTC")


def _described(selection: Selection) -> str:
    """A selection in the words of the call that made it."""
    names = [shown(key) for key in sorted((*selection.keys, *selection.prefixes))]
    names += [f"match={shown(pattern)}" for pattern in sorted(selection.patterns)]
    names += [f"exclude={shown(pattern)}" for pattern in sorted(selection.exclude)]
    more = [f"and {len(names) - FEW} more"] if len(names) > FEW else []
    return f"watch({', '.join([*names[:FEW], *more])})"


def _entries(batch: Batch, *, initial: bool) -> Iterable[Entry]:
    return batch.entries if initial or not batch.initial else ()


def _whole(batch: Batch, *, initial: bool) -> Iterable[Batch]:
    return (batch,) if initial or not batch.initial else ()


def _close(
    core: Core,
    dispatcher: Dispatcher,
    status: StatusHolder,
    replays: Replays,
    threads: Threads,
) -> None:
    threads.close()
    replays.close(FLUSH_TIMEOUT)
    try:
        core.close()
    finally:
        status.close()
        dispatcher.close(FLUSH_TIMEOUT)
