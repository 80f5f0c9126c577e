"""Between one Source and any number of readers, writers and watchers: nobody waits for another.

Reads and writes go to the Source beside each other. What it tells goes through the `Publisher`,
by position; locks are held for memory work only.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from time import monotonic
from typing import ParamSpec, TypeVar, cast

from datastream._watch import reaper
from datastream._watch.awaited import Awaited
from datastream._watch.calls import CLOSED, FORKED, HANGS_AFTER, Calls
from datastream._watch.confirm_empty import Vanished
from datastream._watch.feed import Feed
from datastream._watch.joining import Joiner
from datastream._watch.patience import named, patiently
from datastream._watch.poller import Poller
from datastream._watch.publisher import Publisher
from datastream._watch.status import StatusHolder
from datastream._watch.subscription import Since, Sink, Subscription, state_of
from datastream.entry import PUT, Batch, Capability, Entry
from datastream.errors import (
    DatastreamError,
    Denied,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    ReadOnly,
    RevisionConflict,
    SourceUnavailable,
    StoreClosed,
    Unreadable,
    Unsupported,
)
from datastream.selection import Selection, Selects
from datastream.source import Feature, HasChanges, Reading, Source, Write, Written

T = TypeVar("T")
P = ParamSpec("P")

CLOSE_TIMEOUT = 2.0
"""Seconds `close` gives calls that run, and as many the source itself."""

BROUGHT = 0.05
"""Seconds that a source has to bring what was written before it is polled."""

LOOK_SOON = 5.0
"""Seconds after which the backend is read although it announced nothing, while what was published
is later than the position: the source need not announce what a read has shown."""

HANG = "hang"
ANSWERS = (
    *(KeyNotFound, InvalidKey, InvalidValue, ReadOnly, RevisionConflict, Unreadable),
    Unsupported,
)
"""Errors that are an answer of a backend which works."""
TO_WRITES = (*ANSWERS, Denied)
"""The same to a write: who may not write this may still read."""


class Core:
    """The machinery of one store.

    Args:
        source: owned from here on: `close` closes it.
        name: of the store.
        status: takes how calls go.
    """

    def __init__(self, source: Source, name: str, status: StatusHolder) -> None:
        self._source = source
        self._status = status
        self._calls = Calls(source, name)
        self.check_open = self._calls.check_open
        self._instant = source.instant and source.thread_safe
        features = source.features
        self._publisher = Publisher(
            atomic=Feature.ATOMIC in features,
            consistent=not source.eventually_consistent,
            has_log=Feature.LOG in features,
        )
        self._brings_changes = False
        if isinstance(source, HasChanges):
            self._brings_changes = True
            source.publish_to(self._publish_change)
        self._stopped = threading.Event()
        self._feed = Feed(source, self._calls, self._publisher, self._stopped)
        self._joiner = Joiner(source, self._calls, self._publisher, self._feed)
        self.awaited = Awaited(source, self._calls, self._publisher, self)
        """Calls from coroutines."""
        self._poller = Poller(
            f"datastream poll {name}",
            wanted=self._is_watched,
            poll=self._poll,
            wait=self._wait,
            wake=source.wake,
            failed=self._poll_failed,
            rest=self._rest,
        )
        # Another object after each write: what was written while a first subscription joined is
        # read again. A number could be counted up by two threads at once, and miss one.
        self._last_write = object()
        # Those that could not join because the backend was away.
        self._late: deque[Subscription] = deque()
        self._close_lock = threading.Lock()
        self._closing = False
        self._closed = threading.Event()
        self.is_forked = False
        reaper.watch(self)

    @property
    def closed(self) -> bool:
        return bool(self._calls.closed)

    # Reading.

    def get(self, key: str) -> Entry | None:
        """The entry of one key."""
        return self._one(self._source.get, key)

    def get_value(self, key: str) -> tuple[bytes, str] | None:
        """Value and type of one key."""
        return self._one(self._source.get_value, key)

    def _one(self, find: Callable[[str], T], key: str) -> T:
        if self._instant and self._status.well:
            self.check_open()
            return find(key)
        try:
            found = self._calls.one(find, key)
        except StoreClosed:
            raise
        except DatastreamError as error:
            self._call_failed(error)
            raise
        self._call_succeeded()
        return found

    def capabilities(self) -> Sequence[Capability]:
        return self.call(None, self._source.capabilities)

    def snapshot(self, selection: Selection) -> Batch:
        """The state of the selected keys.

        Raises:
            Unreadable: there is nothing but what cannot be read; it would pass for an empty store.
        """
        reading = self._read_whole(selection)
        self._check_readable(reading, selection)
        return state_of(reading, selection)

    def state(self, selection: Selection) -> Batch:
        """The same, also if nothing of it can be read."""
        return state_of(self._read_whole(selection), selection)

    def _read_whole(self, selection: Selection) -> Reading:
        reading = self.read_state(selection)
        if reading.load is None:
            return reading
        entries = self.call(None, reading.load, reading.entries)
        left_out = {entry.key for entry in reading.entries} - {entry.key for entry in entries}
        # What has gone while it was loaded is no part of a state.
        present = [entry for entry in entries if entry.operation is PUT]
        return reading._replace(entries=present, unread=reading.unread | left_out)

    def read_keys(self, selection: Selection) -> Reading:
        """The selected keys, perhaps without their values.

        Raises:
            Unreadable: as of `snapshot`.
        """
        reading = self.read_state(selection)
        self._check_readable(reading, selection)
        return reading

    def _check_readable(self, reading: Reading, selection: Selection) -> None:
        if not reading.entries and any(map(selection.matches, reading.unread)):
            why = self._source.health.degraded
            raise Unreadable(f"nothing of what is selected can be read: {why}")

    def read_state(self, selection: Selection) -> Reading:
        """The selected keys, perhaps without their values; see `Reading.load`."""
        return self.report(self._read_state, selection)

    def _read_state(self, selection: Selection) -> Reading:
        reading = self._feed.read(selection, None)
        if not reading.entries and self._publisher.knows_any(selection):
            # Watchers know better: the poll finds out, and believes it only after a second look.
            self._feed.catch_up_twice()
            reading = self._feed.read(selection, None)
        return reading

    def catch_up(self) -> None:
        """Have published all that is there now, or any read has shown, before this returns."""
        self.report(self._catch_up)

    def _catch_up(self) -> None:
        if self._publisher.position is not None:
            self.call(None, self._source.reach)
        self._feed.begin_anew()
        self._feed.catch_up_twice()

    def read_changes(self, selection: Selection, since: str) -> Reading:
        """What changed since a cursor; complete, if the backend cannot tell."""
        self._feed.begin_anew()
        is_honoured = self.call(None, self._source.newcomer, since, covered=False)
        return self.report(self._feed.read, selection, since if is_honoured else None)

    def load(self, reading: Reading, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The values of entries of `reading`; a DELETE for what has gone meanwhile."""
        if reading.load is None:
            return entries
        return self.call(None, reading.load, entries)

    def call(
        self, key: str | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call the source; how that goes is the status."""
        return self.report(self._calls, key, function, *args, **kwargs)

    def report(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns; how that goes is the status."""
        return self._report(ANSWERS, function, *args, **kwargs)

    def report_write(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same of a write."""
        return self._report(TO_WRITES, function, *args, **kwargs)

    def _report(
        self,
        answers: tuple[type[DatastreamError], ...],
        function: Callable[P, T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            answer = function(*args, **kwargs)
        except StoreClosed:
            raise
        except DatastreamError as error:
            self._call_failed(error, answers)
            raise
        self._call_succeeded()
        return answer

    def iterate(
        self, key: str | None, start: Callable[[], Iterator[T]]
    ) -> Generator[T, None, None]:
        """What an iterator of the source gives, its errors translated; `start` makes it."""
        end = object()
        items = self._calls(key, start)
        try:
            while (item := self._calls(key, next, items, end)) is not end:
                yield cast(T, item)
        finally:
            getattr(items, "close", lambda: None)()

    def ask_past(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the source about its past: how that goes is no state of the store."""
        return self._calls(None, function, *args, **kwargs)

    def is_folder(self, key: str) -> bool:
        """Whether `key` holds nothing while keys lie below it."""
        if self._source.eventually_consistent or self._publisher.knows(key):
            return False
        below = Selection(prefixes=frozenset((f"{key}/",)))
        return (
            bool(self._feed.read(below, None).entries)
            and self._calls(key, self._source.get, key) is None
        )

    # Writing.

    def write(self, writes: Sequence[Write], wait: float = 0.0) -> Sequence[Entry]:
        """Write, and offer the changes to the watchers of this store.

        Args:
            wait: seconds for which it is tried again while the backend is away.
        """
        self.check_open()
        if wait:
            return patiently(partial(self.write, named(writes)), wait, self._stopped)
        if self._source.eventually_consistent:
            with self._publisher.remembering():
                return self._write(writes)
        return self._write(writes)

    def _write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        version = self._publisher.version
        if self._instant and self._status.well:
            answer = self._source.write(writes)
        else:
            answer = self.report_write(self._calls, writes[0].key, self._source.write, writes)
        self._last_write = object()
        written = answer if isinstance(answer, Written) else Written(answer)
        publisher = self._publisher
        if publisher.position is not None and not publisher.publish_written(written, version):
            self._offer_by_reading(writes, written)
        return written.entries

    def offer(self, writes: Sequence[Write], written: Written, version: int) -> None:
        """Publish what was written, to those that watch it here."""
        if not self._publisher.publish_written(written, version):
            self._offer_by_reading(writes, written)

    def _offer_by_reading(self, writes: Sequence[Write], written: Written) -> None:
        removed = [write.key for write in writes if write.value is None]
        with self._publisher.deleted(removed) if removed else nullcontext():
            self._publish_by_reading(written.entries)

    def _publish_by_reading(self, stored: Sequence[Entry]) -> None:
        if not self._publisher.concerns(stored):
            return
        if self._source.eventually_consistent:
            self._acknowledged(partial(self._settle, stored))
        else:
            self._acknowledged(self._feed.catch_up)

    def _settle(self, stored: Sequence[Entry]) -> None:
        """Have a source show what is written that may show it later."""
        # A poll would come too late for what the source brings by itself.
        if self._brings_changes and self._publisher.await_published(stored, BROUGHT):
            return
        self._poller.wake()
        self._feed.settle(stored)

    def _acknowledged(self, publish: Callable[[], object]) -> None:
        """Publish what is written and acknowledged: that it cannot be read now is a status."""
        try:
            publish()
        except Exception as error:  # noqa: BLE001
            self._poll_failed(error)
            self._poller.wake()

    # Watching.

    def subscribe(
        self,
        selection: Selection,
        sink: Sink,
        since: Since = None,
        *,
        transient: bool = False,
        lacking: Collection[str] = (),
    ) -> Subscription:
        """Offer `sink` the initial batch, then every change; later, if the backend is away."""
        self.check_open()
        subscription = Subscription(selection, sink, since, transient=transient, lacking=lacking)
        last_write, is_late = self._last_write, False
        try:
            self._joiner.join(subscription)
            self._call_succeeded()
        except SourceUnavailable as error:
            self._call_failed(error)
            self._late.append(subscription)
            is_late = True
        except BaseException:
            self.unsubscribe(subscription)
            raise
        self._poller.start(anew=is_late or subscription.is_first)
        if self._last_write is not last_write:
            self._acknowledged(self._feed.catch_up)
        if self._calls.closed:
            # The store was closed meanwhile, and may not have seen this one.
            self.unsubscribe(subscription)
            sink.end()
        return subscription

    def knows_any(self, selection: Selection) -> bool:
        """Whether watchers know that a selected key holds something."""
        return self._publisher.knows_any(selection)

    def reached(self) -> str | None:
        """The cursor up to which all that have joined were offered everything, if there is one."""
        return self._publisher.reached()

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription: memory work only."""
        if self.is_forked:
            # A thread of the parent may have held a lock.
            return
        with suppress(ValueError):
            self._late.remove(subscription)
        self._publisher.leave(subscription)
        if not self._is_watched():
            self._poller.stop()

    def refresh(self) -> None:
        """Look at the backend now."""
        self.check_open()
        self._source.refresh()
        self._poller.wake()

    # Polling.

    def _publish_change(self, change: Written, asked: Selects | None = None, /) -> bool:
        """Take what the source brings; see `HasChanges`. Its thread may hold locks of others."""
        is_taken = self._publisher.publish_change(change, asked)
        if is_taken and not (self._status.well or self._source.health.error):
            # The trouble is over, which a poll says.
            self._poller.wake()
        return is_taken

    def _is_watched(self) -> bool:
        return bool(self._publisher.routes or self._late) and not self.closed

    def _poll(self) -> None:
        has_read = self._feed.catch_up() > 0 or bool(self._late)
        for _ in range(len(self._late)):
            self._join_late()
        if has_read:
            self._status.succeeded(self._source.health, poll=True)
        self._publisher.learn()

    def _join_late(self) -> None:
        try:
            subscription = self._late[0]
        except IndexError:
            return
        try:
            self._joiner.join(subscription)
            if subscription.is_first:
                # Before `wait`, the source has to be read with the position that it has begun at.
                self._source.wake()
        except SourceUnavailable:
            raise
        except StoreClosed:
            subscription.sink.end()
        except Exception as error:  # noqa: BLE001
            # What `subscribe` would have raised. It must not keep the others waiting for ever.
            subscription.sink.end(error)
        with suppress(ValueError):
            self._late.remove(subscription)
            return
        # It left while it joined.
        self._publisher.leave(subscription)

    def _wait(self, timeout: float) -> None:
        health = self._source.health
        self._calls.wait(min(timeout, LOOK_SOON) if self._publisher.is_ahead else timeout)
        if self._source.health is not health or not self._status.well:
            self._status.succeeded(self._source.health, poll=True)

    def _rest(self) -> None:
        """Nobody watches any more."""
        if not self.closed:
            with suppress(DatastreamError):
                self._calls(None, self._source.release)

    # How it stands.

    def _call_succeeded(self) -> None:
        status = self._status
        if not status.well or self._source.health is not status.health:
            is_over = status.lasting == HANG and not self._calls.hangs()
            status.succeeded(self._source.health, poll=is_over)
            if self._poller.retries:
                self._poller.retry_soon()

    def _call_failed(
        self, error: DatastreamError, answers: tuple[type[DatastreamError], ...] = ANSWERS
    ) -> None:
        # While anybody watches, one refused question is no state of the store.
        if isinstance(error, SourceUnavailable) or (
            self._publisher.position is None and not isinstance(error, answers)
        ):
            self._status.failed(error)

    def _poll_failed(self, error: Exception) -> None:
        if self.closed:
            return
        lasting = isinstance(error, Vanished) or not isinstance(error, SourceUnavailable)
        self._status.failed(error, lasting="poll" if lasting else "")

    def check_hangs(self) -> None:
        """Say so if a call has not returned for long."""
        if self._calls.hangs() and not self.closed:
            error = SourceUnavailable(
                f"a call of the backend has not returned for {HANGS_AFTER:g} s; it is waited for"
            )
            self._status.failed(error, lasting=HANG)

    # The end.

    def forked(self) -> None:
        """In a child process: nothing of this may be used, nor freed, as it is the parent's."""
        self.is_forked = True
        self._calls.closed = FORKED
        self._status.forked()

    def close(self) -> None:
        """Stop polling, end every subscription and close the source, within bounded time."""
        if self.is_forked:
            return
        with self._close_lock:
            first, self._closing = not self._closing, True
        if not first:
            self._closed.wait(2 * CLOSE_TIMEOUT)
            return
        self._calls.closed = CLOSED
        try:
            self._end()
        finally:
            reaper.unwatch(self)
            self._closed.set()

    def _end(self) -> None:
        self._stopped.set()
        self._feed.stop()
        self._poller.stop()
        until = monotonic() + CLOSE_TIMEOUT
        self._poller.join(CLOSE_TIMEOUT)
        self._calls.await_end(max(0.0, until - monotonic()))
        for sink in self._publisher.close():
            sink.end()
        while self._late:
            self._late.popleft().sink.end()
        self._close_source()

    def _close_source(self) -> None:
        if self._source.instant:
            self._source.close()
            return
        # On a thread of its own: it may hang as calls do.
        failed: list[Exception] = []
        thread = threading.Thread(
            target=partial(_close, self._source, failed), name="datastream close", daemon=True
        )
        thread.start()
        thread.join(CLOSE_TIMEOUT)
        if failed:
            raise failed[0]


def _close(source: Source, failed: list[Exception]) -> None:
    try:
        source.close()
    except Exception as error:  # noqa: BLE001
        failed.append(error)
