"""The past of each key, kept by the same triggers in a table beside the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from datastream.entry import Entry, Revision, deleted
from datastream.sources.postgres.keys import key_of
from datastream.sources.postgres.layout import Column, Layout, literal
from datastream.sources.postgres.rows import READ_BY_TYPE, entries, shape

CHUNK = 100
"""Changes fetched at a time."""


class History(NamedTuple):
    """What is kept of `layout`: the newest `rows` changes, those of the last `days` if any."""

    layout: Layout
    rows: int
    days: float

    @property
    def form(self) -> str:
        """Compared with what is installed, to see whether that is what is wanted."""
        layout = self.layout
        values = layout.members if layout.is_object else (layout.value,)
        columns = [*values, layout.value_type, layout.updated_at]
        types = [column.type if column else "" for column in columns]
        if layout.is_object:
            types = [*(column.name for column in layout.members), *types]
        return json.dumps([*layout.columns, *types])

    def create_statements(self, create: str, table: str) -> list[str]:
        """The table; its columns are those that `Shape.fields` selects, bound to no other type.

        Args:
            create: how its statement begins.
        """
        value = "bytea" if self.layout.value.kind == "bytea" else "text"
        stamp = self.layout.updated_at
        time = "bytea" if stamp and stamp.kind.startswith("timestamp") else "text"
        return [
            # Numbers may come again, when a dump is loaded: no write of the table may fail by that.
            f"{create} {table} (id bigint GENERATED ALWAYS AS IDENTITY, "
            f"at timestamptz NOT NULL DEFAULT now(), author text DEFAULT session_user, "
            f"gone boolean NOT NULL, key text NOT NULL, value {value}, value_type text, "
            f"updated_at {time})",
            f"CREATE INDEX ON {table} (id)",
            f"CREATE INDEX ON {table} (key, id)",
        ]

    def fits(self, relation: str) -> str:
        """Whether a relation has all columns, of types that are read as `form` says."""
        columns = self.layout.read
        known = " OR ".join(_is_column(column) for column in columns)
        return (
            f"(SELECT count(*) FROM pg_attribute WHERE attrelid = {relation} AND ({known})) "
            f"= {len(columns)}"
        )

    def keep(self, table: str, rows: str, relation: str) -> str:
        """A statement that writes down what `rows` of `relation` hold."""
        key = key_of(self.layout, "r")
        if self.layout.is_virtual:
            # Rows that were just written have no such values yet, those of the table do.
            among = f"SELECT {key_of(self.layout, 'n')}::text FROM {rows} n"
            rows = f"(SELECT * FROM {relation} r WHERE {key}::text IN ({among}))"
        return (
            f"INSERT INTO {table} (gone, key, value, value_type, updated_at) "
            f"SELECT false, {shape(self.layout, 'r').fields} FROM {rows} r WHERE {key} IS NOT NULL"
        )

    def keep_gone(self, table: str, rows: str, made: str = "") -> str:
        """A statement that writes down that `rows` are gone, without those in `made`."""
        key, new = key_of(self.layout, "r"), key_of(self.layout, "n")
        statement = (
            f"INSERT INTO {table} (gone, key) SELECT true, {key}::text FROM {rows} r "
            f"WHERE {key} IS NOT NULL"
        )
        if made:
            still = f"SELECT {new}::text FROM {made} n WHERE {new} IS NOT NULL"
            statement += f" AND {key}::text NOT IN ({still})"
        return statement

    def prune(self, table: str) -> str:
        """PL/pgSQL that removes what is too old."""
        text = f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - {self.rows};"
        if self.days:
            age = literal(f"{self.days} days")
            text += f" DELETE FROM {table} WHERE at < now() - {age}::interval;"
        return text


def _is_column(column: Column) -> str:
    name = f"attname = {literal(column.name)}"
    # What is read by a cast to text can be read so whatever it becomes.
    return f"{name} AND atttypid = {column.declared}" if column.kind in READ_BY_TYPE else name


Fetch = Callable[[str, tuple[object, ...]], Sequence[Any]]
"""Runs a statement with parameters, and returns its rows in binary."""


def past(fetch: Fetch, kept: str, key: str, kind: str) -> Iterator[Revision]:
    """What `key` held, newest first; a statement that changed nothing is no revision.

    Args:
        kept: the table of the past.
        kind: the value_type of rows that name none.
    """
    newer: Revision | None = None
    for row in _lines(fetch, kept, key):
        entry = deleted(key, row[1]) if row[3] else entries([row[4:]], kind)[0]
        if newer is not None and _differ(entry, newer.entry):
            yield newer
        newer = Revision(entry, author=row[2])
    if newer is not None:
        yield newer


def _differ(one: Entry, other: Entry) -> bool:
    return (one.operation, one.revision) != (other.operation, other.revision)


def _lines(fetch: Fetch, kept: str, key: str) -> Iterator[tuple[Any, ...]]:
    before = None
    statement = (
        "SELECT id, at, author, gone, key, value, value_type, updated_at "
        f"FROM {kept} WHERE key = $1::text AND ($2::int8 IS NULL OR id < $2::int8) "
        f"ORDER BY id DESC LIMIT {CHUNK}"
    )
    while True:
        # No connection is held between two chunks, however slowly they are read.
        found = fetch(statement, (key, before))
        yield from found
        if len(found) < CHUNK:
            return
        before = found[-1][0]
