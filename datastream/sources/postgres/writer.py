"""Writing the rows of one table: one statement for a put, one transaction for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datastream.entry import Entry, deleted
from datastream.errors import InvalidValue, shown
from datastream.source import Write, check_expected
from datastream.sources.postgres.connection import ATTEMPTS, Connection
from datastream.sources.postgres.layout import Column, Layout
from datastream.sources.postgres.rows import entries
from datastream.sources.postgres.table import RowTable, rows
from datastream.sources.postgres.values import (
    assignments,
    check_key,
    differs,
    parameter,
    written,
)


class RowWriter:
    """Writes entries as rows of `layout`; holds no connection."""

    def __init__(self, layout: Layout, table: RowTable, where: str) -> None:
        self._layout = layout
        self._table = table
        self._where = where
        shape, one, key = table.shape, table.one, layout.key
        fields = shape.fields
        columns = written(layout)
        plain = assignments(layout, [f"${number}" for number in range(2, 2 + len(columns))])
        names = ", ".join([key.quoted, *plain])
        head = f"INSERT INTO {layout.name} AS t ({names}) "
        values = f"VALUES ($1::{key.type}, {', '.join(plain.values())}) "
        conflict = f"ON CONFLICT ({key.quoted})"
        changed = ", ".join(f"{name} = excluded.{name}" for name in plain)
        upsert = (
            f"{conflict} DO UPDATE SET {changed} WHERE {differs(layout, 't', 'excluded')} "
            f"RETURNING {fields}"
        )
        self._upsert = head + values + upsert
        self._upsert_many = head + self._from_arrays() + upsert
        self._insert = f"{head}{values}{conflict} DO NOTHING RETURNING {fields}"
        assigned = ", ".join(f"{name} = {value}" for name, value in plain.items())
        self._news = self._differs_from(plain)
        expected = f"${2 + len(columns)}::text"
        self._update = (
            f"UPDATE {layout.name} t SET {assigned} WHERE {one} AND {self._news} "
            f"AND ({expected} IS NULL OR {shape.revision} = {expected}) RETURNING {fields}"
        )
        self._delete = (
            f"DELETE FROM {layout.name} t WHERE {one} "
            f"AND ($2::text IS NULL OR {shape.revision} = $2::text) RETURNING 1"
        )

    def _from_arrays(self) -> str:
        """Many rows from one parameter a column."""
        key, columns = self._layout.key, written(self._layout)
        names = [f"c{number}" for number in range(len(columns))]
        given = [
            f"${number}::{_parameter_type(column)}[]" for number, column in enumerate(columns, 2)
        ]
        values = assignments(self._layout, [f"new.{name}" for name in names]).values()
        return (
            f"SELECT new.key, {', '.join(values)} "
            f"FROM unnest($1::{key.type}[], {', '.join(given)}) AS new (key, {', '.join(names)}) "
        )

    def _differs_from(self, plain: dict[str, str]) -> str:
        """`differs` between a row and the parameters, rounded as they will be."""
        kept = [self._layout.value, self._layout.value_type]
        new = ", ".join(f"({plain[c.quoted]})::{c.limited} AS {c.quoted}" for c in kept if c)
        return (
            f"EXISTS (SELECT FROM (SELECT {new}) AS new WHERE {differs(self._layout, 't', 'new')})"
        )

    def write(self, db: Connection, writes: Sequence[Write]) -> list[Entry]:
        """Store all of `writes` or nothing, as `Source.write` says."""
        given = {write.key: self._parameters(write) for write in writes}
        if len(writes) == 1:
            return [self._apply(db, writes[0], given[writes[0].key])]
        # In one order: two writers of the same keys then wait for each other, and never deadlock.
        ordered = sorted(writes, key=lambda write: write.key)
        with db.transaction():
            stored = self._apply_plain(db, [w for w in ordered if _is_plain(w)], given)
            for write in ordered:
                if write.key not in stored:
                    stored[write.key] = self._apply(db, write, given[write.key])
        return [stored[write.key] for write in writes]

    def _apply_plain(
        self, db: Connection, writes: Sequence[Write], given: dict[str, list[Any]]
    ) -> dict[str, Entry]:
        """All unconditional puts in one statement; those that change nothing are left out."""
        if len(writes) < 2:
            return {}
        columns = [list(column) for column in zip(*(given[w.key] for w in writes), strict=True)]
        found = entries(rows(db, self._upsert_many, columns), self._table.shape.kind)
        return {entry.key: entry for entry in found}

    def _apply(self, db: Connection, write: Write, row: list[Any]) -> Entry:
        for _ in range(ATTEMPTS):
            stored = self._attempt(db, write, row)
            if stored is not None:
                return stored
            # It did nothing: `expect` does not hold, or the row says already what it should.
            current = self._table.current(db, write.key)
            check_expected(write, current.revision if current else None)
            if write.value is None and current is None:
                return deleted(write.key, write.updated_at)
            if write.value is not None and current and self._holds(db, row):
                return current
        raise InvalidValue(f"{self._where}, key {shown(write.key)}: the table keeps no such row")

    def _attempt(self, db: Connection, write: Write, row: list[Any]) -> Entry | None:
        """The one statement that does it if it may be done."""
        revision = None if write.expect in (None, "", "*") else write.expect
        if write.value is None:
            if write.expect != "" and rows(db, self._delete, (write.key, revision)):
                return deleted(write.key, write.updated_at)
            return None
        if write.expect is None:
            found = rows(db, self._upsert, row)
        elif write.expect == "":
            found = rows(db, self._insert, row)
        else:
            found = rows(db, self._update, [*row, revision])
        return next(iter(entries(found, self._table.shape.kind)), None)

    def _holds(self, db: Connection, row: list[Any]) -> bool:
        """Whether the table says that putting `row` would change nothing."""
        statement = (
            f"SELECT FROM {self._layout.name} t WHERE {self._table.one} AND NOT {self._news}"
        )
        return bool(rows(db, statement, row[: 3 if self._layout.value_type else 2]))

    def _parameters(self, write: Write) -> list[Any]:
        check_key(write.key, self._layout.key)
        if write.value is None:
            return [write.key]
        given: dict[Column | None, Any] = {
            self._layout.updated_at: write.updated_at,
            self._layout.value_type: write.value_type,
            self._layout.value: parameter(write, self._layout),
        }
        return [write.key, *(given[column] for column in written(self._layout))]


def _parameter_type(column: Column) -> str:
    """Of an array element: whatever is given as text is cast one by one."""
    return column.kind if column.kind in ("bytea", "timestamptz") else "text"


def _is_plain(write: Write) -> bool:
    return write.value is not None and write.expect is None
