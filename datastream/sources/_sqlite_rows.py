"""Rows to entries and values to parameters."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from datastream.entry import Entry
from datastream.errors import InvalidValue, shown

Row = tuple[Any, ...]
"""``key, value, typeof(value), value_type, updated_at``: what `Layout.fields` selects."""

_TYPES = {"integer": "int", "real": "float", "text": "str", "blob": "bytes", "null": "json"}
_TEXTUAL = frozenset(("int", "float", "bool", "str", "json"))
_MILLISECONDS = 1e11
"""Larger numbers in a time column count milliseconds: as seconds they would be after year 5000."""


def entry(row: Row) -> Entry:
    """The entry that one row is."""
    key, value, kind, value_type, updated_at = row
    if kind == "real":
        value = repr(value).encode()
    elif value is None:
        value = b"" if value_type else b"null"
    name = value_type or _TYPES[kind]
    return Entry(str(key), value, name, parse_time(updated_at), revision(value, name, updated_at))


def revision(value: bytes, value_type: str, updated_at: object) -> str:
    """Fingerprint of what the row says, the same in every process and with or without a log.

    The time is part of it, so that a value written, replaced and written again has two
    revisions; a table without a time column cannot tell them apart.
    """
    text = f"{value_type}\0{updated_at}\0"
    return blake2b(text.encode("utf-8", "surrogateescape") + value, digest_size=12).hexdigest()


def parse_time(value: Any) -> datetime | None:
    """ISO 8601 text (UTC unless it says otherwise), or seconds or milliseconds since 1970."""
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            return time if time.tzinfo else time.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            seconds = value / 1000 if abs(value) > _MILLISECONDS else value
            return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def time_text(time: datetime | None) -> str:
    """A time as stored: sortable as text, read by SQLite's date functions and by Go's driver."""
    moment = datetime.now(UTC) if time is None else time.astimezone(UTC)
    return moment.isoformat(" ", "microseconds")


def typed_parameter(value: bytes, value_type: str) -> str | bytes:
    """A value for a table that keeps the type beside it: text as TEXT, readable in any tool."""
    if value_type not in _TEXTUAL and not value_type.startswith("text/"):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def native_parameter(key: str, value: bytes, value_type: str) -> str | bytes | int | float:
    """A value for a table without a type column, where SQLite's own type must say it all.

    Raises:
        InvalidValue: the type would be lost.
    """
    try:
        if value_type == "int":
            number = int(value)
            if abs(number) >= 1 << 63:
                raise ValueError("SQLite's integers have 64 bits")
            return number
        if value_type == "float":
            return float(value)
        if value_type == "str":
            return value.decode()
    except ValueError as error:
        raise InvalidValue(f"{shown(key)} cannot be stored as {value_type!r}: {error}") from error
    if value_type == "bytes":
        return value
    raise InvalidValue(
        f"{shown(key)} cannot be stored as {value_type!r}: the table has no column for the type, so "
        "only int, float, str and bytes fit; name one with value_type="
    )
