"""What a source looked up in its file: the table, its log, and for which schema that holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from datastream._columns import EntryColumns
from datastream.entry import Entry
from datastream.selection import Selects
from datastream.source import Write, Written
from datastream.sources._common.unread import Unread
from datastream.sources.sqlite.connection import (
    Connection,
    Outdated,
    is_about_sql,
    schema_version,
    transaction,
)
from datastream.sources.sqlite.file import File
from datastream.sources.sqlite.layout import Layout
from datastream.sources.sqlite.log import ChangeLog
from datastream.sources.sqlite.objects import ObjectTable
from datastream.sources.sqlite.position import position
from datastream.sources.sqlite.readable import Readable
from datastream.sources.sqlite.rows import Row
from datastream.sources.sqlite.table import RowTable


class Attached:
    """A table of a file, as it was looked up. Never changed: threads share it.

    Args:
        file: the file.
        layout: its table.
        schema: the number of the schema in which `layout` and `epoch` were found.
        epoch: that of the table's log; "" if there is none to be trusted.
        unread: takes the keys of rows that cannot be read.
        is_wal: the file has a write-ahead log.
    """

    def __init__(
        self,
        file: File,
        layout: Layout,
        schema: int,
        epoch: str,
        unread: Unread,
        *,
        is_wal: bool,
    ) -> None:
        self.file = file
        self.layout = layout
        self.schema = schema
        self.epoch = epoch
        self.is_wal = is_wal
        self.rows = (ObjectTable if layout.members else RowTable)(layout)
        self.readable = Readable(self.rows, unread)
        self._unread = unread
        self.log = ChangeLog(layout) if epoch else None
        self._is_local = False

    def of_epoch(self, epoch: str) -> Attached:
        """The same in an epoch of which the file does not know."""
        parts = self.file, self.layout, self.schema, epoch, self._unread
        other = Attached(*parts, is_wal=self.is_wal)
        other._is_local = True
        return other

    @contextmanager
    def moment(self) -> Iterator[Connection]:
        """A connection for several reads of one state, which has this schema.

        Raises:
            Outdated: the schema is another one by now.
        """
        with self.file.reader() as connection:
            self._check(connection)
            yield connection
            # All that was compiled meanwhile was compiled for this schema.
            connection.compiled.schema = self.schema

    def check_epoch(self, connection: Connection) -> None:
        """Within a `moment`, after the file may have been overwritten.

        Raises:
            Outdated: the log is another one by now.
        """
        if self._is_local or self.log is None:
            return
        if epoch_of(self.log, connection, self.file) != self.epoch:
            raise Outdated("the log was changed meanwhile; retry")

    def one(self, key: str) -> tuple[bool, Row | None]:
        """The row of a key, as one SELECT gives it, after whether it was of this schema."""
        readers = self.file.readers
        connection = readers.take()
        try:
            row = self.rows.row(connection, key)
            return connection.compiled.schema == self.schema, row
        finally:
            readers.give(connection)

    def state(self, selection: Selects, connection: Connection) -> EntryColumns:
        """The selected rows, within a transaction.

        Raises:
            Outdated: the schema is another one by now.
        """
        self._check(connection)
        return self.readable.state(connection, selection)

    def write(
        self, connection: Connection, writes: Sequence[Write], *, with_position: bool
    ) -> Written:
        """Store `writes`.

        Args:
            with_position: say where that leaves the log; it takes two statements more.

        Raises:
            Outdated: the schema is another one by now; nothing is written.
        """
        try:
            # With a rollback journal a statement by itself would let new readers in each time it
            # waits for the last ones; a transaction keeps its place.
            is_compiled = connection.compiled.schema == self.schema
            if is_compiled and (self.is_wal or with_position) and self.rows.may_change(writes):
                change = self._change_logged if with_position else self._change
                written = change(connection, writes[0])
                # Else it was compiled anew: the transaction below checks the schema.
                if written is not None and connection.compiled.schema == self.schema:
                    return written
            return self._write(connection, writes, with_position=with_position)
        except sqlite3.OperationalError as error:
            # It may come from SQL that was made for another schema.
            if is_about_sql(error):
                self._check(connection)
            raise

    def _change(self, connection: Connection, write: Write) -> Written | None:
        """Replace one value, in one statement. None: that was not it, or it is to be repeated."""
        stored = self.rows.change(connection, write)
        return None if stored is None else Written(stored)

    def _change_logged(self, connection: Connection, write: Write) -> Written | None:
        """`_change`, with the positions before and after it."""
        log, written = self.log, None
        if log is None:
            return self._change(connection, write)
        connection.execute("BEGIN IMMEDIATE")
        try:
            total = connection.total_changes
            stored = self.rows.change(connection, write)
            if stored is not None:
                # Beside the row, only lines of the log have changed.
                lines = connection.total_changes - total - 1
                written = self._told(stored, lines, log.last(connection, lines + 1))
            if written is not None and connection.compiled.schema == self.schema:
                connection.execute("COMMIT")
                return written
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return None

    def _told(
        self, stored: list[Entry], count: int, lines: Sequence[tuple[int, int]]
    ) -> Written | None:
        """What a write of `count` lines answers; None if `lines` are not these and one before."""
        if len(lines) < 2 or lines[0][0] - lines[-1][0] != count:
            return None
        epoch = self.epoch
        return Written(stored, position(epoch, *lines[0]), position(epoch, *lines[-1]))

    def _write(
        self, connection: Connection, writes: Sequence[Write], *, with_position: bool
    ) -> Written:
        log = self.log if with_position else None
        with transaction(connection):
            before = log.newest(connection) if log else None
            stored = self.rows.write(connection, writes)
            after = log.newest(connection) if log else None
            if connection.compiled.schema != self.schema:
                self._check(connection)
                connection.compiled.schema = self.schema
        if before is None or after is None:
            return Written(stored)
        return Written(stored, position(self.epoch, *after), position(self.epoch, *before))

    def _check(self, connection: Connection) -> None:
        if schema_version(connection) != self.schema:
            raise Outdated("the schema was changed meanwhile; retry")


def epoch_of(log: ChangeLog, connection: Connection, file: File) -> str:
    """The epoch of a log in a file, "" if it cannot be trusted."""
    epoch = log.epoch(connection)
    # A copy of the file, however it was changed, is another one.
    return f"{epoch}.{file.id[1]:x}" if epoch else ""
