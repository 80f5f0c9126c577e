"""Reading and writing the rows of one table: the SQL of a store, on one connection."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from datastream.entry import Capability, Entry, deleted
from datastream.errors import InvalidKey, InvalidValue, shown
from datastream.selection import Selects, check_text, literal_prefix
from datastream.source import Write, check_expected
from datastream.sources.postgres.connection import ATTEMPTS, Connection
from datastream.sources.postgres.layout import Column, Layout
from datastream.sources.postgres.rows import (
    Row,
    Shape,
    assignments,
    check_key,
    differs,
    entries,
    fits_key,
    parameter,
    shape,
    written,
)

MOST_CONDITIONS = 1000
"""Selections with more keys and prefixes than this are filtered after reading everything."""

log = logging.getLogger("datastream")

Condition = tuple[str, list[list[str]]]
"""SQL over a row called ``t``, and its parameters, numbered from the first free one."""


class RowTable:
    """The rows of `layout` as entries."""

    def __init__(self, connection: Connection, layout: Layout, where: str) -> None:
        self._db = connection
        self._layout = layout
        self._where = where
        self.shape: Shape = shape(layout)
        self._key = f"t.{layout.key.quoted}"
        self._present = f"{self._key} IS NOT NULL"
        self._one = f"{self._key} = $1::{layout.key.type}"
        self.select = f"SELECT {self.shape.fields} FROM {layout.name} t"
        """All rows; a WHERE may follow."""
        self._get = f"{self.select} WHERE {self._one}"
        if layout.can_write:
            self._prepare_writes()

    def _prepare_writes(self) -> None:
        layout, fields, key = self._layout, self.shape.fields, self._layout.key
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
            f"UPDATE {layout.name} t SET {assigned} WHERE {self._one} AND {self._news} "
            f"AND ({expected} IS NULL OR {self.shape.revision} = {expected}) RETURNING {fields}"
        )
        self._delete = (
            f"DELETE FROM {layout.name} t WHERE {self._one} "
            f"AND ($2::text IS NULL OR {self.shape.revision} = $2::text) RETURNING 1"
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

    # Reading.

    def capabilities(self) -> list[Capability]:
        """Every key with its type; of the values only whether there is one is looked at."""
        layout = self._layout
        name = f"t.{layout.value_type.quoted}::text" if layout.value_type else "NULL::text"
        missing = f"CASE WHEN t.{layout.value.quoted} IS NOT NULL THEN ''::bytea END"
        rows = self._rows(
            f"SELECT {self._key}::text, {missing}, {name}, NULL::text FROM {layout.name} t"
        )
        return [Capability(e.key, e.value_type) for e in self.entries(rows)]

    def rows_beside(self, head: str, selection: Selects) -> Sequence[Row]:
        """The rows of `selection` and, of the same moment, the text that `head` selects.

        Args:
            head: a query of one column called ``head``; `beside` finds its answer.
        """
        condition, parameters = self.condition(selection, 1)
        # A row of its own, because a column of its own would cost every row something.
        return self._rows(
            f"SELECT NULL::text, {self.shape.nothing}, h.head, {self.shape.never} FROM ({head}) h "
            f"UNION ALL {self.select} WHERE {condition}",
            parameters,
        )

    def entries(self, rows: Iterable[Row]) -> list[Entry]:
        """The entries of `rows`, without those that no store can name, each key once."""
        found = entries(rows, self.shape.kind)
        if not _are_plain([entry[0] for entry in found]):
            found = [entry for entry in found if self._is_legal(entry.key)]
        if self._layout.can_write:
            return found
        # A view may show a key twice: the same one has to win each time.
        return list({e.key: e for e in sorted(found, key=lambda e: e.revision)}.values())

    def condition(self, selection: Selects, first: int) -> Condition:
        """What is true for at least the selected keys, parameters numbered from `first`."""
        starts = {*selection.prefixes, *map(literal_prefix, selection.patterns)}
        everything = not (selection.keys or starts) or "" in starts
        if everything or len(selection.keys) + len(starts) > MOST_CONDITIONS:
            return self._present, []
        column = self._layout.key
        keys = sorted(key for key in selection.keys if fits_key(key, column))
        if not starts:
            return f"{self._key} = ANY(${first}::{column.type}[])", [keys]
        return (
            f"({self._key} = ANY(${first}::{column.type}[]) "
            f"OR {self._key}::text ^@ ANY(${first + 1}::text[]))",
            [keys, sorted(starts)],
        )

    def current(self, key: str) -> Entry | None:
        """What `key` holds now."""
        if not fits_key(key, self._layout.key):
            return None
        found = entries(self._rows(self._get, (key,)), self.shape.kind)
        return next((entry for entry in found if entry.key == key), None)

    # Writing.

    def write(self, writes: Sequence[Write]) -> list[Entry]:
        rows = {write.key: self._parameters(write) for write in writes}
        if len(writes) == 1:
            return [self._apply(writes[0], rows[writes[0].key])]
        # In one order for everybody: so two who write the same keys wait instead of deadlocking.
        ordered = sorted(writes, key=lambda write: write.key)
        with self._db.transaction():
            stored = self._apply_plain([w for w in ordered if _is_plain(w)], rows)
            for write in ordered:
                if write.key not in stored:
                    stored[write.key] = self._apply(write, rows[write.key])
        return [stored[write.key] for write in writes]

    def _apply_plain(self, writes: Sequence[Write], rows: dict[str, list[Any]]) -> dict[str, Entry]:
        """All unconditional puts in one statement; those that change nothing are left out."""
        if len(writes) < 2:
            return {}
        columns = [list(column) for column in zip(*(rows[w.key] for w in writes), strict=True)]
        found = entries(self._rows(self._upsert_many, columns), self.shape.kind)
        return {entry.key: entry for entry in found}

    def _apply(self, write: Write, row: list[Any]) -> Entry:
        for _ in range(ATTEMPTS):
            stored = self._attempt(write, row)
            if stored is not None:
                return stored
            # Nothing was done: because of what is there, or because it is what was to be put.
            current = self.current(write.key)
            check_expected(write, current.revision if current else None)
            if write.value is None and current is None:
                return deleted(write.key, write.updated_at)
            if write.value is not None and current and self._holds(row):
                return current
        raise InvalidValue(f"{self._where}, key {shown(write.key)}: the table keeps no such row")

    def _attempt(self, write: Write, row: list[Any]) -> Entry | None:
        """The one statement that does it if it may be done."""
        revision = None if write.expect in (None, "", "*") else write.expect
        if write.value is None:
            if write.expect != "" and self._rows(self._delete, (write.key, revision)):
                return deleted(write.key, write.updated_at)
            return None
        if write.expect is None:
            found = self._rows(self._upsert, row)
        elif write.expect == "":
            found = self._rows(self._insert, row)
        else:
            found = self._rows(self._update, [*row, revision])
        return next(iter(entries(found, self.shape.kind)), None)

    def _holds(self, row: list[Any]) -> bool:
        """Whether the table says that putting `row` would change nothing."""
        statement = f"SELECT FROM {self._layout.name} t WHERE {self._one} AND NOT {self._news}"
        return bool(self._rows(statement, row[: 3 if self._layout.value_type else 2]))

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

    def _rows(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[Row]:
        # Binary: a bytea comes as it is, instead of in twice as many digits.
        with self._db.cursor(binary=True) as cursor:
            return cursor.execute(statement.encode(), parameters).fetchall()

    def _is_legal(self, key: str) -> bool:
        try:
            check_text(key)
        except InvalidKey as error:
            log.warning("%s: a row is left out: %s", self._where, error)
            return False
        return True


def beside(rows: Sequence[Row]) -> str | None:
    """What `RowTable.rows_beside` was asked beside the rows."""
    return next((row[2] for row in rows if row[0] is None), None)


def _parameter_type(column: Column) -> str:
    """Of an array element: whatever is given as text is cast one by one."""
    return column.kind if column.kind in ("bytea", "timestamptz") else "text"


def _are_plain(keys: list[str]) -> bool:
    """Whether all are such that no look at each is needed: of a whole table that takes long."""
    return "".join(keys).isascii() and "" not in keys and max(map(len, keys), default=0) < 1000


def _is_plain(write: Write) -> bool:
    return write.value is not None and write.expect is None
