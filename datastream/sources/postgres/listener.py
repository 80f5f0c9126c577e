"""What ends a `Source.wait`: a notification of the server, another thread, or the time."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from time import monotonic

import psycopg

from datastream.sources.postgres.connection import Connection, Session
from datastream.sources.postgres.layout import quoted


class Listener:
    """Waits on a connection of its own, made when first waited with.

    One thread waits; it alone uses the connection. Other threads may wake it, and have it close
    the connection.

    Args:
        connect: makes it.
    """

    def __init__(self, connect: Callable[[], Session]) -> None:
        self._connect = connect
        self._session: Session | None = None
        self._channel = ""
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        # For the three flags, and to free what they say is not in use.
        self._lock = threading.Lock()
        self._waiting = False
        self._released = False
        self._closed = False

    def wake(self) -> None:
        """End the wait that runs, or the next one. From any thread."""
        # Full of unread bytes, or closed: one is enough, or no wait follows.
        with suppress(OSError):
            self._waker.send(b"!")

    def pause(self, timeout: float | None) -> None:
        """Wait for `wake` only."""
        with self._in_use() as is_open:
            if is_open:
                self._ready(timeout)

    def wait(self, channel: str, timeout: float | None) -> None:
        """Wait for a notification on `channel` as well.

        Returns at once when it had to begin to listen: earlier notifications were missed.

        Raises:
            psycopg.Error: the connection is lost; the next call makes another.
            SourceUnavailable, Denied: it cannot be made.
        """
        with self._in_use() as is_open:
            if not is_open:
                return
            try:
                if self._session is None or self._channel != channel:
                    self._begin(channel)
                else:
                    self._wait(self._session.db, timeout)
            except psycopg.Error:
                self._drop()
                raise

    def release(self) -> None:
        """Stop listening: the server then has one session less to notify. From any thread."""
        with self._lock:
            self._released = self._waiting
            if not self._waiting:
                self._drop()
                return
        self.wake()

    def close(self) -> None:
        """Free the connection, or have the running wait free it. From any thread."""
        with self._lock:
            self._closed = True
            session = self._session
            if not self._waiting:
                self._free()
                return
        self.wake()
        if session is not None:
            # It may wait for an answer of the server, which `wake` does not end.
            session.cut()

    def _begin(self, channel: str) -> None:
        self._drop()
        session = self._connect()
        # Known before it is waited for, so that `close` can cut it.
        self._session, self._channel = session, channel
        if self._closed:
            return
        _listen(session, channel)

    def _wait(self, db: Connection, timeout: float | None) -> None:
        until = None if timeout is None else monotonic() + timeout
        while not _took_notifications(db):
            left = None if until is None else until - monotonic()
            if (left is not None and left <= 0) or self._ready(left, db):
                return

    @contextmanager
    def _in_use(self) -> Iterator[bool]:
        """Whether it is open; what was to be freed meanwhile is freed at the end."""
        with self._lock:
            is_open = self._waiting = not self._closed
        try:
            yield is_open
        finally:
            with self._lock:
                if self._waiting and self._closed:
                    self._free()
                elif self._released:
                    self._drop()
                self._waiting = self._released = False

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _free(self) -> None:
        self._drop()
        self._woken.close()
        self._waker.close()

    def _ready(self, timeout: float | None, db: Connection | None = None) -> bool:
        """Wait until the server sends something or `wake` is called; whether it was the latter."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if db is not None:
            poll.register(db.pgconn.socket, select.POLLIN)
        ready = poll.poll(None if timeout is None else max(0, int(timeout * 1000)))
        if not any(number == self._woken.fileno() for number, _ in ready):
            return False
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        return True


def hears(connect: Callable[[], Session], channel: str, sender: Connection, timeout: float) -> bool:
    """Whether a notification from `sender` arrives on another connection."""
    with closing(connect()) as session:
        _listen(session, channel)
        sender.execute("SELECT pg_notify($1, '')", (channel,))
        until = monotonic() + timeout
        while not _took_notifications(session.db):
            left = until - monotonic()
            if left <= 0:
                return False
            poll = select.poll()
            poll.register(session.db.pgconn.socket, select.POLLIN)
            poll.poll(max(0, int(left * 1000)))
        return True


def _listen(session: Session, channel: str) -> None:
    session.db.execute(f"LISTEN {quoted(channel)}".encode())


def _took_notifications(db: Connection) -> bool:
    """Whether notifications have come; they are taken off."""
    pgconn = db.pgconn
    pgconn.consume_input()
    found = False
    while pgconn.notifies() is not None:
        found = True
    return found
