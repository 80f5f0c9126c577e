"""The table that is at a path now: looked up again when the file or its schema was changed."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from datastream.errors import DatastreamError, ReadOnly, SourceUnavailable, StoreClosed
from datastream.sources._common.paths import fixed
from datastream.sources._common.unread import Unread
from datastream.sources.sqlite.attached import Attached, epoch_of
from datastream.sources.sqlite.connection import (
    Connection,
    Outdated,
    cannot_open,
    connect,
    file_id,
    is_about_sql,
    is_of_pages,
    is_wal,
    make_durable,
    schema_version,
    translated,
)
from datastream.sources.sqlite.file import File
from datastream.sources.sqlite.layout import (
    Columns,
    check_made,
    create_table,
    find_layout,
    stored_name,
)
from datastream.sources.sqlite.log import ChangeLog
from datastream.sources.sqlite.schema import table_names

ATTEMPTS = 20
"""How often a call starts over because the schema or the file was changed meanwhile."""

ENDED = 1000
"""Epochs that were ended and are remembered."""

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What a source was told to open."""

    path: str
    table: str
    columns: Columns
    readonly: bool
    triggers: bool
    timeout: float
    given: str = ""
    """The path as it was given, for messages."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "given", self.given or self.path)
        object.__setattr__(self, "path", fixed(self.path))

    @property
    def where(self) -> str:
        """File and table, for messages."""
        return f"{self.given}, table {self.table!r}"


class CurrentTable:
    """Keeps what was looked up, and replaces it as a whole when it is outdated.

    Threads that find it outdated at the same time each look it up, so that none waits for
    another; the first to be done decides, the others take what it found.

    Args:
        asked: what to look for.
        unread: takes the keys of rows that cannot be read.
        on_change: called with each new finding, the first one included.
    """

    def __init__(self, asked: Asked, unread: Unread, on_change: Callable[[Attached], None]) -> None:
        self.asked = asked
        self._unread = unread
        self._on_change = on_change
        # Guards the assignments of `attached` and `_closed`.
        self._lock = threading.Lock()
        self._closed = False
        # A copy that is still being written over the file brings an ended one back.
        self._ended: deque[str] = deque(maxlen=ENDED)
        # All that are not closed, also those of threads that look something up.
        self._files: set[File] = set()
        self.attached = self._look_up(None)
        on_change(self.attached)

    def get(self) -> Attached:
        """What is attached, of the file that is at the path now.

        Raises:
            SourceUnavailable: no file at the path.
            StoreClosed: the source was closed.
        """
        attached = self.attached
        return attached if attached.file.is_current() else self._replace(attached)

    def call(self, function: Callable[[Attached], T]) -> T:
        """The result of `function` for the file and the schema that are there now.

        Args:
            function: raises `Outdated` to be called again.
        """
        is_renewed = False
        for _ in range(ATTEMPTS):
            seen = self.attached
            try:
                return function(self.get())
            except Outdated:
                # Outdated once more: the next attempt finds out.
                with suppress(Outdated):
                    self._replace(seen)
            except sqlite3.DatabaseError as error:
                if is_renewed or not is_of_pages(error):
                    raise
                # Perhaps of pages that were read while the file was being overwritten, and are
                # taken for good as it has the same change counter.
                is_renewed = True
                with suppress(Outdated):
                    seen.file.renew()
        raise SourceUnavailable(
            f"{self.asked.where}: file or schema changed {ATTEMPTS} times during a call; retry"
        )

    def uninstall(self) -> None:
        """Remove the log, and go on without."""
        # First, or the next call would install it anew.
        self.asked = replace(self.asked, triggers=False)
        self._replace(self.call(_without_log))

    def close(self) -> None:
        """Close what is idle now, and what is in use as soon as it is not."""
        with self._lock:
            self._closed = True
        for file in list(self._files):
            self._close(file)

    def begin_epoch(self) -> None:
        """Have no position honoured that was given out until now."""
        attached = self.attached
        if attached.log is not None:
            self._ended.append(attached.epoch)
        if not self.asked.readonly:
            self._replace(self.call(_in_new_epoch))
        elif attached.log is not None:
            with self._lock:
                if self.attached is attached:
                    self.attached = _in_local_epoch(attached)

    def _replace(self, outdated: Attached) -> Attached:
        if self._closed:
            raise StoreClosed(f"{self.asked.where} was closed; open another store")
        if self.attached is not outdated:
            return self.attached
        self._abandon_replaced()
        new = self._look_up(outdated.file)
        with self._lock:
            taken = not self._closed and self.attached is outdated
            if taken:
                self.attached = new
        if taken:
            self._on_change(new)
        elif new.file is not self.attached.file or self._closed:
            self._close(new.file)
        return self.attached

    def _abandon_replaced(self) -> None:
        for file in list(self._files):
            if not file.is_current():
                file.abandon()
                self._files.discard(file)

    def _close(self, file: File) -> None:
        try:
            if file.is_current():
                file.close()
            else:
                file.abandon()
        except SourceUnavailable:
            file.close_moved()
        self._files.discard(file)

    def _look_up(self, known: File | None) -> Attached:
        """What is at the path now, with a log where there can be one."""
        file, asked = known, self.asked
        if file is None or file.is_closed:
            file = File(asked.path, "ro" if asked.readonly else "rw", asked.timeout)
            self._files.add(file)
        try:
            return self._look_up_in(file)
        except BaseException:
            if file is not known:
                self._close(file)
            raise

    def _look_up_in(self, file: File) -> Attached:
        for attempt in range(ATTEMPTS):
            if attempt > 1:
                # Where the file was overwritten, the writer may have pages of the one before.
                file.renew()
            asked = self.asked
            with file.reader() as connection:
                attached = _found(connection, file, asked, self._unread)
            wanted = attached.layout.can_log and asked.triggers and not asked.readonly
            try:
                if attached.epoch in self._ended:
                    if asked.readonly:
                        return _in_local_epoch(attached)
                    _in_new_epoch(attached)
                elif attached.log is not None or not wanted or not self._install(attached):
                    return attached
            except sqlite3.OperationalError as error:
                # Who edits sqlite_master itself need not move the schema's number: a connection
                # then goes by the schema that it has read before.
                if attempt > 1 or not is_about_sql(error):
                    raise
        raise SourceUnavailable(
            f"{self.asked.where}: another program keeps changing the schema; retry"
        )

    def _install(self, attached: Attached) -> bool:
        """Make the log; False where the file cannot be written."""
        if attached.file.is_immutable:
            self.asked = replace(self.asked, readonly=True)
            return False
        try:
            with attached.file.writer() as connection:
                ChangeLog(attached.layout).install(connection)
        except sqlite3.OperationalError as error:
            # A file without write permission opens all the same, and can still be compared.
            if not isinstance(translated(error, ""), ReadOnly):
                raise
            self.asked = replace(self.asked, readonly=True)
            return False
        return True


def _without_log(attached: Attached) -> Attached:
    """Remove the log of a table, if it has one."""
    if attached.log is not None:
        with attached.file.writer() as connection:
            attached.log.uninstall(connection)
    return attached


def _in_new_epoch(attached: Attached) -> Attached:
    """Begin an epoch of the log of a table, if it has one."""
    if attached.log is not None:
        with attached.file.writer() as connection:
            attached.log.begin_epoch(connection)
    return attached


def _in_local_epoch(attached: Attached) -> Attached:
    """The same in an epoch of which a file that cannot be written does not know."""
    return attached.of_epoch(secrets.token_hex(4))


def make_missing(asked: Asked, *, wanted: bool) -> None:
    """Make file and table where they are missing and wanted.

    Raises:
        DatastreamError: the file is missing and not wanted, or is none, or the table would lack a
            column.
        sqlite3.Error: it cannot be made.
    """
    try:
        file_id(asked.path)
        new = False
    except SourceUnavailable:
        new = True
    if not new and Path(asked.path).is_dir():
        raise DatastreamError(f"{asked.where}: it is a directory; name a file, or open it as file:")
    if new and (not wanted or asked.readonly):
        raise DatastreamError(
            f"{asked.where}: no such file; check the path, or put a first value to make it "
            "(in code: create=True)"
        )
    if not wanted or asked.readonly:
        return
    if new:
        check_made(asked.columns, asked.where)
    connection = connect(asked.path, "rwc" if new else "rw", asked.timeout)
    try:
        if stored_name(connection, asked.table) is None:
            check_made(asked.columns, asked.where)
            make_durable(connection, new=new)
            create_table(connection, asked.table)
    except sqlite3.OperationalError as error:
        # One that is there may still open read-only.
        if new or not cannot_open(error):
            raise
    finally:
        connection.close()


def _others(connection: Connection) -> list[str]:
    """The tables that could be meant."""
    return [name for name in table_names(connection) if not name.startswith("_datastream")]


def _found(connection: Connection, file: File, asked: Asked, unread: Unread) -> Attached:
    """Look up the table, within one read transaction.

    Raises:
        DatastreamError: there is no such table, or it cannot be a store.
    """
    table = stored_name(connection, asked.table)
    if table is None:
        raise DatastreamError(
            f"{asked.where}: no such table; it has {', '.join(_others(connection)) or 'none'}: "
            "name one with table=, or make it with create=True"
        )
    layout = find_layout(connection, table, asked.columns, asked.where)
    has_log = layout.can_log and asked.triggers
    epoch = epoch_of(ChangeLog(layout), connection, file) if has_log else ""
    parts = file, layout, schema_version(connection), epoch, unread
    return Attached(*parts, is_wal=is_wal(connection))
