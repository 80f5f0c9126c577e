"""Which columns of which relation hold keys and values: looked up once, turned into SQL."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple, cast

import psycopg
from psycopg import sql

from datastream.errors import DatastreamError
from datastream.sources._common.columns import Columns
from datastream.sources._common.row_keys import check_key_columns, check_value_columns, names_of
from datastream.sources._common.row_objects import ALL
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.marks import Marked

ANCESTOR_COLUMNS = "key text PRIMARY KEY, value bytea, value_type text, updated_at timestamptz"
"""The table made on first use: the shape of the Go project's."""
TYPE, TIME = "value_type", "updated_at"
"""Columns that are used where they are there."""
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
SEVERAL = -1
"""The number of what stands for several columns."""
_TYPMOD_HEADER = 4
_READABLE_MARK = 24
"""Bytes of the table's name that are part of the names of what is installed for it."""


class Column(NamedTuple):
    """A column as found; of a domain, the type below all of them."""

    name: str
    number: int
    kind: str
    """PostgreSQL's short name of the type: int4, not integer."""
    type: str
    """The type as SQL, without a length."""
    limited: str
    """And with it."""
    typmod: int
    exact: bool
    """Not of a collation to which "a" and "A" are the same."""
    declared: int
    """The number of the type that it was declared with."""
    generated: str
    """Why the server takes no value for it: "a" for an identity, "s" for an expression whose value
    is stored, "v" for one that is worked out when it is read; "" if it does."""
    equals: str = "="
    """The operator: by its schema where it is an extension's, "" where the type has none."""

    @property
    def spells_alone(self) -> bool:
        """Equal values have one text: there is no 1.0 beside 1.00."""
        return self.kind in WRITABLE_KEYS

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
    cannot_write: str
    """Why rows can only be read; "" if they can be written."""
    obstacle: str
    """Why no trigger can be made or trusted; "" if one can."""
    keys: tuple[Column, ...]
    """The key's columns; `key` stands for all of them."""
    members: tuple[Column, ...]
    """The columns of a row that is a value, for all of which `value` stands; else empty."""
    is_replicated: bool
    """A subscription writes it, past the triggers."""
    owns: bool
    """May make triggers and tables beside it."""
    is_unlogged: bool
    """A crash of the server empties it."""
    is_guarded: bool
    """Triggers or rules of its owner may pass over a write, or do something else instead."""
    codec: str
    """Of Python, for the texts that the database can spell; "" where it takes any, or is not asked
    for it."""
    marked: Marked
    """What `marks` go by."""
    fingerprint: str
    """`relation_mark` of what was looked up, or of just before."""

    @property
    def can_write(self) -> bool:
        return not self.cannot_write

    @property
    def name(self) -> str:
        return quoted(self.schema, self.table)

    @property
    def is_virtual(self) -> bool:
        """Part of a row is worked out when it is read."""
        return any(column.generated == "v" for column in self.read)

    @property
    def read(self) -> list[Column]:
        """All columns that are read."""
        values = self.members if self.is_object else (self.value,)
        optional = (self.value_type, self.updated_at)
        return [*self.keys, *values, *(column for column in optional if column)]

    @property
    def is_object(self) -> bool:
        """Rows are the values."""
        return self.value.number == SEVERAL

    @property
    def mark(self) -> str:
        """Names what is installed for these columns, and the channel it notifies."""
        return mark_of(self.schema, self.table, self.columns)


def mark_of(schema: str, table: str, columns: Columns) -> str:
    """`Layout.mark` of a table with these columns, which need not be there."""
    # Those that are taken where they are there may come and go.
    chosen = [
        "" if name == default else name
        for name, default in ((columns.value_type, TYPE), (columns.updated_at, TIME))
    ]
    seed = "\0".join((schema, table, columns.key, columns.value, *chosen))
    digest = blake2b(seed.encode(), digest_size=4).hexdigest()
    readable = table.encode()[:_READABLE_MARK].decode(errors="ignore")
    return f"_datastream_{readable}_{digest}"


class _Relation(NamedTuple):
    oid: int
    schema: str
    table: str
    kind: str
    unlogged: bool
    had_children: bool
    related: bool
    replicated: bool
    hides_rows: bool
    guarded: bool
    owns: bool
    may_create: bool
    may_write: bool


