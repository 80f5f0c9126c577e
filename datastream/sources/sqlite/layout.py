"""Which columns of which table hold keys and values: looked up once, turned into SQL."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from itertools import product
from typing import Any, NamedTuple

from datastream.errors import DatastreamError
from datastream.sources._common.row_keys import check_key_columns, check_value_columns, names_of
from datastream.sources._common.row_objects import (
    ALL,
    json_of,
    member_of,
    spelled_json_of,
    text_of,
)
from datastream.sources.sqlite.keys import column_of, is_key, key_of
from datastream.sources.sqlite.rows import Row
from datastream.sources.sqlite.schema import Table, quote_identifier

ANCESTOR_COLUMNS = {"key": "TEXT", "value": "", "value_type": "TEXT", "updated_at": "TIMESTAMP"}
"""The table made on first use: the shape of the Go project's, so both can share a file."""

LOG_FORMAT = "4"
"""Part of the log's name; another format gets another name, and the old log is removed."""
FORMER_FORMATS = ((), ("2",), ("3",))
"""Of earlier versions of this library."""
JSON_TYPES = ("JSON", "JSONB")
"""Declared types of columns whose text is JSON."""
DEFAULTS = {"value_type": "value_type", "updated_at": "updated_at"}
"""The names by which columns are found that were not named."""


class Columns(NamedTuple):
    """Column names as asked for; "" for the optional two means "if there is one of that name"."""

    key: str
    value: str
    value_type: str = ""
    updated_at: str = ""


class Unique(NamedTuple):
    """Columns that no two rows have in common, each with the collation that compares it."""

    columns: tuple[tuple[str, str], ...]

    def same_row(self) -> str:
        """SQL: this row would have to go if the NEW one came."""
        return " AND ".join(
            f"{name} = NEW.{name} COLLATE {collation}"
            for name, collation in (
                (quote_identifier(column), quote_identifier(collation))
                for column, collation in self.columns
            )
        )


class Member(NamedTuple):
    """A column of a row that is a value."""

    name: str
    type: str
    """As declared, in capitals."""
    is_generated: bool


