"""SQL expressions that change when a relation, its values or its triggers do without a row written.

Every statement that depends on a catalogue look-up selects one of them: so what was looked up is
never used for a relation that has changed since, and no position outlives what it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg.sql import Literal

SEPARATOR = "/"


class Marked(NamedTuple):
    """A relation, and the expressions that tell whether it is what it was."""

    oid: int
    spelled: str
    """Its name as the session looks it up: another relation may have that name by now."""
    numbers: tuple[int, ...] = ()
    """Of the columns that are read."""
    enums: tuple[int, ...] = ()
    """Their types, or in these, and the relations of composite ones."""
    composites: tuple[int, ...] = ()

    def of(self, numbers: Sequence[int], enums: Sequence[int], composites: Sequence[int]) -> Marked:
        """The same relation with what is read of it."""
        return self._replace(
            numbers=tuple(numbers), enums=tuple(enums), composites=tuple(composites)
        )

    @property
    def relation(self) -> str:
        """Changes with what was looked up: columns, indexes, relatives, rights to see rows."""
        return f"(SELECT {_hash(_RELATION)}::text {self._found})"

    @property
    def table(self) -> str:
        """`relation`, and a part that changes when the columns may hold other values than before.

        Each ALTER of a column writes its line in pg_attribute anew, whatever else it does. What
        rewrites the table gives it another TOAST table; TRUNCATE and VACUUM FULL do not.
        """
        values = (
            "c.oid, c.reltoastrelid, c.relpersistence, (SELECT string_agg(concat_ws(' ', attnum, "
            "xmin), '/' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid "
            f"AND attnum IN ({_list(self.numbers)}))"
        )
        if self.enums:
            values += (
                ", (SELECT string_agg(concat_ws(' ', oid, enumlabel), '/' ORDER BY oid) "
                f"FROM pg_enum WHERE enumtypid IN ({_list(self.enums)}))"
            )
        if self.composites:
            values += (
                ", (SELECT string_agg(concat_ws(' ', attrelid, attnum, xmin), '/' "
                "ORDER BY attrelid, attnum) FROM pg_attribute "
                f"WHERE attrelid IN ({_list(self.composites)}) AND attnum > 0)"
            )
        return f"(SELECT concat({_hash(_RELATION)}, '{SEPARATOR}', {_hash(values)}) {self._found})"

    def all(self, mark: str) -> str:
        """`table`, and a part that changes when a trigger of this mark comes, goes or is switched.

        Args:
            mark: begins the triggers' names.
        """
        name = Literal(f"{mark}_").as_string()
        triggers = (
            "(SELECT hashtextextended(string_agg(concat_ws(' ', oid, xmin, tgenabled), '/' "
            f"ORDER BY oid), 0) FROM pg_trigger WHERE tgrelid = {self.oid} "
            f"AND starts_with(tgname, {name}))"
        )
        return f"concat({self.table}, '{SEPARATOR}', {triggers})"

    @property
    def _found(self) -> str:
        return f"FROM pg_class c WHERE c.oid = to_regclass({Literal(self.spelled).as_string()})"


def relation_part(mark: object) -> str:
    """`Marked.relation` of a longer mark."""
    return str(mark).partition(SEPARATOR)[0]


def lasting_part(mark: str) -> str:
    """Of `Marked.all`, what positions go by: values and triggers."""
    return mark.partition(SEPARATOR)[2]


_RELATION = (
    "c.oid, c.relkind, c.relpersistence, c.relispartition, row_security_active(c.oid), "
    "EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid), "
    "EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid), "
    "EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = c.oid), "
    "(SELECT string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attcollation, "
    "attgenerated, attidentity), '/' ORDER BY attnum) FROM pg_attribute "
    "WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), "
    "(SELECT string_agg(concat_ws(' ', indexrelid, indisvalid, indimmediate), '/' "
    "ORDER BY indexrelid) FROM pg_index WHERE indrelid = c.oid AND indisunique)"
)


def _hash(values: str) -> str:
    return f"hashtextextended(concat_ws(' ', {values}), 0)"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