def quoted(*names: str) -> str:
    """An identifier, quoted whatever it holds."""
    return sql.Identifier(*names).as_string()


def literal(text: str) -> str:
    """A string constant."""
    return sql.Literal(text).as_string()


def create_table(
    connection: Connection, schema: str, table: str, asked: Columns, where: str
) -> None:
    """Make a table of the ancestor's shape, if there is none of that name.

    Raises:
        DatastreamError: it would lack a column that is asked for.
    """
    if find_relation(connection, schema, table) is not None:
        return
    _check_made(asked, f"{where} is not there, and the one that would be made")
    name = quoted(schema, table) if schema else quoted(table)
    # Another process may do the same just now; its table is as good.
    with suppress(psycopg.errors.UniqueViolation):
        connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({ANCESTOR_COLUMNS})".encode())


def _check_made(asked: Columns, where: str) -> None:
    names = (column.split()[0] for column in ANCESTOR_COLUMNS.split(", "))
    # Only names are looked up.
    made = cast("Mapping[str, Column]", dict.fromkeys(names))
    _choose(asked, made, where)
    _named(asked.key, "key", made, where)
    if asked.value != ALL:
        _named(asked.value, "value", made, where)


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
            f"{where}: no such table; this role sees {tables(connection)}: name one with table= "
            "and schema=, or make it with create=True"
        )
    spelled = quoted(schema, table) if schema else quoted(table)
    marked = Marked(relation.oid, spelled, relation.had_children)
    # First: if the table is altered meanwhile, the next statement finds another one.
    fingerprint = _fingerprint(connection, marked)
    found = _columns(connection, relation.oid)
    columns = _choose(asked, found, where)
    keys, members = _named(asked.key, "key", found, where), _members(asked, columns, found, where)
    key = keys[0] if len(keys) == 1 else _joined(asked.key, keys)
    value = found.get(asked.value) or (members[0] if len(members) == 1 else None)
    if value is None or asked.value == ALL:
        value = _object(asked.value)
    else:
        members = []
    value_type, updated_at = found.get(columns.value_type), found.get(columns.updated_at)
    held = [*keys, *(members if value.number == SEVERAL else [value])]
    used = [column.number for column in (*held, value_type, updated_at) if column]
    index = _unique_index(connection, relation.oid, [column.name for column in keys])
    unique = index is not None
    return Layout(
        relation.oid,
        relation.schema,
        relation.table,
        columns,
        key,
        value,
        value_type,
        updated_at,
        cannot_write=_cannot_write(relation, key, (value, value_type), unique=unique),
        obstacle=_obstacle(relation, key, held, unique=unique),
        keys=tuple(keys),
        members=tuple(members),
        is_replicated=relation.replicated,
        owns=relation.owns and relation.may_create,
        is_unlogged=relation.unlogged,
        is_guarded=relation.guarded,
        codec=_codec(connection.info.parameter_status("server_encoding") or ""),
        marked=Marked(
            *marked[:3],
            tuple(used),
            index or 0,
            *_types(connection, relation.oid, used),
            whole=asked.value == ALL,
        ),
        fingerprint=fingerprint,
    )


def _codec(encoding: str) -> str:
    """Python's name of an encoding that has few characters and one byte for each."""
    if not encoding.startswith(("LATIN", "ISO_8859", "WIN", "KOI8")):
        return ""
    name = encoding.replace("WIN", "cp").replace("KOI8", "koi8_")
    try:
        return codecs.lookup(name).name
    except LookupError:
        return ""


def _fingerprint(connection: Connection, marked: Marked) -> str:
    row = connection.execute(f"SELECT {marked.relation}".encode()).fetchone()
    return str(row and row[0])


def find_relation(connection: Connection, schema: str, table: str) -> _Relation | None:
    """The table or view; without `schema`, the one that this session sees."""
    row = connection.execute(_FIND_RELATION.encode(), (table, schema)).fetchone()
    return None if row is None else _Relation(*row)  # type: ignore[arg-type]


