"""Where a consumer's changes come from: a watch, the keys' past, or the commits of a repository."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from datastream._consume.progress import UNSURE, Progress
from datastream._watch.buffer import CompleteBuffer, NewestBuffer
from datastream._watch.diff import revision_of
from datastream._watch.subscription import Since, Subscription
from datastream.entry import PUT, Batch, Entry
from datastream.errors import DatastreamError, SourceUnavailable, StoreClosed, shown
from datastream.selection import Selection
from datastream.source import Feature, HasReplay, Reading

if TYPE_CHECKING:
    from datastream.store import Store

T = TypeVar("T")

MOST_REVISIONS = 1_000
"""Revisions of one key that are looked through for the one that was handled last."""

log = logging.getLogger("datastream")


class Host(Protocol):
    """What a feed needs of whom it feeds."""

    def persist(self, call: Callable[[], T]) -> T:
        """What `call` returns once it does not raise."""
        ...

    def drain(self) -> None:
        """Wait until all that was given is handled and known to `progress`."""
        ...

    def pause(self, error: Exception) -> None:
        """Say what went wrong, and wait before it is tried again."""
        ...

    def rested(self) -> None:
        """All that was offered was given; memory work only."""
        ...


class Given:
    """What a feed gives: changes to handle, or where to begin.

    Args:
        batch: as it came.
        entries: what of it is to be handled, in order; a key may occur several times.
        is_start: nothing of it is to be handled: from here on, changes are.
    """

    __slots__ = ("batch", "cursor", "entries", "is_start")

    def __init__(self, batch: Batch, entries: Sequence[Entry], *, is_start: bool = False) -> None:
        self.batch = batch
        self.cursor = batch.cursor
        self.entries = entries
        self.is_start = is_start


class Intake:
    """Takes the batches of one subscription until the feed does.

    Args:
        conflate: keep the newest entry of each key only.
        what: is watched.
        rested: called when all of it was taken, and given to the host.
    """

    def __init__(self, what: str, rested: Callable[[], object], *, conflate: bool) -> None:
        self._rested = rested
        self._buffer = NewestBuffer() if conflate else CompleteBuffer(what)
        self._changed = threading.Condition()
        self.subscription: Subscription | None = None
        self.is_over = False
        self.has_lost = False
        """It was too much; what came since was dropped."""
        self.error: Exception | None = None
        self.waiting = 0
        """Changes that came, and were not given to the host yet."""
        self._in_hand = 0
        self._owes = False

    def offer(self, batch: Batch, before: Sequence[str | None] | None = None, /) -> None:
        with self._changed:
            if self.has_lost or self.is_over:
                return
            self.has_lost = self._buffer.put(batch, before) is not None
            self.waiting += len(batch.entries)
            if self.has_lost:
                self.owe()
            self._changed.notify_all()

    def end(self, error: Exception | None = None) -> None:
        with self._changed:
            self.is_over, self.error = True, error
            self._changed.notify_all()

    def take(self) -> Batch | None:
        """The next batch; None after the last, or where what followed was lost."""
        with self._changed:
            # Whoever comes for the next one has given the last one to the host.
            left = max(0, self.waiting - self._in_hand)
            self._are_waiting(left if self._buffer else int(self._owes))
            self._changed.wait_for(lambda: self._buffer or self.is_over or self.has_lost)
            if self.error is not None:
                raise self.error
            batch = None if self.is_over else self._buffer.take()
            self._in_hand = 0 if batch is None else len(batch)
            self._owes &= batch is None or not batch.initial
            return batch

    def owe(self) -> None:
        """More is to come than is waiting: what was lost."""
        self._owes, self.waiting = True, max(1, self.waiting)

    def _are_waiting(self, changes: int) -> None:
        self.waiting = changes
        if not changes:
            self._rested()


class Signal(Intake):
    """Keeps the first batch, and of all that follow only that there was something."""

    _rang = False

    def offer(self, batch: Batch, before: Sequence[str | None] | None = None, /) -> None:
        if batch.initial:
            super().offer(batch, before)
            return
        with self._changed:
            self.waiting, self._rang = 1, True
            self._changed.notify_all()

    def wait(self) -> bool:
        """Wait until something followed; False where nothing will."""
        with self._changed:
            self._are_waiting(int(self._rang))
            self._changed.wait_for(lambda: self._rang or self.is_over)
            self._rang = False
            return not self.is_over


class Feed:
    """The changes of a store from where a consumer stands: in order, without end.

    Args:
        store: kept open as long as this runs.
        selection: which keys.
        progress: what was handled.
        host: handles them.
        what: is consumed, for errors and the log.
        initial: a consumer that was never here handles the present state first.
        conflate: of what waits, only the newest entry of each key is of interest.
    """

    def __init__(
        self,
        store: Store,
        selection: Selection,
        progress: Progress,
        host: Host,
        what: str,
        *,
        initial: bool,
        conflate: bool,
    ) -> None:
        self._store = store
        self._selection = selection
        self._progress = progress
        self._host = host
        self._what = what
        self._initial = initial
        self._conflate = conflate
        self._intake = self._new_intake()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Changes that came and were not given yet."""
        return self._intake.waiting

    def open(self) -> None:
        """Subscribe.

        Raises:
            DatastreamError: what `Store.watch` raises.
        """
        progress = self._progress
        since: Since = None
        if progress.begun:
            since = progress.cursor if self._can_resume() else dict(progress.revisions)
        self._subscribe(since)

    def close(self) -> None:
        """Give nothing any more."""
        self._closed = True
        self._intake.end()
        self._leave()

    def given(self) -> Iterator[Given]:
        """Subscribed once, what there is to handle; ends when it is closed, or its store."""
        while (batch := self._next()) is not None:
            yield from self._of(batch)

    def _of(self, batch: Batch) -> Iterator[Given]:
        if not self._progress.begun:
            yield Given(batch, batch.entries if self._initial else (), is_start=not self._initial)
        elif batch.initial:
            # Some of it may have been handled, after what the cursor stands for.
            yield Given(batch, [entry for entry in batch.entries if self._progress.is_news(entry)])
        else:
            yield Given(batch, batch.entries)

    def _new_intake(self) -> Intake:
        return Intake(self._what, self._host.rested, conflate=self._conflate)

    def _can_resume(self) -> bool:
        return bool(self._progress.cursor) and Feature.LOG in self._store.features

    def _next(self) -> Batch | None:
        """The next batch that stands where we do."""
        while True:
            batch = self._intake.take()
            if self._intake.is_over:
                return None
            if batch is not None and not (batch.reset and self._progress.begun):
                return batch
            # Too much waited, or the cursor is worth nothing. What was handled is known key by key.
            self._host.drain()
            if self._closed:
                return None
            self._host.persist(self._resubscribe)

    def _resubscribe(self) -> None:
        self._leave()
        if self._closed:
            return
        lost, new = self._intake, self._new_intake()
        new.owe()
        self._intake = new
        log.info("%s: goes on from the revisions that were handled", self._what)
        try:
            self._subscribe(dict(self._progress.revisions))
        except BaseException:
            self._intake = lost
            raise

    def _subscribe(self, since: Since) -> None:
        intake = self._intake
        # With `transient`: a handler may have been called with a key that was created after the
        # cursor, and is gone again.
        intake.subscription = self._store._core.subscribe(
            self._selection, intake, since, transient=isinstance(since, str)
        )
        if self._closed:
            self.close()

    def _leave(self) -> None:
        subscription, self._intake.subscription = self._intake.subscription, None
        if subscription is not None:
            self._store._core.unsubscribe(subscription)