class Layout(NamedTuple):
    """A table or view as found."""

    table: str
    columns: Columns
    """The key's and the value's as asked for, where they are several."""
    can_log: bool
    """Triggers can tell every change."""
    is_view: bool = False
    generated: str = ""
    """One of `columns` that SQLite computes from others."""
    exact: bool = False
    """A unique index compares the key column byte by byte."""
    rivals: tuple[Unique, ...] = ()
    """What else than the exact key makes ``OR REPLACE`` remove another row."""
    integer_keys: tuple[bool, ...] = (False,)
    """For each key column whether it turns text that looks like a number into one."""
    keys: tuple[str, ...] = ()
    """The key's columns."""
    members: tuple[Member, ...] = ()
    """The columns of a row that is a value; empty where one column is."""
    verbatim: bool = False
    """What is put is what will be read: no conversion, no trigger of others, keys compared
    exactly, no further column to fill in."""

    tells_all: bool = False
    """A commit that has lines in the log has changed no other row: the table has no rowid, so
    that no BLOB in it can be written piecemeal."""

    @property
    def name(self) -> str:
        return quote_identifier(self.table)

    @property
    def mark(self) -> str:
        """Names what is made for this layout; another choice of columns gets another mark.

        The same for names that SQLite takes for the same: a migration may spell them otherwise.
        """
        return self._mark(LOG_FORMAT, *map(folded, self.columns))

    @property
    def only_read(self) -> str:
        """Why it cannot be written; "" if it can."""
        if self.is_view:
            return "it is a view"
        return f"SQLite generates its column {self.generated!r}" if self.generated else ""

    @property
    def former_marks(self) -> set[str]:
        """Marks of logs that no store uses any more: of earlier versions, or before a migration.

        An earlier version may have spelled a mark in capitals.

        Columns that were not named are those of the default names, if there are any. So of the
        choices with and without them only the present one is possible.
        """
        choices: list[tuple[str, ...]] = [(self.columns.key,), (self.columns.value,)]
        for role, default in DEFAULTS.items():
            name = getattr(self.columns, role)
            is_default = folded(name) in ("", default)
            choices.append(("", name or default) if is_default else (name,))
        marks = set[str]()
        for columns in product(*choices):
            marks.add(self._mark(LOG_FORMAT, *map(folded, columns)))
            marks |= {self._mark(*former, *columns) for former in FORMER_FORMATS}
        return marks - {self.mark}

    def _mark(self, *parts: str) -> str:
        digest = blake2b("\0".join(parts).encode(), digest_size=4).hexdigest()
        return f"_datastream_{folded(self.table)}_{digest}"

    def column(self, role: str) -> str:
        """A column by its field name in `Columns`, quoted."""
        return quote_identifier(getattr(self.columns, role))

    def key(self, row: str = "") -> str:
        """SQL: the key of a row, NULL where no key can name it."""
        return key_of(self.keys, row)

    def is_key(self, text: str, row: str = "") -> str:
        """SQL: a row is the one of a key, given as an expression; by the index, then exactly."""
        return is_key(self.keys, text, row)

    def fires_on(self, *roles: str) -> list[str]:
        """The columns of these roles, quoted; none where any column may concern them."""
        if self.generated or (self.columns.value == ALL and "value" in roles):
            return []
        if any(member.is_generated for member in self.members):
            return []
        names = [getattr(self.columns, role) for role in roles if role not in ("key", "value")]
        if "value" in roles:
            names = [m.name for m in self.members] + names if self.members else [
                self.columns.value, *names
            ]  # fmt: skip
        if "key" in roles:
            names = [*self.keys, *names]
        return [quote_identifier(name) for name in names if name]

    def fields(self, row: str = "") -> str:
        """The SELECT list of which `shaped` makes what `rows.entry` reads."""
        if not self.members:
            others = self.columns._fields[1:]
            names = [getattr(self.columns, role) for role in others]
            return ", ".join(
                [self.key(row), *(column_of(name, row) if name else "NULL" for name in names)]
            )
        names = [*(member.name for member in self.members), self.columns.updated_at]
        found = [column_of(name, row) if name else "NULL" for name in names]
        return ", ".join([self.key(row), *found])

    def shaped(self, row: Row) -> Row:
        """``key, value, value_type, updated_at``."""
        if not self.members:
            return row
        try:
            text = text_of(self._object(row, json_of))
        except ValueError:
            # What others wrote as JSON, and cannot be spelled anew, is text.
            text = text_of(self._object(row, spelled_json_of))
        return row[0], text, "json", row[-1]

    def _object(self, row: Row, read: Callable[[str], object]) -> dict[str, object]:
        values = zip(self.members, row[1:-1], strict=True)
        return {member.name: _member(member, value, read) for member, value in values}


def _member(member: Member, value: Any, read: Callable[[str], object]) -> object:
    if member.type in ("BOOLEAN", "BOOL") and value in (0, 1):
        return bool(value)
    if member.type in JSON_TYPES and isinstance(value, str):
        with suppress(ValueError):
            return read(value)
    return member_of(value)


def create_table(connection: sqlite3.Connection, name: str) -> None:
    """Make a table of the ancestor's shape."""
    columns = ", ".join(f"{column} {kind}".strip() for column, kind in ANCESTOR_COLUMNS.items())
    columns = columns.replace("key TEXT", "key TEXT PRIMARY KEY NOT NULL", 1)
    # One tree instead of two: a write touches fewer pages.
    name = quote_identifier(name)
    connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}) WITHOUT ROWID")


def check_made(asked: Columns, where: str) -> None:
    """Refuse columns that a table made by this library does not have.

    Raises:
        DatastreamError: there is such a column.
    """
    _choose(asked, list(ANCESTOR_COLUMNS), f"{where} is not there, and the one that would be made")


def folded(name: str) -> str:
    """A name as SQLite compares it."""
    return "".join(c.lower() if c.isascii() else c for c in name)


