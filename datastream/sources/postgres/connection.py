"""Connections to a PostgreSQL server, and what its errors mean for a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import psycopg
import tenacity
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from datastream.errors import (
    DatastreamError,
    Denied,
    InvalidKey,
    InvalidValue,
    ReadOnly,
    SourceUnavailable,
    shown,
)

Connection = psycopg.Connection[tuple[object, ...]]
T = TypeVar("T")

ATTEMPTS = 8
"""How often a transaction is tried that lost against another one."""
DEFAULTS = {
    "connect_timeout": "10",
    # A server that vanished without a word is noticed after a minute.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""Where neither the URL nor the environment nor a service file says otherwise."""
ALWAYS = {"client_encoding": "UTF8", "fallback_application_name": "datastream"}
SESSION = (
    # One spelling of a value in every process, whatever role and database have set.
    "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET extra_float_digits = 1; "
    # Statements are few and their shape is right for any parameters.
    "SET plan_cache_mode = force_generic_plan; SET jit = off"
)


def parameters(conninfo: str, more: Mapping[str, str]) -> dict[str, str]:
    """libpq's parameters of a URL or connection string, `more` winning, our defaults last.

    Raises:
        DatastreamError: libpq does not know one of them. The text never holds a value.
    """
    given = _parsed(conninfo) | {name: value for name, value in more.items() if value}
    defaults = dict(DEFAULTS)
    if "service" in given or "PGSERVICE" in os.environ:
        # What is given here would win over the service file.
        defaults.clear()
    if "PGCONNECT_TIMEOUT" in os.environ:
        defaults.pop("connect_timeout", None)
    result = defaults | ALWAYS | given
    _parsed(_conninfo(result))
    return result


def _parsed(conninfo: str) -> dict[str, str]:
    try:
        found = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # libpq's message may quote the whole string, password and all.
        raise DatastreamError(
            "the PostgreSQL URL or connection string is malformed; write "
            "postgresql://user@host:port/database?table=NAME"
        ) from None
    return {name: str(value) for name, value in found.items() if value is not None}


def _conninfo(given: Mapping[str, str]) -> str:
    for name, value in given.items():
        try:
            make_conninfo(**{name: value})
        except psycopg.ProgrammingError:
            raise DatastreamError(
                f"postgresql: has no option {name!r}; see docs/postgres.md, and libpq's manual "
                "for its connection parameters"
            ) from None
    return make_conninfo(**given)


def connect(given: Mapping[str, str], where: str) -> Connection:
    """A connection that commits each statement, set up for reading values alike everywhere.

    Raises:
        SourceUnavailable, Denied, DatastreamError: what prevents it.
    """
    try:
        connection = psycopg.connect(
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
    try:
        _begin_session(connection)
    except psycopg.Error as error:
        connection.close()
        raise explain(error, where) from error
    return connection


def _begin_session(connection: Connection) -> None:
    if connection.info.server_version < 130000:
        raise psycopg.NotSupportedError("the server is older than PostgreSQL 13")
    connection.execute(SESSION)
    if is_pooled(connection):
        # The next transaction may be on another session, which has prepared nothing.
        connection.prepare_threshold = None


def is_pooled(connection: Connection) -> bool:
    """Whether something like PgBouncer stands between: it makes up the number of the session."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is None or row[0] != connection.info.backend_pid


def is_lost(connection: Connection) -> bool:
    """Whether the server has hung up, as far as can be told without asking it."""
    if connection.closed or connection.broken:
        return True
    try:
        # What it said last lies there unread, such as that it shuts down; behind that, the end.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return connection.pgconn.status != psycopg.pq.ConnStatus.OK


def persistently(action: Callable[[], T]) -> T:
    """Try again what lost against another transaction: nothing of it was done."""
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(
            (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
        ),
        wait=tenacity.wait_random_exponential(0.01, 0.5),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    ):
        with attempt:
            return action()
    raise AssertionError("tenacity gives the result or raises")


def explain_connecting(error: psycopg.Error, where: str) -> DatastreamError:
    """Why there is no connection. libpq tells it in words only."""
    text = " ".join(str(error).split())
    for words, kind, advice in _CONNECTING:
        if any(word in text for word in words):
            return kind(f"{where}: {text}; {advice}")
    return SourceUnavailable(f"{where}: {text}; check host and port, and that the server runs")


def explain(error: psycopg.Error, where: str, key: str | None = None) -> DatastreamError:
    """The error to raise instead: what failed, on what, what to do."""
    state = error.sqlstate or ""
    kind, advice = _MEANINGS.get(state) or _MEANINGS.get(state[:2]) or _UNKNOWN
    if not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        kind, advice = SourceUnavailable, "the connection is lost; it is made again when needed"
    place = f"{where}, key {shown(key)}" if key is not None else where
    # Neither details nor what was malformed: values may be secrets.
    text = error.diag.message_primary or str(error).partition("\n")[0]
    text = text.partition(': "')[0] if kind is InvalidValue else text
    return kind(f"{place}: {text}; {advice}")


def unknown_outcome(error: psycopg.Error, where: str) -> SourceUnavailable:
    """For a connection that broke before a write was acknowledged."""
    text = str(error).partition("\n")[0]
    return SourceUnavailable(
        f"{where}: {text}; the connection was lost in the middle of a write, which may or may not "
        "have been done: read it again, decide and retry"
    )


_UNKNOWN: tuple[type[DatastreamError], str] = (DatastreamError, "see PostgreSQL's message")
_DENIED = "check user, password and pg_hba.conf"
_CONNECTING: tuple[tuple[tuple[str, ...], type[DatastreamError], str], ...] = (
    (("does not exist", "does not accept"), DatastreamError, "check the name"),
    (("SSL", "certificate", "pg_hba.conf", "encryption"), Denied, "check sslmode= and pg_hba.conf"),
    (("password", "authentication", "not permitted to log in"), Denied, _DENIED),
    (("permission denied for database",), Denied, "GRANT CONNECT to this role"),
    (("definition of service",), DatastreamError, "check the service file"),
)

_MEANINGS: dict[str, tuple[type[DatastreamError], str]] = {
    "08": (SourceUnavailable, "the connection is lost; it is made again when needed"),
    "0A": (DatastreamError, "this server cannot do that"),
    "22": (InvalidValue, "the column cannot hold it; nothing was written"),
    "23": (InvalidValue, "the table refuses this row; nothing was written"),
    "25006": (ReadOnly, "this server or role only reads; open the primary to write"),
    "28": (Denied, _DENIED),
    "3D": (DatastreamError, "check the name of the database"),
    "40": (SourceUnavailable, "other transactions were in the way each time; retry"),
    "42501": (Denied, "GRANT this role what it needs, or open it as another"),
    "42": (DatastreamError, "check table and columns"),
    "44": (InvalidValue, "the view refuses this row; nothing was written"),
    "53": (SourceUnavailable, "the server is short of something; make room and retry"),
    "54000": (InvalidKey, "the key is too long for its index; nothing was written"),
    "54": (InvalidValue, "this is too large for PostgreSQL; nothing was written"),
    "55P03": (SourceUnavailable, "another session holds the lock; retry"),
    "57014": (SourceUnavailable, "statement_timeout was too short, or somebody cancelled; retry"),
    "57": (SourceUnavailable, "the server is stopping or starting; retry"),
    "58": (SourceUnavailable, "check the server's disk"),
    "P0001": (InvalidValue, "a trigger of the table refuses it; nothing was written"),
}
