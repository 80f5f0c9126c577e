"""Reading and writing the rows of one table: the SQL of a store, on one connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from datastream.entry import Capability, Entry, deleted
from datastream.selection import Selects, literal_prefix
from datastream.source import Write, check_expected
from datastream.sources.sqlite.connection import transaction
from datastream.sources.sqlite.layout import Layout
from datastream.sources.sqlite.rows import (
    Parameter,
    check_integer,
    entry,
    native_parameter,
    parse_time,
    revision,
    time_text,
    typed_parameter,
)

MOST_CONDITIONS = 400
"""Selections with more keys and prefixes than this are filtered after reading everything."""


class RowTable:
    """The rows of `layout` as entries."""

    def __init__(self, connection: sqlite3.Connection, layout: Layout) -> None:
        self._db = connection
        self._layout = layout
        self._now = ""
        key = layout.column("key")
        # Keys of other types than these are left out: no text names them.
        self._where = f"FROM {layout.name} WHERE typeof({key}) IN ('text', 'integer')"
        self._select = f"SELECT {layout.fields()} {self._where}"
        # By the index first, then exactly; a number in a column without a type is no text.
        number = "CASE WHEN CAST(CAST(?1 AS INTEGER) AS TEXT) = ?1 THEN CAST(?1 AS INTEGER) END"
        self._exactly = f"{key} IN (?1, {number}) AND {key} COLLATE BINARY IN (?1, {number})"
        self._delete = f"DELETE FROM {layout.name} WHERE {self._exactly}"
        self._insert, self._update, self._upsert = self._write_statements(key)

    def _write_statements(self, key: str) -> tuple[str, str, str]:
        layout = self._layout
        value = layout.column("value")
        roles = [r for r in ("value_type", "updated_at") if getattr(layout.columns, r)]
        names = [value, *(layout.column(role) for role in roles)]
        marks = [f"?{number}" for number in range(2, 2 + len(names))]
        assign = ", ".join(f"{name} = {mark}" for name, mark in zip(names, marks, strict=True))
        insert = (
            f"INSERT INTO {layout.name} ({', '.join([key, *names])}) "
            f"VALUES ({', '.join(['?1', *marks])})"
        )
        update = f"UPDATE {layout.name} SET {assign} WHERE {self._exactly}"
        # Only for verbatim tables, which keep bytes and have a type beside them. Other programs
        # may have stored the same bytes as a BLOB or, with fewer digits, as a REAL.
        changed = (
            f"CAST({value} AS BLOB) IS NOT CAST(?2 AS BLOB) OR typeof({value}) = 'real' "
            f"OR {names[1]} IS NOT ?3 COLLATE BINARY"
            if layout.verbatim
            else "1"
        )
        upsert = f"{insert} ON CONFLICT ({key}) DO UPDATE SET {assign} WHERE {changed}"
        return insert, update, upsert

    def capabilities(self) -> list[Capability]:
        # typeof() looks at the header of a row only, so large values are not read.
        fields = self._layout.fields(value="x''")
        statement = f"SELECT {fields} {self._where}"
        return [Capability(e.key, e.value_type) for e in self._entries(statement, ())]

    def entries(self, selection: Selects) -> list[Entry]:
        condition, parameters = self._condition(selection)
        return self._entries(f"{self._select}{condition}", parameters)

    def get(self, key: str) -> Entry | None:
        found = self._entries(f"{self._select} AND {self._exactly}", (key,))
        return next((entry for entry in found if entry.key == key), None)

    def write(self, writes: Sequence[Write]) -> list[Entry]:
        self._now = time_text(None)
        rows = [self._parameters(write) for write in writes]
        plain = self._layout.verbatim and all(
            write.expect is None and write.value is not None for write in writes
        )
        if plain and len(writes) == 1:
            if self._db.execute(self._upsert, rows[0]).rowcount:
                return [self._stored(writes[0], rows[0])]
            plain = False
        with transaction(self._db):
            if plain and self._db.executemany(self._upsert, rows).rowcount == len(rows):
                return [self._stored(w, row) for w, row in zip(writes, rows, strict=True)]
            # Some changed nothing, or may not: each has to be looked at.
            return [self._apply(w, row) for w, row in zip(writes, rows, strict=True)]

    def _stored(self, write: Write, row: Sequence[Parameter]) -> Entry:
        """The entry of a row in a verbatim table, without reading it back."""
        value, name = write.value or b"", write.value_type
        time = row[3] if self._layout.columns.updated_at else None
        return Entry(write.key, value, name, parse_time(time), revision(value, name, time))

    def _apply(self, write: Write, row: Sequence[Parameter]) -> Entry:
        current = self.get(write.key)
        check_expected(write, current.revision if current else None)
        if write.value is None:
            self._db.execute(self._delete, (write.key,))
            return deleted(write.key, write.updated_at)
        self._db.execute("SAVEPOINT datastream")
        self._db.execute(self._insert if current is None else self._update, row)
        stored = self.get(write.key)
        if current is not None and _same(stored, current):
            # Told by what the table made of it: columns convert, triggers change.
            self._db.execute("ROLLBACK TO datastream")
            stored = current
        self._db.execute("RELEASE datastream")
        return stored or deleted(write.key)

    def _parameters(self, write: Write) -> tuple[Parameter, ...]:
        columns = self._layout.columns
        if self._layout.integer_keys:
            check_integer(write.key)
        if write.value is None:
            return (write.key,)
        if columns.value_type:
            row: tuple[Parameter, ...] = (
                write.key,
                typed_parameter(write.value, write.value_type),
                write.value_type,
            )
        else:
            row = (write.key, native_parameter(write.key, write.value, write.value_type))
        if not columns.updated_at:
            return row
        # One time for all that is written together.
        time = self._now if write.updated_at is None else time_text(write.updated_at)
        return (*row, time)

    def _entries(self, statement: str, parameters: Sequence[str]) -> list[Entry]:
        return [entry(row) for row in self._db.execute(statement, parameters)]

    def _condition(self, selection: Selects) -> tuple[str, list[str]]:
        """SQL that is true for at least the selected keys, and its parameters."""
        starts = {*selection.prefixes, *map(literal_prefix, selection.patterns)}
        everything = not (selection.keys or starts) or "" in starts
        if everything or len(selection.keys) + len(starts) > MOST_CONDITIONS:
            return "", []
        key = self._layout.column("key")
        terms, parameters = [], []
        for exact in selection.keys:
            terms.append(f"{key} = ?")
            parameters.append(exact)
            if exact.removeprefix("-").isdigit():
                terms.append(f"{key} = CAST(? AS INTEGER)")
                parameters.append(exact)
        for start in starts:
            terms.append(f"({key} COLLATE BINARY >= ? AND {key} COLLATE BINARY < ?)")
            # A prefix ends in a slash; "0" is the character after it.
            parameters += [start, start[:-1] + "0"]
        return f" AND ({' OR '.join(terms)})", parameters


def _same(one: Entry | None, other: Entry) -> bool:
    return one is not None and (one.value, one.value_type) == (other.value, other.value_type)