def stored_name(connection: sqlite3.Connection, table: str) -> str | None:
    """The name of a table or view as it was made; None if there is none."""
    found = connection.execute(
        "SELECT name FROM sqlite_master "
        "WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE",
        (table,),
    ).fetchone()
    return str(found[0]) if found else None


def _matching(name: str, names: Sequence[str]) -> str | None:
    return next((found for found in names if folded(found) == folded(name)), None)


def find_layout(connection: sqlite3.Connection, table: str, asked: Columns, where: str) -> Layout:
    """Look up `table`, spelled as it was made, and check that it can be a store.

    Raises:
        DatastreamError: a column is missing, or nothing makes the key unique.
    """
    found = _columns(connection, table)
    chosen = _choose(asked, list(found), where)
    columns, names = chosen.columns, chosen.keys
    members = tuple(Member(name, *found[name]) for name in chosen.members)
    real = Table(connection, table)
    if real.is_view:
        return Layout(table, columns, False, is_view=True, keys=names, members=members)
    uniques = _uniques(real)
    keys = [unique for unique in uniques if {c for c, _ in unique.columns} <= {*names}]
    is_strict = "STRICT" in _options(real)
    affinities = [_affinity(found[name].type, is_strict=is_strict) for name in names]
    if not any(_is_whole(real, unique) for unique in keys) or "REAL" in affinities:
        raise DatastreamError(
            f"{where} has no key: {_spoken(names)} neither the primary key nor unique, "
            "or holds fractions; make it unique, or name another with key="
        )
    exact = {(name, "BINARY") for name in names}
    rivals = [unique for unique in uniques if {*unique.columns} != exact] + _rowid(real)
    used = [*names, *(() if members else (columns.value,)), *columns[2:]]
    generated = next((c for c in used if c and found[c].is_generated), "")
    is_plain = len(names) == 1 and not members
    return Layout(
        table,
        columns,
        keys=names,
        members=members,
        can_log=not real.is_virtual and not _has_expression_index(real),
        generated=generated,
        exact=any({*unique.columns} == exact for unique in uniques),
        rivals=tuple(dict.fromkeys(rivals)),
        tells_all=_is_without_rowid(real),
        integer_keys=tuple(affinity in ("INTEGER", "NUMERIC") for affinity in affinities),
        verbatim=is_plain
        and affinities == ["TEXT"]
        and [{*unique.columns} for unique in keys] == [exact]
        and not generated
        and _keeps_values(found, columns, is_strict=is_strict)
        and not _demands_more(real, columns)
        and not _has_foreign_trigger(real),
    )


class Column(NamedTuple):
    """A column as declared."""

    type: str
    is_generated: bool


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, Column]:
    # The plain pragma leaves generated columns out; 1 marks the hidden ones of virtual tables.
    rows = connection.execute(f"PRAGMA table_xinfo({quote_identifier(table)})")
    return {row[1]: Column(row[2].upper(), row[6] in (2, 3)) for row in rows if row[6] != 1}


class _Chosen(NamedTuple):
    columns: Columns
    keys: tuple[str, ...]
    members: tuple[str, ...]


def _choose(asked: Columns, found: Sequence[str], where: str) -> _Chosen:
    keys = _named(asked.key, "key", found, where)
    check_key_columns(keys, where)
    others = [name for name in found if name not in keys]
    values = others if asked.value == ALL else _named(asked.value, "value", found, where)
    has_members = asked.value == ALL or len(values) > 1
    if has_members:
        check_value_columns(values, keys, where)
    if has_members and asked.value_type:
        raise DatastreamError(f"{where}: rows are JSON objects; leave value_type= out")
    optional = {}
    for role, default in DEFAULTS.items():
        name = getattr(asked, role)
        # Of a row, a column that was not named is a member like the others.
        column = _matching(name or default, found) if name or not has_members else None
        if name and column is None:
            raise _no_column(name, role, found, where)
        optional[role] = column or ""
    value = ALL if asked.value == ALL else ",".join(values)
    columns = Columns(",".join(keys), value, **optional)
    members = [v for v in values if v != columns.updated_at] if has_members else []
    return _Chosen(columns, tuple(keys), tuple(members))


