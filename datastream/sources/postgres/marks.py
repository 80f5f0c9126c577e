"""SQL expressions that change when a relation, its values or its triggers do without a row written.

Every statement that depends on a catalogue look-up selects one of them: so what was looked up is
never used for a relation that has changed since, and no position outlives what it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg.sql import Literal


class Marked(NamedTuple):
    """A relation, and the expressions that tell whether it is what it was."""

    oid: int
    spelled: str
    """Its name as the session looks it up: another relation may have that name by now."""
    had_children: bool
    """It is marked as a parent, which it stays when its children have gone."""
    numbers: tuple[int, ...] = ()
    """Of the columns that are read."""
    unique_index: int = 0
    """The one that tells one key from another."""
    enums: tuple[int, ...] = ()
    """Types of the columns, or in these, and the relations of composite ones."""
    composites: tuple[int, ...] = ()
    whole: bool = False
    """All columns are read, also those that will be added."""

    @property
    def relation(self) -> str:
        """Changes with what was looked up: columns, indexes, relatives, rights to see rows."""
        return self._of_class(*_RELATION)

    def polled(self, mark: str) -> str:
        """Changes with what was looked up, with our triggers, and the rights to their log.

        Args:
            mark: begins the triggers' names.
        """
        log = self._log(mark, _GRANTED, may_log("p", "l"), _READS)
        return self._of_class(*_RELATION, self._triggers(mark), log)

    def logged(self, mark: str) -> str:
        """Changes with all of that as long as triggers suffice, and with what `lasting` does.

        Every poll asks for it. So it asks for what each of those changes leaves behind in a few
        lines of the catalogue: one becomes a child by a count in each of its columns.
        """
        values = [*_STORED, "c.relhassubclass", _columns("attnum, xmin"), *self._types]
        if self.had_children:
            values.append(_is_parent("c.oid"))
        return self._of_class(
            "c.relkind, c.relispartition, row_security_active(c.oid)",
            _is_replicated("c.oid"),
            f"pg_catalog.pg_relation_filenode({self.unique_index})",
            *values,
            self._triggers(mark),
            self._log(mark, _GRANTED, may_log("p", "l")),
        )

    def analysed(self, function: str, may_log: str) -> list[str]:
        """Change with all that `logged` does, in a prepared statement that names table and log.

        The server analyses that anew when the definition of anything in it has changed. Constants
        are made then, such as the time that ``'now'`` stands for. So only what is no part of a
        definition is asked for.

        Args:
            function: a call of the triggers' function, which is never made.
            may_log: whether that may write to the log.
        """
        name, table = Literal(self.spelled).as_string(), f"{self.oid}::oid"
        return [
            "TIMESTAMP WITH TIME ZONE 'now'",
            f"CASE WHEN false THEN {function} IS NULL END",
            f"pg_catalog.to_regclass({name})::oid, pg_catalog.row_security_active({table})",
            may_log,
            _is_replicated(table),
            *([_is_parent(table)] if self.had_children else ()),
            *self._types,
        ]

    def lasting(self, mark: str) -> str:
        """Changes when the columns may hold other values than before, and with our triggers.

        Each ALTER of a column writes its line in pg_attribute anew, whatever else it does. What
        rewrites the table gives it another TOAST table; TRUNCATE and VACUUM FULL do not. Before a
        GRANT on the log or its schema, or another owner, the triggers may not have been let write
        to it: each writes a line in the catalogue anew.
        """
        columns = _columns("attnum, xmin")
        if not self.whole:
            columns = _columns("attnum, xmin", f"attnum IN ({_list(self.numbers)})")
        triggers, log = self._triggers(mark), self._log(mark, _GRANTED)
        return self._of_class(*_STORED, columns, *self._types, triggers, log)

    def _of_class(self, *values: str) -> str:
        name = Literal(self.spelled).as_string()
        return f"(SELECT {_hash(*values)}::text FROM pg_class c WHERE c.oid = to_regclass({name}))"

    @property
    def _types(self) -> list[str]:
        enums = (
            f"(SELECT {_all('oid, enumlabel', 'oid')} FROM pg_enum "
            f"WHERE enumtypid IN ({_oids(self.enums)}))"
        )
        composites = (
            f"(SELECT {_all('attrelid, attnum, xmin', 'attrelid, attnum')} FROM pg_attribute "
            f"WHERE attrelid IN ({_oids(self.composites)}) AND attnum > 0)"
        )
        return [*([enums] if self.enums else []), *([composites] if self.composites else [])]

    def _log(self, mark: str, *values: str) -> str:
        """Changes with these, of the log `l`, its schema `n` and the triggers' function `p`."""
        table, function = (Literal(f"{mark}{part}").as_string() for part in ("", "_note"))
        return (
            f"(SELECT {_hash(*values)} FROM pg_class l, pg_proc p, pg_namespace n "
            f"WHERE l.relnamespace = c.relnamespace AND l.relname = {table} "
            f"AND p.pronamespace = c.relnamespace AND p.proname = {function} "
            "AND n.oid = c.relnamespace)"
        )

    def _triggers(self, mark: str) -> str:
        name = Literal(f"{mark}_").as_string()
        return (
            # A sum needs no sorting, which takes longer than all the rest.
            f"(SELECT sum({_hash('t.oid', 't.xmin', 'tgenabled', _FUNCTION)}) "
            f"FROM pg_trigger t WHERE tgrelid = c.oid AND pg_catalog.starts_with(tgname, {name}))"
        )


