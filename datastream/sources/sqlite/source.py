"""A table of an SQLite file, watched through every commit of every program.

With a change log (`_sqlite_log`) where triggers may be made; on views and read-only files by
comparing whole states whenever the file's ``data_version`` moves.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar

import sqlite_utils

from datastream.entry import Capability, Entry, deleted
from datastream.errors import DatastreamError, InvalidKey, ReadOnly
from datastream.selection import Selects, check_text
from datastream.source import WRITING, Feature, Reading, Source, Write
from datastream.sources.sqlite.connection import (
    connect,
    data_version,
    explain,
    file_id,
    make_durable,
    moment,
    schema_version,
)
from datastream.sources.sqlite.layout import Columns, create_table, exists, find_layout
from datastream.sources.sqlite.log import KEPT, ChangeLog, Line
from datastream.sources.sqlite.rows import INTEGERS, entry
from datastream.sources.sqlite.table import RowTable
from datastream.url import Location, configured

LOOK_AT_FILE = 1.0
"""Seconds between looks whether the path still leads to the same file."""
PRUNE_EVERY = 10_000
"""Own writes, or changes read, after which the length of the log is looked at."""

log = logging.getLogger("datastream")

T = TypeVar("T")


class SqliteSource(Source):
    """A Source over one table or view.

    Args:
        path: the file. Missing, it is made, unless `create` or `table` says otherwise.
        table: an existing table or view; "data", if missing, is made with the columns
            ``key, value, value_type, updated_at``.
        key, value: their columns, of any type; the key's must be unique.
        value_type, updated_at: their columns; "" uses those of that name, if there are any.
            Without a type column the type follows from how SQLite stores the value.
        create: True makes a missing file or table, False never does; None makes the file and
            the table "data", but not a table that was named.
        readonly: never write to the file, not even the triggers.
        triggers: False watches by comparing states, and leaves the schema alone.
        timeout: seconds to wait for another program's lock.
        interval: seconds between looks at the file's version (a few microseconds each).

    Raises:
        SourceUnavailable: locked, or not to be opened.
        DatastreamError: no such file or table, no database, wrong columns, no unique key.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        table: str = "data",
        key: str = "key",
        value: str = "value",
        value_type: str = "",
        updated_at: str = "",
        create: bool | None = None,
        readonly: bool = False,
        triggers: bool = True,
        timeout: float = 5.0,
        interval: float = 0.014,
    ) -> None:
        self._path = Path(path)
        self._table_name = table
        self._columns = Columns(key, value, value_type, updated_at)
        self._readonly = readonly
        self._triggers = triggers
        self._timeout = timeout
        self._interval = interval
        self._where = f"{self._path}, table {table!r}"
        # Held while it is silent. An Event would cost the idle watcher a lock at every look.
        self._alarm = threading.Lock()
        self._alarm.acquire()
        # `wait` looks at the file beside all else; SQLite crashes if its connection is closed then.
        self._looking = threading.RLock()
        self._lost = True
        self._log: ChangeLog | None = None
        self._writes = self._reads = 0
        # Of states read without a log: who counts, and how many have been seen.
        self._epoch = secrets.token_hex(4)
        self._states = 0
        self._state_version = -1
        self._connections: list[sqlite3.Connection] = []
        _check_names(self._where, str(path), table, *self._columns)
        self._create(create is True or (create is None and table == "data"))
        try:
            self._guarded(self._connect)
        except BaseException:
            self.close()
            raise
        self.features = self._features()

    def capabilities(self) -> Sequence[Capability]:
        return self._guarded(self._list)

    def read(self, selection: Selects, since: str | None) -> Reading:
        return self._guarded(partial(self._read, selection, since))

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        if Feature.WRITE not in self.features:
            raise ReadOnly(f"{self._where} can only be read; nothing was written")
        stored = self._guarded(partial(self._write, writes), writes[0].key)
        self._states += self._log is None
        self._writes += len(writes)
        if self._writes >= PRUNE_EVERY:
            self._prune()
        return stored

    def wait(self, timeout: float | None) -> None:
        until = None if timeout is None else monotonic() + timeout
        look = monotonic() + LOOK_AT_FILE
        while not self._moved():
            now = monotonic()
            if now >= look:
                # Nothing moves in a file that was replaced: the next reading finds the new one.
                if file_id(self._path) != self._file:
                    return
                look = now + LOOK_AT_FILE
            left = self._interval if until is None else min(self._interval, until - now)
            if left <= 0 or self._alarm.acquire(timeout=left):
                return

    def wake(self) -> None:
        # Rung already: once is enough.
        with suppress(RuntimeError):
            self._alarm.release()

    def close(self) -> None:
        with self._looking:
            while self._connections:
                self._connections.pop().close()

    def uninstall(self) -> None:
        """Remove triggers and change log from the file; the table itself stays as it is.

        Meant for a source that is not watched any more: close it after this.
        """
        # From here on without, or the next reading would install them anew.
        changes, self._log, self._triggers = self._log, None, False
        if changes is not None:
            self._guarded(changes.uninstall)

    # Opening.

    def _create(self, wanted: bool) -> None:
        new = not self._path.exists()
        if new and (not wanted or self._readonly):
            raise DatastreamError(
                f"{self._where}: no such file; check the path, or put a first value to make it "
                "(in code: create=True)"
            )
        if wanted and not self._readonly:
            self._guarded(partial(self._create_table, new))

    def _create_table(self, new: bool) -> None:
        connection = connect(self._path, "rwc" if new else "rw", self._timeout)
        try:
            db = _inspected(connection)
            if not exists(db, self._table_name):
                make_durable(connection, new=new)
                create_table(db, self._table_name)
        finally:
            connection.close()

    def _connect(self) -> None:
        """Open the file, look up the table, find or make the log."""
        # Until all is done: what fails half way is tried again at the next access.
        self._lost = True
        self.close()
        mode = "ro" if self._readonly else "rw"
        self._file = file_id(self._path)
        self._db = connect(self._path, mode, self._timeout)
        self._connections.append(self._db)
        # Looks while a writer holds the lock must come back at once and look again later.
        with self._looking:
            self._watcher = connect(self._path, mode, 0)
            self._connections.append(self._watcher)
            self._version = data_version(self._watcher)
        if not self._readonly:
            make_durable(self._db, new=False)
        self._attach()
        self._lost = False

    def _attach(self) -> None:
        db = _inspected(self._db)
        if not exists(db, self._table_name):
            raise DatastreamError(
                f"{self._where}: no such table; it has {', '.join(db.table_names()) or 'none'}: "
                "name one with table=, or make it with create=True"
            )
        self._layout = find_layout(db, self._table_name, self._columns, self._where)
        self._rows = RowTable(self._db, self._layout)
        self._log = self._find_log()
        self._schema = schema_version(self._db)
        self._states += 1

    def _find_log(self) -> ChangeLog | None:
        if not (self._layout.can_log and self._triggers):
            return None
        changes = ChangeLog(self._db, self._layout)
        if changes.attach():
            return changes
        try:
            if not self._readonly:
                changes.install()
                return changes
        except sqlite3.OperationalError as error:
            # A file without write permission opens all the same, and can still be compared.
            if not isinstance(explain(error, ""), ReadOnly):
                raise
            self._readonly = True
        log.info("%s: no triggers, changes are found by comparing states", self._where)
        return None

    def _features(self) -> frozenset[Feature]:
        writing = WRITING if not self._readonly and self._layout.can_write else frozenset()
        log = {Feature.LOG} if self._log is not None else frozenset()
        return writing | log | {Feature.TYPES}

    # Reading and writing.

    def _read(self, selection: Selects, since: str | None) -> Reading:
        self._follow_file()
        if self._log is None:
            return self._read_state(selection, since)
        if since is not None:
            reading = self._read_changes(self._log, since)
            if reading is not None:
                return reading
        with moment(self._db):
            position = _position(self._log.epoch, self._log.newest())
            return Reading(self._legal(self._rows.entries(selection)), position, complete=True)

    def _read_changes(self, changes: ChangeLog, since: str) -> Reading | None:
        """What the log has after `since`; None if it does not reach back that far."""
        epoch, after = _parse(since)
        if after is None or epoch != changes.epoch:
            return None
        with moment(self._db):
            if not changes.has(after):
                return None
            newest = changes.newest()
            found = changes.changes(after.seq) if newest != after else []
        entries = [deleted(str(key)) if row[0] is None else entry(row) for _, key, row in found]
        self._reads += len(found)
        if self._reads >= PRUNE_EVERY:
            self._prune()
        return Reading(self._legal(entries), _position(epoch, newest), complete=False)

    def _follow_file(self) -> None:
        """Go on with the file that is at the path now, and with the schema it has now."""
        if self._lost or file_id(self._path) != self._file:
            self._connect()
        elif schema_version(self._db) != self._schema:
            self._attach()

    def _read_state(self, selection: Selects, since: str | None) -> Reading:
        # Looked up first: a commit that follows is read twice rather than never.
        version = data_version(self._db)
        if version != self._state_version:
            self._state_version = version
            self._states += 1
        position = f"{self._epoch}:{self._states}"
        if since == position:
            return Reading((), position, False)
        return Reading(self._legal(self._rows.entries(selection)), position, True)

    def _legal(self, entries: list[Entry]) -> list[Entry]:
        """Without the rows whose key no store can name."""
        return [entry for entry in entries if _is_legal(entry.key, self._where)]

    def _list(self) -> list[Capability]:
        self._follow_file()
        return [found for found in self._rows.capabilities() if _is_legal(found.key, self._where)]

    def _write(self, writes: Sequence[Write]) -> list[Entry]:
        # A write to a file that was replaced would be acknowledged and lost.
        if self._lost or file_id(self._path) != self._file:
            self._connect()
        return self._rows.write(writes)

    def _prune(self) -> None:
        self._writes = self._reads = 0
        try:
            if self._log is not None and not self._readonly and self._log.length() > 2 * KEPT:
                self._log.prune()
        except sqlite3.OperationalError as error:
            # Housekeeping: whoever holds the lock now, the next attempt will find it free.
            log.debug("%s: log not cut: %s", self._where, error)

    # Watching the file.

    def _moved(self) -> bool:
        try:
            with self._looking:
                version = data_version(self._watcher)
        except sqlite3.Error:
            # A writer holds the file: its commit will show at the next look.
            return False
        moved = version != self._version
        self._version = version
        return moved

    def _guarded(self, action: Callable[[], T], key: str | None = None) -> T:
        """The one place where SQLite's errors become ours."""
        try:
            return action()
        except sqlite3.Error as error:
            raise explain(error, self._where, key) from error