class PastFeed(Feed):
    """The same where the backend keeps what each key held: nothing in between is left out."""

    # The revision that was given last of each key, and perhaps not handled yet.
    _last: dict[str, str | None]

    def given(self) -> Iterator[Given]:
        self._last = {}
        return super().given()

    def _of(self, batch: Batch) -> Iterator[Given]:
        is_first = not self._progress.begun
        for given in super()._of(batch):
            if not is_first:
                given.entries = list(self._expanded(given.entries))
            yield given

    def _expanded(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            found = self._host.persist(partial(self._since_last, entry))
            if found:
                self._last[entry.key] = revision_of(found[-1])
            yield from found

    def _since_last(self, entry: Entry) -> list[Entry]:
        """What the key held after the revision that was given last, oldest first."""
        key, handled = entry.key, self._progress.revisions
        last = self._last.get(key, handled.get(key))
        is_known = (key in self._last or key in handled) and last != UNSURE
        unsure = last.removeprefix(UNSURE) if last and last.startswith(UNSURE) else None
        found: list[Entry] = []
        for revision in islice(self._store.history(key), MOST_REVISIONS):
            at = revision_of(revision.entry)
            # A key that was never given begins where it was created last.
            is_before = at == last if is_known else at is None and bool(found) and _holds(found[-1])
            if is_before:
                break
            found.append(revision.entry)
            if unsure is not None and at == unsure:
                break
        else:
            return found[::-1] or [entry]
        return found[::-1]


def _holds(entry: Entry) -> bool:
    return entry.operation is PUT


class CommitFeed(Feed):
    """The same where commits can be replayed: each is given, in order; the watch only wakes us."""

    def given(self) -> Iterator[Given]:
        point = self._progress.cursor
        first = self._intake.take()
        if first is None:
            return
        if first.reset and self._progress.begun:
            point = yield from self._anew()
        elif not point:
            yield from self._of(first)
            point = first.cursor
        while not self._closed:
            point = yield from self._commits(point)
            if not self._signal.wait():
                return

    @property
    def _signal(self) -> Signal:
        return cast(Signal, self._intake)

    def _new_intake(self) -> Signal:
        return Signal(self._what, self._host.rested, conflate=False)

    def _anew(self) -> Generator[Given, None, str]:
        """The difference to what was handled, where no commit says how it came about."""
        self._host.drain()
        self._host.persist(self._resubscribe)
        batch = self._intake.take()
        if batch is None:
            return ""
        yield from self._of(batch)
        return batch.cursor

    def _commits(self, point: str) -> Generator[Given, None, str]:
        """Those after `point`; the point of the last one."""
        while not self._closed:
            try:
                for reading in self._readings(point):
                    entries = _selected(reading, self._selection)
                    yield Given(_batch(reading, entries), entries)
                    point = reading.point or reading.position
                return point
            except StoreClosed:
                raise
            except SourceUnavailable as error:
                self._host.pause(error)
            except DatastreamError as error:
                log.warning(
                    "%s: commits after %s cannot be replayed, what differs is handled instead: %s",
                    self._what,
                    shown(point),
                    error,
                )
                return (yield from self._anew())
        return point

    def _readings(self, point: str) -> Iterator[Reading]:
        core, source = self._store._core, cast(HasReplay, self._store._source)
        readings = core.iterate(None, lambda: source.replay(self._selection, point or None))
        # The first one is the state at `point`.
        return islice(readings, 1, None)


def _selected(reading: Reading, selection: Selection) -> tuple[Entry, ...]:
    return tuple(entry for entry in reading.entries if selection.matches(entry.key))


def _batch(reading: Reading, entries: tuple[Entry, ...]) -> Batch:
    return Batch(
        entries,
        reading.position,
        author=reading.author,
        message=reading.message,
        point=reading.point,
    )


def feed_of(store: Store, *, conflate: bool, whole: bool) -> type[Feed]:
    """The kind of feed that leaves out least.

    Args:
        whole: batches are handled, in which each key occurs once.
    """
    features = store.features
    if conflate:
        return Feed
    # What can be written, but not together, has no commits: its keys' pasts say as much, for less.
    has_commits = Feature.ATOMIC in features or Feature.WRITE not in features
    if Feature.REPLAY in features and has_commits:
        return CommitFeed
    return PastFeed if Feature.HISTORY in features and not whole else Feed