_FIND_RELATION = """
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'u',
  c.relhassubclass, c.relispartition OR c.relkind = 'p'
    OR EXISTS (SELECT FROM pg_inherits WHERE c.oid IN (inhrelid, inhparent)),
  EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = c.oid), row_security_active(c.oid),
  -- Before each row: 1 + 2.
  c.relhasrules OR EXISTS (
    SELECT FROM pg_trigger WHERE tgrelid = c.oid AND tgenabled <> 'D' AND tgtype & 3 = 3
  ),
  pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.has_schema_privilege(n.oid, 'CREATE'),
  pg_catalog.has_table_privilege(c.oid, 'INSERT')
    AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
    AND pg_catalog.has_table_privilege(c.oid, 'DELETE') AND NOT pg_is_in_recovery()
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = $1::text AND c.relkind IN ('r', 'v', 'm', 'f', 'p')
  AND CASE WHEN $2::text = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = $2::text END
"""


def tables(connection: Connection) -> str:
    """Names of those that could be meant."""
    rows = connection.execute(
        "SELECT pg_catalog.concat(n.nspname, '.', c.relname) FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p')"
        " AND n.nspname !~ '^(pg_|information_schema$)' AND c.relname !~ '^_datastream_'"
        " AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') ORDER BY 1 LIMIT 20"
    ).fetchall()
    return ", ".join(str(name) for (name,) in rows) or "none"


def _columns(connection: Connection, oid: int) -> dict[str, Column]:
    rows = connection.execute(_COLUMNS.encode(), (oid,)).fetchall()
    return {str(row[0]): Column(*row) for row in rows}  # type: ignore[arg-type]


# A type is named with -1, "no length": as CHARACTER or BIT alone it would have the length 1.
_COLUMNS = """
WITH RECURSIVE below AS (
  SELECT attnum AS number, atttypid AS type, atttypmod AS typmod FROM pg_attribute
  WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped
  UNION ALL
  SELECT number, typbasetype, typtypmod FROM below JOIN pg_type ON oid = type WHERE typtype = 'd'
)
SELECT attname::text, attnum, typname::text, format_type(t.oid, -1), format_type(t.oid, typmod),
  typmod, coalesce(collisdeterministic, true) AND typname <> 'citext',
  atttypid::int8, attgenerated::text || CASE attidentity WHEN 'a' THEN 'a' ELSE '' END,
  CASE WHEN typname IN ('json', 'jsonpath', 'xml', 'point', 'polygon') THEN '' ELSE coalesce((
    SELECT pg_catalog.format('OPERATOR(%I.=)', nspname) FROM pg_operator
    JOIN pg_namespace n ON n.oid = oprnamespace
    WHERE oprname = '=' AND oprleft = t.oid AND oprright = t.oid AND nspname <> 'pg_catalog' LIMIT 1
  ), '=') END
FROM below JOIN pg_type t ON t.oid = type AND typtype <> 'd'
JOIN pg_attribute ON attrelid = $1::oid AND attnum = number
LEFT JOIN pg_collation c ON c.oid = attcollation ORDER BY attnum
"""


