"""Reading the rows of one table: its SQL, and what the rows say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from psycopg import DataError

from datastream._columns import EntryColumns
from datastream.entry import Capability, Entry
from datastream.selection import Selects, starts
from datastream.sources._common.odd_names import OddNames
from datastream.sources._common.unread import Unread
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.errors import Altered
from datastream.sources.postgres.keys import begins_among, fits, is_among, is_key, key_of, spells
from datastream.sources.postgres.layout import Layout
from datastream.sources.postgres.readable import LOOKS, Condition, Readable
from datastream.sources.postgres.rows import Row, Shape, entries, entry, shape

MOST_CONDITIONS = 1000
"""Selections with more keys and prefixes than this are filtered after reading everything."""

T = TypeVar("T")


class RowTable:
    """The rows of `layout` as entries; holds no connection."""

    def __init__(self, layout: Layout, where: str, unread: Unread) -> None:
        self._layout = layout
        self._names = OddNames(where, "a row")
        self.shape: Shape = shape(layout)
        self._key = key_of(layout, "t")
        self._present = f"{self._key} IS NOT NULL"
        self.one = self.is_key("$1")
        """True for the row of one key."""
        self.select = f"SELECT {self.shape.fields} FROM {layout.name} t"
        """All rows; a WHERE may follow."""
        self.locked = f"(SELECT count(*) FROM {layout.name} WHERE false)"
        """Has what it is joined to lock the table first, as who writes or alters it does: else a
        reader who has the log already and one who alters both would wait for each other."""
        self.order = f'{self._key}::text COLLATE "C"'
        """Sorts them by key, as Python does where the server has UTF-8."""
        self.readable = Readable(layout, self.select, unread)
        self._get = f"{self.select} WHERE {self.one}"
        mark = layout.marked.relation
        checked = f"SELECT {mark}, r.* FROM (SELECT) AS o LEFT JOIN LATERAL ({{}}) r ON true"
        self._checked_get = checked.format(self._get)
        # For what its type does not even parse; a scan.
        self._get_spelled = checked.format(f"{self.select} WHERE {self._key}::text = $1::text")
        name = f"t.{layout.value_type.quoted}::text" if layout.value_type else "NULL::text"
        # Of a value only whether there is one.
        missing = "''::bytea"
        if not layout.is_object:
            missing = f"CASE WHEN t.{layout.value.quoted} IS NOT NULL THEN ''::bytea END"
        self._capabilities = (
            f"SELECT NULL::text, NULL::bytea, {mark}, NULL::text UNION ALL "
            f"SELECT {self._key}::text, {missing}, {name}, NULL::text FROM {layout.name} t WHERE "
        )

    def capabilities(self, db: Connection) -> list[Capability]:
        """Every key with its type.

        Raises:
            Altered: look the table up again.
        """
        everything = Condition(self._present)
        found, _ = self.readable.ask(
            db,
            everything,
            lambda given: rows(db, self._capabilities + given.text, given.parameters),
        )
        self._check(beside(found))
        return [Capability(e.key, e.value_type) for e in self.entries(found)]

    def get(self, db: Connection, key: str) -> Entry | None:
        """What `key` holds now.

        Raises:
            Altered: look the table up again.
        """
        if not fits(self._layout, key):
            return None
        try:
            found = rows(db, self._checked_get, (key,))
        except DataError:
            found = rows(db, self._get_spelled, (key,))
        self._check(found[0][0])
        return self._only(key, [row[1:] for row in found])

    def current(self, db: Connection, key: str) -> Entry | None:
        """What `key` holds now, in the transaction of a write."""
        if not fits(self._layout, key):
            return None
        return self._only(key, rows(db, self._get, (key,)))

    def is_key(self, text: str) -> str:
        """A condition: the row's key is the one that is spelled like the expression `text`."""
        return is_key(self._layout, text)

    def _only(self, key: str, found: Iterable[Row]) -> Entry | None:
        # PostgreSQL may find other spellings equal.
        return next((entry for entry in self.entries(found) if entry.key == key), None)

    def _check(self, mark: object) -> None:
        if mark != self._layout.fingerprint:
            raise Altered

    def rows_beside(
        self, db: Connection, head: str, selection: Selects, looks: int | None = LOOKS
    ) -> tuple[Sequence[Row], frozenset[str]]:
        """The rows of `selection` and, of the same moment, the text that `head` selects.

        Args:
            head: a query of one column called ``head``; `beside` finds its answer.
            looks: as for `ask`.

        Returns:
            The rows, and the keys of those that cannot be read.
        """
        return self.ask(db, selection, lambda given: self.rows_where(db, head, given), looks)

    def ask(
        self,
        db: Connection,
        selection: Selects,
        question: Callable[[Condition], T],
        looks: int | None = LOOKS,
    ) -> tuple[T, frozenset[str]]:
        """`Readable.ask` of the rows of `selection`."""
        return self.readable.ask(db, self.condition(selection, 1), question, looks)

    def rows_where(self, db: Connection, head: str, condition: Condition) -> Sequence[Row]:
        """The rows of which `condition` is true, beside what `head` selects."""
        # A row of its own, because a column of its own would cost every row something.
        return rows(
            db,
            f"SELECT NULL::text, {self.shape.nothing}, h.head, {self.shape.never} FROM ({head}) h "
            f"UNION ALL {self.select} WHERE {condition.text}",
            condition.parameters,
        )

    def was_read(self, keys: Iterable[str]) -> None:
        """Rows were read, or have gone."""
        if self.readable.unread:
            for key in keys:
                self.readable.unread.discard(key)

    def entries(self, found_rows: Iterable[Row]) -> EntryColumns:
        """The entries of the rows, without those that no store can name, each key once."""
        found = entries(found_rows, self.shape.kind)
        if not _are_plain(found.keys):
            found = found.matching(self._names.admits)
        # A view may show a key twice: the same one has to win each time.
        return found if self._layout.can_write else found.by_revision().unique()

    def entry(self, row: Row) -> list[Entry]:
        """The entry of one row; none if no store can name it."""
        found = entry(row, self.shape.kind)
        return [found] if self._names.admits(found.key) else []

    def condition(self, selection: Selects, first: int) -> Condition:
        """What is true for at least the selected keys, parameters numbered from `first`."""
        begins = starts(selection)
        everything = not (selection.keys or begins) or "" in begins
        if everything or len(selection.keys) + len(begins) > MOST_CONDITIONS:
            return Condition(self._present)
        layout = self._layout
        keys = sorted(key for key in selection.keys if fits(layout, key))
        begins = {text for text in begins if spells(layout, text)}
        listed = is_among(layout, first)
        if not begins:
            return Condition(listed, (keys,))
        both = f"({listed} OR {begins_among(layout, first + 1)})"
        return Condition(both, (keys, sorted(begins)))


def rows(db: Connection, statement: str, parameters: Sequence[Any] = ()) -> Sequence[Row]:
    """The rows of a statement with the fields of `Shape.fields`."""
    # Binary: a bytea comes as it is, instead of in twice as many digits.
    with db.cursor(binary=True) as cursor:
        return cursor.execute(statement.encode(), parameters).fetchall()


def beside(found: Sequence[Row]) -> str | None:
    """What `RowTable.rows_beside` was asked beside the rows."""
    return next((row[2] for row in found if row[0] is None), None)


def _are_plain(keys: Sequence[str]) -> bool:
    """Whether all are such that no look at each is needed: of a whole table that takes long."""
    together = "\n".join([*keys, ""])
    is_plain = together.isascii() and "/\n" not in together and "" not in keys
    return is_plain and max(map(len, keys), default=0) < 1000
