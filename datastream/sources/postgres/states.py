"""Reading a relation without a log: whole states, told apart by what they hold.

The hub works out what changed. A look at what did not change costs one pass over it on the
server, which sends no rows.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from datastream.entry import Entry
from datastream.selection import Selects
from datastream.source import Reading
from datastream.sources.postgres.changes import Altered, catalogue_marks
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.layout import Layout
from datastream.sources.postgres.table import RowTable, beside


class ComparedRows:
    """The rows of a table or view of which nobody tells what happens to them."""

    def __init__(self, connection: Connection, layout: Layout, table: RowTable) -> None:
        self._db = connection
        self._table = table
        # A replica that was promoted is worth another look too.
        self._head = f"SELECT concat({catalogue_marks(layout.oid)}, pg_is_in_recovery()) AS head"
        row = connection.execute(self._head.encode()).fetchone()
        self._found = row and row[0]
        # Of the last look: which position, and what the server said of its rows.
        self._seen: tuple[str, object] | None = None

    def read(self, selection: Selects, since: str | None) -> Reading:
        """The state of `selection`; nothing if `since` is the position of this very state."""
        if since is None:
            found = self._entries(selection)
            return Reading(found, _position(found), complete=True)
        with self._db.transaction():
            self._db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            summary = self._summary(selection)
            if self._seen == (since, summary):
                return Reading((), since, complete=False)
            found = self._entries(selection)
        position = _position(found)
        self._seen = (position, summary)
        if position == since:
            return Reading((), since, complete=False)
        return Reading(found, position, complete=True)

    def _summary(self, selection: Selects) -> object:
        """Short for all rows of `selection`: the sum of a hash of each."""
        condition, parameters = self._table.condition(selection, 1)
        rows = self._rows(
            f"SELECT ({self._head}), count(*), sum(hashtextextended(ROW(r.*)::text, 0)) "
            f"FROM ({self._table.select} WHERE {condition}) r",
            parameters,
        )
        self._check(rows[0][0])
        return condition, parameters, rows

    def _entries(self, selection: Selects) -> list[Entry]:
        rows = self._table.rows_beside(self._head, selection)
        self._check(beside(rows))
        return self._table.entries(rows)

    def _check(self, marks: object) -> None:
        if marks != self._found:
            raise Altered

    def _rows(self, statement: str, parameters: Any) -> list[Any]:
        with self._db.cursor(binary=True) as cursor:
            return cursor.execute(statement.encode(), parameters).fetchall()


def _position(entries: list[Entry]) -> str:
    """The same for the same state, in every process."""
    digest = blake2b(digest_size=12)
    for entry in sorted(entries):
        digest.update(f"{entry.key}\0{entry.revision}\0".encode("utf-8", "surrogatepass"))
    return f"state:{digest.hexdigest()}"
