"""Changes that leave no line in the log: how they are suspected."""

from __future__ import annotations

import os
import threading

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
        # Readers and the poller look beside each other.
        self._lock = threading.Lock()
        self.is_pending = False
        # No line explains what was committed.
        self._is_bare = False
        # What is to be compared was read since, and may hold what the log lacks.
        self._is_late = False
        # One ended by comparing a part of the table only; another part was read since.
        self._is_partial = self._is_elsewhere = False
        # How often it arose, and had when the oldest comparison that has not ended began.
        self._arisen = 0
        self._comparing: int | None = None
        self._compares_all = True
        self._due = 0.0

    def arise(self, *, is_bare: bool = True) -> None:
        """Something was committed, or the file was overwritten.

        Args:
            is_bare: nothing explains it, such as a line of the log or a change of the schema.
        """
        with self._lock:
            self._arisen += 1
            self.is_pending, self._is_bare = True, is_bare or self.is_left

    @property
    def is_left(self) -> bool:
        """Whether no line explains what was committed."""
        return self.is_pending and self._is_bare

    def is_due(self, now: float) -> bool:
        """Whether to compare."""
        return self.is_pending and now >= self._due

    def lacks(self, *, covered: bool) -> bool:
        """Whether the log may lack a change that somebody is not told of otherwise.

        Args:
            covered: what it selects is compared, and it will be told of what differs.
        """
        is_told = covered and not self._is_late
        return (self.is_left and not is_told) or (
            self._is_partial and (self._is_elsewhere or not covered)
        )

    def grow(self) -> None:
        """More is to be compared from now on, which has just been read."""
        # That it will be the same tells nothing of what was committed before.
        self._is_late |= self.is_left
        self._is_elsewhere |= self._is_partial

    @property
    def is_late(self) -> bool:
        """Whether no comparison will tell."""
        return self._is_late

    def begin_comparison(self, *, whole: bool) -> None:
        """The state is about to be read, of all rows or of some, for a comparison."""
        with self._lock:
            self._compares_all &= whole
            if self._comparing is None:
                self._comparing = self._arisen

    def compared(self, began: float, now: float) -> None:
        """That has been read."""
        self._due = now + max(PAUSE, SHARE * (now - began))

    def end(self) -> None:
        """What was compared is the same; what was committed since that began is not in it."""
        with self._lock:
            is_partial = self.is_left and not self._compares_all
            if self._end():
                self._is_partial |= is_partial

    def forget(self) -> None:
        """Positions are not honoured any more that were given out before the comparison began."""
        with self._lock:
            self._end()
            self._is_partial = self._is_elsewhere = False

    def _end(self) -> bool:
        is_over = self._comparing in (None, self._arisen)
        if is_over:
            self.is_pending = self._is_late = False
        self._comparing, self._compares_all = None, True
        return is_over


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
