"""Which columns of which relation hold keys and values: looked up once, turned into SQL."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

import psycopg
from psycopg import sql

from datastream.errors import DatastreamError
from datastream.sources._common.columns import Columns
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.marks import layout_mark

ANCESTOR_COLUMNS = "key text PRIMARY KEY, value bytea, value_type text, updated_at timestamptz"
"""The table made on first use: the shape of the Go project's."""
KINDS = {
    "bytea": "bytes",
    "json": "json", "jsonb": "json",
    "int2": "int", "int4": "int", "int8": "int",
    "float4": "float", "float8": "float", "numeric": "float",
    "bool": "bool",
}  # fmt: skip
"""The value_type of a column's values; of any other type they are text, so "str"."""
INTEGER_KEYS = {"int2": 15, "int4": 31, "int8": 63}
WRITABLE_KEYS = {"text", "varchar", "uuid", *INTEGER_KEYS}
_TYPMOD_HEADER = 4
_READABLE_MARK = 24
"""Bytes of the table's name that are part of the names of what is installed for it."""


class Column(NamedTuple):
    """A column as found; of a domain, the type below it."""

    name: str
    kind: str
    """PostgreSQL's short name of the type: int4, not integer."""
    type: str
    """The type as SQL, without a length."""
    limited: str
    """And with it."""
    typmod: int
    exact: bool
    """Not of a collation to which "a" and "A" are the same."""

    @property
    def quoted(self) -> str:
        return quoted(self.name)

    @property
    def length(self) -> int | None:
        """Most characters it takes."""
        has_limit = self.kind == "varchar" and self.typmod >= _TYPMOD_HEADER
        return self.typmod - _TYPMOD_HEADER if has_limit else None


class Layout(NamedTuple):
    """A relation as found, and what this role may do with it."""

    oid: int
    schema: str
    table: str
    columns: Columns
    key: Column
    value: Column
    value_type: Column | None
    updated_at: Column | None
    can_write: bool
    obstacle: str
    """Why no trigger can be made or trusted; "" if one can."""
    owns: bool
    """May make triggers and tables beside it."""
    fingerprint: str
    """`layout_mark` of what was looked up, or of just before."""

    @property
    def name(self) -> str:
        return quoted(self.schema, self.table)

    @property
    def mark(self) -> str:
        """Names what is installed for these columns, and the channel it notifies."""
        seed = "\0".join((self.schema, self.table, *self.columns))
        digest = blake2b(seed.encode(), digest_size=4).hexdigest()
        readable = self.table.encode()[:_READABLE_MARK].decode(errors="ignore")
        return f"_datastream_{readable}_{digest}"


class _Relation(NamedTuple):
    oid: int
    schema: str
    table: str
    kind: str
    related: bool
    replicated: bool
    owns: bool
    may_create: bool
    may_write: bool


def quoted(*names: str) -> str:
    """An identifier, quoted whatever it holds."""
    return sql.Identifier(*names).as_string()


def literal(text: str) -> str:
    """A string constant."""
    return sql.Literal(text).as_string()


def create_table(connection: Connection, schema: str, table: str) -> None:
    """Make a table of the ancestor's shape, if there is none of that name."""
    if find_relation(connection, schema, table) is not None:
        return
    name = quoted(schema, table) if schema else quoted(table)
    # Another process may do the same just now; its table is as good.
    with suppress(psycopg.errors.UniqueViolation):
        connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({ANCESTOR_COLUMNS})".encode())


