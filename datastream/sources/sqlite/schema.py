"""What SQLite says of a table: its columns, indexes and triggers.

sqlite-utils has the same under the same names, but imports pandas and numpy where they are
installed, which takes longer than all that a short program does here.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Any, NamedTuple

_VIRTUAL = re.compile(r"\s*CREATE\s+VIRTUAL\s+TABLE\b", re.IGNORECASE)


class Column(NamedTuple):
    """A row of ``PRAGMA table_info``."""

    cid: int
    name: str
    type: str
    notnull: int
    default_value: str | None
    is_pk: int


class IndexColumn(NamedTuple):
    """A row of ``PRAGMA index_xinfo``."""

    seqno: int
    cid: int
    name: str | None
    """None for an expression, and for the rowid."""
    desc: int
    coll: str
    key: int
    """0 for what is in the index beside the columns that it is of."""


class Index(NamedTuple):
    """An index with all its columns."""

    name: str
    unique: bool
    partial: bool
    columns: tuple[IndexColumn, ...]

    @property
    def keys(self) -> tuple[IndexColumn, ...]:
        """The columns that it is of."""
        return tuple(column for column in self.columns if column.key)


def quote_identifier(name: str) -> str:
    """A name as SQL has it."""
    return '"{}"'.format(name.replace('"', '""'))


class Table:
    """A table or view of `connection`; each question is a query."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self.name = name
        self._connection = connection

    @property
    def is_view(self) -> bool:
        """It is no table."""
        return "view" in self._stored("type", "name = ?")

    @property
    def schema(self) -> str:
        """The SQL that made it."""
        return next(iter(self._stored("sql", "type IN ('table', 'view') AND name = ?")), "")

    @property
    def is_virtual(self) -> bool:
        """A module keeps its rows."""
        return _VIRTUAL.match(self.schema) is not None

    @property
    def columns(self) -> list[Column]:
        """Those that are not generated."""
        return [Column(*row) for row in self._pragma("table_info", self.name)]

    @property
    def indexes(self) -> list[Index]:
        """Those that SQLite made by itself, too."""
        return [
            Index(name, bool(unique), bool(partial), self._index_columns(name))
            for _, name, unique, _, partial in self._pragma("index_list", self.name)
        ]

    @property
    def triggers(self) -> list[str]:
        """Their names."""
        return self._stored("name", "type = 'trigger' AND tbl_name = ?")

    def _index_columns(self, name: str) -> tuple[IndexColumn, ...]:
        return tuple(IndexColumn(*row) for row in self._pragma("index_xinfo", name))

    def _stored(self, column: str, where: str) -> list[str]:
        sql = f"SELECT {column} FROM sqlite_master WHERE {where}"
        return [row[0] for row in self._connection.execute(sql, (self.name,))]

    def _pragma(self, pragma: str, name: str) -> list[tuple[Any, ...]]:
        rows = self._connection.execute(f"PRAGMA {pragma}({quote_identifier(name)})")
        return rows.fetchall()


def table_names(connection: sqlite3.Connection) -> list[str]:
    """All tables, in the order in which they were made."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in rows]
