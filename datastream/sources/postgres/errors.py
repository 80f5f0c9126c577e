"""What PostgreSQL's errors mean for a store: which of ours, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from datastream.errors import (
    DatastreamError,
    Denied,
    InvalidKey,
    InvalidValue,
    ReadOnly,
    SourceUnavailable,
    Unreadable,
    shown,
)


class Altered(Exception):
    """The table, its triggers or the server are not those of the last catalogue look-up."""


class ConnectionLost(Exception):
    """The connection broke before the server answered; its cause is what psycopg says."""


class Crowded(SourceUnavailable):
    """The server, or this role, has as many connections as it may have."""


@contextmanager
def passing() -> Iterator[None]:
    """For calls after the first: what was there once, such as a table, may come back.

    Raises:
        SourceUnavailable: instead of a DatastreamError that says no more than its base class.
    """
    try:
        yield
    except DatastreamError as error:
        if type(error) is DatastreamError:
            raise SourceUnavailable(str(error)) from error
        raise


def explain_connecting(error: psycopg.Error, where: str) -> DatastreamError:
    """Why no connection was made; libpq gives no code, only a text."""
    text = " ".join(str(error).split())
    for words, kind, advice in _CONNECTING:
        if any(word in text for word in words):
            return kind(f"{where}: {text}; {advice}")
    return SourceUnavailable(f"{where}: {text}; check host and port, and that the server runs")


def explain(
    error: psycopg.Error, where: str, key: str | None = None, *, writes: bool = False
) -> DatastreamError:
    """The error to raise instead: what failed, on what, what to do.

    Args:
        writes: it was a write that failed.
    """
    state = error.sqlstate or ""
    kind, advice = _MEANINGS.get(state) or _MEANINGS.get(state[:2]) or _UNKNOWN
    concerns_value = kind in (InvalidKey, InvalidValue)
    if not writes and (concerns_value or is_of_a_row(error)):
        kind, advice = _UNREADABLE
        kind = kind if key is None else Unreadable
    if not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        kind, advice = SourceUnavailable, "the connection is lost; it is made again when needed"
    place = f"{where}, key {shown(key)}" if key is not None else where
    return kind(f"{place}: {reason_of(error, short=concerns_value)}; {advice}")


def is_of_a_row(error: psycopg.Error) -> bool:
    """Whether a read failed because of what is in a row, or is made of it."""
    return (error.sqlstate or "")[:2] in _OF_ROWS


def reason_of(error: psycopg.Error, *, short: bool = True) -> str:
    """What the server says, without details.

    Args:
        short: without what was malformed either: values may be secrets.
    """
    text = error.diag.message_primary or str(error).partition("\n")[0]
    return text.partition(': "')[0] if short else text


def unknown_outcome(error: psycopg.Error, where: str) -> SourceUnavailable:
    """For a connection that broke before a write was acknowledged."""
    text = str(error).partition("\n")[0]
    return SourceUnavailable(
        f"{where}: {text}; the connection was lost in the middle of a write, which may or may not "
        "have been done: read it again, decide and retry"
    )


_UNKNOWN: tuple[type[DatastreamError], str] = (DatastreamError, "see PostgreSQL's message")
_UNREADABLE = (DatastreamError, "a row, or what a view or policy makes of it, cannot be read")
_OF_ROWS = frozenset(("21", "22", "23", "2F", "38", "39", "P0", "XX"))
"""Classes of errors: data, checks of domains, functions that refuse, storage that is broken."""
_MALFORMED = (
    *("connection is bad: invalid", "could not match", "could not parse network address"),
    *(
        "may not be used with",
        "invalid value for parameter",
        "unrecognized configuration parameter",
    ),
    "requires a value",
)
"""What libpq and the server say of options with values that they do not know."""
_DENIED = "check user, password and pg_hba.conf"
_CROWDED = ("too many connections", "too many clients", "connection slots are reserved")
_CONNECTING: tuple[tuple[tuple[str, ...], type[DatastreamError], str], ...] = (
    (_CROWDED, Crowded, "raise that limit, or close what is not needed"),
    (_MALFORMED, DatastreamError, "check the options of the URL, and the settings of this role"),
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
    "55000": (
        SourceUnavailable,
        "it is not ready for that, such as before its first REFRESH; retry",
    ),
    "55P03": (SourceUnavailable, "another session holds the lock; retry"),
    "57014": (SourceUnavailable, "statement_timeout was too short, or somebody cancelled; retry"),
    "57": (SourceUnavailable, "the server is stopping or starting; retry"),
    "58": (SourceUnavailable, "check the server's disk"),
    "P0001": (InvalidValue, "a trigger of the table refuses it; nothing was written"),
}
