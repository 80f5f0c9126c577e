"""What was handled and is not saved yet, and up to which cursor nothing is missing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic

from datastream._consume.progress import UNSURE, Place
from datastream._consume.queue import Step, Task
from datastream._watch.diff import revision_of
from datastream.entry import Batch, Entry, Operation

PUT = Operation.PUT
SAVE_WITHIN = 0.01
"""Seconds for which what was handled may wait to be saved while more is being handled."""


class Ledger:
    """Keeps the books of one consumer, and its place.

    Args:
        place: where they are saved.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._open: deque[Step] = deque()
        self._handled: dict[str, str | None] = {}
        self._cursor: str | None = None
        self._saved_at = monotonic()
        self._tasks = 0

    def begin(self, step: Step) -> None:
        """A step follows those that began before."""
        with self._lock:
            self._open.append(step)
            self._tasks += step.left
            self._close_steps()

    def done(self, task: Task) -> bool:
        """Take in that a task was handled; whether the place should be saved now."""
        with self._lock:
            for entry in task.entries:
                self._handled[entry.key] = revision_of(entry)
            task.step.left -= 1
            self._tasks -= 1
            self._close_steps()
            # One sync for several quick ones: else it is the disk that sets the pace.
            return not self._tasks or monotonic() - self._saved_at > SAVE_WITHIN

    def stand(self, batch: Batch) -> None:
        """Save that everything up to `batch`, the present state, needs no handling."""
        state = {entry.key: entry.revision for entry in batch.entries}
        with self._saving:
            self.place.save(state, batch.cursor)

    def announce(self, entries: Sequence[Entry], *, durable: bool) -> None:
        """Save that a handler may be called with keys of which the place knows nothing.

        If the process ends before it is saved that they were handled, and they are removed before
        the next start, the handler has to be told of that.
        """
        progress = self.place.progress
        known = progress.revisions
        new: dict[str, str] = {}
        for entry in entries:
            if entry.operation is PUT and entry.key not in known:
                # The first, where a key comes several times: those before it were handled.
                new.setdefault(entry.key, UNSURE + entry.revision)
        # From here on it is the revisions that tell what was handled.
        cursor = None if progress.begun else ""
        if new or cursor is not None:
            with self._saving:
                self.place.save(new, cursor, durable=durable)

    def save(self) -> None:
        """Save what was handled; those who come while another one saves find little left to do."""
        with self._saving:
            with self._lock:
                handled, self._handled = self._handled, {}
                cursor, self._cursor = self._cursor, None
                self._saved_at = monotonic()
            if not handled and cursor is None:
                return
            try:
                self.place.save(handled, cursor)
            except BaseException:
                self._give_back(handled, cursor)
                raise

    @property
    def oldest(self) -> float | None:
        """Since when, by `monotonic`, the oldest step is open."""
        with self._lock:
            return self._open[0].began if self._open else None

    def close(self) -> None:
        with self._saving:
            self.place.close()

    def _close_steps(self) -> None:
        while self._open and not self._open[0].left:
            self._cursor = self._open.popleft().cursor

    def _give_back(self, handled: dict[str, str | None], cursor: str | None) -> None:
        with self._lock:
            self._handled = handled | self._handled
            if self._cursor is None:
                self._cursor = cursor
