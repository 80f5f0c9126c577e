"""Rows that can be read, where one cannot: its page is broken, a view meets malformed JSON.

SQLite fails the whole statement and does not name the row. So the keys are read alone, and then
row by row, in the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from time import monotonic

from datastream._columns import EntryColumns
from datastream.entry import Capability, Entry
from datastream.errors import Unreadable
from datastream.selection import Selection, Selects
from datastream.sources._common.unread import Unread
from datastream.sources.sqlite.connection import Connection, is_of_rows
from datastream.sources.sqlite.log import ChangeLog, Touched
from datastream.sources.sqlite.rows import Row, entry_of
from datastream.sources.sqlite.table import RowTable

PATIENCE = 5.0
"""Seconds to read row by row; beyond, all is called unreadable."""
EVERYTHING = Selection.of()


class Readable:
    """Reads what can be read of a table, within a transaction of the caller's.

    Args:
        unread: takes the keys of rows that cannot be read.
    """

    def __init__(self, rows: RowTable, unread: Unread) -> None:
        self._rows = rows
        self._unread = unread

    def state(self, db: Connection, selection: Selects) -> EntryColumns:
        """All rows of `selection`.

        Raises:
            sqlite3.Error: it is no matter of rows.
        """
        try:
            found = self._rows.state(db, selection)
        except sqlite3.DatabaseError as error:
            return self._rows.columns_of(row for _, row in self._one_by_one(db, selection, error))
        if self._unread:
            self._unread.keep((), selection.matches)
        return found

    def walk(self, db: Connection, selection: Selects) -> Iterator[Entry]:
        """`state`, sorted, one after the other."""
        last = None
        try:
            for found in self._rows.walk(db, selection):
                yield found
                last = found.key
        except sqlite3.DatabaseError as error:
            is_new = last is None
            for key, row in self._one_by_one(db, selection, error):
                if is_new:
                    yield entry_of(key, *row[1:])
                is_new = is_new or key == last

    def capabilities(self, db: Connection) -> list[Capability]:
        """Every key with its type."""
        try:
            return self._rows.capabilities(db)
        except sqlite3.DatabaseError as error:
            found = self._one_by_one(db, EVERYTHING, error)
            entries = (entry_of(key, *row[1:]) for key, row in found)
            return [Capability(entry.key, entry.value_type) for entry in entries]

    def changes(self, log: ChangeLog, db: Connection, after: int) -> list[Touched] | None:
        """What the log has after a line; None if a row of it cannot be read."""
        try:
            found = log.changes(db, after)
        except sqlite3.DatabaseError as error:
            self._check(db, error)
            return None
        if self._unread:
            for touched in found:
                self._unread.discard(str(touched.key))
        return found

    def row(self, db: Connection, key: str) -> Row | None:
        """The row of one key.

        Raises:
            Unreadable: just this row cannot be read.
        """
        try:
            return self._rows.row(db, key)
        except sqlite3.DatabaseError as error:
            self._check(db, error)
        try:
            # A broken row may only have been on the way to it.
            return self._rows.scanned(db, key)
        except sqlite3.DatabaseError as error:
            self._unread.add(key, str(error))
            raise self._unread.error(key) from error

    def _one_by_one(
        self, db: Connection, selection: Selects, error: sqlite3.DatabaseError
    ) -> Iterator[tuple[str, Row]]:
        """Key and row of each that can be read; `error` is raised if that is not what it needs."""
        self._check(db, error)
        until = monotonic() + PATIENCE
        failed: set[str] = set()
        for key in filter(selection.matches, self._keys(db, selection, error)):
            try:
                row = self.row(db, key)
            except Unreadable:
                failed.add(key)
            else:
                if row is not None:
                    # Where the key was known it was not read.
                    yield key, (key, *row[1:])
            if monotonic() > until:
                raise error
        self._unread.keep(failed, selection.matches)

    def _keys(self, db: Connection, selection: Selects, error: sqlite3.DatabaseError) -> list[str]:
        try:
            return self._rows.keys(db, selection)
        except sqlite3.DatabaseError:
            raise error from None

    def _check(self, db: Connection, error: sqlite3.DatabaseError) -> None:
        """Raise `error` unless the statement is right, and a row is what fails."""
        if not is_of_rows(error):
            raise error
        try:
            self._rows.check(db)
        except sqlite3.DatabaseError:
            raise error from None
