"""`Store`: what users hold."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakSet

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase

from datastream import codecs
from datastream._async import AsyncTwins
from datastream._closing import Closing
from datastream._consumers import StoreConsumers
from datastream._entries import Entries
from datastream._exploring import StoreExploring
from datastream._mapping import StoreMapping
from datastream._observable import NamedObservable, StatusObservable
from datastream._past import History
from datastream._secrets import hide
from datastream._view.keeper import Keepers
from datastream._views import StoreViews
from datastream._watch import reaper
from datastream._watch.core import Core
from datastream._watch.dispatcher import Dispatcher
from datastream._watch.replay import Replays, Script, batches, live_part
from datastream._watch.status import StatusHolder
from datastream._watch.walking import walk
from datastream._watches import Pace, check_seconds, described
from datastream._writes import WriteCheck, of_delete, of_many
from datastream.aio import Threads
from datastream.entry import Batch, Capability, Entry
from datastream.errors import (
    InvalidValue,
    Unsupported,
)
from datastream.selection import Selection, check_key
from datastream.snapshot import Snapshot
from datastream.source import (
    NO_PAST,
    Feature,
    HasAt,
    HasHistory,
    HasReplay,
    Source,
    Write,
)

if TYPE_CHECKING:
    from datastream._consume.running import Run

T = TypeVar("T")

FLUSH_TIMEOUT = 1.0
"""Seconds `close` gives subscribers to take what was already offered."""

log = logging.getLogger("datastream")


class Store(Closing, AsyncTwins, StoreExploring, StoreViews, StoreConsumers, StoreMapping):
    """An observable key-value store over one backend.

    Reads and writes like a dict of decoded values, with `Entry` for all that belongs to a value.
    Every method is safe to call from any thread, and none waits for another caller's I/O. A
    subscription keeps its store open, and so does what is read as one goes on; a store without
    closes when its last reference goes.

    Args:
        source: the backend; the store owns it and closes it.
        name: what error texts and `repr` call it; never put a secret in it.
    """

    def __init__(self, source: Source, *, name: str = "") -> None:
        self.name = hide(name) or type(source).__name__
        self.threads = Threads(instant=source.instant)
        """How a coroutine makes blocking calls: ``await store.threads.call(store.put, "k", 1)``."""
        self._source = source
        self._check = WriteCheck(source, self.name)
        self._dispatcher = Dispatcher(f"datastream {self.name}")
        self._status = StatusHolder(self.name, self._dispatcher, source.secrets)
        self._core = Core(source, self.name, self._status)
        self._replays = Replays()
        self._keepers = Keepers()
        self._consumers = WeakSet()
        # Of one in the past, the store whose past it is: it may read over that one's connection.
        self._origin: Store | None = None
        closing = partial(
            _close,
            self._core,
            self._dispatcher,
            self._status,
            self._replays,
            self.threads,
            consumers=self._consumers,
        )
        self._finalizer = weakref.finalize(self, reaper.later, closing)
        self._finalizer.atexit = False
        self._closing = closing

    # State.

    @property
    def features(self) -> frozenset[Feature]:
        """What the backend can do, see `Feature`; of a server, as far as it has said."""
        return self._source.features

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
            raise self._missing(key)
        return entry

    def snapshot(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> Snapshot:
        """What the selected keys hold now, all of one moment; missing keys are left out.

        A mapping of key to `Entry` that never changes; ``copy()`` gives a dict.

        Args:
            keys: exact keys, and prefixes ending in "/"; with neither keys nor match, everything.
            match: globs: ``*`` within a segment, ``**`` across.
            exclude: globs of what to leave out.
        """
        batch = self.snapshot_batch(*keys, match=match, exclude=exclude)
        return Snapshot(batch.entries)

    def snapshot_batch(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        partial: bool = False,
    ) -> Batch:
        """`snapshot` with the cursor from which a watch would go on.

        Args:
            partial: for relays: where nothing of what is selected can be read, an empty batch that
                says so (`Batch.unread`), not an error.
        """
        read = self._core.state if partial else self._core.snapshot
        return read(Selection.of(*keys, match=match, exclude=exclude))

    def entries(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> Entries:
        """What the selected keys hold now, one after the other, for stores larger than memory.

        Sorted by key. Of SQLite, PostgreSQL and git, all is of one moment, and no more than some
        MiB are in memory; of files, S3 and other filesystems, it is of one listing. Others are
        read whole, like a `snapshot`. Nothing is read before the first step.

        Args:
            keys, match, exclude: as for `snapshot`.
        """
        selection = Selection.of(*keys, match=match, exclude=exclude)
        return Entries(lambda unread: self._held_open(walk(self._core, selection, unread)))

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
        wait: float = 0.0,
        ttl: float | None = None,
    ) -> Entry:
        """Store a value; returns it as stored, after every watcher here was offered it.

        Args:
            key: not empty, not ending in "/".
            value: bytes as they are, or what fits the type.
            value_type: inferred from the value when None.
            expect: the revision the key must have, "" for "must not exist".
            updated_at: with time zone; metadata only. The backend's time when None.
            message, author: why and who (``Name <address>``), where the backend keeps them.
            wait: seconds for which it is tried again while the backend is away. What a server was
                sent and did not answer is done once, unless it was restarted meanwhile.
            ttl: seconds after which the key is removed, where the backend does that; the next put
                without one keeps it for good.

        Raises:
            RevisionConflict: `expect` did not hold; nothing was written, or the text says that
                an earlier attempt may have been.
            InvalidKey, InvalidValue: this cannot be stored; nothing was written.
            ReadOnly, Unsupported: the backend cannot be written, or not with `expect` or `ttl`,
                or keeps neither message nor author.
        """
        data, name = codecs.encode(value, value_type, key=key)
        # Without `Write.__new__`, which would cost as much again.
        fields = (key, data, name, expect, updated_at, message, author, "", ttl)
        write = tuple.__new__(Write, fields)
        self._check.one(write)
        if wait:
            check_seconds(wait, "wait")
        return self._core.write((write,), wait)[0]

    def put_many(
        self,
        values: Mapping[str, Any],
        *,
        expect: Mapping[str, str] | None = None,
        message: str = "",
        author: str = "",
        wait: float = 0.0,
    ) -> list[Entry]:
        """Store several values as one `Batch` where the backend has transactions or commits.

        Args:
            values: like `put`, types inferred; an `Entry` gives its value and type.
            expect: revisions of those keys that must match, "" for "must not exist".
            message, author, wait: as for `put`.
        """
        return list(self.write(*of_many(values, expect, message, author), wait=wait))

    def delete(
        self,
        key: str,
        *,
        expect: str | None = None,
        missing_ok: bool = False,
        message: str = "",
        author: str = "",
        wait: float = 0.0,
    ) -> None:
        """Remove a key.

        Args:
            expect, message, author, wait: as for `put`.

        Raises:
            KeyNotFound: the key holds nothing, unless `missing_ok`.
            RevisionConflict: `expect` did not hold.
        """
        write = of_delete(key, expect, message, author, missing_ok=missing_ok)
        self.write(write, wait=wait)

    def write(self, *writes: Write, wait: float = 0.0) -> Sequence[Entry]:
        """Puts and deletes in one go: what `put`, `put_many` and `delete` are made of.

        Returns the entries as stored, in the same order. `wait` is as for `put`.
        """
        return self._write(writes, wait)

    def _write(self, writes: Sequence[Write], wait: float = 0.0) -> Sequence[Entry]:
        self._check.all(writes)
        check_seconds(wait, "wait")
        return self._core.write(writes, wait) if writes else ()

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
        if timeout is not None:
            check_seconds(timeout, "timeout")
        # In a child process nothing is left to deliver, and no lock can be relied on.
        return self._core.is_forked or self._dispatcher.flush(timeout)

    # The past.

    def history(self, key: str) -> History:
        """Every revision of a key, newest first, read from the backend as you go on.

        ``history(key).to_pandas()`` is a frame of them.

        Raises:
            Unsupported: the backend keeps none.
        """
        check_key(key)
        self._check_past(Feature.HISTORY)
        source = cast(HasHistory, self._source)
        return History(self._held_open(self._core.iterate(key, lambda: source.history(key))))

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
        check_point(point)
        past = self._core.ask_past(cast(HasAt, self._source).at, point)
        store = Store(past, name=f"{self.name} at {point}")
        store._origin = self
        return store

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
        check_point(since)
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

        return NamedObservable(subscribe, f"{self.name}, {described(selection, 'replay')}")

    def replayed(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        since: str | datetime | None = None,
    ) -> Iterator[Batch]:
        """The past part of `replay`, read from the backend as you go on.

        It ends with the present: a watch from the last cursor goes on without a gap. Some batches
        may be empty.

        Args:
            keys, match, exclude, since: as for `replay`.

        Raises:
            Unsupported: the backend does not keep what was committed together.
        """
        self._check_past(Feature.REPLAY)
        check_point(since)
        selection = Selection.of(*keys, match=match, exclude=exclude)
        source = cast(HasReplay, self._source)
        readings = self._core.iterate(None, lambda: source.replay(selection, since))
        return self._held_open(batches(readings, selection))

    # Documents.

    def document(self, key: str, *, create: bool = False) -> Store:
        """The document at `key` as a store of its own, whose keys are the leaves of it.

        ``{"db": {"url": "x"}}`` holds ``x`` at ``db/url``; a list is one leaf. A write changes
        that leaf of the text and leaves comments and formatting as they are. Close it after use;
        this store stays open.

        Args:
            key: ends in ``.toml``, ``.yaml``, ``.yml`` or ``.json``.
            create: a document that is not there is empty, and made by the first write.

        Raises:
            DatastreamError: the key has no such ending.
            ImportError: the extra ``documents`` is needed and not installed.
        """
        from datastream import _documents

        check_key(key)
        self._core.check_open()
        return _documents.document(self, key, create=create)

    # The end.

    def close(self) -> None:
        """Complete every watch and free every thread, socket and file. Idempotent.

        Returns within some seconds, also if a call of the backend hangs.
        """
        self._finalizer.detach()
        if not self._core.is_forked:
            self._closing()

    def __repr__(self) -> str:
        return f"<Store {self.name} {self._status.current.state}>"

    def _repr_html_(self) -> str:
        from datastream.notebook import _html

        return _html.store_table(self)

    # Inside.

    def _held_open(self, items: Iterator[T]) -> Generator[T, None, None]:
        """`items`, while their reader may have no other reference to this store."""
        yield from items

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

    def _go_live(
        self, selection: Selection, cursor: str, observer: ObserverBase[Batch]
    ) -> DisposableBase:
        """The second part of a replay: the watch from where the past ended."""
        return self._subscribe(observer, selection, cursor, live_part, Pace())


def check_point(point: str | datetime | None) -> None:
    """Refuse a time without zone, and no text at all, which over a network is the present."""
    if isinstance(point, datetime) and point.tzinfo is None:
        raise InvalidValue(f"{point} has no time zone; give one, such as datetime.UTC")
    if point == "":
        raise InvalidValue("'' is no point in the past; give a time, or the point of a Revision")


def _close(
    core: Core,
    dispatcher: Dispatcher,
    status: StatusHolder,
    replays: Replays,
    threads: Threads,
    *,
    consumers: Iterable[Run],
) -> None:
    threads.close()
    replays.close(FLUSH_TIMEOUT)
    try:
        core.close()
        for consumer in list(consumers):
            # The end of its subscription ends it; the handler that runs is given time to return.
            consumer.ended.wait(0 if consumer.is_inside() else FLUSH_TIMEOUT)
    finally:
        status.close()
        dispatcher.close(FLUSH_TIMEOUT)
