"""Changes that leave no line in the log: how they are suspected."""

from __future__ import annotations

import os
import threading

from datastream.sources.sqlite.log import Line

PAUSE = 1.0
"""Seconds, at least, between two comparisons of the whole state."""
SHARE = 50
"""A comparison is followed by a pause this many times as long."""


class Suspicion:
    """Whether commits were seen that the log may not tell, and when to compare because of it.

    Incremental BLOB writes, programs that switched triggers off and files copied in place leave
    no line. So does whatever is committed to other tables: hence the pauses.
    """

    def __init__(self) -> None:
        # Readers and the poller look beside each other: a line may be read before the commit that
        # wrote it is seen, or after that.
        self._lock = threading.Lock()
        self._is_line_early = False
        self._is_line_owed = False
        self._newest: Line | None = None
        self.is_pending = False
        # No line has come since it arose.
        self._is_bare = False
        # What is to be compared was read since, and may hold what the log lacks.
        self._is_late = False
        # How often it arose, and had when the oldest comparison that has not ended began.
        self._arisen = 0
        self._comparing: int | None = None
        self._due = 0.0

    def begin(self, newest: Line) -> None:
        """This is the newest line when watching begins."""
        self._newest = newest

    def saw_commit(self) -> None:
        """The file was written; what wrote it may have left a line, which may have been read."""
        with self._lock:
            self._is_line_owed, self._is_line_early = not self._is_line_early, False

    @property
    def is_line_owed(self) -> bool:
        """Whether no line was read yet that the last commit seen may have written."""
        return self._is_line_owed

    def arise(self, *, is_bare: bool = True) -> None:
        """Something was committed, or the file was overwritten.

        Args:
            is_bare: nothing explains it yet, such as a change of the schema.
        """
        with self._lock:
            self._arisen += 1
            self.is_pending, self._is_bare = True, is_bare

    def weigh(self, newest: Line, *, explains: bool) -> None:
        """What the newest line is; one that is new may explain what was committed."""
        if newest == self._newest:
            return
        with self._lock:
            self._newest, self._is_bare = newest, False
            self._is_line_early, self._is_line_owed = not self._is_line_owed, False
            self.is_pending = self.is_pending and not explains

    @property
    def is_left(self) -> bool:
        """Whether no line explains what was committed."""
        return self.is_pending and self._is_bare

    def is_due(self, now: float) -> bool:
        """Whether to compare."""
        return self.is_pending and now >= self._due

    def come_late(self) -> None:
        """What is to be compared has just been read: that it is the same tells nothing."""
        self._is_late = True

    @property
    def is_late(self) -> bool:
        """Whether no comparison will tell."""
        return self._is_late

    def begin_comparison(self) -> None:
        """The state is about to be read in full, for a comparison."""
        with self._lock:
            if self._comparing is None:
                self._comparing = self._arisen

    def compared(self, began: float, now: float) -> None:
        """That has been read."""
        self._due = now + max(PAUSE, SHARE * (now - began))

    def end(self) -> None:
        """The comparison was made; what was committed since it began is not in it."""
        with self._lock:
            if self._comparing in (None, self._arisen):
                self._clear()
            self._comparing = None

    def clear(self) -> None:
        """Positions given out until now are not honoured any more."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self.is_pending = self._is_late = False


class Stamp:
    """Size and times of a file, which say that it was overwritten where no commit explains it."""

    def __init__(self) -> None:
        self._known: tuple[int, ...] | None = None
        self._odd: tuple[int, ...] | None = None

    def explain(self, stat: os.stat_result | None) -> None:
        """Something was committed, and left the file so; None: so as the next look finds it."""
        self._known = None if stat is None else _stamp(stat)

    def is_odd(self, stat: os.stat_result) -> bool:
        """Whether two looks in a row show a change that nothing explains."""
        seen = _stamp(stat)
        if self._known is None or seen == self._known:
            self._known, self._odd = seen, None
            return False
        odd, self._odd = self._odd, seen
        if odd != seen:
            # A commit may be under way.
            return False
        self._known, self._odd = seen, None
        return True


def _stamp(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
