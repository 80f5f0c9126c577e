"""Rows to entries and values to parameters: what the types of the columns make of both.

The revision is a fingerprint of type, time and value. `revision` and `Shape.revision` compute
the same, here and on the server: so a compare-and-set is one statement.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

from datastream.codecs import check_type
from datastream.entry import Entry, Operation
from datastream.errors import InvalidKey, InvalidValue, shown
from datastream.source import Write
from datastream.sources.postgres.layout import INTEGER_KEYS, KINDS, Column, Layout

Row = Sequence[Any]
"""``key, value, value_type, updated_at`` as `Shape.fields` selects them."""

_DIGITS = 24
_LONGEST_INTEGER = 20
_TIMES = {"timestamptz": "timestamptz_send", "timestamp": "timestamp_send"}
_START = datetime(2000, 1, 1, tzinfo=UTC)
"""Where PostgreSQL begins to count its microseconds."""
_ISO = {
    "timestamptz": "(to_json({0} AT TIME ZONE 'UTC') #>> '{{}}') || '+00:00'",
    "timestamp": "to_json({0}) #>> '{{}}'",
    "date": "to_json({0}) #>> '{{}}'",
}
_NOW = {
    "timestamptz": "{0}",
    "timestamp": "{0} AT TIME ZONE 'UTC'",
    "date": "({0} AT TIME ZONE 'UTC')::date",
    "text": "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'",
    "varchar": "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'",
    "int4": "extract(epoch FROM {0})::int4",
    "int8": "extract(epoch FROM {0})::int8",
    "float8": "extract(epoch FROM {0})::float8",
    "numeric": "extract(epoch FROM {0})::numeric",
}
_FITS = {"float": ("float", "int")}
"""What else than itself a column without a type beside it takes."""


class Shape(NamedTuple):
    """The SQL of one row."""

    fields: str
    """The SELECT list that `entries` reads."""
    revision: str
    """An expression that is true for a row whose revision is the text put in for ``{0}``."""
    kind: str
    """The value_type of rows that name none."""
    nothing: str
    never: str
    """NULL of the types of value and time."""


def shape(layout: Layout, row: str = "t") -> Shape:
    """How rows of `layout` are read, from a table called `row` in the statement."""
    value = _value(layout.value, row)
    name = f"{row}.{layout.value_type.quoted}::text" if layout.value_type else "NULL::text"
    time = _time(layout.updated_at, row)
    data = value if layout.value.kind == "bytea" else f"convert_to({value}, 'UTF8')"
    stamp = time if _is_stamp(layout.updated_at) else f"convert_to({time}, 'UTF8')"
    seed = (
        f"convert_to(coalesce({name}, ''), 'UTF8') || '\\x00'::bytea || "
        f"coalesce({stamp}, ''::bytea) || '\\x00'::bytea || "
        f"coalesce('\\x01'::bytea || {data}, ''::bytea)"
    )
    return Shape(
        fields=f"{row}.{layout.key.quoted}::text, {value}, {name}, {time}",
        revision=f"left(encode(sha256({seed}), 'hex'), {_DIGITS})",
        kind=KINDS.get(layout.value.kind, "str"),
        nothing=f"NULL::{'bytea' if layout.value.kind == 'bytea' else 'text'}",
        never=f"NULL::{'bytea' if _is_stamp(layout.updated_at) else 'text'}",
    )


def _value(column: Column, row: str) -> str:
    name = f"{row}.{column.quoted}"
    if column.kind == "bytea":
        return f"{name}::bytea"
    pattern = _ISO.get(column.kind)
    if pattern:
        return f"CASE WHEN isfinite({name}) THEN {pattern.format(name)} ELSE {name}::text END"
    return f"{name}::text"


def _time(column: Column | None, row: str) -> str:
    """Exact and cheap to read where it can be: the bytes in which PostgreSQL keeps it."""
    if column is None:
        return "NULL::text"
    name = f"{row}.{column.quoted}"
    return f"{_TIMES[column.kind]}({name})" if _is_stamp(column) else f"{name}::text"


def _is_stamp(column: Column | None) -> bool:
    return column is not None and column.kind in _TIMES


def entries(rows: Iterable[Row], kind: str) -> list[Entry]:
    """The entries that the rows are; those without a key are none."""
    # Whole tables go through here. What rows have in common is worked out once: their types,
    # and the times of what was written together.
    types: dict[str | None, tuple[str, bytes]] = {}
    times: dict[bytes | str | None, tuple[datetime | None, bytes]] = {}
    found = []
    make, put = tuple.__new__, Operation.PUT
    for key, value, name, time in rows:
        if key is None:
            continue
        value_type, seed = types.get(name) or types.setdefault(name, _typed(name, kind))
        moment, stamp = times.get(time) or times.setdefault(time, _timed(time))
        if value is None:
            value_type, data = (value_type, b"") if _name(name) else ("json", b"null")
            seed += stamp
        else:
            data = value if value.__class__ is bytes else value.encode()
            seed += stamp + b"\1" + data
        revision = sha256(seed).hexdigest()[:_DIGITS]
        # Past the named tuple's own constructor, which takes as long again.
        found.append(make(Entry, (key, data, value_type, moment, revision, put)))
    return found


def _typed(name: str | None, kind: str) -> tuple[str, bytes]:
    """The value_type, and the first part of what a revision is made from."""
    return _name(name) or kind, (name or "").encode() + b"\0"


def _timed(time: bytes | str | None) -> tuple[datetime | None, bytes]:
    """The time, and the second part."""
    if isinstance(time, bytes):
        return _stamped(time), time + b"\0"
    return _told(time), (time or "").encode() + b"\0"


def _name(value_type: str | None) -> str:
    """A type as another program may have written it; "" if it can be none."""
    try:
        check_type(value_type or "")
    except InvalidValue:
        return ""
    return value_type or ""


def _stamped(time: bytes) -> datetime | None:
    try:
        return _START + timedelta(0, 0, int.from_bytes(time, "big", signed=True))
    except OverflowError:
        # Infinity, or after the year 9999.
        return None


def _told(time: str | None) -> datetime | None:
    try:
        return _parsed(time) if time else None
    except (ValueError, OverflowError, OSError):
        return None


def _parsed(text: str) -> datetime:
    """ISO 8601 (UTC unless it says otherwise), or seconds since 1970."""
    if text.replace(".", "", 1).isdecimal():
        return datetime.fromtimestamp(float(text), UTC)
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


# Writing.


def written(layout: Layout) -> list[Column]:
    """The columns that a put sets beside the key: value, then type and time if there are any."""
    time = layout.updated_at
    optional = [layout.value_type, time if time and time.kind in _NOW else None]
    return [layout.value, *(column for column in optional if column)]


def assignments(layout: Layout, given: Sequence[str]) -> dict[str, str]:
    """Column and expression for each of `written`, from parameters or columns of text."""
    result = {}
    for column, text in zip(written(layout), given, strict=True):
        expression = f"{text}::{column.type}"
        if column is layout.updated_at:
            expression = _NOW[column.kind].format(f"coalesce({text}::timestamptz, now())")
        result[column.quoted] = expression
    return result


def differs(layout: Layout, old: str, new: str) -> str:
    """Whether value or type would change; the time alone is no change."""
    columns = [layout.value, *([layout.value_type] if layout.value_type else [])]
    return " OR ".join(
        f"{_exactly(f'{old}.{column.quoted}', column)} IS DISTINCT FROM "
        f"{_exactly(f'{new}.{column.quoted}', column)}"
        for column in columns
    )


def _exactly(name: str, column: Column) -> str:
    # As text: 1.50 is another number than 1.5, and json has no equality at all.
    return name if column.kind == "bytea" else f'{name}::text COLLATE "C"'


def check_key(key: str, column: Column) -> None:
    """Refuse a key that its column would cut, round or reject.

    Raises:
        InvalidKey: it is such.
    """
    if not fits_key(key, column):
        raise InvalidKey(
            f"{shown(key)} does not fit the key column {column.name!r} ({column.type}); "
            "write it as PostgreSQL does, and not longer than the column"
        )


def fits_key(key: str, column: Column) -> bool:
    """Whether `column` can hold this very text."""
    if column.kind in INTEGER_KEYS:
        plain = key.removeprefix("-").isdecimal() and key.isascii() and len(key) <= _LONGEST_INTEGER
        limit = 1 << INTEGER_KEYS[column.kind]
        return plain and str(int(key)) == key and -limit <= int(key) < limit
    if column.kind == "uuid":
        return _is_uuid(key)
    return column.length is None or len(key) <= column.length


def _is_uuid(key: str) -> bool:
    try:
        return str(uuid.UUID(key)) == key
    except ValueError:
        return False


def parameter(write: Write, layout: Layout) -> bytes | str:
    """The value as its column takes it.

    Raises:
        InvalidValue: the type would be lost, or text holds what PostgreSQL cannot store.
    """
    value, kind = write.value or b"", KINDS.get(layout.value.kind, "str")
    if not layout.value_type and write.value_type not in _FITS.get(kind, (kind,)):
        raise InvalidValue(
            f"{shown(write.key)} cannot be stored as {shown(write.value_type)}: the column "
            f"{layout.value.name!r} ({layout.value.type}) holds {kind}, and no column the type; "
            "name one with value_type="
        )
    if layout.value.kind == "bytea":
        return value
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise InvalidValue(
            f"{shown(write.key)}: column {layout.value.name!r} holds text, and this is no UTF-8; "
            "use a bytea column"
        ) from error
    if "\0" in text:
        raise InvalidValue(
            f"{shown(write.key)}: PostgreSQL's text cannot hold a NUL character; drop it, or use "
            "a bytea column"
        )
    return text
