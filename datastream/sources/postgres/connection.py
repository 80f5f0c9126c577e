"""Connections to a PostgreSQL server: how they are set up, kept together and broken off."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

import psycopg
import tenacity
from psycopg.conninfo import make_conninfo

from datastream.errors import DatastreamError, SourceUnavailable, StoreClosed
from datastream.sources.postgres.ahead import Ahead
from datastream.sources.postgres.arrays import Packed, PackedDumper
from datastream.sources.postgres.errors import explain, explain_connecting
from datastream.sources.postgres.spelling import SPELLING

Connection = psycopg.Connection[tuple[object, ...]]
T = TypeVar("T")

ATTEMPTS = 8
"""How often a transaction is tried that lost against another one."""
SESSION = (
    # One spelling of a value in every process, whatever role and database have set.
    "".join(f"SET {name} = {value}; " for name, value in SPELLING.items())
    # What row-level security hides from this role is left out, and is no error.
    + "SET row_security = on; "
    # Statements are few and their shape is right for any parameters.
    "SET plan_cache_mode = force_generic_plan; SET jit = off"
)
_LOST_TO_ANOTHER = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)


class Session:
    """A connection with what was asked about it once, used by one thread at a time."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.ahead = Ahead(db)
        self.started = ""
        """When the server was started, and the database: tells it from others, and from itself
        after a restart."""
        self.is_new = True
        """It was lent to nobody before."""
        self.is_pooled = False
        """Whether PgBouncer or the like stands between."""
        self._lock = threading.Lock()
        """Held to close, cancel and cut, so that the latter two never hit what was freed."""
        # Another thread may have to break the connection while this one waits in libpq, which
        # closes its descriptor whenever it likes: so that thread gets one of its own.
        self._socket = socket.socket(fileno=os.dup(db.pgconn.socket))

    def begin(self) -> None:
        """Set it up.

        Raises:
            psycopg.Error: the server is too old, or the connection was lost at once.
        """
        if self.db.info.server_version < 130000:
            raise psycopg.NotSupportedError("the server is older than PostgreSQL 13")
        self.db.execute(SESSION.encode())
        # Another database may have this one's name by now.
        statement = (
            "SELECT pg_catalog.concat_ws('/', pg_postmaster_start_time(), "
            "(SELECT oid FROM pg_database WHERE datname = current_database())), pg_backend_pid()"
        )
        row = self.db.execute(statement).fetchone()
        if row is not None:
            self.started = str(row[0])
            # A pooler makes up the number of the session.
            self.is_pooled = row[1] != self.db.info.backend_pid
        if self.is_pooled:
            # The next transaction may be on another session, which has prepared nothing.
            self.db.prepare_threshold = None

    @property
    def endpoint(self) -> dict[str, str]:
        """Parameters that lead to this very server, where a name stands for several."""
        info = self.db.info
        address = {"hostaddr": info.hostaddr} if info.hostaddr else {}
        return {"host": info.host, "port": str(info.port), **address}

    @property
    def knows_idle_timeout(self) -> bool:
        """Whether its server can end sessions that are idle for long."""
        return self.db.info.server_version >= 140000

    @property
    def is_idle(self) -> bool:
        """Whether it is alive, as far as this side knows, and in no transaction."""
        return self.db.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE

    @property
    def is_lost(self) -> bool:
        """Whether the server has hung up, as far as can be told without asking it."""
        return is_lost(self.db)

    def cancel(self, timeout: float) -> None:
        """End the statement that runs. From any thread.

        Raises:
            psycopg.Error: the server did not answer in time.
        """
        with self._lock:
            # Without `cancel_safe` there is only a call without a time limit.
            if psycopg.capabilities.has_cancel_safe():
                self.db.cancel_safe(timeout=timeout)

    def cut(self) -> None:
        """Break the connection, so that whatever waits for it fails. From any thread."""
        with self._lock, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free it; only by the thread that uses it."""
        with self._lock:
            self.db.close()
            self._socket.close()


class Connector:
    """Makes sessions, all with one server as long as that lasts.

    A list of hosts or a name with several addresses may lead to a primary and its replicas.
    Sessions with different ones would show different states at the same time.
    """

    def __init__(self, given: Mapping[str, str], where: str) -> None:
        self._given = dict(given)
        self._where = where
        self._endpoint: dict[str, str] = {}
        self._lock = threading.Lock()
        self._beginning: set[Session] = set()
        self._closed = False

    def connect(self) -> Session:
        """A session that commits each statement and reads values as all others do.

        Raises:
            SourceUnavailable, Denied, DatastreamError: what prevents it.
        """
        wanted = self._given | self._endpoint
        try:
            session = self._connect(wanted)
        except DatastreamError:
            if wanted == self._given:
                raise
            self.forget()
            session = self._connect(self._given)
        self._endpoint = session.endpoint
        return session

    def forget(self) -> None:
        """A connection was lost: the next one goes wherever the parameters lead."""
        self._endpoint = {}

    def close(self) -> None:
        """Break off what is being connected, as far as libpq lets one; nothing new from now on."""
        with self._lock:
            self._closed = True
            beginning = list(self._beginning)
        for session in beginning:
            session.cut()

    def _connect(self, given: Mapping[str, str]) -> Session:
        self._check_open()
        session = _open(given, self._where)
        with self._lock:
            self._beginning.add(session)
        try:
            self._check_open()
            session.begin()
        except BaseException as error:
            session.close()
            if isinstance(error, psycopg.Error):
                raise explain(error, self._where) from error
            raise
        finally:
            with self._lock:
                self._beginning.discard(session)
        return session

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self._where} was closed; open it anew")


def _open(given: Mapping[str, str], where: str) -> Session:
    try:
        db = psycopg.connect(
            make_conninfo(**given),
            autocommit=True,
            cursor_factory=psycopg.RawCursor,
            prepare_threshold=2,
        )
    except psycopg.Error as error:
        # From None: libpq's own error holds the connection's parameters.
        raise explain_connecting(error, where) from None
    except UnicodeError:
        raise DatastreamError(f"{where}: the host is no host name; check the URL") from None
    db.adapters.register_dumper(Packed, PackedDumper)
    try:
        return Session(db)
    except OSError as error:
        db.close()
        raise SourceUnavailable(f"{where}: {error}; close some files and retry") from error


def is_lost(db: Connection) -> bool:
    """Whether the server has hung up, as far as can be told without asking it."""
    if db.closed or db.broken:
        return True
    try:
        # What it said last lies there unread, such as that it shuts down; behind that, the end.
        db.pgconn.consume_input()
        db.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return db.pgconn.status != psycopg.pq.ConnStatus.OK


def persistently(action: Callable[[], T]) -> T:
    """Try again what lost against another transaction: nothing of it was done."""
    try:
        return action()
    except _LOST_TO_ANOTHER:
        pass
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_LOST_TO_ANOTHER),
        wait=tenacity.wait_random_exponential(0.01, 0.5),
        stop=tenacity.stop_after_attempt(ATTEMPTS - 1),
        reraise=True,
    ):
        with attempt:
            return action()
    raise AssertionError("tenacity gives the result or raises")
