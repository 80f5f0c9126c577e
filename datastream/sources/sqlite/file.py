"""One SQLite file and the connections to it: some that read, one that writes, one that watches."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic, sleep
from typing import TypeVar

from datastream.errors import SourceUnavailable
from datastream.sources.sqlite.connection import (
    Connection,
    connect,
    data_version,
    file_id,
    is_busy,
    lenient,
    make_durable,
    moment,
)

READERS = 16
"""Idle connections for reading that are kept open."""
ABANDON = 1.0
"""Seconds that calls on a replaced file get to end before the new file is used."""
RETRY = 0.005
"""Seconds between attempts to read the version of a file that is being written, and the like."""


T = TypeVar("T")


class Outdated(SourceUnavailable):
    """The file or its schema is not the one that was looked up; look it up again."""


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
        self.epoch = secrets.token_hex(4)
        """Tells versions of this file from those of others."""
        self._writing = threading.Lock()
        self.readers = Pool(self._open_reader, READERS)
        """For a single SELECT; else use `reader`."""
        self._writers = Pool(partial(self._open, timeout), 1)
        # Must not wait for a writer: its commit shows at the next look.
        self.clock = Clock(self._open(0))

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
            if not connection.is_durable and self._mode != "ro":
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
                connection.execute("PRAGMA busy_timeout=0")
                try:
                    yield connection
                finally:
                    connection.execute(f"PRAGMA busy_timeout={int(self._timeout * 1000)}")
        finally:
            self._writing.release()

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

    def close(self) -> None:
        """Close what is idle now, and what is in use as soon as it is not."""
        self.is_closed = True
        self.readers.close()
        self._writers.close()
        self.clock.close()

    def abandon(self) -> None:
        """Close, and wait a while until nothing of it is in use any more.

        A connection to a file that was replaced takes the rollback journal of the new file for
        its own, and would undo and delete it.
        """
        self.close()
        until = monotonic() + ABANDON
        while monotonic() < until:
            if not (self.readers.used or self._writers.used or self.clock.is_used):
                return
            sleep(RETRY)

    def _open(self, timeout: float) -> Connection:
        connection = connect(self._path, self._mode, timeout)
        if file_id(self._path) != self.id:
            connection.close()
            raise Outdated(f"{self._path} was replaced meanwhile; retry")
        return connection

    def _open_reader(self) -> Connection:
        connection = self._open(self._timeout)
        # Twice as fast, but fails where text is not UTF-8; `reader` copes with that.
        connection.text_factory = str
        return connection


class Pool:
    """Connections of which each is used by one thread at a time.

    A connection that is closed while another thread uses it crashes the process, so `close`
    leaves those that are lent to the threads that have them.

    Args:
        connect: opens one.
        kept: how many may be idle.
    """

    def __init__(self, connect: Callable[[], Connection], kept: int) -> None:
        self._connect = connect
        self._kept = kept
        self._idle: list[Connection] = []
        self._closed = False
        self.used: set[Connection] = set()
        """Those that are lent."""

    def take(self) -> Connection:
        """An idle connection or else a new one; give it back with `give`.

        Raises:
            Outdated: the pool was closed.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        self.used.add(connection)
        if self._closed:
            self.give(connection)
            raise Outdated("the file was closed meanwhile; retry")
        return connection

    def give(self, connection: Connection) -> None:
        if self._closed or len(self._idle) >= self._kept:
            connection.close()
            self.used.discard(connection)
            return
        # In this order: once it is idle, another thread may take it.
        self.used.discard(connection)
        self._idle.append(connection)
        if self._closed:
            # Closed between the check and the append.
            self.close()

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """A connection for the time of a ``with`` block."""
        connection = self.take()
        try:
            yield connection
        finally:
            self.give(connection)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return


class Clock:
    """The `data_version` of a file, comparable because one connection reads it each time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._closed = False

    def version(self) -> int:
        """A number that moves with every commit.

        Raises:
            Outdated: the clock was closed.
            sqlite3.OperationalError: a writer holds the file.
        """
        try:
            with self._lock:
                self._check()
                return data_version(self._connection)
        finally:
            if self._closed:
                self.close()

    def read(self, look: Callable[[Connection], T]) -> tuple[int, T]:
        """What `look` reads, after the version of exactly that state."""
        try:
            with self._lock:
                self._check()
                with moment(self._connection):
                    return data_version(self._connection), look(self._connection)
        finally:
            if self._closed:
                self.close()

    @property
    def is_used(self) -> bool:
        return self._lock.locked()

    def _check(self) -> None:
        if self._closed:
            raise Outdated("the file was closed meanwhile; retry")

    def close(self) -> None:
        """Close the connection, or leave that to the thread that uses it."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._connection.close()
            finally:
                self._lock.release()
