"""Looks for commits of all programs to a file, and doubts the log where it may not tell of one."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from time import monotonic, sleep
from typing import NamedTuple

from datastream.sources.sqlite.attached import Attached
from datastream.sources.sqlite.connection import RETRY, Outdated, file_stat, is_busy
from datastream.sources.sqlite.log import Line
from datastream.sources.sqlite.unlogged import Stamp, Suspicion

LOOK_AT_FILE = 1.0
"""Seconds, at most, between looks whether the path still leads to the same file."""
SETTLED = 0.02
"""Seconds after which a version without a line is a commit's. A writer that begins the write-ahead
log anew moves the version first, and commits only then."""

log = logging.getLogger("datastream")


class Seen(NamedTuple):
    """A version of a file, and what else was there then."""

    attached: Attached
    version: int
    newest: Line | None = None
    """The newest line of the log; None if there is no log, or none that can be read."""


class Commits:
    """What was seen of the commits to one file; newcomers and the poller look beside each other.

    Args:
        path: of the file.
        where: it is, for the log.
        attached: what is there when watching begins.
    """

    def __init__(self, path: str, where: str, attached: Attached) -> None:
        self._path = path
        self._where = where
        self.suspicion = Suspicion()
        """Whether the log may lack a change."""
        # Else the later of two looks might take in the earlier version.
        self._looking = threading.Lock()
        self._stamp, self._cuts = Stamp(), 0
        self._look_at_file = 0.0
        # Since when there is a version of which it is not known yet what moved it.
        self._unsettled: float | None = None
        # As nothing is known yet, any commit from here on is news.
        self.known = _look(attached) or Seen(attached, 0)
        """The last commit that was taken into account."""
        self._polled = self.known
        if not attached.is_wal:
            self._stamp.explain(file_stat(path))

    def note(self, attached: Attached) -> bool:
        """Take in a commit that the poller has not seen yet; False if that is to be repeated."""
        with self._looking:
            version = _version(attached)
            return version is not None and self._note(attached, version)

    def settle(self, attached: Attached) -> None:
        """`note`, once a commit that is under way has ended.

        Raises:
            sqlite3.OperationalError: a writer holds the file for longer than the timeout.
        """
        attached.file.version()
        until = monotonic() + 2 * SETTLED
        while not self.note(attached) and monotonic() < until:
            sleep(RETRY)

    def have_come(self, attached: Attached) -> bool:
        """Whether the file was written or replaced since the last call.

        Raises:
            SourceUnavailable: there is no file.
        """
        now = monotonic()
        file, stat = attached.file, None
        is_time = now >= self._look_at_file
        if attached.is_wal and file.log.is_still() and not is_time:
            return False
        # A rollback journal is why a replaced file must not be read: see `File.abandon`.
        if is_time or not attached.is_wal:
            stat = file_stat(self._path)
            if not (file.look() if is_time else file.is_current(stat)):
                return True
        if is_time:
            self._look_at_file = now + LOOK_AT_FILE
        with self._looking:
            try:
                version = _version(attached)
                if version is not None and self._polled[:2] == (attached, version):
                    return stat is not None and self._was_overwritten(attached, stat)
                if version is None or not self._note(attached, version):
                    file.log.doubt()
                    return False
            except Outdated:
                # Replaced just now, by a call that found another file.
                return True
            self._polled = self.known
            return True

    def _note(self, attached: Attached, version: int) -> bool:
        """Doubt the log if there was a commit since the last call, which it may not tell of.

        Returns:
            Whether it is known what was committed.
        """
        if self.known[:2] == (attached, version):
            return True
        seen, known = _look(attached), self.known
        if seen is None:
            return False
        has_lines = seen.newest not in (None, known.newest)
        is_looked_up = known.attached is not attached
        if not (has_lines or is_looked_up or self._is_settled(seen)):
            return False
        self._unsettled = None
        # In WAL mode a checkpoint follows, at any time.
        self._stamp.explain(None if attached.is_wal else file_stat(self._path))
        self.known = seen
        cuts, self._cuts = self._cuts, attached.file.cuts
        is_own = attached.file.is_written or cuts != self._cuts
        tells_all = attached.layout.tells_all
        if is_looked_up or not (tells_all and (is_own or has_lines)):
            self.suspicion.arise(is_bare=not (is_looked_up or has_lines))
        return True

    def _is_settled(self, seen: Seen) -> bool:
        """Whether a version without a line will not get one any more."""
        if seen.newest is None or not seen.attached.is_wal:
            return True
        now = monotonic()
        self._unsettled = self._unsettled or now
        return now - self._unsettled >= SETTLED

    def _was_overwritten(self, attached: Attached, stat: os.stat_result) -> bool:
        """Whether the file was changed, but not by a commit."""
        if attached.file.is_immutable or not self._stamp.is_odd(stat):
            return False
        log.info("%s: the file was overwritten; it is read anew", self._where)
        attached.file.forget()
        self.suspicion.arise()
        return True


def _version(attached: Attached) -> int | None:
    """`data_version` of the file; None while a writer holds it."""
    try:
        return attached.file.clock.version()
    except sqlite3.Error:
        # Its commit will show at the next look.
        return None


def _look(attached: Attached) -> Seen | None:
    """What is there now, all of one moment; None while a writer holds the file."""
    if attached.log is not None:
        try:
            return Seen(attached, *attached.file.clock.read(attached.log.newest))
        except sqlite3.Error as error:
            if is_busy(error):
                return None
            # The next read raises the reason, such as a broken page or a log that has gone.
    version = _version(attached)
    return None if version is None else Seen(attached, version)
