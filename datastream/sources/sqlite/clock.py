"""The connection by which commits of others are noticed."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from datastream.sources.sqlite.connection import (
    Connection,
    Outdated,
    data_version,
    is_of_pages,
    moment,
)

T = TypeVar("T")


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
        return self._call(data_version)

    def read(self, look: Callable[[Connection], T]) -> tuple[int, T]:
        """What `look` reads, after the version of exactly that state.

        Raises:
            Outdated: the clock was closed.
            sqlite3.OperationalError: a writer holds the file.
        """
        return self._call(partial(_at_version, look))

    def _call(self, function: Callable[[Connection], T]) -> T:
        try:
            with self._lock:
                self._check()
                try:
                    return function(self._connection)
                except sqlite3.DatabaseError as error:
                    if is_of_pages(error):
                        # Read while the file was being overwritten: not to be met again.
                        self._connection.execute("PRAGMA shrink_memory")
                    raise
        finally:
            if self._closed:
                self.close()

    def forget(self) -> None:
        """Read everything from the file again."""
        with self._lock:
            self._check()
            self._connection.execute("PRAGMA shrink_memory")

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


def _at_version(look: Callable[[Connection], T], connection: Connection) -> tuple[int, T]:
    with moment(connection):
        return data_version(connection), look(connection)
