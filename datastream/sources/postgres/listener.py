"""What ends a `Source.wait`: a notification, another thread, or the time."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from time import monotonic

import psycopg

from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.layout import quoted


class Listener:
    """Waits on a connection of its own, made when first waited with.

    Args:
        connect: makes it.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._channel = ""
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)

    def wake(self) -> None:
        """End the wait that runs, or the next one. From any thread."""
        # Full of unheard calls, or closed: one is enough, or nobody waits any more.
        with suppress(OSError):
            self._waker.send(b"!")

    def pause(self, timeout: float | None) -> None:
        """Wait for `wake` only."""
        self._ready(timeout)

    def wait(self, channel: str, timeout: float | None) -> None:
        """Wait for a notification on `channel` as well.

        Returns at once when it had to begin to listen: what happened before was not heard.

        Raises:
            psycopg.Error: the connection is lost; the next call makes another.
        """
        connection = self._connection
        if connection is None or self._channel != channel:
            self.release()
            self._connection, self._channel = self._listening(channel), channel
            return
        until = None if timeout is None else monotonic() + timeout
        try:
            while not _told(connection):
                left = None if until is None else until - monotonic()
                if (left is not None and left <= 0) or self._ready(left, connection):
                    return
        except psycopg.Error:
            self.release()
            raise

    def hears(self, channel: str, sender: Connection, timeout: float) -> bool:
        """Whether a notification from `sender` would arrive, tried on another connection."""
        with closing(self._listening(channel)) as connection:
            sender.execute("SELECT pg_notify($1, '')", (channel,))
            until = monotonic() + timeout
            while not _told(connection):
                left = until - monotonic()
                if left <= 0:
                    return False
                select.select([connection.pgconn.socket], [], [], left)
            return True

    def release(self) -> None:
        """Stop listening; whoever notifies has one session less to tell."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        self.release()
        self._woken.close()
        self._waker.close()

    def _listening(self, channel: str) -> Connection:
        connection = self._connect()
        try:
            connection.execute(f"LISTEN {quoted(channel)}".encode())
        except BaseException:
            connection.close()
            raise
        return connection

    def _ready(self, timeout: float | None, connection: Connection | None = None) -> bool:
        """Wait until the server says something or somebody wakes; whether it was the latter."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if connection is not None:
            poll.register(connection.pgconn.socket, select.POLLIN)
        ready = poll.poll(None if timeout is None else max(0, int(timeout * 1000)))
        if not any(number == self._woken.fileno() for number, _ in ready):
            return False
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        return True


def _told(connection: Connection) -> bool:
    """Whether notifications have come; they are taken off."""
    pgconn = connection.pgconn
    pgconn.consume_input()
    told = False
    while pgconn.notifies() is not None:
        told = True
    return told
