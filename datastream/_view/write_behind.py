"""Brings a cache along behind the changes of a view, on a thread of the dispatcher."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from time import monotonic

from datastream._columns import EntryColumns
from datastream._view.cache import Cached, CacheFile, TooLarge, in_chunks
from datastream._view.state import ViewState, row_of
from datastream._watch.dispatcher import Dispatcher
from datastream.entry import Batch

PAUSE = 1.0
"""Seconds from a change until it is written, at least."""
SHARE = 0.05
"""Of the time, at most, that writing takes."""

log = logging.getLogger("datastream")


class WriteBehind:
    """Writes the state of a view some time after it changed; a job of the dispatcher.

    Args:
        file: the cache.
        state: of the view; it keeps entries.
        dispatcher: lends a thread; before it ends, what waits is written.
    """

    def __init__(self, file: CacheFile, state: ViewState, dispatcher: Dispatcher) -> None:
        self._file = file
        self._state = state
        self._dispatcher = dispatcher
        self._lock = threading.Lock()
        self._is_due = False
        self._is_changed = False
        self._pause = PAUSE
        self._complaint = ""

    def restore(self) -> datetime | None:
        """Begin with what the cache holds; when that was good, None if it holds nothing."""
        self._file.remove_abandoned()
        cached = self._file.read()
        if cached is None:
            return None
        self._state.restore(cached.good, cached.cursor)
        # Decoded once more: what was refused then may be taken now.
        newest = EntryColumns.joined(cached.refused)
        if newest:
            self._state.apply(Batch(newest, cached.cursor))
        return cached.saved_at

    def __call__(self) -> None:
        """The state has changed."""
        with self._lock:
            self._is_changed = True
            if self._is_due:
                return
            self._is_due = True
        self._dispatcher.submit(self, self._pause)

    def deliver(self) -> bool:
        """Write the state of now."""
        with self._lock:
            self._is_changed = False
        began = monotonic()
        self._write()
        self._pause = max(PAUSE, (monotonic() - began) / SHARE)
        with self._lock:
            self._is_due = self._is_changed
            again = self._is_due
        if again:
            self._dispatcher.submit(self, self._pause)
        return False

    def _write(self) -> None:
        picture = self._state.picture()
        refused = {key: row_of(one.entry) for key, one in picture.refused.items()}
        # The time is for users to read; nothing is decided by it.
        now = datetime.now(UTC)
        good = list(in_chunks(picture.rows))
        cached = Cached(good, list(in_chunks(refused)), picture.cursor, now)
        try:
            self._file.write(cached)
        except (OSError, TooLarge) as error:
            self._complain(getattr(error, "strerror", None) or str(error))
        else:
            self._complaint = ""

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            path = self._file.path
            log.warning("cache %s cannot be written: %s", path, complaint)
        self._complaint = complaint
