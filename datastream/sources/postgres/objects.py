"""Rows as values: what is put is merged into the columns of a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from datastream.entry import Entry, deleted
from datastream.source import Write
from datastream.sources._common.row_objects import check_columns, object_of
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.keys import parts_of
from datastream.sources.postgres.layout import Column, Layout
from datastream.sources.postgres.rows import entries
from datastream.sources.postgres.table import RowTable, rows
from datastream.sources.postgres.values import differs_in, time_of, written_time
from datastream.sources.postgres.writer import Given, Writing


class _Statements(NamedTuple):
    """Of puts with the same members. Parameters: key, JSON, time, revision."""

    update: str
    insert: str
    holds: str


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

    def apply_plain(
        self, db: Connection, writes: Sequence[Write], given: dict[str, Given]
    ) -> dict[str, Entry]:
        # Rows that are there keep columns which a new one would need: each is looked at.
        return {}

    def attempt(self, db: Connection, write: Write, row: Given) -> Entry | None:
        if write.value is None:
            gone = write.expect != "" and self.delete(db, write)
            return deleted(write.key, write.updated_at) if gone else None
        statements = self._statements(row)
        found: Sequence[Any] = ()
        if write.expect != "" and statements.update:
            revision = None if write.expect in (None, "*") else write.expect
            found = rows(db, statements.update, [*row, revision])
        may_make = write.expect in (None, "")
        if not found and may_make and self.table.current(db, write.key) is None:
            found = rows(db, statements.insert, row)
        return next(iter(entries(found, self.table.shape.kind)), None)

    def holds(self, db: Connection, row: Given) -> bool:
        return bool(rows(db, self._statements(row).holds, row))

    def _statements(self, row: Given) -> _Statements:
        names = tuple(sorted(json.loads(row[1])))
        made = self._made.get(names)
        if made is None:
            made = self._made[names] = self._make([self._columns[name] for name in names])
        return made

    def _make(self, members: Sequence[Column]) -> _Statements:
        layout, one, fields = self.layout, self.table.one, self.table.shape.fields
        # Of every type as PostgreSQL's own JSON spells it.
        source = f"pg_catalog.jsonb_populate_record(NULL::{layout.name}, $2::text::jsonb) AS n"
        values = {column.quoted: f"n.{column.quoted}" for column in members}
        stamp = written_time(layout)
        # Named in each statement, or the server would not know its type.
        values |= {stamp.quoted: time_of(stamp, "$3")} if stamp else {}
        time = "($3::timestamptz IS NULL OR true)"
        news = differs_in(members, "t", "n") if members else "false"
        sets = ", ".join(f"{name} = {value}" for name, value in values.items())
        expected = f"($4::text IS NULL OR {self.table.shape.revision} = $4::text)"
        update = (
            f"UPDATE {layout.name} t SET {sets} FROM {source} WHERE {one} AND ({news}) AND {time} "
            f"AND {expected} RETURNING {fields}"
        )
        names = ", ".join([*(column.quoted for column in layout.keys), *values])
        found = ", ".join([*parts_of(layout, "$1::text"), *values.values()])
        keys = ", ".join(column.quoted for column in layout.keys)
        insert = (
            f"INSERT INTO {layout.name} AS t ({names}) SELECT {found} FROM {source} WHERE {time} "
            f"ON CONFLICT ({keys}) DO NOTHING RETURNING {fields}"
        )
        holds = f"SELECT FROM {layout.name} t, {source} WHERE {one} AND NOT ({news}) AND {time}"
        return _Statements(update if members else "", insert, holds)