def _types(
    connection: Connection, oid: int, numbers: list[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Enums, and relations of composite types, whose change changes what these columns hold."""
    rows = connection.execute(_TYPES.encode(), (oid, numbers)).fetchall()
    enums = tuple(int(str(row[0])) for row in rows if row[1] == "e")
    return enums, tuple(int(str(row[2])) for row in rows if row[1] == "c")


_TYPES = """
WITH RECURSIVE inside AS (
  SELECT atttypid AS type FROM pg_attribute WHERE attrelid = $1::oid AND attnum = ANY ($2::int2[])
  UNION
  SELECT part FROM inside JOIN pg_type t ON t.oid = type CROSS JOIN LATERAL (
    VALUES (typbasetype), (typelem)
    UNION ALL SELECT rngsubtype FROM pg_range r
    WHERE type IN (rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid)
    UNION ALL SELECT atttypid FROM pg_attribute
    WHERE attrelid = typrelid AND attnum > 0 AND NOT attisdropped
  ) AS p (part) WHERE part <> 0
)
SELECT t.oid::int8, typtype::text, typrelid::int8 FROM inside JOIN pg_type t ON t.oid = type
WHERE typtype IN ('e', 'c') ORDER BY 1
"""


def _choose(asked: Columns, found: Mapping[str, Column], where: str) -> Columns:
    for role in (TYPE, TIME):
        name = getattr(asked, role)
        if name and name not in found:
            raise _no_column(name, role, found, where)
    if asked.value not in found and (asked.value == ALL or "," in asked.value):
        if asked.value_type:
            raise DatastreamError(f"{where}: rows are JSON objects; leave value_type= out")
        # Of a row, a column that was not named is a member like the others.
        return asked
    return asked._replace(
        value_type=asked.value_type or (TYPE if TYPE in found else ""),
        updated_at=asked.updated_at or (TIME if TIME in found else ""),
    )


def _named(given: str, role: str, found: Mapping[str, Column], where: str) -> list[Column]:
    try:
        names = names_of(given, found, lambda name: name if name in found else None)
    except LookupError as error:
        raise _no_column(str(error), role, found, where) from None
    check_key_columns(names, where) if role == "key" else None
    return [found[name] for name in names]


def _members(
    asked: Columns, columns: Columns, found: Mapping[str, Column], where: str
) -> list[Column]:
    keys = {column.name for column in _named(asked.key, "key", found, where)}
    if asked.value in found or asked.value != ALL:
        members = _named(asked.value, "value", found, where)
        if len(members) > 1:
            check_value_columns([column.name for column in members], keys, where)
    else:
        members = [column for column in found.values() if column.name not in keys]
    return [column for column in members if column.name != columns.updated_at]


def _no_column(name: str, role: str, found: Mapping[str, Column], where: str) -> DatastreamError:
    return DatastreamError(
        f"{where} has no column {name!r}; it has {', '.join(found)}: "
        f"name the right one with {role}="
    )


def _joined(name: str, columns: Sequence[Column]) -> Column:
    """Stands for the columns of a key."""
    kind = "text" if all(column.spells_alone for column in columns) else "several"
    exact = all(column.exact for column in columns)
    generated = next((column.generated for column in columns if column.generated), "")
    return Column(name, SEVERAL, kind, "text", "text", -1, exact, 0, generated)


def _object(name: str) -> Column:
    """Stands for the columns of a row that is a value."""
    return Column(name, SEVERAL, "json", "jsonb", "jsonb", -1, True, 0, "")


def _unique_index(connection: Connection, oid: int, names: Sequence[str]) -> int | None:
    """The index that ``ON CONFLICT`` can go by."""
    row = connection.execute(_UNIQUE_INDEX.encode(), (oid, sorted(names))).fetchone()
    return None if row is None else int(str(row[0]))


_UNIQUE_INDEX = """
SELECT indexrelid::int8 FROM pg_index i WHERE i.indrelid = $1::oid
AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
AND (
  SELECT pg_catalog.array_agg(attname::text ORDER BY attname::text COLLATE "C")
  FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
  JOIN pg_attribute ON attrelid = i.indrelid AND attnum = number WHERE place <= i.indnkeyatts
) = $2::text[] ORDER BY 1 LIMIT 1
"""


def _cannot_write(
    relation: _Relation, key: Column, held: tuple[Column | None, ...], *, unique: bool
) -> str:
    generated = [column.name for column in (key, *held) if column and column.generated]
    if generated:
        return f"the server generates its column {generated[0]!r}"
    if relation.kind not in "rpf":
        return "it is no table"
    if not unique or not key.exact:
        return "no plain unique index tells one key from another"
    if key.kind not in WRITABLE_KEYS:
        return f"keys of the type {key.type} can be spelled in several ways"
    return "" if relation.may_write else "this role may not write it, or the server is a replica"


def _obstacle(relation: _Relation, key: Column, held: Sequence[Column], *, unique: bool) -> str:
    obstacles = {
        "its rows may be written through another table (partition, inheritance)": relation.related,
        "it is no plain table": relation.kind != "r",
        "a subscription writes it, for which statement triggers do not fire": relation.replicated,
        "row-level security hides rows from this role, and no log tells when that changes": (
            relation.hides_rows
        ),
        "it holds names of other objects, which change with those": any(
            column.kind.startswith("reg") for column in held
        ),
        "no plain unique index tells one key from another": not (unique and key.exact),
    }
    return next((text for text, applies in obstacles.items() if applies), "")
