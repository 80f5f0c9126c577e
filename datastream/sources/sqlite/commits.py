"""Looks for commits of all programs to a file, and doubts the log where it may not tell of one."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from time import monotonic

from datastream.sources.sqlite.attached import Attached
from datastream.sources.sqlite.connection import Outdated, file_stat
from datastream.sources.sqlite.unlogged import Stamp, Suspicion

LOOK_AT_FILE = 1.0
"""Seconds, at most, between looks whether the path still leads to the same file."""

log = logging.getLogger("datastream")


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
        if attached.log is not None:
            with attached.moment() as connection:
                self.suspicion.begin(attached.log.newest(connection))
        self._stamp, self._writings = Stamp(), 0
        self._look_at_file = 0.0
        self._seen: tuple[Attached, int | None] = (attached, _version(attached))
        self.known = self._seen
        """The last commit that was taken into account: `data_version` of a file."""
        if not attached.is_wal:
            self._stamp.explain(file_stat(path))

    def note(self, attached: Attached) -> None:
        """Take in a commit that the poller has not seen yet."""
        with self._looking:
            version = _version(attached)
            if version is not None:
                self._note(attached, version)

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
            except Outdated:
                # Replaced just now, by a call that found another file.
                return True
            if version is None:
                file.log.doubt()
                return False
            if self._seen[1] == version and self._seen[0] is attached:
                return stat is not None and self._was_overwritten(attached, stat)
            self._seen = attached, version
            self._note(attached, version)
            return True

    def _note(self, attached: Attached, version: int) -> None:
        """Doubt the log if there was a commit since the last call, which it may not tell of."""
        known, self.known = self.known, (attached, version)
        if known == self.known:
            return
        # In WAL mode a checkpoint follows, at any time.
        self._stamp.explain(None if attached.is_wal else file_stat(self._path))
        writings, self._writings = self._writings, attached.file.writings
        is_own = writings != self._writings or writings % 2
        is_looked_up = known[0] is not attached
        self.suspicion.saw_commit()
        if is_looked_up or not (is_own and attached.layout.tells_all):
            is_bare = not is_looked_up and self.suspicion.is_line_owed
            self.suspicion.arise(is_bare=is_bare)

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
