"""What was handled and is not saved yet, and up to which cursor nothing is missing."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from time import monotonic

from datastream._consume.progress import UNSURE, Place
from datastream._consume.queue import Step, Task
from datastream._watch.diff import revision_of
from datastream.entry import PUT, Batch, Entry

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
        # Changes of each key that began and are not handled.
        self._pending: Counter[str] = Counter()

    def begin(self, step: Step, entries: Sequence[Entry]) -> None:
        """A step of these changes follows those that began before."""
        with self._lock:
            self._open.append(step)
            self._tasks += step.left
            for entry in entries:
                self._pending[entry.key] += 1
                if entry.operation is PUT and self._handled.get(entry.key, PUT) is None:
                    # Removed, and not saved yet; by then it may be there again.
                    self._handled[entry.key] = UNSURE + entry.revision
            self._close_steps()

    def done(self, task: Task) -> bool:
        """Take in that a task was handled; whether the place should be saved now."""
        with self._lock:
            for entry in task.entries:
                self._handled[entry.key] = self._done(entry)
            task.step.left -= 1
            self._tasks -= 1
            self._close_steps()
            # One sync for several quick ones: else it is the disk that sets the pace.
            return not self._tasks or monotonic() - self._saved_at > SAVE_WITHIN

    def _done(self, entry: Entry) -> str | None:
        key = entry.key
        self._pending[key] -= 1
        if not self._pending[key]:
            del self._pending[key]
        elif entry.operation is not PUT:
            # A change that follows may be handled, and the process killed, before that is saved.
            return UNSURE
        return revision_of(entry)

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
        # From here on it is the revisions that tell what was handled.
        cursor = None if progress.begun else ""
        with self._saving:
            new: dict[str, str] = {}
            with self._lock:
                known, handled = progress.revisions, self._handled
                for entry in entries:
                    is_known = handled.get(entry.key, known.get(entry.key)) is not None
                    if entry.operation is PUT and not is_known:
                        # The first, where a key comes several times.
                        new.setdefault(entry.key, UNSURE + entry.revision)
            if new or cursor is not None:
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
