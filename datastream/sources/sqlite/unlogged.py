"""Changes that leave no line in the log: how they are suspected."""

from __future__ import annotations

import os

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
        self.is_pending = False
        # No line has come since it arose.
        self._is_bare = False
        # Readers and the poller look beside each other: a line may be read before the commit that
        # wrote it is seen, or after that.
        self._is_line_early = False
        self._is_line_owed = False
        self._due = 0.0
        self._newest: Line | None = None

    def saw_commit(self) -> None:
        """The file was written; what wrote it may have left a line, which may have been read."""
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
        self.is_pending, self._is_bare = True, is_bare

    def weigh(self, newest: Line, *, explains: bool) -> None:
        """What the newest line is; one that is new may explain what was committed."""
        if newest != self._newest:
            self._newest, self._is_bare = newest, False
            self._is_line_early, self._is_line_owed = not self._is_line_owed, False
            self.is_pending = self.is_pending and not explains

    def is_left(self, newest: Line) -> bool:
        """Whether not even a new line explains what was committed."""
        return self.is_pending and self._is_bare and newest == self._newest

    def is_due(self, now: float) -> bool:
        """Whether to compare."""
        return self.is_pending and now >= self._due

    def compared(self, began: float, now: float) -> None:
        """The state was read in full, for a comparison."""
        self._due = now + max(PAUSE, SHARE * (now - began))

    def end(self) -> None:
        """The comparison was made."""
        self.is_pending = False


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
