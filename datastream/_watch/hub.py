"""One reader of a Source for all subscribers of a store.

Every change, the store's own writes included, takes one path: `Source.read` says what is new
since the last look, `Routes` says whom it concerns, each of them is offered one batch. A lock
makes that path single file; subscribers are called beyond it, so they hold up nobody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import tenacity

from datastream._watch import diff as _diff
from datastream._watch.diff import is_news
from datastream._watch.routing import Route, Routes, Sink
from datastream.entry import Batch, Capability, Entry, Operation
from datastream.errors import DatastreamError, SourceUnavailable, StoreClosed
from datastream.selection import Selection
from datastream.source import Reading, Source, Write

T = TypeVar("T")

LOOK_ANYWAY = 60.0
"""Seconds after which the backend is read although it announced nothing."""
RETRY_FIRST, RETRY_MOST = 0.05, 10.0
"""Seconds, at least and at most, between attempts to reach a backend in trouble."""
CLOSE_TIMEOUT = 10.0
"""Seconds `close` gives a running `read` to end."""

Since = str | Mapping[str, str] | None
"""Where to resume: a cursor, or the revision of each key one has."""

Load = Callable[[Sequence[Entry]], Sequence[Entry]]
NOTHING: Mapping[str, str] = MappingProxyType({})


class Seat:
    """One subscription: who, for what, from where."""

    __slots__ = ("route", "selection", "since", "sink")

    def __init__(self, selection: Selection, sink: Sink, since: Since) -> None:
        self.selection = selection
        self.sink = sink
        self.since = since
        self.route: Route | None = None


class Hub:
    """Reads `source` while anybody watches, and tells each subscriber what concerns it.

    Args:
        source: owned from here on: `close` closes it.
        on_status: told None after a look that went well, else the error that prevented it.
    """

    def __init__(self, source: Source, on_status: Callable[[Exception | None], None]) -> None:
        self._source = source
        # None where it is known to know no better: this is asked after every put.
        knows = type(source).read_written is not Source.read_written
        self._read_written = source.read_written if knows else None
        self._on_status = on_status
        self._lock = threading.Lock()
        self._routes = Routes()
        # The revision of every watched key as last offered, complete up to `_position`.
        self._known: dict[str, str] = {}
        self._position: str | None = None
        self._doubted = False
        self._waiting: list[Seat] = []
        self._leaving: deque[Seat] = deque()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._stop.set()
        self._poked = threading.Event()
        # A wait that found the backend away is what counts, not a read of the source's own copy.
        self._in_trouble = False
        self._unfinished = threading.Lock()
        self.closed = False

    def capabilities(self) -> Sequence[Capability]:
        return self._ask(self._source.capabilities)

    def snapshot(self, selection: Selection) -> Batch:
        entries, reading = self._ask(lambda: self._read(selection, None))
        return Batch(tuple(entries), reading.position, initial=True)

    def _ask(self, question: Callable[[], T]) -> T:
        """Read something; how it went is the status, if nobody watches who would tell."""
        with self._turn_taken():
            try:
                answer = question()
            except DatastreamError as error:
                # While anybody watches, one refused question is no state of the store.
                if self._position is None or isinstance(error, SourceUnavailable):
                    self._on_status(error)
                raise
            if self._position is None and not self._waiting:
                self._on_status(None)
            return answer

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        # Spelled out, because this is what every put goes through.
        self._lock.acquire()
        try:
            self._check_open()
            stored = self._source.write(writes)
            if self._position is not None:
                self._look_after_write(stored)
            return stored
        finally:
            self._lock.release()
            if self._leaving:
                self._sweep()

    def subscribe(self, selection: Selection, sink: Sink, since: Since = None) -> Seat:
        """Offer `sink` the initial batch, then every change; later, if the backend is away."""
        seat = Seat(selection, sink, since or None)
        with self._turn_taken():
            try:
                self._admit(seat)
            except SourceUnavailable as error:
                self._waiting.append(seat)
                self._on_status(error)
            self._start()
        return seat

    def unsubscribe(self, seat: Seat) -> None:
        """Never waits for the backend: whoever holds the lock sweeps up when done."""
        self._leaving.append(seat)
        self._sweep()

    def poke(self) -> None:
        """Look at the backend now."""
        self._poked.set()
        self._source.wake()

    def abandon(self) -> None:
        """`close` for a garbage collector: waits for nothing and takes no lock."""
        if not self.closed:
            self.closed = True
            self._halt()
            if self._thread is None or not self._thread.is_alive():
                self._finish()

    def close(self) -> None:
        """Stop reading, end every subscription and close the source."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._halt()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)
        self._finish()

    def _finish(self) -> None:
        # The thread that ends and the caller of close may both come here: the first one does it.
        if not self._unfinished.acquire(blocking=False):
            return
        sinks = [sink for route in self._routes.all() for sink in route.sinks]
        for sink in sinks + [seat.sink for seat in self._waiting]:
            sink.end()
        self._source.close()

    # The reading thread, alive while anybody is subscribed.

    def _start(self) -> None:
        if self._stop.is_set():
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._follow,
                args=(self._stop, self._thread),
                name="datastream-hub",
                daemon=True,
            )
            self._thread.start()

    def _halt(self) -> None:
        self._position = None
        self._known.clear()
        self._stop.set()
        self.poke()

    def _follow(self, stop: threading.Event, predecessor: threading.Thread | None) -> None:
        # Two threads in `Source.wait` would take each other's wake-ups.
        if predecessor is not None:
            predecessor.join()
        del predecessor
        retrying = tenacity.Retrying(
            # At random, so that many readers of one backend do not come back as a herd.
            wait=tenacity.wait_random_exponential(2 * RETRY_FIRST, RETRY_MOST, min=RETRY_FIRST),
            stop=tenacity.stop_when_event_set(stop),
            sleep=tenacity.sleep_using_event(self._poked),
            before_sleep=self._report,
            retry_error_callback=lambda _: None,
        )
        while not stop.is_set():
            retrying(self._turns, stop, retrying.statistics)
        if self.closed:
            self._finish()
        else:
            self._release(stop)

    def _report(self, state: tenacity.RetryCallState) -> None:
        outcome = state.outcome
        error = outcome.exception() if outcome else None
        if isinstance(error, Exception) and not self.closed:
            self._on_status(error)

    def _turns(self, stop: threading.Event, statistics: Mapping[str, Any]) -> None:
        """One turn after another while they go well; after trouble one, to count anew."""
        self._turn(stop)
        while not stop.is_set() and statistics["attempt_number"] == 1:
            self._turn(stop)

    def _turn(self, stop: threading.Event) -> None:
        self._poked.clear()
        try:
            with self._lock:
                if stop.is_set():
                    return
                self._look()
        finally:
            self._sweep()
        if not stop.is_set():
            self._in_trouble = self._source.keeps_copy
            self._source.wait(LOOK_ANYWAY)
            self._in_trouble = False

    def _release(self, stop: threading.Event) -> None:
        """Let the source rest, unless somebody has subscribed again meanwhile."""
        with self._lock:
            if self._stop is stop and not self.closed:
                self._source.release()

    # Under the lock.

    def _check_open(self) -> None:
        if self.closed:
            raise StoreClosed("this store was closed; open it again to go on")

    def _read(
        self,
        selection: Selection,
        since: str | None,
        had: Mapping[str, str] = NOTHING,
        *,
        values: bool = True,
    ) -> tuple[list[Entry], Reading]:
        """The entries of `selection`; without `values`, and for what the reader `had`, they may
        be told by their revisions only."""
        reading = self._source.read(selection, since)
        entries = list(reading.entries)
        if not selection.everything:
            matches = selection.matches
            entries = [entry for entry in entries if matches(entry.key)]
        if reading.load is not None and values:
            entries = _loaded(reading.load, entries, had)
            if reading.complete:
                # What has gone while it was loaded is no part of a state.
                entries = [entry for entry in entries if entry.operation is Operation.PUT]
        return entries, reading

    def _look(self) -> None:
        if self._position is not None:
            self._catch_up()
        while self._waiting:
            self._admit_late(self._waiting[0])
            del self._waiting[0]
        if not self._in_trouble:
            self._on_status(None)

    def _admit_late(self, seat: Seat) -> None:
        try:
            self._admit(seat)
        except SourceUnavailable:
            raise
        except Exception as error:  # noqa: BLE001
            # What `subscribe` would have raised. It must not keep the others waiting for ever.
            seat.sink.end(error)

    def _look_after_write(self, stored: Sequence[Entry]) -> None:
        try:
            reading = self._read_written(stored) if self._read_written else None
            if reading is not None:
                self._take(reading, [e for e in reading.entries if is_news(self._known, e)])
                return
            if self._source.lags:
                self._settle_own(stored)
            # That nothing is left is no wonder after one's own deletes.
            self._doubted = stored[-1].operation is Operation.DELETE
            self._catch_up()
        except Exception as error:  # noqa: BLE001
            # What was written is acknowledged; that it cannot be read back now is a status.
            self._on_status(error)
            self.poke()

    def _settle_own(self, stored: Sequence[Entry]) -> None:
        news = [e for e in stored if self._routes.matches(e.key) and is_news(self._known, e)]
        if news:
            self._source.settle(news)

    def _catch_up(self) -> list[Entry]:
        """Offer everybody what is new since the last look, and return it."""
        known = self._known
        reading = self._source.read(self._routes, self._position)
        if reading.complete:
            self._doubt(reading)
            entries = _diff.difference(known, reading.entries)
        else:
            self._doubted = False
            entries = [entry for entry in reading.entries if is_news(known, entry)]
        if reading.load is not None:
            # What moved on while it was loaded may be what it was before.
            entries = _loaded(reading.load, entries)
            entries = [entry for entry in entries if is_news(known, entry)]
        self._take(reading, entries)
        return entries

    def _take(self, reading: Reading, news: list[Entry]) -> None:
        """Offer everybody what is new in a reading."""
        self._position = position = reading.position
        for route, part in self._routes.split(news).items():
            _diff.learn(self._known, part)
            batch = Batch(tuple(part), position)
            for sink in route.sinks:
                sink.offer(batch)

    def _doubt(self, reading: Reading) -> None:
        """That all is gone at once is believed only when a second look says so too."""
        vanished = bool(self._known) and not reading.entries
        if vanished and not self._doubted:
            self._doubted = True
            raise SourceUnavailable(
                f"all {len(self._known)} watched keys vanished at once; looking again before "
                "believing it"
            )
        self._doubted = False

    def _admit(self, seat: Seat) -> None:
        """Seat a subscriber: its initial batch is the state at the very position all are at."""
        if isinstance(seat.since, str) and self._position is not None:
            self._catch_up()
        route = self._routes.add(seat.selection)
        try:
            batch = self._first_batch(seat, new=not route.sinks)
        except BaseException:
            self._drop_if_empty(route)
            raise
        seat.route = route
        if not route.sinks or isinstance(seat.since, str):
            # What `wait` looks out for is what was last read: that has to be everybody's again.
            self._source.wake()
        route.sinks.append(seat.sink)
        seat.sink.offer(batch)

    def _first_batch(self, seat: Seat, *, new: bool) -> Batch:
        selection, since = seat.selection, seat.since
        cursor = since if isinstance(since, str) else None
        if cursor is not None and self._source.lags:
            # A stream that happens to be there may not show yet what the state shows already.
            self._source.release()
        had = NOTHING
        if isinstance(since, Mapping):
            had = {key: revision for key, revision in since.items() if selection.matches(key)}
        # What is read only to know where everybody is needs no values.
        values = not new or cursor is None
        state, reading = self._read(selection, None if new else cursor, had, values=values)
        if new:
            self._learn_uncovered(state, reading)
            if cursor is not None:
                state, reading = self._read(selection, cursor)
        reset = cursor is not None and reading.complete
        entries = state
        if isinstance(since, Mapping):
            entries = _diff.difference(had, state)
        if reading.position != self._position:
            if self._source.lags:
                self._settle_read(selection, reading, state)
            changed = [e for e in self._catch_up() if selection.matches(e.key)]
            entries = _diff.fold(entries, changed)
        if since is None or reset:
            entries = [entry for entry in entries if entry.operation is Operation.PUT]
        return Batch(tuple(entries), self._position or "", initial=True, reset=reset)

    def _settle_read(self, selection: Selection, reading: Reading, state: list[Entry]) -> None:
        """Let a source that lags catch up with what it just answered.

        Otherwise the new subscriber would see that state first and what led to it afterwards.
        """
        if reading.complete:
            known = {key: rev for key, rev in self._known.items() if selection.matches(key)}
            ahead = _diff.difference(known, state)
        else:
            ahead = [entry for entry in state if is_news(self._known, entry)]
        if ahead:
            self._source.settle(ahead)

    def _learn_uncovered(self, entries: Iterable[Entry], reading: Reading) -> None:
        """Note the revisions of keys that nobody watched before.

        Those already watched keep the revision they were offered with: what happened to them
        since must still count as news to their subscribers.
        """
        if self._position is None:
            self._known.clear()
            self._position = reading.position
        known = self._known
        for entry in entries:
            if not any(route.sinks for route in self._routes.of(entry.key)):
                known[entry.key] = entry.revision

    # Taking turns, and leaving.

    @contextmanager
    def _turn_taken(self) -> Iterator[None]:
        """The lock of an open hub. Who has left meanwhile is seen off at the end."""
        try:
            with self._lock:
                self._check_open()
                yield
        finally:
            self._sweep()

    def _sweep(self) -> None:
        while self._leaving and self._lock.acquire(blocking=False):
            try:
                self._remove_leaving()
            finally:
                self._lock.release()

    def _remove_leaving(self) -> None:
        while self._leaving:
            seat = self._leaving.popleft()
            if seat in self._waiting:
                self._waiting.remove(seat)
            route = seat.route
            if route is not None and seat.sink in route.sinks:
                route.sinks.remove(seat.sink)
                self._drop_if_empty(route)
        if not self._routes and not self._waiting and not self._stop.is_set():
            self._halt()

    def _drop_if_empty(self, route: Route) -> None:
        if route.sinks:
            return
        self._routes.remove(route)
        if not self._routes:
            self._position = None
            self._known.clear()
        selection = route.selection
        exact = not (selection.prefixes or selection.patterns or selection.everything)
        for key in selection.keys if exact else list(self._known):
            if not self._routes.matches(key):
                self._known.pop(key, None)


def _loaded(load: Load, entries: Sequence[Entry], had: Mapping[str, str] = NOTHING) -> list[Entry]:
    """`entries`, the puts among them with their values, except those that the reader `had`."""
    wanted = [
        entry
        for entry in entries
        if entry.operation is Operation.PUT and had.get(entry.key) != entry.revision
    ]
    values = {entry.key: entry for entry in load(wanted)} if wanted else {}
    return [values.get(entry.key, entry) for entry in entries]