def find_layout(
    connection: Connection, schema: str, table: str, asked: Columns, where: str
) -> Layout:
    """Look up `table` and check that it can be a store.

    Raises:
        DatastreamError: there is no such relation, or a column is missing.
    """
    relation = find_relation(connection, schema, table)
    if relation is None:
        raise DatastreamError(
            f"{where}: no such table; this role sees {_tables(connection)}: name one with table= "
            "and schema=, or make it with create=True"
        )
    # First: if the table is altered meanwhile, the next statement finds another one.
    fingerprint = _fingerprint(connection, relation.oid)
    found = _columns(connection, relation.oid)
    columns = _choose(asked, found, where)
    key = found[columns.key]
    unique = _is_unique(connection, relation.oid, columns.key)
    return Layout(
        relation.oid,
        relation.schema,
        relation.table,
        columns,
        key,
        found[columns.value],
        found.get(columns.value_type),
        found.get(columns.updated_at),
        can_write=relation.may_write
        and unique
        and key.exact
        and key.kind in WRITABLE_KEYS
        and relation.kind in "rpf",
        obstacle=_obstacle(relation, unique=unique, exact=key.exact),
        owns=relation.owns and relation.may_create,
        fingerprint=fingerprint,
    )


def _fingerprint(connection: Connection, oid: int) -> str:
    row = connection.execute(f"SELECT {layout_mark(oid)}::text".encode()).fetchone()
    return str(row and row[0])


def find_relation(connection: Connection, schema: str, table: str) -> _Relation | None:
    """The table or view; without `schema`, the one that this session sees."""
    row = connection.execute(_FIND_RELATION.encode(), (table, schema)).fetchone()
    return None if row is None else _Relation(*row)  # type: ignore[arg-type]


_FIND_RELATION = """
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text,
  c.relispartition OR c.relkind = 'p'
    OR EXISTS (SELECT FROM pg_inherits WHERE c.oid IN (inhrelid, inhparent)),
  EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = c.oid),
  pg_has_role(c.relowner, 'USAGE'), has_schema_privilege(n.oid, 'CREATE'),
  has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
    AND has_table_privilege(c.oid, 'DELETE') AND NOT pg_is_in_recovery()
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = $1::text AND c.relkind IN ('r', 'v', 'm', 'f', 'p')
  AND CASE WHEN $2::text = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = $2::text END
"""


def _tables(connection: Connection) -> str:
    rows = connection.execute(
        "SELECT concat(n.nspname || '.', c.relname) FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p')"
        " AND n.nspname !~ '^(pg_|information_schema$)' AND c.relname NOT LIKE '\\_datastream\\_%'"
        " AND has_schema_privilege(n.oid, 'USAGE') ORDER BY 1 LIMIT 20"
    ).fetchall()
    return ", ".join(str(name) for (name,) in rows) or "none"


def _columns(connection: Connection, oid: int) -> dict[str, Column]:
    rows = connection.execute(
        "SELECT a.attname::text, b.typname::text, format_type(b.oid, NULL), "
        "format_type(b.oid, m.typmod), m.typmod, "
        "coalesce(c.collisdeterministic, true) AND b.typname <> 'citext' "
        "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END "
        "CROSS JOIN LATERAL (SELECT CASE t.typtype WHEN 'd' THEN t.typtypmod "
        "ELSE a.atttypmod END AS typmod) m LEFT JOIN pg_collation c ON c.oid = a.attcollation "
        "WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        (oid,),
    ).fetchall()
    return {str(row[0]): Column(*row) for row in rows}  # type: ignore[arg-type]


def _choose(asked: Columns, found: Mapping[str, Column], where: str) -> Columns:
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


def _is_unique(connection: Connection, oid: int, column: str) -> bool:
    """Whether an index says so that ``ON CONFLICT`` can go by."""
    row = connection.execute(
        "SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
        "AND a.attnum = i.indkey[0] WHERE i.indrelid = $1::oid AND a.attname = $2::text "
        "AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indnkeyatts = 1 "
        "AND i.indpred IS NULL AND i.indexprs IS NULL",
        (oid, column),
    ).fetchone()
    return row is not None


def _obstacle(relation: _Relation, *, unique: bool, exact: bool) -> str:
    if relation.kind != "r" and not relation.related:
        return "it is no plain table"
    if relation.related:
        return "its rows may be written through another table (partition, inheritance)"
    if relation.replicated:
        return "a subscription writes it, for which statement triggers do not fire"
    if not (unique and exact):
        return "no plain unique index tells one key from another"
    return ""
