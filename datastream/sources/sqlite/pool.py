"""Connections that are lent to threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from datastream.sources.sqlite.connection import Connection, Outdated


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
        for connection in list(self.used):
            connection.is_outdated = True
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return
