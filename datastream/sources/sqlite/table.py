"""Reading and writing the rows of one table: the SQL of a store, for any connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from datastream._columns import EntryColumns
from datastream.entry import Capability, Entry, deleted
from datastream.errors import InvalidValue, shown
from datastream.selection import Selects, starts
from datastream.source import Write, check_expected
from datastream.sources._common.row_keys import parts_of as parts_of_key
from datastream.sources.sqlite.connection import is_about_sql
from datastream.sources.sqlite.keys import column_of, parts_of
from datastream.sources.sqlite.layout import Layout
from datastream.sources.sqlite.rows import (
    Parameter,
    Row,
    capability,
    check_integer,
    entry,
    entry_columns,
    entry_of,
    native_parameter,
    revision,
    time_of,
    time_text,
    typed_parameter,
)

MOST_CONDITIONS = 400
"""Selections with more keys and prefixes than this are filtered after reading everything."""

Parameters = tuple[Parameter, ...]


class RowTable:
    """The rows of `layout` as entries."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._verbatim = layout.verbatim
        self._is_object = bool(layout.members)
        self._integer_keys = layout.integer_keys
        self._checks_keys = len(layout.keys) > 1 or any(layout.integer_keys)
        self._has_type = bool(layout.columns.value_type)
        self._has_time = bool(layout.columns.updated_at)
        key = layout.key()
        # Keys of other types than these are left out: no text names them.
        where = f"FROM {layout.name} WHERE typeof({key}) IN ('text', 'integer')"
        self._select = f"SELECT {layout.fields()} {where}"
        kind = layout.column("value_type") if layout.columns.value_type else "NULL"
        # typeof() looks at the header of a row only, so large values are not read.
        held = f"typeof({layout.column('value')}), {kind}"
        if layout.members:
            held = "'text', 'json'"
        self._list = f"SELECT {key}, {held} {where}"
        self._keys = f"SELECT {key} {where}"
        # By the index first, then exactly; a number in a column without a type is no text.
        number = "CASE WHEN CAST(CAST(?1 AS INTEGER) AS TEXT) = ?1 THEN CAST(?1 AS INTEGER) END"
        exactly = f"{key} IN (?1, {number}) AND {key} COLLATE BINARY IN (?1, {number})"
        if len(layout.keys) > 1:
            exactly = layout.is_key("?1")
        if layout.verbatim:
            exactly = f"{key} = ?1 COLLATE BINARY"
        self.one = f"{self._select} AND {exactly} LIMIT 1"
        """SELECT of the row of one key, for `found`."""
        if layout.verbatim:
            # The key is known, and text: it need not be read.
            _, _, fields = layout.fields().partition(", ")
            self.one = f"SELECT NULL, {fields} FROM {layout.name} WHERE {exactly}"
        self._exactly = exactly
        self._delete = f"DELETE FROM {layout.name} WHERE {exactly}"
        self._insert, self._update, self._upsert, self._change = self._write_statements(exactly)

    def _write_statements(self, exactly: str) -> tuple[str, str, str, str]:
        layout = self._layout
        key = ", ".join(map(column_of, layout.keys))
        value = layout.column("value")
        roles = [r for r in ("value_type", "updated_at") if getattr(layout.columns, r)]
        names = [value, *(layout.column(role) for role in roles)]
        marks = [f"?{number}" for number in range(2, 2 + len(names))]
        assign = ", ".join(f"{name} = {mark}" for name, mark in zip(names, marks, strict=True))
        insert = (
            f"INSERT INTO {layout.name} ({', '.join([key, *names])}) "
            f"VALUES ({', '.join([*parts_of('?1', len(layout.keys)), *marks])})"
        )
        update = f"UPDATE {layout.name} SET {assign} WHERE {exactly}"
        # Only for verbatim tables, which keep bytes and have a type beside them. Other programs
        # may have stored the same bytes as a BLOB or, with fewer digits, as a REAL.
        changed = (
            f"(CAST({value} AS BLOB) IS NOT CAST(?2 AS BLOB) OR typeof({value}) = 'real' "
            f"OR {names[1]} IS NOT ?3 COLLATE BINARY)"
            if layout.verbatim
            else "1"
        )
        upsert = f"{insert} ON CONFLICT ({key}) DO UPDATE SET {assign} WHERE {changed}"
        return insert, update, upsert, f"{update} AND {changed}"

    def capabilities(self, db: sqlite3.Connection) -> list[Capability]:
        return [capability(row) for row in db.execute(self._list)]

    def state(self, db: sqlite3.Connection, selection: Selects) -> EntryColumns:
        """All rows of `selection`."""
        condition, parameters = self._condition(selection)
        sql = f"{self._select}{condition}"
        given = db.text_factory
        try:
            # Takes half the time, but fails where text is not UTF-8.
            db.text_factory = str
            return self.columns_of(db.execute(sql, parameters))
        except sqlite3.OperationalError as error:
            if not is_about_sql(error):
                raise
        finally:
            db.text_factory = given
        return self.columns_of(db.execute(sql, parameters))

    def keys(self, db: sqlite3.Connection, selection: Selects) -> list[str]:
        """The keys of `selection`, and perhaps more, sorted."""
        condition, parameters = self._condition(selection)
        sql = f"{self._keys}{condition} ORDER BY {self._layout.key()}"
        return [str(key) for (key,) in db.execute(sql, parameters)]

    def scanned(self, db: sqlite3.Connection, key: str) -> Row | None:
        """`row`, by a look at the key of each: no index leads to it."""
        sql = f"{self._select} AND CAST({self._layout.key()} AS TEXT) = ?1 COLLATE BINARY"
        row: Row | None = db.execute(sql, (key,)).fetchone()
        return self._layout.shaped(row) if row is not None and self._is_object else row

    def check(self, db: sqlite3.Connection) -> None:
        """Compile the statement that reads rows, and read none.

        Raises:
            sqlite3.Error: it does not fit the schema.
        """
        db.execute(f"SELECT 1 FROM ({self._select}) LIMIT 0")

    def walk(self, db: sqlite3.Connection, selection: Selects) -> Iterator[Entry]:
        """`state`, sorted, one after the other; where text is UTF-8."""
        condition, parameters = self._condition(selection)
        key = self._layout.key()
        # As Python sorts: not by the column's collation, nor numbers by their size.
        text = key if self._verbatim else f"CAST({key} AS TEXT)"
        sql = f"{self._select}{condition} ORDER BY {text} COLLATE BINARY"
        for row in db.execute(sql, parameters):
            yield entry(self._layout.shaped(row) if self._is_object else row)

    def columns_of(self, rows: Iterable[Row]) -> EntryColumns:
        """The entries of rows of the table."""
        return entry_columns(map(self._layout.shaped, rows) if self._is_object else rows)

    def get(self, db: sqlite3.Connection, key: str) -> Entry | None:
        row = self.row(db, key)
        return None if row is None else entry_of(key, *row[1:])

    def row(self, db: sqlite3.Connection, key: str) -> Row | None:
        """The row of one key."""
        row: Row | None = db.execute(self.one, (key,)).fetchone()
        # An integer column finds 5 for "05", too.
        if row is None or (row[0] is not None and str(row[0]) != key):
            return None
        return self._layout.shaped(row) if self._is_object else row

    def may_change(self, writes: Sequence[Write]) -> bool:
        """Whether `change` does what is to be written, if the key holds another value."""
        return self._verbatim and len(writes) == 1 and _is_plain(writes[0])

    def change(self, db: sqlite3.Connection, write: Write) -> list[Entry] | None:
        """Put one value in place of another one, in one statement.

        None: the key holds no other value; nothing is written.
        """
        time = time_of(write.updated_at)
        row = self._parameters(write, time_text(time))
        return [self._stored(write, row, time)] if db.execute(self._change, row).rowcount else None

    def write(self, db: sqlite3.Connection, writes: Sequence[Write]) -> list[Entry]:
        """Make `writes`, within a transaction of the caller's."""
        # One time for all that is written together.
        now = time_of(None)
        text = time_text(now)
        whole = []
        for write in writes:
            if write.updated_at is None:
                whole.append((write, self._parameters(write, text), now))
            else:
                time = time_of(write.updated_at)
                whole.append((write, self._parameters(write, time_text(time)), time))
        if len(writes) > 1 and self._verbatim and all(map(_is_plain, writes)):
            db.execute("SAVEPOINT datastream")
            if db.executemany(self._upsert, [row for _, row, _ in whole]).rowcount == len(whole):
                db.execute("RELEASE datastream")
                return [self._stored(*each) for each in whole]
            # Some changed nothing: each has to be looked at.
            db.execute("ROLLBACK TO datastream")
            db.execute("RELEASE datastream")
        if self._verbatim:
            return [self._apply_verbatim(db, *each) for each in whole]
        return [self._apply(db, write, row) for write, row, _ in whole]

    def _stored(self, write: Write, row: Parameters, time: datetime) -> Entry:
        """The entry of a row in a verbatim table, without reading it back."""
        value, name = write.value or b"", write.value_type
        if not self._has_time:
            return Entry(write.key, value, name, None, revision(value, name, None))
        return Entry(write.key, value, name, time, revision(value, name, row[3]))

    def _apply_verbatim(
        self, db: sqlite3.Connection, write: Write, row: Parameters, time: datetime
    ) -> Entry:
        if _is_plain(write) and db.execute(self._change, row).rowcount:
            return self._stored(write, row, time)
        current = self.get(db, write.key)
        check_expected(write, current.revision if current else None)
        if write.value is None:
            db.execute(self._delete, row)
            return deleted(write.key, write.updated_at)
        if current is not None and (current[1], current[2]) == (write.value, write.value_type):
            return current
        db.execute(self._insert if current is None else self._update, row)
        return self._stored(write, row, time)

    def _apply(self, db: sqlite3.Connection, write: Write, row: Parameters) -> Entry:
        """Make one write; judge it by what the table made of it: columns convert, triggers change.

        Raises:
            InvalidValue: a trigger of the table's owner does not let it be.
        """
        current = self.get(db, write.key)
        check_expected(write, current.revision if current else None)
        if write.value is None:
            if current is not None:
                db.execute(self._delete, row)
                if self.get(db, write.key) is not None:
                    raise _refused(write.key)
            return deleted(write.key, write.updated_at)
        db.execute("SAVEPOINT datastream")
        is_done = self._put(db, row, exists=current is not None)
        stored = self.get(db, write.key)
        if stored is None or not is_done:
            raise _refused(write.key)
        if current is not None and _same(stored, current):
            db.execute("ROLLBACK TO datastream")
            stored = current
        db.execute("RELEASE datastream")
        return stored

    def _put(self, db: sqlite3.Connection, row: Parameters, *, exists: bool) -> bool:
        """Whether the table let it be: not if one of its triggers passes over it."""
        return db.execute(self._update if exists else self._insert, row).rowcount > 0

    def _check_key(self, key: str) -> None:
        names = self._layout.keys
        parts = parts_of_key(key, names) if len(names) > 1 else [key]
        for part, is_integer in zip(parts, self._integer_keys, strict=True):
            if is_integer:
                check_integer(part)

    def _parameters(self, write: Write, time: str) -> Parameters:
        """Key, value, type and time as the statements take them."""
        if self._checks_keys:
            self._check_key(write.key)
        if write.value is None:
            return (write.key,)
        row: Parameters
        if self._has_type:
            value = typed_parameter(write.value, write.value_type)
            row = (write.key, value, write.value_type)
        else:
            row = (write.key, native_parameter(write.key, write.value, write.value_type))
        return (*row, time) if self._has_time else row

    def _condition(self, selection: Selects) -> tuple[str, list[str]]:
        """SQL that is true for at least the selected keys, and its parameters."""
        begins = starts(selection)
        everything = not (selection.keys or begins) or "" in begins
        if everything or len(selection.keys) + len(begins) > MOST_CONDITIONS:
            return "", []
        terms: list[str] = []
        parameters: list[str] = []
        for exact in selection.keys:
            self._add_key(exact, terms, parameters)
        for start in begins:
            self._add_start(start, terms, parameters)
        return f" AND ({' OR '.join(terms) or '0'})", parameters

    def _add_key(self, exact: str, terms: list[str], parameters: list[str]) -> None:
        names = self._layout.keys
        if len(names) > 1:
            parts = exact.split("/", len(names) - 1)
            if len(parts) == len(names):
                terms.append(f"({' AND '.join(map(_is_part, names))})")
                parameters += [text for part in parts for text in (part, part)]
            return
        key = self._layout.key()
        terms.append(f"{key} = ?")
        parameters.append(exact)
        if exact.removeprefix("-").isdigit():
            terms.append(f"{key} = CAST(? AS INTEGER)")
            parameters.append(exact)

    def _add_start(self, start: str, terms: list[str], parameters: list[str]) -> None:
        key, names = self._layout.key(), self._layout.keys
        # A prefix ends in a slash; "0" is the character after it.
        term = f"{key} COLLATE BINARY >= ? AND {key} COLLATE BINARY < ?"
        if len(names) > 1:
            # By the index, as far as it goes.
            first = start.partition("/")[0]
            term = f"{_is_part(names[0])} AND {term}"
            parameters += [first, first]
        terms.append(f"({term})")
        parameters += [start, start[:-1] + "0"]


def _is_part(name: str) -> str:
    return f"{column_of(name)} IN (?, CAST(? AS INTEGER))"


def _refused(key: str) -> InvalidValue:
    return InvalidValue(f"{shown(key)}: a trigger of the table undoes this; nothing was written")


def _is_plain(write: Write) -> bool:
    """A put that replaces whatever is there."""
    return write.expect is None and write.value is not None


def _same(one: Entry | None, other: Entry) -> bool:
    return one is not None and (one.value, one.value_type) == (other.value, other.value_type)
