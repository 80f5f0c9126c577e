"""The past of each key, kept by the same triggers in a table beside the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from datastream.entry import Entry, Revision, deleted
from datastream.sources.postgres.layout import Layout, literal
from datastream.sources.postgres.rows import entries, shape

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
        columns = [layout.value, layout.value_type, layout.updated_at]
        types = [column.type if column else "" for column in columns]
        return json.dumps([*layout.columns, *types])

    def create_statements(self, table: str) -> list[str]:
        """The table; its columns are those that `Shape.fields` selects, bound to no other type."""
        value = "bytea" if self.layout.value.kind == "bytea" else "text"
        stamp = self.layout.updated_at
        time = "bytea" if stamp and stamp.kind.startswith("timestamp") else "text"
        return [
            f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
            f"at timestamptz NOT NULL DEFAULT now(), author text DEFAULT session_user, "
            f"gone boolean NOT NULL, key text NOT NULL, value {value}, value_type text, "
            f"updated_at {time})",
            f"CREATE INDEX ON {table} (key, id)",
        ]

    def keep(self, table: str, event: str) -> str:
        """PL/pgSQL that writes down what a statement did."""
        key = self.layout.key.quoted
        into = f"INSERT INTO {table} (gone, key, value, value_type, updated_at)"
        put = f"{into} SELECT false, {shape(self.layout, 'r').fields} FROM new_rows r"
        gone = f"INSERT INTO {table} (gone, key) SELECT true, r.{key}::text FROM"
        present = f"WHERE r.{key} IS NOT NULL"
        return {
            "insert": f"{put} {present};",
            "update": f"{gone} old_rows r {present} AND r.{key} NOT IN "
            f"(SELECT n.{key} FROM new_rows n WHERE n.{key} IS NOT NULL); {put} {present};",
            "delete": f"{gone} old_rows r {present};",
            "truncate": f"{gone} {self.layout.name} r {present};",
        }[event]

    def prune(self, table: str) -> str:
        """PL/pgSQL that removes what is too old."""
        text = f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - {self.rows};"
        if self.days:
            age = literal(f"{self.days} days")
            text += f" DELETE FROM {table} WHERE at < now() - {age}::interval;"
        return text


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
