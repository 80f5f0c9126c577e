"""What a source may be asked for, checked before a server is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from datastream.errors import DatastreamError
from datastream.sources._common.paths import fixed
from datastream.url import expanded, unknown_option

POLL = "poll"
NOTIFY = "notify"
MODES = ("", NOTIFY, POLL)
LONGEST = 63
"""Bytes of an identifier."""
DEFAULTS = {
    "connect_timeout": "10",
    # A server that vanished without a word is noticed after a minute.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""Where neither the URL nor the environment nor a service file says otherwise."""
_NUMBERS = (
    *("connect_timeout", "tcp_user_timeout", "keepalives"),
    *("keepalives_idle", "keepalives_interval", "keepalives_count"),
)
_FILES = ("passfile", "servicefile", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir")
NAMED = {"fallback_application_name": "datastream"}
ALWAYS = {"client_encoding": "UTF8"}
"""Whatever the URL says: what is sent and read is UTF-8."""


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
    result = defaults | NAMED | given | ALWAYS
    result |= {name: _located(result[name]) for name in _FILES if result.get(name)}
    _check_numbers(result)
    _parsed(_conninfo(result))
    return result


def _located(path: str) -> str:
    """libpq opens it with each connection. `system` names no file."""
    return path if path == "system" else fixed(expanded(path))


def encoded(path: str) -> str:
    """libpq's URL for a path: what a password has of "@" is encoded, else a host would begin."""
    authority, slash, rest = path.removeprefix("//").partition("/")
    user, at, host = authority.rpartition("@")
    return f"postgresql://{user.replace('@', '%40')}{at}{host}{slash}{rest}"


def check_options(where: str, given: Iterable[str], own: Iterable[str]) -> None:
    """Refuse options that neither we nor libpq have.

    Raises:
        DatastreamError: there is such an option; the text offers the nearest.
    """
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    for name in given:
        if name not in known:
            raise unknown_option(where, name, {*own} - {"libpq"}, known, "libpq's parameters")


def _check_numbers(given: Mapping[str, str]) -> None:
    """libpq would say it only when it connects, as if the server were not there."""
    for name in _NUMBERS:
        if not _is_number(given.get(name, "0"), 0, (1 << 31) - 1):
            raise DatastreamError(f"{place(given)}: {name} wants a whole number of 0 or more")
    for port in given.get("port", "").split(","):
        if port and not _is_number(port, 1, 65_535):
            raise DatastreamError(f"{place(given)}: the port is a number from 1 to 65535")


def _is_number(text: str, least: int, most: int) -> bool:
    return text.isascii() and text.isdecimal() and least <= int(text[:11]) <= most


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


def place(given: Mapping[str, str]) -> str:
    """Where a connection leads, for error texts: nothing that could be a secret."""
    if "service" in given:
        return f"postgresql service {given['service']!r}"
    host, port = given.get("host", ""), given.get("port", "")
    return f"postgresql://{host}{f':{port}' if port else ''}/{given.get('dbname', '')}"


def check_names(where: str, mode: str, *names: str) -> None:
    """Refuse what PostgreSQL would cut short, and modes that there are none of."""
    if mode not in MODES:
        raise DatastreamError(f"{where}: there is no mode {mode!r}; use notify or poll, or none")
    for number, name in enumerate(names):
        # Empty may be the schema, and the columns of type and time.
        is_needed = number in (0, 2, 3)
        if (is_needed and not name) or "\0" in name or len(name.encode(errors="replace")) > LONGEST:
            raise DatastreamError(f"{where}: {name!r} names no schema, table or column")
