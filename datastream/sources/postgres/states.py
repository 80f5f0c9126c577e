"""Reading a relation without a log: whole states, compared by what they hold.

The store works out what changed. Reading what did not change costs the server one pass over it;
it sends no rows.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from datastream.entry import Entry
from datastream.selection import Selects
from datastream.source import Reading
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.errors import Altered
from datastream.sources.postgres.layout import Layout
from datastream.sources.postgres.table import RowTable, beside


class ComparedRows:
    """Reads the rows of a relation without a change log; holds no connection."""

    def __init__(self, db: Connection, layout: Layout, table: RowTable) -> None:
        self._table = table
        # A replica that was promoted may have triggers, so it is looked up again.
        self._head = (
            f"SELECT concat({layout.marked.polled(layout.mark)}, pg_is_in_recovery()) AS head"
        )
        row = db.execute(self._head.encode()).fetchone()
        self._found = row and row[0]
        # Of the last read: its position, and the server's summary of the rows. Both belong
        # together whichever thread wrote them, so two reads at a time do no harm.
        self._seen: tuple[str, object] | None = None

    def read(self, db: Connection, selection: Selects, since: str | None) -> Reading:
        """The state of `selection`; nothing if `since` is the position of this very state.

        Raises:
            Altered: look the table up again.
        """
        if since is None:
            found = self._entries(db, selection)
            return Reading(found, _position(found), complete=True)
        with db.transaction():
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            summary = self._summary(db, selection)
            if self._seen == (since, summary):
                return Reading((), since, complete=False)
            found = self._entries(db, selection)
        position = _position(found)
        self._seen = (position, summary)
        if position == since:
            return Reading((), since, complete=False)
        return Reading(found, position, complete=True)

    def question(self, since: str) -> None:
        """Nothing to ask before it is wanted."""

    def answer(self, rows: object, since: str) -> None:
        """Nothing is asked ahead."""

    def _summary(self, db: Connection, selection: Selects) -> object:
        """Short for all rows of `selection`: the sum of a hash of each."""
        condition, parameters = self._table.condition(selection, 1)
        statement = (
            f"SELECT ({self._head}), count(*), sum(hashtextextended(ROW(r.*)::text, 0)) "
            f"FROM ({self._table.select} WHERE {condition}) r"
        )
        with db.cursor(binary=True) as cursor:
            rows: list[Any] = cursor.execute(statement.encode(), parameters).fetchall()
        self._check(rows[0][0])
        return condition, parameters, rows

    def _entries(self, db: Connection, selection: Selects) -> list[Entry]:
        rows = self._table.rows_beside(db, self._head, selection)
        self._check(beside(rows))
        return self._table.entries(rows)

    def _check(self, marks: object) -> None:
        if marks != self._found:
            raise Altered


def _position(entries: list[Entry]) -> str:
    """The same for the same state, in every process."""
    digest = blake2b(digest_size=12)
    for entry in sorted(entries):
        digest.update(f"{entry.key}\0{entry.revision}\0".encode("utf-8", "surrogatepass"))
    return f"state:{digest.hexdigest()}"
