"""The past as batches, going over into the live watch: one thread for each subscription."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import replace
from datetime import datetime
from functools import partial
from time import monotonic
from typing import NamedTuple

from reactivex.abc import DisposableBase, ObserverBase

from datastream._threads import join
from datastream.entry import Batch, Entry
from datastream.selection import Selection
from datastream.source import Reading

log = logging.getLogger("datastream")

GoLive = Callable[[str, ObserverBase[Batch]], DisposableBase]
"""Subscribes to what follows a cursor."""


class Script(NamedTuple):
    """What to replay."""

    readings: Callable[[], Iterator[Reading]]
    """`Source.replay`; the thread calls it, and closes what it returns."""
    selection: Selection
    speed: float | None
    """Of the clock by which the entries were written; None for no clock at all."""
    go_live: GoLive
    """Called once the past is over."""


class Replay(DisposableBase):
    """Gives one observer what happened, at its own pace, then what happens.

    Args:
        observer: whose calls never overlap.
        on_end: called when the thread is done.
    """

    def __init__(
        self, script: Script, observer: ObserverBase[Batch], on_end: Callable[[Replay], None]
    ) -> None:
        self._script = script
        self._clock = _Clock(script.speed)
        self._observer = observer
        self._on_end = on_end
        self._stopped = threading.Event()
        self._ending = False
        self._lock = threading.Lock()
        self._live: DisposableBase | None = None
        context = copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="datastream-replay", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def dispose(self) -> None:
        """End it, whether it is in the past or the present."""
        self._stopped.set()
        with self._lock:
            live = self._live
        if live is not None:
            live.dispose()

    def end(self, timeout: float) -> None:
        """End the past and complete the observer; what is live ends with the store."""
        self._ending = True
        self._stopped.set()
        if self._thread is not threading.current_thread():
            join(self._thread, timeout)

    def _run(self) -> None:
        try:
            cursor = self._replay()
            if cursor is not None:
                self._follow(cursor)
            elif self._ending:
                self._tell(self._observer.on_completed)
        except Exception as error:  # noqa: BLE001
            # The only end that is not the store's: the past cannot be read.
            if not self._stopped.is_set():
                self._tell(partial(self._observer.on_error, error))
            elif self._ending:
                self._tell(self._observer.on_completed)
        finally:
            self._on_end(self)

    def _replay(self) -> str | None:
        """Emit the past; the cursor of its end, None if it was not reached."""
        cursor, first = "", True
        matches = self._script.selection.matches
        readings = self._script.readings()
        try:
            for reading in readings:
                if not self._clock.wait(reading, self._stopped):
                    return None
                cursor = reading.position
                found = tuple(e for e in reading.entries if matches(e.key))
                if (first or found) and not self._emit(_batch(reading, found, initial=first)):
                    return None
                first = False
        finally:
            getattr(readings, "close", lambda: None)()
        return cursor

    def _emit(self, batch: Batch) -> bool:
        """Call the observer; False if it wants no more."""
        self._tell(partial(self._observer.on_next, batch))
        return not self._stopped.is_set()

    def _tell(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception:
            log.exception("a subscriber raised and is disposed; the others go on")
            self._stopped.set()

    def _follow(self, cursor: str) -> None:
        live = self._script.go_live(cursor, self._observer)
        with self._lock:
            self._live = live
        # At the end of the store, who is live already is completed like any watcher.
        if self._stopped.is_set() and not self._ending:
            live.dispose()


def batches(readings: Iterator[Reading], selection: Selection) -> Iterator[Batch]:
    """What `Source.replay` gives as batches, those too that hold nothing of `selection`."""
    initial = True
    for reading in readings:
        found = tuple(entry for entry in reading.entries if selection.matches(entry.key))
        yield _batch(reading, found, initial=initial)
        initial = False


def _batch(reading: Reading, found: tuple[Entry, ...], *, initial: bool) -> Batch:
    return Batch(
        found,
        reading.position,
        initial=initial,
        author=reading.author,
        message=reading.message,
        point=reading.point,
    )


class Replays:
    """The replays of one store that are in the past."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Replay] = set()

    def start(self, script: Script, observer: ObserverBase[Batch]) -> DisposableBase:
        """Begin one; disposing of what this returns ends it."""
        replay = Replay(script, observer, self._forget)
        with self._lock:
            # Started before anybody can end it, and known before it can end itself.
            replay.start()
            self._running.add(replay)
        return replay

    def close(self, timeout: float) -> None:
        """End all, giving each `timeout` seconds."""
        with self._lock:
            running = list(self._running)
        for replay in running:
            replay.end(timeout)

    def _forget(self, replay: Replay) -> None:
        with self._lock:
            self._running.discard(replay)


class _Clock:
    """Holds readings back until their time has come."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._origin: tuple[datetime, float] | None = None

    def wait(self, reading: Reading, stopped: threading.Event) -> bool:
        """Wait until `reading` is due; False if `stopped` was set before."""
        times = [entry.updated_at for entry in reading.entries if entry.updated_at is not None]
        if self._speed is None or not times:
            return not stopped.is_set()
        time = max(times)
        if self._origin is None:
            self._origin = time, monotonic()
        # From the start, so that the subscriber's own time does not add up; and never backwards.
        began, at = self._origin
        due = at + (time - began).total_seconds() / self._speed
        return not stopped.wait(max(0.0, due - monotonic()))


def live_part(batch: Batch) -> tuple[Batch, ...]:
    """What a live watch gives as the second part of a replay: its first batch is none."""
    return (replace(batch, initial=False),) if batch.entries or batch.reset else ()