def may_log(function: str, table: str) -> str:
    """Whether the owner of a function may write to a log: a line of pg_proc, and one of pg_class.

    It has to own the log, which has policies for all others, and for it as well if they are forced.
    """
    line = (f"{table}.relnamespace", f"{table}.oid", f"{table}.relowner")
    return f"({has_rights(f'{function}.proowner', *line)} AND NOT {table}.relforcerowsecurity)"


def has_rights(role: str, schema: str, table: str, owner: str) -> str:
    """Whether a role may write to a table as its owner may. All are numbers."""
    return (
        f"(pg_catalog.has_schema_privilege({role}, {schema}, 'USAGE') "
        f"AND pg_catalog.has_table_privilege({role}, {table}, 'INSERT') "
        f"AND pg_catalog.pg_has_role({role}, {owner}, 'USAGE'))"
    )


def _hash(*values: str) -> str:
    return f"pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', {', '.join(values)}), 0)"


def _all(of_each: str, order: str) -> str:
    """Some columns of all rows, as one text."""
    return f"pg_catalog.string_agg(pg_catalog.concat_ws(' ', {of_each}), '/' ORDER BY {order})"


def _columns(of_each: str, which: str = "NOT attisdropped") -> str:
    return (
        f"(SELECT {_all(of_each, 'attnum')} FROM pg_attribute "
        f"WHERE attrelid = c.oid AND attnum > 0 AND {which})"
    )


def _is_parent(table: str) -> str:
    return f"EXISTS (SELECT FROM pg_inherits WHERE inhparent = {table})"


def _is_replicated(table: str) -> str:
    return f"EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = {table})"


_GRANTED = "l.xmin, n.xmin"
_READS = "pg_catalog.has_table_privilege(l.oid, 'SELECT')"
_FUNCTION = "(SELECT p.xmin FROM pg_proc p WHERE p.oid = tgfoid)"
"""Of a trigger: written anew by each ``CREATE OR REPLACE`` and ``ALTER`` of its function."""
_STORED = ("c.oid", "c.reltoastrelid", "c.relpersistence")
_RELATION = (
    "c.oid, c.relkind, c.relpersistence, c.relispartition, row_security_active(c.oid)",
    "EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid)",
    _is_parent("c.oid"),
    _is_replicated("c.oid"),
    _columns("attnum, attname, atttypid, atttypmod, attcollation, attgenerated, attidentity"),
    f"(SELECT {_all('indexrelid, indisvalid, indimmediate', 'indexrelid')} "
    "FROM pg_index WHERE indrelid = c.oid AND indisunique)",
)


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _oids(numbers: Sequence[int]) -> str:
    # Of their type: an operator that somebody made for a number and an oid would fit better.
    return ", ".join(f"{number}::oid" for number in numbers)
