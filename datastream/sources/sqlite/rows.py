"""Rows to entries and values to parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from types import NoneType
from typing import Any

from datastream._columns import EntryColumns
from datastream.codecs import check_type
from datastream.entry import Capability, Entry
from datastream.errors import InvalidKey, InvalidValue, shown

Row = tuple[Any, ...]
"""``key, value, value_type, updated_at``: what `Layout.fields` selects."""
Parameter = str | bytes | int | float
Moment = tuple[Any, datetime | None]
"""What `updated_at` holds, and the time that it stands for."""

_TYPES: dict[type, str] = {int: "int", float: "float", str: "str", bytes: "bytes", NoneType: "json"}
_TYPE_NAMES = {"integer": "int", "real": "float", "text": "str", "blob": "bytes", "null": "json"}
_TEXTUAL = frozenset(("int", "float", "bool", "str", "json"))
# One text of each type for all rows: SQLite gives each row its own.
_KNOWN = {name: name for name in (*_TEXTUAL, "bytes")}
_MILLISECONDS = 1e11
"""Larger numbers in a time column count milliseconds: as seconds they would be after year 5000."""
REVISION_BYTES = 12
"""Length of the fingerprint that is a revision."""
INTEGERS = range(-(1 << 63), 1 << 63)
"""What SQLite can store as a number."""


def entry(row: Row) -> Entry:
    """The entry that one row is."""
    return entry_of(str(row[0]), row[1], row[2], row[3])


def entry_columns(rows: Iterable[Row]) -> EntryColumns:
    """`entry` of each: the usual kind of row without a call for each of its parts."""
    keys, data, types, moments = list[str](), list[bytes](), list[str](), list[Moment]()
    known, moment_of = _KNOWN, _Moments()
    is_plain = True
    for key, value, name, updated_at in rows:
        kind = known.get(name)
        if kind and type(key) is str and type(value) in (bytes, str):
            keys.append(key)
            is_text = type(value) is str
            data.append(value.encode("utf-8", "surrogateescape") if is_text else value)
            types.append(kind)
        else:
            text = str(key)
            is_plain = is_plain and text is key
            found, kind = value_of(value, name)
            keys.append(text)
            data.append(found)
            types.append(kind)
        moments.append(moment_of[updated_at])
    times = [time for _, time in moments]
    # Fingerprints take as long as all else, and a view is ready before anybody compares one.
    whole = EntryColumns(keys, data, types, times, moments, revise=_revisions)
    # A column without a type may hold 5 beside "5", which are one key.
    return whole if is_plain else whole.unique()


def _revisions(
    values: Sequence[bytes], types: Sequence[str], moments: Sequence[Moment]
) -> list[str]:
    """`revision` of each."""
    revisions = list[str]()
    before: tuple[object, object] = (None, None)
    begun = blake2b()
    for value, value_type, moment in zip(values, types, moments, strict=True):
        # All but the value is the same in most of them.
        if before[0] is not value_type or before[1] is not moment:
            before = value_type, moment
            begun = blake2b(_beside(value_type, moment[0]), digest_size=REVISION_BYTES)
        fingerprint = begun.copy()
        fingerprint.update(value)
        revisions.append(fingerprint.hexdigest())
    return revisions


class _Moments(dict[Any, Moment]):
    """Moments by what is stored: rows that were written together have one."""

    def __missing__(self, stored: Any) -> Moment:
        moment = stored, parse_time(stored)
        # 1 and 1.0 are equal, and make different fingerprints.
        if type(stored) is str:
            self[stored] = moment
        return moment


def entry_of(key: str, value: Any, value_type: Any, updated_at: Any) -> Entry:
    """The entry of `key`, made of the other columns of its row."""
    data, name = value_of(value, value_type)
    return Entry(key, data, name, parse_time(updated_at), revision(data, name, updated_at))


def value_of(value: Any, value_type: Any) -> tuple[bytes, str]:
    """The value as bytes, and its type."""
    declared = value_type if value_type in _KNOWN else _declared(value_type)
    data = value if type(value) is bytes else _data(value, missing=b"" if declared else b"null")
    return data, declared or _TYPES[type(value)]


def capability(row: tuple[Any, str, Any]) -> Capability:
    """The capability of a row of ``key, typeof(value), value_type``."""
    key, kind, value_type = row
    return Capability(str(key), _declared(value_type) or _TYPE_NAMES[kind])


def _data(value: Any, *, missing: bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        # The connection reads text that is no UTF-8 this way; so it comes out as it went in.
        return value.encode("utf-8", "surrogateescape")
    return missing if value is None else repr(value).encode()


def _declared(value_type: Any) -> str:
    """The content of a type column, "" where it is not a type."""
    if not isinstance(value_type, str):
        return ""
    try:
        check_type(value_type)
    except InvalidValue:
        return ""
    return value_type


def revision(value: bytes, value_type: str, updated_at: object) -> str:
    """Fingerprint of what the row says, the same in every process and with or without a log.

    The time is part of it, so that a value written, replaced and written again has two
    revisions; a table without a time column cannot tell them apart.
    """
    text = _beside(value_type, updated_at) + value
    return blake2b(text, digest_size=REVISION_BYTES).hexdigest()


def _beside(value_type: str, updated_at: object) -> bytes:
    """What of a fingerprint is not the value."""
    return f"{value_type}\0{updated_at}\0".encode("utf-8", "surrogateescape")


def parse_time(value: Any) -> datetime | None:
    """ISO 8601 text (UTC unless it says otherwise), or seconds or milliseconds since 1970."""
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            if time.tzinfo is UTC:
                return time
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            seconds = value / 1000 if abs(value) > _MILLISECONDS else value
            return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def time_of(given: datetime | None) -> datetime:
    """The time of a write, in UTC: the given one or else now."""
    return datetime.now(UTC) if given is None else given.astimezone(UTC)


def time_text(time: datetime) -> str:
    """A UTC time as stored: sorts as text, read by SQLite's date functions and by Go's driver."""
    # With a time zone, isoformat() takes twice as long.
    return f"{time.replace(tzinfo=None).isoformat(' ', 'microseconds')}+00:00"


def check_integer(key: str) -> None:
    """Refuse a key that an integer column would turn into another one.

    Raises:
        InvalidKey: it is no integer of 64 bits in its plain spelling.
    """
    digits = key.removeprefix("-")
    plain = digits.isascii() and digits.isdigit() and len(digits) <= len(str(1 << 63))
    if not plain or str(int(key)) != key or int(key) not in INTEGERS:
        raise InvalidKey(
            f"{shown(key)} is no integer, and the key column holds only such; "
            "write it as SQLite does, such as 5 or -7"
        )


def typed_parameter(value: bytes, value_type: str) -> Parameter:
    """A value for a table that keeps the type beside it: text as TEXT, readable in any tool."""
    if value_type not in _TEXTUAL and not value_type.startswith("text/"):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def native_parameter(key: str, value: bytes, value_type: str) -> Parameter:
    """A value for a table without a type column, where SQLite's own type must say it all.

    Raises:
        InvalidValue: the type would be lost, or SQLite has no such number.
    """
    try:
        return _native(value, value_type)
    except ValueError as error:
        raise InvalidValue(
            f"{shown(key)} cannot be stored as {shown(value_type)}: {error}"
        ) from error


def _native(value: bytes, value_type: str) -> Parameter:
    if value_type == "int":
        number = int(value)
        if number not in INTEGERS:
            raise ValueError("SQLite's integers have 64 bits")
        return number
    if value_type == "float":
        if math.isnan(float(value)):
            raise ValueError("SQLite has no NaN")
        return float(value)
    if value_type == "str":
        return value.decode()
    if value_type == "bytes":
        return value
    raise ValueError(
        "the table has no column for the type, so only int, float, str and bytes fit; "
        "name one with value_type="
    )
