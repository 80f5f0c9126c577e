"""Rows to entries: what the types of the columns make of them.

The revision is a fingerprint of type, time and value. `revision` and `Shape.revision` compute
the same, here and on the server: so a compare-and-set is one statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

from datastream._columns import EntryColumns
from datastream.codecs import check_type
from datastream.entry import Entry
from datastream.errors import InvalidValue
from datastream.sources._common.columns import parse_iso
from datastream.sources.postgres.arrays import START
from datastream.sources.postgres.keys import key_of, object_of
from datastream.sources.postgres.layout import KINDS, Column, Layout

Row = Sequence[Any]
"""``key, value, value_type, updated_at`` as `Shape.fields` selects them."""

_DIGITS = 24
_VALUE = b"\1"
"""What the value of a row follows in its fingerprint, where there is one."""
# Of no literal with a backslash, which a session may take for an escape.
_NUL, _ONE = "decode('00', 'hex')", "decode('01', 'hex')"
_TIMES = {"timestamptz": "timestamptz_send", "timestamp": "timestamp_send"}
_ISO = {
    "timestamptz": (
        "(pg_catalog.to_json({0} AT TIME ZONE 'UTC') OPERATOR(pg_catalog.#>>) '{{}}') || '+00:00'"
    ),
    "timestamp": "pg_catalog.to_json({0}) OPERATOR(pg_catalog.#>>) '{{}}'",
    "date": "pg_catalog.to_json({0}) OPERATOR(pg_catalog.#>>) '{{}}'",
}

READ_BY_TYPE = {"bytea", *_ISO}
"""Kinds of columns whose values are read by something else than a cast to text."""


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
    value = f"{object_of(layout.members, row)}::text"
    if not layout.is_object:
        value = _value(layout.value, row)
    name = f"{row}.{layout.value_type.quoted}::text" if layout.value_type else "NULL::text"
    time = _time(layout.updated_at, row)
    data = value if layout.value.kind == "bytea" else f"pg_catalog.convert_to({value}, 'UTF8')"
    stamp = time if _is_stamp(layout.updated_at) else f"pg_catalog.convert_to({time}, 'UTF8')"
    seed = (
        f"pg_catalog.convert_to(coalesce({name}, ''), 'UTF8') || {_NUL} || "
        f"coalesce({stamp}, ''::bytea) || {_NUL} || "
        f"coalesce({_ONE} || {data}, ''::bytea)"
    )
    return Shape(
        fields=f"{key_of(layout, row)}::text, {value}, {name}, {time}",
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


def entries(rows: Iterable[Row], kind: str) -> EntryColumns:
    """The entries that the rows are; those without a key are none."""
    # Whole tables go through here. What rows have in common is worked out once: their types,
    # and the times of what was written together.
    types: dict[str | None, tuple[str, bytes]] = {}
    times: dict[bytes | str | None, tuple[datetime | None, bytes]] = {}
    keys, found, names = list[str](), list[bytes](), list[str]()
    moments, heads = list[datetime | None](), list[bytes]()
    for key, value, name, time in rows:
        if key is None:
            continue
        value_type, seed = types.get(name) or types.setdefault(name, _typed(name, kind))
        moment, stamp = times.get(time) or times.setdefault(time, _timed(time))
        if value is None:
            value_type, data = _without_value(name)
            heads.append(seed + stamp)
        else:
            data = value if value.__class__ is bytes else value.encode()
            heads.append(seed + stamp + _VALUE)
        keys.append(key)
        found.append(data)
        names.append(value_type)
        moments.append(moment)
    # To hash them takes as long as to fetch them, and most who read a whole table ask for values.
    return EntryColumns(keys, found, names, moments, heads, revise=revisions)


def entry(row: Row, kind: str) -> Entry:
    """The entry that a row with a key is: `entries` makes the same of many for less."""
    key, value, name, time = row
    value_type, moment, head = beside(name, time, kind)
    if value is None:
        value_type, data = _without_value(name)
        return Entry(key, data, value_type, moment, fingerprint(head.removesuffix(_VALUE)))
    data = value if value.__class__ is bytes else value.encode()
    return Entry(key, data, value_type, moment, fingerprint(head + data))


def _without_value(name: str | None) -> tuple[str, bytes]:
    """Type and value of a row that has none."""
    named = _name(name)
    return (named, b"") if named else ("json", b"null")


def revisions(values: Sequence[bytes], _: Sequence[str], heads: Sequence[bytes]) -> list[str]:
    """`Shape.revision` of each row; of one without a value, the head is all there is."""
    return [
        fingerprint(head + value if head.endswith(_VALUE) else head)
        for head, value in zip(heads, values, strict=True)
    ]


def fingerprint(text: bytes) -> str:
    """The revision that is made of type, time and value of a row."""
    return sha256(text).hexdigest()[:_DIGITS]


class Beside(NamedTuple):
    """What a row with a value says beside that."""

    value_type: str
    time: datetime | None
    head: bytes
    """What the value follows in the fingerprint."""


def beside(name: str | None, time: bytes | str | None, kind: str) -> Beside:
    """What the columns of type and time say, of a row that names a type or is of `kind`."""
    value_type, seed = _typed(name, kind)
    moment, stamp = _timed(time)
    return Beside(value_type, moment, seed + stamp + _VALUE)


def _typed(name: str | None, kind: str) -> tuple[str, bytes]:
    """The value_type, and the first part of what a revision is made from."""
    return _name(name) or kind, (name or "").encode() + b"\0"


def _timed(time: bytes | str | None) -> tuple[datetime | None, bytes]:
    """The time, and the second part."""
    if isinstance(time, bytes):
        return _stamped(time), time + b"\0"
    return _spelled(time), (time or "").encode() + b"\0"


def _name(value_type: str | None) -> str:
    """A type as another program may have written it; "" if it can be none."""
    try:
        check_type(value_type or "")
    except InvalidValue:
        return ""
    return value_type or ""


def _stamped(time: bytes) -> datetime | None:
    try:
        return START + timedelta(0, 0, int.from_bytes(time, "big", signed=True))
    except OverflowError:
        # Infinity, or after the year 9999.
        return None


def _spelled(time: str | None) -> datetime | None:
    """ISO 8601, or seconds since 1970."""
    try:
        if time and time.replace(".", "", 1).isdecimal():
            return datetime.fromtimestamp(float(time), UTC)
        return parse_iso(time) if time else None
    except (ValueError, OverflowError, OSError):
        return None
