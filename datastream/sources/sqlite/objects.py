"""Rows as values: what is put is merged into the columns of a row."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from datastream.errors import InvalidValue, shown
from datastream.source import Write
from datastream.sources._common.row_objects import (
    bytes_of,
    check_columns,
    is_text,
    object_of,
    text_of,
)
from datastream.sources.sqlite.keys import column_of, parts_of
from datastream.sources.sqlite.layout import JSON_TYPES, Layout, Member
from datastream.sources.sqlite.rows import INTEGERS, Parameter
from datastream.sources.sqlite.table import Parameters, RowTable


class ObjectTable(RowTable):
    """The rows of `layout` as JSON objects of its members."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._members = {m.name: m for m in layout.members if not m.is_generated}

    def _parameters(self, write: Write, time: str) -> Parameters:
        if self._checks_keys:
            self._check_key(write.key)
        if write.value is None:
            return (write.key,)
        members = object_of(write.key, write.value, write.value_type)
        check_columns(write.key, members, self._members)
        for name, member in members.items():
            _parameter(write.key, self._members[name], member)
        row = (write.key, write.value.decode())
        return (*row, time) if self._has_time else row

    def _put(self, db: sqlite3.Connection, row: Parameters, *, exists: bool) -> bool:
        key, text, *time = row
        values: dict[str, Parameter | None] = {
            name: _parameter(str(key), self._members[name], member)
            for name, member in json.loads(str(text)).items()
        }
        if time:
            values[self._layout.columns.updated_at] = time[0]
        if exists and not values:
            return True
        statement = self._update_of(values) if exists else self._insert_of(values)
        return db.execute(statement, (key, *values.values())).rowcount > 0

    def _insert_of(self, names: dict[str, Any]) -> str:
        keys = self._layout.keys
        marks = [f"?{number}" for number in range(2, 2 + len(names))]
        columns = ", ".join(map(column_of, [*keys, *names]))
        values = ", ".join([*parts_of("?1", len(keys)), *marks])
        return f"INSERT INTO {self._layout.name} ({columns}) VALUES ({values})"

    def _update_of(self, names: dict[str, Any]) -> str:
        sets = (f"{column_of(name)} = ?{number}" for number, name in enumerate(names, 2))
        return f"UPDATE {self._layout.name} SET {', '.join(sets)} WHERE {self._exactly}"


def _parameter(key: str, column: Member, member: Any) -> Parameter | None:
    """What a column takes for a member of the JSON.

    Raises:
        InvalidValue: it cannot hold it.
    """
    if column.type in JSON_TYPES and member is not None:
        return _json(key, column, member)
    data = bytes_of(member)
    if data is not None:
        return data
    if isinstance(member, dict | list):
        raise InvalidValue(
            f"{shown(key)}: column {column.name!r} holds no JSON; put text, a number or "
            '{"base64": …}, or declare it as JSON'
        )
    if isinstance(member, int) and member not in INTEGERS:
        raise InvalidValue(f"{shown(key)}: column {column.name!r} holds integers of 64 bits")
    if isinstance(member, str) and not is_text(member):
        raise InvalidValue(
            f"{shown(key)}: column {column.name!r} holds UTF-8, in which no half of a character "
            "(a lone surrogate) can be spelled; drop it"
        )
    return None if member is None else _plain(member)


def _json(key: str, column: Member, member: Any) -> str:
    try:
        return text_of(member)
    except ValueError as error:
        raise InvalidValue(f"{shown(key)}: column {column.name!r} holds JSON: {error}") from error


def _plain(member: Any) -> Parameter:
    value: Parameter = int(member) if isinstance(member, bool) else member
    return value