def _named(given: str, role: str, found: Sequence[str], where: str) -> list[str]:
    try:
        return names_of(given, found, lambda name: _matching(name, found))
    except LookupError as error:
        raise _no_column(str(error), role, found, where) from None


def _no_column(name: str, role: str, found: Sequence[str], where: str) -> DatastreamError:
    return DatastreamError(
        f"{where} has no column {name!r}; it has {', '.join(found)}: "
        f"name the right one with {role}="
    )


def _spoken(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"column {names[0]!r} is"
    return f"columns {', '.join(map(repr, names))} together are"


def _uniques(table: Table) -> list[Unique]:
    """Every unique index, partial ones too, and the INTEGER PRIMARY KEY."""
    found = [
        Unique(tuple((c.name or "", c.coll) for c in index.keys))
        for index in table.indexes
        if index.unique and all(c.name for c in index.keys)
    ]
    alias = _rowid_alias(table)
    return found + ([Unique(((alias, "BINARY"),))] if alias else [])


def _is_whole(table: Table, unique: Unique) -> bool:
    """Not by a partial index, which leaves some rows out."""
    columns = [column for column, _ in unique.columns]
    indexes = [i for i in table.indexes if i.unique and [c.name for c in i.keys] == columns]
    return not indexes or any(not index.partial for index in indexes)


def _has_expression_index(table: Table) -> bool:
    return any(
        index.unique and any(column.name is None for column in index.keys)
        for index in table.indexes
    )


def _rowid(table: Table) -> list[Unique]:
    """The hidden number of a row, by which a dump may replace it too."""
    names = {column.name.lower() for column in table.columns}
    free = [name for name in ("rowid", "_rowid_", "oid") if name not in names]
    if _is_without_rowid(table) or _rowid_alias(table) or not free:
        return []
    return [Unique(((free[0], "BINARY"),))]


def _rowid_alias(table: Table) -> str | None:
    """The INTEGER PRIMARY KEY, which is the rowid under another name and has no index."""
    keys = [column for column in table.columns if column.is_pk]
    is_alias = len(keys) == 1 and keys[0].type.upper() == "INTEGER"
    return keys[0].name if is_alias and not _is_without_rowid(table) else None


def _is_without_rowid(table: Table) -> bool:
    return "WITHOUT ROWID" in _options(table)


def _options(table: Table) -> list[str]:
    """What follows the columns: STRICT, WITHOUT ROWID."""
    sql = re.sub(r"--[^\n]*|/\*.*?\*/", " ", table.schema.upper(), flags=re.DOTALL)
    return [" ".join(option.split()) for option in sql.rpartition(")")[2].split(",")]


def _affinity(declared: str, *, is_strict: bool) -> str:
    """SQLite's rules, in SQLite's order (https://sqlite.org/datatype3.html#determination)."""
    if is_strict and declared == "ANY":
        # There it keeps everything as it is, elsewhere it is numeric.
        return "BLOB"
    for words, affinity in (
        (("INT",), "INTEGER"),
        (("CHAR", "CLOB", "TEXT"), "TEXT"),
        (("BLOB",), "BLOB"),
        (("REAL", "FLOA", "DOUB"), "REAL"),
    ):
        if any(word in declared for word in words):
            return affinity
    return "NUMERIC" if declared else "BLOB"


def _keeps_values(found: dict[str, Column], columns: Columns, *, is_strict: bool) -> bool:
    # Without a column for the type a number has one spelling only.
    return (
        bool(columns.value_type)
        and _affinity(found[columns.value].type, is_strict=is_strict) == "BLOB"
        and _affinity(found[columns.value_type].type, is_strict=is_strict) == "TEXT"
        and (not columns.updated_at or found[columns.updated_at].type in ("TEXT", "TIMESTAMP"))
    )


def _demands_more(table: Table, columns: Columns) -> bool:
    return any(
        column.notnull and column.default_value is None and column.name not in columns
        for column in table.columns
    )


def _has_foreign_trigger(table: Table) -> bool:
    return any(not trigger.startswith("_datastream_") for trigger in table.triggers)