def _position(epoch: str, line: Line) -> str:
    return f"{epoch}:{line.seq}:{line.mark}"


def _parse(position: str) -> tuple[str, Line | None]:
    """Epoch and line of a position; no line if it is not one of ours."""
    epoch, _, numbers = position.partition(":")
    try:
        seq, mark = map(int, numbers.split(":"))
    except ValueError:
        return epoch, None
    fits = seq in INTEGERS and mark in INTEGERS
    return epoch, Line(seq, mark) if fits else None


def _check_names(where: str, *names: str) -> None:
    """Refuse what SQLite would cut short or could not store.

    Raises:
        DatastreamError: the name of the file, the table or a column is such.
    """
    for number, name in enumerate(names):
        # The file's name may be any bytes, and the last two may be empty.
        if "\0" in name or (number and not _is_utf8(name)) or (not name and number < 4):
            raise DatastreamError(f"{where!r}: {name!r} names no file, table or column")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_legal(key: str, where: str) -> bool:
    try:
        check_text(key)
    except InvalidKey as error:
        log.warning("%s: a row is left out: %s", where, error)
        return False
    return True


def _inspected(connection: sqlite3.Connection) -> sqlite_utils.Database:
    # No plugins and no pragmas: this library's connection stays as it made it.
    return sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)


def open_sqlite(location: Location, **options: object) -> SqliteSource:
    """The Source of ``sqlite:PATH`` and ``sqlite:///ABSOLUTE/PATH``."""
    path = location.path.removeprefix("//") if location.path.startswith("///") else location.path
    if not path or path.startswith("//") or path == ":memory:":
        raise DatastreamError(
            f"{location.shown!r} names no file; write sqlite:settings.db, or memory: for none"
        )
    return configured(partial(SqliteSource, path), location, options)
