"""What ends a `Source.wait`: a notification of the server, another thread, or the time.

The session that listens is also the one to ask what the notification was about: the process of the
server behind it has just been woken, where another one would have to be. The thread that waits
takes the answer, too: a poll would cost the way there.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from math import ceil
from time import monotonic
from typing import Any

import psycopg

from datastream.sources.postgres.ahead import Question
from datastream.sources.postgres.connection import Connection, Session
from datastream.sources.postgres.layout import quoted

SETTLING = 0.002
"""Seconds after a poll in which nothing is prepared for the next one."""

Ask = Callable[[Session], Question | None]
"""Gives what to ask, and prepares the session for it."""
Tell = Callable[[Sequence[Any]], bool]
"""Takes the rows of its answer; whether nothing is left to be read."""


class Listener:
    """Waits on a connection of its own, made when first waited with.

    One thread waits, and asks; it alone uses the connection. Other threads may wake it, and have
    it close the connection.

    Args:
        connect: makes it.
    """

    def __init__(self, connect: Callable[[], Session]) -> None:
        self._connect = connect
        self._session: Session | None = None
        self._channel = ""
        self._notified = False
        """One came while something was asked."""
        self._outdated = False
        # Another object after each call: a number could be counted up by two threads at once.
        self._last_wake = object()
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
        self._last_wake = object()
        # Full of unread bytes, or closed: one is enough, or no wait follows.
        with suppress(OSError):
            self._waker.send(b"!")

    def pause(self, timeout: float | None) -> None:
        """Wait for `wake` only."""
        with self._in_use() as is_open:
            if is_open:
                self._ready(timeout)

    def wait(self, channel: str, timeout: float | None, ask: Ask, tell: Tell) -> None:
        """Wait for a notification on `channel` as well, which `tell` does not deal with.

        Returns at once when it had to begin to listen: earlier notifications were missed.

        Args:
            ask: called before it waits: the question is sent as soon as a notification comes.
            tell: called with the answer, unless somebody has called `wake` meanwhile.

        Raises:
            psycopg.Error: the connection is lost; the next call makes another.
            SourceUnavailable, Denied: it cannot be made.
        """
        with self._in_use() as is_open:
            if not is_open:
                return
            try:
                if self._session is None or self._channel != channel or self._outdated:
                    self._begin(channel)
                else:
                    self._wait_and_ask(self._session, timeout, ask, tell)
            except psycopg.Error:
                self._drop()
                raise

    @contextmanager
    def lend(self) -> Iterator[Session | None]:
        """The session that listens, if there is one; only for the thread that waits."""
        with self._in_use() as is_open:
            session = self._session if is_open and not self._outdated else None
            try:
                yield session if session is not None and self._is_free(session) else None
            finally:
                if session is not None and not session.is_idle:
                    # The next `wait` listens anew, and has everything read again.
                    self._drop()

    def _is_free(self, session: Session) -> bool:
        try:
            session.ahead.forget()
        except psycopg.Error:
            # It is lost, and is dropped.
            return False
        return True

    def renew(self) -> None:
        """Use another session from the next `wait` on. From any thread."""
        self._outdated = True
        self.wake()

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
        # Before it connects: what is renewed meanwhile is renewed again.
        self._outdated = self._notified = False
        session = self._connect()
        session.db.add_notify_handler(self._note)
        # Known before it is waited for, so that `close` can cut it.
        self._session, self._channel = session, channel
        if self._closed:
            return
        _listen(session, channel)

    def _wait_and_ask(self, session: Session, timeout: float | None, ask: Ask, tell: Tell) -> None:
        until = None if timeout is None else monotonic() + timeout
        session.ahead.forget()
        is_told = True
        while is_told:
            # What was just told is being delivered, by threads that need the interpreter.
            settled = monotonic() + SETTLING
            first = settled if until is None else min(settled, until)
            if self._wait(session.db, first) is not None:
                return
            question = ask(session)
            if not self._wait(session.db, until) or question is None:
                return
            last_wake = self._last_wake
            rows = session.ahead.ask(question)
            is_told = rows is not None and self._last_wake is last_wake and tell(rows)

    def _wait(self, db: Connection, until: float | None) -> bool | None:
        """Whether a notification has come, or somebody has called `wake`; None: the time is up."""
        while not (_took_notifications(db) or self._notified):
            left = None if until is None else max(0.0, until - monotonic())
            if self._ready(left, db):
                return False
            if left == 0:
                return None
        self._notified = False
        return True

    def _note(self, _: psycopg.Notify) -> None:
        self._notified = True

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
        ready = poll.poll(None if timeout is None else ceil(timeout * 1000))
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
    # A limit on idle sessions is not meant for one whose purpose is to wait.
    patience = "SET idle_session_timeout = 0; " if session.knows_idle_timeout else ""
    session.db.execute(f"{patience}LISTEN {quoted(channel)}".encode())


def _took_notifications(db: Connection) -> bool:
    """Whether notifications have come; they are taken off."""
    pgconn = db.pgconn
    pgconn.consume_input()
    found = False
    while pgconn.notifies() is not None:
        found = True
    return found
