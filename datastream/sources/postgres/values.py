"""Writes to parameters: what the types of the columns make of keys, values and times."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from datastream.errors import InvalidValue, shown
from datastream.source import Write
from datastream.sources.postgres.layout import INTEGER_KEYS, KINDS, Column, Layout

_LONGEST_INTEGER = 20
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


def written(layout: Layout) -> list[Column]:
    """The columns that a put sets beside the key: value, then type and time if there are any."""
    optional = [layout.value_type, written_time(layout)]
    return [layout.value, *(column for column in optional if column)]


def written_time(layout: Layout) -> Column | None:
    """The column of the time, if it can be set."""
    time = layout.updated_at
    return time if time and time.kind in _NOW and not time.generated else None


def time_of(column: Column, text: str) -> str:
    """The expression that a column of the time is set to: a parameter, else now."""
    return _NOW[column.kind].format(f"coalesce({text}::timestamptz, now())")


def assignments(layout: Layout, given: Sequence[str]) -> dict[str, str]:
    """Column and expression for each of `written`, from parameters or columns of text."""
    result = {}
    for column, text in zip(written(layout), given, strict=True):
        expression = f"{text}::{column.type}"
        if column is layout.updated_at:
            expression = time_of(column, text)
        result[column.quoted] = expression
    return result


def differs(layout: Layout, old: str, new: str) -> str:
    """Whether value or type would change; the time alone is no change."""
    columns = [layout.value, *([layout.value_type] if layout.value_type else [])]
    return differs_in(columns, old, new)


def differs_in(columns: Sequence[Column], old: str, new: str) -> str:
    """Whether one of these columns would change."""
    return " OR ".join(
        f"{_exactly(f'{old}.{column.quoted}', column)} IS DISTINCT FROM "
        f"{_exactly(f'{new}.{column.quoted}', column)}"
        for column in columns
    )


def _exactly(name: str, column: Column) -> str:
    # As text: 1.50 is another number than 1.5, and json has no equality at all.
    return name if column.kind == "bytea" else f'{name}::text COLLATE "C"'


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


def takes_all(layout: Layout) -> bool:
    """Whether the columns take any key, value, type and time."""
    key = layout.key
    return (
        len(layout.keys) == 1
        and key.kind in ("text", "varchar")
        and key.length is None
        and layout.value.kind == "bytea"
        and layout.value_type is not None
        and written_time(layout) is not None
    )


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
