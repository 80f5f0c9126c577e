"""Which columns of which table hold keys and values: looked up once, turned into SQL."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import sqlite_utils
from sqlite_utils.db import Table, quote_identifier

from datastream.errors import DatastreamError

ANCESTOR_COLUMNS = {"key": "TEXT", "value": "", "value_type": "TEXT", "updated_at": "TIMESTAMP"}
"""The table made on first use: the shape of the Go project's, so both can share a file."""


class Columns(NamedTuple):
    """Column names as asked for; "" for the optional two means "if there is one of that name"."""

    key: str
    value: str
    value_type: str = ""
    updated_at: str = ""


class Layout(NamedTuple):
    """A table or view as found."""

    table: str
    columns: Columns
    is_view: bool
    rivals: tuple[tuple[str, ...], ...]
    """Column sets, other than the key, by which ``OR REPLACE`` may remove another row."""
    verbatim: bool
    """The value column stores what it is given, without converting it."""
    demanding: bool
    """Other columns must be filled in, so an upsert fails where an update would do."""

    @property
    def name(self) -> str:
        return quote_identifier(self.table)

    @property
    def mark(self) -> str:
        """Names what is made for this layout; another choice of columns gets another mark."""
        digest = blake2b("\0".join(self.columns).encode(), digest_size=4).hexdigest()
        return f"_datastream_{self.table}_{digest}"

    def column(self, name: str) -> str:
        """A column of `Columns` by its field name, quoted."""
        return quote_identifier(getattr(self.columns, name))

    def fields(self, table: str = "") -> str:
        """The SELECT list that `_sqlite_rows.entry` reads.

        The value comes as bytes, so that text which is no UTF-8 passes; a REAL comes as it is,
        because SQLite prints it with fewer digits than it has.
        """
        dot = f"{table}." if table else ""
        value = dot + self.column("value")
        optional = [
            dot + self.column(name) if getattr(self.columns, name) else "NULL"
            for name in ("value_type", "updated_at")
        ]
        as_bytes = f"CASE typeof({value}) WHEN 'real' THEN {value} ELSE CAST({value} AS BLOB) END"
        return ", ".join([dot + self.column("key"), as_bytes, f"typeof({value})", *optional])


def create_table(db: sqlite_utils.Database, name: str) -> None:
    """Make a table of the ancestor's shape."""
    columns = ", ".join(f"{column} {kind}".strip() for column, kind in ANCESTOR_COLUMNS.items())
    columns = columns.replace("key TEXT", "key TEXT PRIMARY KEY NOT NULL", 1)
    db.execute(f"CREATE TABLE IF NOT EXISTS {quote_identifier(name)} ({columns})")


def find_layout(db: sqlite_utils.Database, table: str, asked: Columns, where: str) -> Layout:
    """Look up `table` and check that it can be a store.

    Raises:
        DatastreamError: a column is missing, or nothing makes the key unique.
    """
    is_view = table in db.view_names()
    found = [column.name for column in db[table].columns]
    columns = _choose(asked, found, where)
    if is_view:
        return Layout(table, columns, True, (), False, False)
    real = db.table(table)
    uniques = _unique_column_sets(real)
    if (columns.key,) not in uniques:
        raise DatastreamError(
            f"{where} has no key: column {columns.key!r} is neither the primary key nor unique; "
            f"make it unique or name another with key="
        )
    rivals = tuple(dict.fromkeys(unique for unique in uniques if unique != (columns.key,)))
    return Layout(
        table, columns, False, rivals, _is_verbatim(real, columns), _is_demanding(real, columns)
    )


def _choose(asked: Columns, found: Sequence[str], where: str) -> Columns:
    for role, name in asked._asdict().items():
        if name and name not in found:
            raise DatastreamError(
                f"{where} has no column {name!r}; it has {', '.join(found)}: "
                f"name the right one with {role}="
            )
    return asked._replace(
        value_type=asked.value_type or ("value_type" if "value_type" in found else ""),
        updated_at=asked.updated_at or ("updated_at" if "updated_at" in found else ""),
    )


def _unique_column_sets(table: Table) -> list[tuple[str, ...]]:
    # A partial index makes only some rows unique, an expression (column None) no column at all.
    indexes = [i for i in table.indexes if i.unique and not i.partial and None not in i.columns]
    keys = [] if table.use_rowid else [tuple(table.pks)]
    return keys + [tuple(index.columns) for index in indexes]


def _is_verbatim(table: Table, columns: Columns) -> bool:
    kinds = {column.name: column.type.upper() for column in table.columns}
    others = (columns.key, columns.value_type, columns.updated_at)
    as_given = kinds[columns.value] in ("", "BLOB")
    return as_given and all(kinds[name] in ("TEXT", "TIMESTAMP") for name in others if name)


def _is_demanding(table: Table, columns: Columns) -> bool:
    return any(
        column.notnull and column.default_value is None and column.name not in columns
        for column in table.columns
    )
