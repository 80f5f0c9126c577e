"""Rows as values: what is put is merged into the columns of a row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from datastream.entry import Entry, deleted
from datastream.source import Write
from datastream.sources._common.row_objects import check_columns, object_of
from datastream.sources.postgres.arrays import arrays
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.keys import parts_of
from datastream.sources.postgres.layout import Column, Layout
from datastream.sources.postgres.rows import entries
from datastream.sources.postgres.table import RowTable, rows
from datastream.sources.postgres.values import differs_in, time_of, written_time
from datastream.sources.postgres.writer import Given, Writing, wanted


class _Statements(NamedTuple):
    """Of puts with the same members. Parameters: key, JSON, time, revision."""

    update: str
    insert: str
    holds: str
    # Of many, an array for each parameter.
    update_many: str
    insert_many: str
    held_many: str


class ObjectWriter(Writing):
    """Writes JSON objects into the columns of rows of `layout`; holds no connection."""

    def __init__(self, layout: Layout, table: RowTable, where: str) -> None:
        super().__init__(layout, table, where)
        self._columns = {c.name: c for c in layout.members if not c.generated}
        self._made: dict[tuple[str, ...], _Statements] = {}

    def parameters(self, write: Write) -> Given:
        self.check_key(write.key)
        if write.value is None:
            return [write.key]
        members = object_of(write.key, write.value, write.value_type)
        check_columns(write.key, members, self._columns)
        return [write.key, write.value.decode(), write.updated_at]

    def alike(self, given: Sequence[Given]) -> Iterable[Sequence[Given]]:
        groups: dict[tuple[str, ...], list[Given]] = {}
        for row in given:
            groups.setdefault(_names(row), []).append(row)
        return groups.values()

    def put_alike(self, db: Connection, given: Sequence[Given]) -> Sequence[Entry]:
        statements = self._statements(given[0])
        changed = self._run_many(db, statements.update_many, given) if statements.update else []
        return [*changed, *self._run_many(db, statements.insert_many, given)]

    def held_alike(self, db: Connection, given: Sequence[Given]) -> Sequence[Entry]:
        return self._run_many(db, self._statements(given[0]).held_many, given)

    def _run_many(self, db: Connection, statement: str, given: Sequence[Given]) -> Sequence[Entry]:
        return entries(rows(db, statement, arrays(_KINDS, given)), self.table.shape.kind)

    def attempt(self, db: Connection, write: Write, row: Given) -> Entry | None:
        if write.value is None:
            gone = write.expect != "" and self.delete(db, write)
            return deleted(write.key, write.updated_at) if gone else None
        statements = self._statements(row)
        found: Sequence[Any] = ()
        if write.expect != "" and statements.update:
            found = rows(db, statements.update, [*row, wanted(write)])
        may_make = write.expect in (None, "")
        if not found and may_make and self.table.current(db, write.key) is None:
            found = rows(db, statements.insert, row)
        return next(iter(entries(found, self.table.shape.kind)), None)

    def holds(self, db: Connection, row: Given) -> bool:
        return bool(rows(db, self._statements(row).holds, row))

    def _statements(self, row: Given) -> _Statements:
        names = _names(row)
        made = self._made.get(names)
        if made is None:
            made = self._made[names] = self._make([self._columns[name] for name in names])
        return made

    def _make(self, members: Sequence[Column]) -> _Statements:
        layout, one, fields = self.layout, self.table.one, self.table.shape.fields
        source, many = self._source("$2"), f"{_MANY} CROSS JOIN LATERAL {self._source('g.value')}"
        # Named in each statement, or the server would not know its type.
        time = "($3::timestamptz IS NULL OR true)"
        news = differs_in(members, "t", "n") if members else "false"
        expected = f"($4::text IS NULL OR {self.table.shape.revision} = $4::text)"
        values, of_many = self._values(members, "$3"), self._values(members, "g.time")
        names = ", ".join([*(column.quoted for column in layout.keys), *values])
        keys = ", ".join(column.quoted for column in layout.keys)
        same = self.table.is_key("g.key")

        def update(values: dict[str, str], source: str, condition: str) -> str:
            sets = ", ".join(f"{name} = {value}" for name, value in values.items())
            return (
                f"UPDATE {layout.name} t SET {sets} FROM {source} WHERE {condition} AND ({news}) "
                f"RETURNING {fields}"
            )

        def insert(key: str, values: dict[str, str], source: str, condition: str) -> str:
            found = ", ".join([*parts_of(layout, key), *values.values()])
            return (
                f"INSERT INTO {layout.name} AS t ({names}) SELECT {found} FROM {source} "
                f"WHERE {condition} ON CONFLICT ({keys}) DO NOTHING RETURNING {fields}"
            )

        return _Statements(
            update(values, source, f"{one} AND {time} AND {expected}") if members else "",
            insert("$1::text", values, source, time),
            f"SELECT FROM {layout.name} t, {source} WHERE {one} AND NOT ({news}) AND {time}",
            update(of_many, many, same) if members else "",
            # A row that is there keeps columns which a new one would need.
            insert(
                "g.key", of_many, many, f"NOT EXISTS (SELECT FROM {layout.name} t WHERE {same})"
            ),
            f"SELECT {fields} FROM {many} JOIN {layout.name} t ON {same} WHERE NOT ({news})",
        )

    def _source(self, text: str) -> str:
        # Of every type as PostgreSQL's own JSON spells it.
        record = f"NULL::{self.layout.name}, {text}::text::jsonb"
        return f"pg_catalog.jsonb_populate_record({record}) AS n"

    def _values(self, members: Sequence[Column], time: str) -> dict[str, str]:
        """What the columns are set to, by their names."""
        values = {column.quoted: f"n.{column.quoted}" for column in members}
        stamp = written_time(self.layout)
        return values | ({stamp.quoted: time_of(stamp, time)} if stamp else {})


def _names(row: Given) -> tuple[str, ...]:
    """The members of what is put."""
    return tuple(sorted(json.loads(row[1])))


_KINDS = ("text", "text", "timestamptz")
_MANY = "unnest($1::text[], $2::text[], $3::timestamptz[]) AS g (key, value, time)"
