"""One SQLite file and the connections to it: some that read, one that writes, one that watches."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar

from datastream.errors import SourceUnavailable
from datastream.sources.sqlite.clock import Clock
from datastream.sources.sqlite.connection import (
    IMMUTABLE,
    RETRY,
    Connection,
    Outdated,
    cannot_open,
    connect,
    file_id,
    file_stat,
    is_busy,
    is_io,
    lenient,
    make_durable,
    moment,
    schema_version,
)
from datastream.sources.sqlite.pool import Pool
from datastream.sources.sqlite.side_files import WriteAheadLog

READERS = 16
"""Idle connections for reading that are kept open."""
OPENS = 5
"""Attempts to open a file while the log of the one that it has replaced is being moved away."""
ABANDON = 1.0
"""Seconds that calls on a replaced file get to end before the new file is used, and that others
have to let go of one that was moved."""

T = TypeVar("T")


class File:
    """The file that was at `path` when this was made, until it is replaced or the source closes.

    Args:
        path: where it is.
        mode: SQLite's ro or rw.
        timeout: seconds to wait for another program's lock.

    Raises:
        SourceUnavailable: no file at `path`.
        sqlite3.Error: it cannot be opened.
    """

    def __init__(self, path: str, mode: str, timeout: float) -> None:
        self.is_closed = False
        self._path = path
        self._mode = mode
        self._timeout = timeout
        self.id = file_id(path)
        self._device, self._inode = self.id
        self.epoch = secrets.token_hex(4)
        """Tells versions of this file from those of others."""
        self.is_immutable = False
        """Opened without locks, as its disk is read-only and nobody has it open."""
        self._stat = file_stat(path)
        self.log = WriteAheadLog(path)
        self.cuts = 0
        """How often this store has cut the log, which is a commit without a line in it."""
        self._writing = threading.Lock()
        # Must not wait for a writer: its commit shows at the next look.
        self.clock = Clock(self._open_first())
        self.look()
        self.readers = Pool(self._open_reader, READERS)
        """For a single SELECT; else use `reader`."""
        self._writers = Pool(self._open_writer, 1)

    def is_current(self, stat: os.stat_result | None = None) -> bool:
        """Whether the file at the path is still this one.

        Args:
            stat: of the path, if that is known.

        Raises:
            SourceUnavailable: no file at the path.
        """
        stat = stat or file_stat(self._path)
        if stat.st_ino != self._inode or stat.st_dev != self._device:
            return False
        return not self.is_immutable or not self._is_changed(stat)

    def look(self) -> bool:
        """`is_current`; if so, note which log is the file's."""
        # Before the file: once that is replaced, the log beside it may be another one's.
        beside = self.log.now()
        is_current = self.is_current()
        if is_current:
            self.log.known = beside
        return is_current

    def _is_changed(self, stat: os.stat_result) -> bool:
        # Without locks nothing else tells that somebody writes to it.
        then = self._stat
        is_same = (stat.st_size, stat.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
        return not is_same or self.log.exists()

    @contextmanager
    def reader(self) -> Iterator[Connection]:
        """A connection for several reads of one state."""
        with self.readers.lent() as connection:
            connection.text_factory = lenient
            try:
                with moment(connection):
                    yield connection
            finally:
                connection.text_factory = str

    def take_writer(self) -> Connection:
        """The connection that writes, for one caller at a time; give it back.

        Raises:
            SourceUnavailable: other callers had it for the whole timeout.
        """
        # Most of the time it is free; a lock with timeout costs more.
        if not (
            self._writing.acquire(blocking=False) or self._writing.acquire(timeout=self._timeout)
        ):
            raise SourceUnavailable(
                f"{self._path}: other writes of this store still wait for the lock; "
                "retry, or raise timeout="
            )
        try:
            connection = self._writers.take()
        except BaseException:
            self._writing.release()
            raise
        try:
            if not connection.is_durable and self._mode == "rw":
                make_durable(connection, new=False)
        except BaseException:
            self.give_writer(connection)
            raise
        return connection

    def give_writer(self, connection: Connection) -> None:
        try:
            self._writers.give(connection)
        finally:
            self._writing.release()

    @contextmanager
    def writer(self) -> Iterator[Connection]:
        """`take_writer` for the time of a ``with`` block."""
        connection = self.take_writer()
        try:
            yield connection
        finally:
            self.give_writer(connection)

    @contextmanager
    def idle_writer(self) -> Iterator[Connection | None]:
        """The connection that writes, waiting for nobody; None while it is in use."""
        if not self._writing.acquire(blocking=False):
            yield None
            return
        try:
            with self._writers.lent() as connection:
                connection.timeout = 0.0
                try:
                    yield connection
                finally:
                    connection.timeout = self._timeout
        finally:
            self._writing.release()

    @property
    def is_written(self) -> bool:
        """Whether a call of this store has the connection that writes."""
        return self._writing.locked()

    def version(self) -> int:
        """`data_version`; waits while a writer holds a lock that permits no reader."""
        return self._patiently(self.clock.version)

    def read_with_version(self, look: Callable[[Connection], T]) -> tuple[int, T]:
        """What `look` reads, after the `version` of exactly that state; keeps others waiting."""
        return self._patiently(partial(self.clock.read, look))

    def _patiently(self, look: Callable[[], T]) -> T:
        until = monotonic() + self._timeout
        while True:
            try:
                return look()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or monotonic() >= until:
                    raise
            sleep(RETRY)

    def forget(self) -> None:
        """Read everything anew: the file was overwritten past SQLite, which still has pages of it.

        The clock stays: without any connection, the next one would apply the write-ahead log.
        """
        self.epoch = secrets.token_hex(4)
        self.clock.forget()
        self.renew()

    def renew(self) -> None:
        """Have no connection use pages, or a schema, from here on that it has read before."""
        former, self.readers = self.readers, Pool(self._open_reader, READERS)
        former.close()
        with self.idle_writer() as connection:
            if connection is not None:
                connection.execute("PRAGMA shrink_memory")
                connection.execute("PRAGMA writable_schema = RESET")

    def close(self) -> None:
        """Close what is idle now, and what is in use as soon as it is not."""
        self.is_closed = True
        self.readers.close()
        self._writers.close()
        self.clock.close()

    def abandon(self) -> None:
        """The file was replaced: close, and wait a while until nothing of it is in use any more.

        A connection to a file that was replaced takes the rollback journal of the new file for
        its own, and would undo and delete it.
        """
        self.close()
        until = monotonic() + ABANDON
        while monotonic() < until:
            if not (self.readers.used or self._writers.used or self.clock.is_used):
                break
            sleep(RETRY)
        self.log.put_aside()

    def close_moved(self) -> None:
        """The file has another name, or none: close, and let it take along what its log holds."""
        with suppress(sqlite3.Error, SourceUnavailable), self.readers.lent() as connection:
            # SQLite does not do that by itself for a file that was moved.
            connection.execute(f"PRAGMA busy_timeout={int(ABANDON * 1000)}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.close()
        self.log.put_aside()

    def _open_first(self) -> Connection:
        """The clock's connection, which finds out how the file can be opened."""
        try:
            return self._open_once_it_is_there()
        except sqlite3.OperationalError as error:
            # In WAL mode SQLite needs two files beside it, which a read-only disk does not take.
            # Where it takes them, something else is short: files that this process may have open.
            if not cannot_open(error) or os.access(Path(self._path).resolve().parent, os.W_OK):
                raise
            if self.log.exists():
                raise SourceUnavailable(
                    f"{self._path}: {error}; if its disk is read-only, {self._path}-wal is in the "
                    "way, which may hold commits: close all programs before you copy a database, "
                    "or open it where it can be written"
                ) from error
        self.is_immutable, self._mode = True, IMMUTABLE
        return self._open(0)

    def _open_once_it_is_there(self) -> Connection:
        for _ in range(OPENS - 1):
            try:
                return self._open(0)
            except sqlite3.OperationalError as error:
                if not is_io(error):
                    raise
            sleep(RETRY)
        return self._open(0)

    def _open_reader(self) -> Connection:
        connection = self._open(self._timeout)
        # Twice as fast, but fails where text is not UTF-8; `reader` copes with that.
        connection.text_factory = str
        return connection

    def _open(self, timeout: float) -> Connection:
        connection = connect(self._path, self._mode, timeout)
        try:
            # Now it opens the write-ahead log, by its name: later that may be another file's.
            schema_version(connection)
        except sqlite3.Error as error:
            if not is_busy(error):
                connection.close()
                raise
        return self._checked(connection)

    def _open_writer(self) -> Connection:
        # The caller reads from it, and then looks whether the file is still this one.
        return self._checked(connect(self._path, self._mode, self._timeout))

    def _checked(self, connection: Connection) -> Connection:
        if file_id(self._path) != self.id:
            connection.close()
            raise Outdated(f"{self._path} was replaced meanwhile; retry")
        return connection
