"""Reading and writing the rows of one table: the SQL of a store, on one connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from datastream.entry import Capability, Entry, deleted
from datastream.selection import Selects, literal_prefix
from datastream.source import Write, check_expected
from datastream.sources._sqlite_layout import Layout
from datastream.sources._sqlite_rows import (
    entry,
    native_parameter,
    parse_time,
    revision,
    time_text,
    typed_parameter,
)

MOST_CONDITIONS = 400
"""Selections with more keys and prefixes than this are filtered after reading everything."""

Parameters = tuple[str | bytes | int | float, ...]


class RowTable:
    """The rows of `layout` as entries."""

    def __init__(self, connection: sqlite3.Connection, layout: Layout) -> None:
        self._db = connection
        self._layout = layout
        columns = layout.columns
        key, value = layout.column("key"), layout.column("value")
        self._select = f"SELECT {layout.fields()} FROM {layout.name} WHERE {key} IS NOT NULL"
        self._exactly = f"{key} = ?1 AND {key} = ?1 COLLATE BINARY"
        self._delete = f"DELETE FROM {layout.name} WHERE {self._exactly}"
        kept = [name for name in ("value_type", "updated_at") if getattr(columns, name)]
        named = [value, *(layout.column(name) for name in kept)]
        changes = [f"CAST({value} AS BLOB) IS NOT CAST(?2 AS BLOB)"]
        if columns.value_type:
            changes.append(f"{layout.column('value_type')} IS NOT ?3 COLLATE BINARY")
        marks = [f"?{number}" for number in range(2, 2 + len(named))]
        assign = ", ".join(f"{name} = {mark}" for name, mark in zip(named, marks, strict=True))
        self._insert = (
            f"INSERT INTO {layout.name} ({', '.join([key, *named])}) "
            f"VALUES ({', '.join(['?1', *marks])})"
        )
        self._if_changed = " OR ".join(changes)
        self._upsert = (
            f"{self._insert} ON CONFLICT ({key}) DO UPDATE SET {assign} WHERE {self._if_changed}"
        )
        self._update = (
            f"UPDATE {layout.name} SET {assign} WHERE {self._exactly} AND ({self._if_changed})"
        )
        self._now = ""
        self._returning = f" RETURNING {layout.fields()}"

    def capabilities(self) -> list[Capability]:
        return [Capability(e.key, e.value_type) for e in self._entries(self._no_values(), ())]

    def entries(self, selection: Selects) -> list[Entry]:
        condition, parameters = self._condition(selection)
        return self._entries(f"{self._select}{condition}", parameters)

    def get(self, key: str) -> Entry | None:
        found = self._entries(f"{self._select} AND {self._exactly}", (key,))
        return found[0] if found else None

    def write(self, writes: Sequence[Write]) -> list[Entry]:
        self._now = time_text(None)
        if len(writes) == 1 and writes[0].expect is None and writes[0].value is not None:
            stored = self._put_alone(writes[0])
            if stored is not None:
                return [stored]
        with transaction(self._db):
            if self._is_plain(writes):
                stored_all = self._put_all(writes)
                if stored_all is not None:
                    return stored_all
            return [self._apply(write) for write in writes]

    def _put_alone(self, write: Write) -> Entry | None:
        """The upsert in one statement; None if it changed nothing, or cannot tell."""
        if self._layout.demanding:
            return None
        parameters = self._parameters(write)
        if self._layout.verbatim:
            changed = self._db.execute(self._upsert, parameters).rowcount
            return self._stored(write, parameters) if changed else None
        rows = self._db.execute(self._upsert + self._returning, parameters).fetchall()
        return entry(rows[0]) if rows else None

    def _is_plain(self, writes: Sequence[Write]) -> bool:
        layout = self._layout
        return (
            layout.verbatim
            and not layout.demanding
            and all(write.expect is None and write.value is not None for write in writes)
        )

    def _put_all(self, writes: Sequence[Write]) -> list[Entry] | None:
        """Many upserts at once; None if some changed nothing, so that each has to be looked at.

        The entries are made here instead of read back, which a verbatim table allows.
        """
        rows = [self._parameters(write) for write in writes]
        cursor = self._db.executemany(self._upsert, rows)
        if cursor.rowcount != len(writes):
            return None
        return [self._stored(write, row) for write, row in zip(writes, rows, strict=True)]

    def _stored(self, write: Write, row: Parameters) -> Entry:
        value = write.value or b""
        time = row[-1] if self._layout.columns.updated_at else None
        kind = write.value_type if self._layout.columns.value_type else _kind(row[1])
        return Entry(write.key, value, kind, parse_time(time), revision(value, kind, time))

    def _apply(self, write: Write) -> Entry:
        current = self.get(write.key)
        check_expected(write, current.revision if current else None)
        if write.value is None:
            self._db.execute(self._delete, (write.key,))
            return deleted(write.key, write.updated_at)
        statement = self._insert if current is None else self._update
        row = self._db.execute(statement + self._returning, self._parameters(write)).fetchone()
        if row is not None:
            return entry(row)
        return self.get(write.key) or deleted(write.key)

    def _parameters(self, write: Write) -> Parameters:
        columns = self._layout.columns
        value = write.value or b""
        if columns.value_type:
            row: Parameters = (
                write.key,
                typed_parameter(value, write.value_type),
                write.value_type,
            )
        else:
            row = (write.key, native_parameter(write.key, value, write.value_type))
        if not columns.updated_at:
            return row
        # One time for all that is written together.
        time = self._now if write.updated_at is None else time_text(write.updated_at)
        return (*row, time)

    def _entries(self, statement: str, parameters: Sequence[str]) -> list[Entry]:
        return [entry(row) for row in self._db.execute(statement, parameters)]

    def _no_values(self) -> str:
        # typeof() looks at the header of a row only, so large values are not read.
        value = self._layout.column("value")
        kind = self._layout.column("value_type") if self._layout.columns.value_type else "NULL"
        return (
            f"SELECT {self._layout.column('key')}, x'', typeof({value}), {kind}, NULL "
            f"FROM {self._layout.name} WHERE {self._layout.column('key')} IS NOT NULL"
        )

    def _condition(self, selection: Selects) -> tuple[str, list[str]]:
        """SQL that is true for at least the selected keys, and its parameters."""
        starts = {*selection.prefixes, *map(literal_prefix, selection.patterns)}
        everything = not (selection.keys or starts) or "" in starts
        if everything or len(selection.keys) + len(starts) > MOST_CONDITIONS:
            return "", []
        key = self._layout.column("key")
        terms, parameters = [], list(selection.keys)
        if selection.keys:
            terms.append(f"{key} IN ({', '.join('?' * len(selection.keys))})")
        for start in starts:
            terms.append(f"({key} COLLATE BINARY >= ? AND {key} COLLATE BINARY < ?)")
            # A prefix ends in a slash; "0" is the character after it.
            parameters += [start, start[:-1] + "0"]
        return f" AND ({' OR '.join(terms)})", parameters


def _kind(parameter: str | bytes | int | float) -> str:
    return {str: "str", bytes: "bytes", int: "int", float: "float"}[type(parameter)]


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, holding the write lock from the start: what was read stays true."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk or a trigger's RAISE(ROLLBACK) has ended it already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
