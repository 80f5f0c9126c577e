"""The sessions of one source: lent to one thread at a time, few of them kept.

Why not `psycopg_pool`: it keeps four threads per pool, connects in them, and answers every trouble
with a time-out instead of its reason, such as a refused password.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from time import monotonic

import psycopg

from datastream.errors import SourceUnavailable, StoreClosed
from datastream.sources.postgres.connection import Connector, Session
from datastream.sources.postgres.errors import Crowded

KEPT = 2
"""Idle sessions that are kept for long."""
IDLE = 5.0
"""Seconds after which those beyond `KEPT` are closed."""
PATIENCE = 10.0
"""Seconds that a call waits for one of its kind to give back a session."""
ENDING = 1.0
"""Seconds in which the server notices that a session was closed."""
RETRY = 0.02
"""Seconds between two looks whether it has."""
GRACE = 0.3
"""Seconds that `close` gives to running calls before it cancels them, and again after it."""
CANCEL = 1.0
"""Seconds that the server has to take a cancel."""


class Use(Enum):
    """What a session is used for. Each has a limit of its own, so none can starve another."""

    READ = "read"
    WRITE = "write"
    POLL = "poll"
    LOOK_UP = "look up the table"
    WALK = "read it piece by piece"


LIMITS = {Use.READ: 4, Use.WRITE: 3, Use.POLL: 1, Use.LOOK_UP: 1, Use.WALK: 8}


class Pool:
    """Sessions made by `connector` when needed."""

    def __init__(self, connector: Connector, where: str) -> None:
        self._connector = connector
        self._where = where
        self._slots = {use: FairSemaphore(limit) for use, limit in LIMITS.items()}
        # For memory only: it is never held while the server is asked.
        self._lock = threading.Condition(threading.Lock())
        self._idle: list[tuple[float, Session]] = []
        """Since when, oldest first."""
        self._lent: set[Session] = set()
        self._making = 0
        """How many are being made."""
        self._usable: set[Session] = set()
        """All made since the last `clear`."""
        self._trimmer: threading.Timer | None = None
        self._closed = False

    @contextmanager
    def lend(self, use: Use) -> Iterator[Session]:
        """A session for this thread alone.

        Raises:
            SourceUnavailable: no server, or all of this use were lent for `PATIENCE` seconds.
        StoreClosed: it was closed.
            Denied, DatastreamError: the server refuses.
        """
        if not self._slots[use].acquire(PATIENCE):
            raise SourceUnavailable(
                f"{self._where}: all {LIMITS[use]} connections to {use.value} were in use for "
                f"{PATIENCE:g} s; find out what holds them up, and retry"
            )
        try:
            session = self._take()
            try:
                yield session
            finally:
                self._give_back(session)
        finally:
            self._slots[use].release()

    def clear(self) -> None:
        """Close the idle sessions now, and those that are lent when they come back."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._usable.clear()
            self._lock.notify_all()
        for _, session in idle:
            session.close()

    def close(self) -> None:
        """Close all sessions; those that are lent are cancelled, or broken off."""
        with self._lock:
            self._closed = True
            trimmer = self._trimmer
        self._connector.close()
        for slots in self._slots.values():
            slots.open()
        if trimmer is not None:
            trimmer.cancel()
            trimmer.join(CANCEL)
        self.clear()
        if not self._all_back(GRACE):
            self._cancel_lent()
            if not self._all_back(GRACE):
                with self._lock:
                    for session in self._lent:
                        session.cut()
                self._all_back(GRACE)

    def _all_back(self, timeout: float) -> bool:
        with self._lock:
            return self._lock.wait_for(lambda: not self._lent, timeout)

    def _cancel_lent(self) -> None:
        with self._lock:
            lent = list(self._lent)
        for session in lent:
            try:
                session.cancel(CANCEL)
            except psycopg.Error:
                # If it does not listen to one, it does not listen to the others.
                return

    def connect(self) -> Session:
        """A session beside these, of which idle ones make room if need be.

        Raises:
            SourceUnavailable, Denied, DatastreamError: what prevents it.
        """
        begun = monotonic()
        while True:
            try:
                return self._connector.connect()
            except Crowded as error:
                self.clear()
                if monotonic() - begun > ENDING:
                    raise SourceUnavailable(str(error)) from error
                self._await_room(begun)

    def _take(self) -> Session:
        begun = monotonic()
        while True:
            if (session := self._newest_idle()) is not None:
                if not session.is_lost:
                    return session
                self._connector.forget()
                self._discard(session)
                continue
            try:
                return self._made()
            except Crowded as error:
                # Few connections are enough for many calls, one after the other.
                if not self._await_room(begun):
                    raise SourceUnavailable(str(error)) from error

    def _await_room(self, begun: float) -> bool:
        """Wait until a session that others have is idle or closed, or until the server may have
        ended one that was closed before; False if that has taken too long."""
        with self._lock:
            others = len(self._lent) + self._making
            left = begun + (PATIENCE if others or self._idle else ENDING) - monotonic()
            if left <= 0:
                return False

            def has_come() -> bool:
                return bool(self._idle) or self._closed or len(self._lent) + self._making < others

            self._lock.wait_for(has_come, left if others else min(left, RETRY))
            return True

    def _made(self) -> Session:
        with self._lock:
            self._making += 1
        try:
            session = self._connector.connect()
        except BaseException:
            with self._lock:
                self._making -= 1
                self._lock.notify_all()
            raise
        with self._lock:
            self._making -= 1
            is_closed = self._closed
            if not is_closed:
                self._lent.add(session)
                self._usable.add(session)
            self._lock.notify_all()
        if is_closed:
            session.close()
            raise self._is_closed()
        return session

    def _newest_idle(self) -> Session | None:
        """The one used last, which has most statements prepared."""
        with self._lock:
            if self._closed:
                raise self._is_closed()
            if not self._idle:
                return None
            _, session = self._idle.pop()
            self._lent.add(session)
            return session

    def _give_back(self, session: Session) -> None:
        healthy = session.is_idle
        session.is_new = False
        if not healthy:
            self._connector.forget()
        with self._lock:
            keep = healthy and not self._closed and session in self._usable
            if keep:
                self._idle.append((monotonic(), session))
                self._lent.discard(session)
                self._lock.notify_all()
                self._trim_later()
        if not keep:
            self._discard(session)

    def _discard(self, session: Session) -> None:
        # Closed before it counts as back: `close` waits for it.
        session.close()
        with self._lock:
            self._lent.discard(session)
            self._usable.discard(session)
            self._lock.notify_all()

    def _is_closed(self) -> StoreClosed:
        return StoreClosed(f"{self._where} was closed; open it anew")

    # Idle ones.

    def _trim_later(self) -> None:
        if len(self._idle) <= KEPT or self._trimmer is not None or self._closed:
            return
        self._trimmer = threading.Timer(IDLE, self._trim)
        self._trimmer.name = "datastream-postgres-idle"
        self._trimmer.daemon = True
        self._trimmer.start()

    def _trim(self) -> None:
        """Close what was idle for long, except the newest; again later if some was not."""
        with self._lock:
            self._trimmer = None
            long_ago = monotonic() - IDLE
            surplus = self._idle[: max(0, len(self._idle) - KEPT)]
            old = [session for since, session in surplus if since <= long_ago]
            del self._idle[: len(old)]
            self._usable.difference_update(old)
            self._trim_later()
        for session in old:
            session.close()


class FairSemaphore:
    """A semaphore that is given to those who wait in the order in which they came."""

    def __init__(self, value: int) -> None:
        self._lock = threading.Lock()
        self._free = value
        self._waiting: deque[threading.Lock] = deque()
        self._open = False

    def acquire(self, timeout: float) -> bool:
        """Take one, in `timeout` seconds if need be; whether that succeeded."""
        with self._lock:
            if self._free > 0 or self._open:
                self._free -= 1
                return True
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        if mine.acquire(timeout=timeout):
            return True
        with self._lock:
            if mine not in self._waiting:
                # It was handed over in the last moment.
                return True
            self._waiting.remove(mine)
            return False

    def release(self) -> None:
        """Give one back, to the one that has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    def open(self) -> None:
        """From now on `acquire` always succeeds at once."""
        with self._lock:
            self._open = True
            while self._waiting:
                self._free -= 1
                self._waiting.popleft().release()
