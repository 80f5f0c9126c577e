"""Writing the rows of one table: one statement for a put, one transaction for many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from operator import attrgetter
from typing import Any

from datastream._columns import by_key
from datastream._puts import Puts
from datastream.entry import Entry, deleted
from datastream.errors import InvalidKey, InvalidValue, shown
from datastream.source import Write, check_expected
from datastream.sources.postgres.arrays import arrays
from datastream.sources.postgres.connection import ATTEMPTS, Connection
from datastream.sources.postgres.copying import Copying
from datastream.sources.postgres.keys import fits, parts_of, spells
from datastream.sources.postgres.layout import Column, Layout
from datastream.sources.postgres.rows import entries
from datastream.sources.postgres.table import RowTable, rows
from datastream.sources.postgres.values import (
    assignments,
    differs,
    parameter,
    takes_all,
    written,
)

Given = Sequence[Any]
"""The parameters of a write: its key, then what is put."""


class Writing(ABC):
    """Writes entries into a table, in as few statements as it takes; holds no connection."""

    def __init__(self, layout: Layout, table: RowTable, where: str) -> None:
        self.layout = layout
        self.table = table
        self._where = where
        self._delete = (
            f"DELETE FROM {layout.name} t WHERE {table.one} "
            f"AND ($2::text IS NULL OR {table.shape.revision} = $2::text) RETURNING 1"
        )

        self._delete_many = (
            f"DELETE FROM {layout.name} t USING pg_catalog.unnest($1::text[]) AS g (key) "
            f"WHERE {table.is_key('g.key')} RETURNING 1"
        )
        self._lock_many = (
            f"SELECT 1 FROM {layout.name} t, pg_catalog.unnest($1::text[]) AS g (key) "
            f"WHERE {table.is_key('g.key')} FOR UPDATE OF t"
        )

    def write(self, db: Connection, writes: Sequence[Write]) -> Sequence[Entry]:
        """Store all of `writes` or nothing, as `Source.write` says."""
        if len(writes) == 1:
            # What a trigger did instead is undone with the write that it passes over.
            with db.transaction() if self.layout.is_guarded else nullcontext():
                return [self._apply(db, writes[0], self.parameters(writes[0]))]
        with db.transaction():
            copied = self.copy(db, writes) if isinstance(writes, Puts) else None
            return copied or self._write_together(db, writes)

    def _write_together(self, db: Connection, writes: Sequence[Write]) -> list[Entry]:
        given = {write.key: self.parameters(write) for write in writes}
        # In one order: two writers of the same keys then wait for each other, and never deadlock.
        ordered = sorted(writes, key=attrgetter("key"))
        plain = [write for write in ordered if write.expect is None]
        puts = [write for write in plain if write.value is not None]
        deletes = [write for write in plain if write.value is None]
        stored = self._apply_plain(db, puts, given) if len(puts) > 1 else {}
        stored |= self._delete_plain(db, deletes) if len(deletes) > 1 else {}
        for write in ordered:
            if write.key not in stored:
                stored[write.key] = self._apply(db, write, given[write.key])
        return [stored[write.key] for write in writes]

    def copy(self, db: Connection, puts: Puts) -> Sequence[Entry] | None:
        """New rows as they are, the fastest way; None if nothing was done, since some are there
        or the table may not keep them so."""
        return None

    @abstractmethod
    def parameters(self, write: Write) -> Given:
        """Checked.

        Raises:
            InvalidKey, InvalidValue: the table cannot hold it.
        """

    @abstractmethod
    def put_alike(self, db: Connection, given: Sequence[Given]) -> Sequence[Entry]:
        """Unconditional puts together; those that change nothing are left out."""

    @abstractmethod
    def held_alike(self, db: Connection, given: Sequence[Given]) -> Sequence[Entry]:
        """Rows of which the table says that putting what is given would change nothing."""

    def alike(self, given: Sequence[Given]) -> Iterable[Sequence[Given]]:
        """Puts in groups that take one statement each."""
        return [given]

    @abstractmethod
    def attempt(self, db: Connection, write: Write, row: Given) -> Entry | None:
        """Do it if it may be done; None if it may not, or changes nothing."""

    @abstractmethod
    def holds(self, db: Connection, row: Given) -> bool:
        """Whether the table says that putting `row` would change nothing."""

    def check_key(self, key: str) -> None:
        """Refuse a key that its columns would cut, round or reject.

        Raises:
            InvalidKey: it is such.
        """
        column = self.layout.key
        if fits(self.layout, key):
            return
        if not spells(self.layout, key):
            raise InvalidKey(
                f"{shown(key)} has characters that the encoding of this database, "
                f"{self.layout.codec}, lacks; leave them out"
            )
        if len(self.layout.keys) > 1:
            names = "/".join(f"{column.name} ({column.type})" for column in self.layout.keys)
            raise InvalidKey(
                f"{shown(key)} is no key of this table; keys are {names}, each spelled as "
                "PostgreSQL does"
            )
        raise InvalidKey(
            f"{shown(key)} does not fit the key column {column.name!r} ({column.type}); "
            "write it as PostgreSQL does, and not longer than the column"
        )

    def delete(self, db: Connection, write: Write) -> bool:
        """Delete its row, if that has the revision it expects; whether it was there."""
        return bool(rows(db, self._delete, (write.key, wanted(write))))

    def _apply_plain(
        self, db: Connection, writes: Sequence[Write], given: dict[str, Given]
    ) -> dict[str, Entry]:
        """Unconditional puts, in few statements; what somebody interferes with is left out."""
        stored: dict[str, Entry] = {}
        for group in self.alike([given[write.key] for write in writes]):
            stored |= by_key(self.put_alike(db, group))
            rest = [row for row in group if row[0] not in stored]
            if rest:
                stored |= by_key(self.held_alike(db, rest))
        return stored

    def _delete_plain(self, db: Connection, writes: Sequence[Write]) -> dict[str, Entry]:
        """Unconditional deletes, in one statement.

        So all are of one moment. What was not there then may be there now, with what was written
        together with it; looked for one by one, only a part of that would be removed.
        """
        keys = arrays(["text"], [[write.key] for write in writes])
        # A trigger may pass over some: those that are there are known before, and stay.
        there = rows(db, self._lock_many, keys)
        gone = rows(db, self._delete_many, keys)
        if len(gone) < len(there):
            kept = (write.key for write in writes if self.table.current(db, write.key))
            raise self._refused(next(kept, writes[0].key))
        return {write.key: deleted(write.key, write.updated_at) for write in writes}

    def _apply(self, db: Connection, write: Write, row: Given) -> Entry:
        for _ in range(ATTEMPTS):
            stored = self.attempt(db, write, row)
            if stored is not None:
                return stored
            # It did nothing: `expect` does not hold, or the row says already what it should.
            current = self.table.current(db, write.key)
            check_expected(write, current.revision if current else None)
            if write.value is None and current is None:
                return deleted(write.key, write.updated_at)
            if write.value is not None and current and self.holds(db, row):
                return current
        raise self._refused(write.key)

    def _refused(self, key: str) -> InvalidValue:
        return InvalidValue(
            f"{self._where}, key {shown(key)}: the table keeps no such row; one of its triggers or "
            "rules undoes this"
        )


class RowWriter(Writing):
    """Writes entries as rows of `layout`; holds no connection."""

    def __init__(self, layout: Layout, table: RowTable, where: str) -> None:
        super().__init__(layout, table, where)
        self._copying = Copying(layout, table.shape.kind)
        shape, one = table.shape, table.one
        fields = shape.fields
        self._written = columns = written(layout)
        self._has_time = layout.updated_at in columns
        self._takes_all = takes_all(layout)
        plain = assignments(layout, [f"${number}" for number in range(2, 2 + len(columns))])
        keys = ", ".join(column.quoted for column in layout.keys)
        names = ", ".join([keys, *plain])
        head = f"INSERT INTO {layout.name} AS t ({names}) "
        values = f"VALUES ({', '.join([*self._key_of('$1'), *plain.values()])}) "
        conflict = f"ON CONFLICT ({keys})"
        changed = ", ".join(f"{name} = excluded.{name}" for name in plain)
        upsert = (
            f"{conflict} DO UPDATE SET {changed} WHERE {differs(layout, 't', 'excluded')} "
            f"RETURNING {fields}"
        )
        self._upsert = head + values + upsert
        many = self._from_arrays()
        self._upsert_many = f"{head}SELECT {', '.join(self._many)} {many} {upsert}"
        self._insert = f"{head}{values}{conflict} DO NOTHING RETURNING {fields}"
        assigned = ", ".join(f"{name} = {value}" for name, value in plain.items())
        self._news = self._differs_from(plain)
        news = self._differs_from(dict(zip(plain, self._many[len(layout.keys) :], strict=True)))
        self._held_many = (
            f"SELECT {fields} {many} JOIN {layout.name} t ON {table.is_key('g.key')} "
            f"WHERE NOT {news}"
        )
        expected = f"${2 + len(columns)}::text"
        self._update = (
            f"UPDATE {layout.name} t SET {assigned} WHERE {one} AND {self._news} "
            f"AND ({expected} IS NULL OR {shape.revision} = {expected}) RETURNING {fields}"
        )

    def _key_of(self, text: str) -> list[str]:
        """What the columns of the key are set to, from an expression of one text."""
        if len(self.layout.keys) == 1:
            return [f"{text}::{self.layout.key.type}"]
        return parts_of(self.layout, f"{text}::text")

    def _from_arrays(self) -> str:
        """Many rows from one parameter a column."""
        self._kinds = ["text", *(self._kind(column) for column in self._written)]
        names = [f"c{number}" for number in range(len(self._written))]
        given = [f"${number}::{kind}[]" for number, kind in enumerate(self._kinds, 1)]
        values = assignments(self.layout, [f"g.{name}" for name in names]).values()
        self._many = [*self._key_of("g.key"), *values]
        return f"FROM unnest({', '.join(given)}) AS g (key, {', '.join(names)})"

    def _kind(self, column: Column) -> str:
        """Of what is given for a column: what is given as text is cast one by one."""
        if column is self.layout.updated_at:
            return "timestamptz"
        return "bytea" if column.kind == "bytea" else "text"

    def _differs_from(self, plain: dict[str, str]) -> str:
        """`differs` between a row and the parameters, rounded as they will be."""
        kept = [self.layout.value, self.layout.value_type]
        new = ", ".join(f"({plain[c.quoted]})::{c.limited} AS {c.quoted}" for c in kept if c)
        return (
            f"EXISTS (SELECT FROM (SELECT {new}) AS new WHERE {differs(self.layout, 't', 'new')})"
        )

    def copy(self, db: Connection, puts: Puts) -> Sequence[Entry] | None:
        given = puts.entries
        if not self._takes_all:
            return None
        return self._copying.put(db, (given.keys, given.values, given.types, given.times))

    def put_alike(self, db: Connection, given: Sequence[Given]) -> Sequence[Entry]:
        copied = self._copying.put(db, tuple(zip(*given, strict=True)))
        return copied or self._run_many(db, self._upsert_many, given)

    def held_alike(self, db: Connection, given: Sequence[Given]) -> Sequence[Entry]:
        return self._run_many(db, self._held_many, given)

    def _run_many(self, db: Connection, statement: str, given: Sequence[Given]) -> Sequence[Entry]:
        return entries(rows(db, statement, arrays(self._kinds, given)), self.table.shape.kind)

    def attempt(self, db: Connection, write: Write, row: Given) -> Entry | None:
        if write.value is None:
            gone = write.expect != "" and self.delete(db, write)
            return deleted(write.key, write.updated_at) if gone else None
        if write.expect is None:
            found = rows(db, self._upsert, row)
        elif write.expect == "":
            found = rows(db, self._insert, row)
        else:
            found = rows(db, self._update, [*row, wanted(write)])
        return next(iter(entries(found, self.table.shape.kind)), None)

    def holds(self, db: Connection, row: Given) -> bool:
        statement = f"SELECT FROM {self.layout.name} t WHERE {self.table.one} AND NOT {self._news}"
        return bool(rows(db, statement, row[: 3 if self.layout.value_type else 2]))

    def parameters(self, write: Write) -> Given:
        if self._takes_all and write.value is not None:
            return (write.key, write.value, write.value_type, write.updated_at)
        self.check_key(write.key)
        if write.value is None:
            return [write.key]
        row: list[Any] = [write.key, parameter(write, self.layout)]
        # In the order of `written`.
        if self.layout.value_type:
            row.append(write.value_type)
        if self._has_time:
            row.append(write.updated_at)
        return row


def wanted(write: Write) -> str | None:
    """The revision that a row must have; None for any."""
    if write.expect in (None, "", "*"):
        return None
    # What no text of PostgreSQL can be is not asked for: no row has "" either.
    return write.expect if write.expect.isprintable() else ""
