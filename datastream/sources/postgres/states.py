"""Reading a relation without a log: whole states, compared by what they hold.

The store works out what changed. Reading what did not change costs the server one pass over it;
it sends no rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from datastream._columns import EntryColumns
from datastream.selection import Selects
from datastream.source import Reading
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.errors import Altered
from datastream.sources.postgres.layout import Layout
from datastream.sources.postgres.readable import Condition
from datastream.sources.postgres.table import RowTable, beside


class ComparedRows:
    """Reads the rows of a relation without a change log; holds no connection."""

    def __init__(self, db: Connection, layout: Layout, table: RowTable) -> None:
        self._table = table
        # A replica that was promoted may have triggers, so it is looked up again.
        self._marks = f"pg_catalog.concat({layout.marked.polled(layout.mark)}, pg_is_in_recovery())"
        row = db.execute(f"SELECT {self._marks}".encode()).fetchone()
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
            head = f"SELECT {self._marks} AS head"
            rows, unread = self._table.rows_beside(db, head, selection)
            self._check(beside(rows))
            return _reading(self._table.entries(rows), unread)
        seen = self._seen
        if seen and seen[0] == since and seen[1] == self._summary(db, selection):
            return Reading((), since, complete=False)
        reading, summary = self._summed_up(db, selection)
        self._seen = (reading.position, summary)
        if reading.position == since:
            return Reading((), since, complete=False)
        return reading

    def question(self, session: object, since: str) -> None:
        """Nothing to ask before it is wanted."""

    def answer(self, rows: object, since: str) -> None:
        """Nothing is asked ahead."""

    def _summary(self, db: Connection, selection: Selects) -> object:
        """Short for all rows of `selection`: the sum of a hash of each, and which those were."""

        def summary(condition: Condition) -> object:
            statement = self._head(condition).encode()
            row = db.execute(statement, condition.parameters).fetchone()
            return condition, self._check(row and row[0])

        return self._table.ask(db, selection, summary)[0]

    def _summed_up(self, db: Connection, selection: Selects) -> tuple[Reading, object]:
        """The state, and the summary of its rows."""

        # In one statement, not in a transaction of two: that would have a snapshot older than its
        # locks, to which a table that was rewritten meanwhile looks empty.
        def rows(condition: Condition) -> tuple[EntryColumns, object]:
            found = self._table.rows_where(db, self._head(condition), condition)
            return self._table.entries(found), (condition, self._check(beside(found)))

        (entries, summary), unread = self._table.ask(db, selection, rows)
        return _reading(entries, unread), summary

    def _head(self, condition: Condition) -> str:
        """A query of marks and summary."""
        return (
            f"SELECT pg_catalog.concat({self._marks}, '/', count(*), '/', "
            "sum(pg_catalog.hashtextextended(ROW(r.*)::text, 0))) AS head "
            f"FROM ({self._table.select} WHERE {condition.text}) r"
        )

    def _check(self, head: object) -> str:
        """The summary behind the marks, if those are what they were."""
        marks, _, summary = str(head).partition("/")
        if marks != self._found:
            raise Altered
        return summary


def _reading(found: EntryColumns, unread: frozenset[str]) -> Reading:
    return Reading(found, _position(found, unread), complete=True, unread=unread)


def _position(entries: EntryColumns, unread: Iterable[str]) -> str:
    """The same for the same state, in every process."""
    digest = blake2b(digest_size=12)
    for key, revision in sorted(zip(entries.keys, entries.revisions, strict=True)):
        digest.update(f"{key}\0{revision}\0".encode("utf-8", "surrogatepass"))
    for key in sorted(unread):
        digest.update(f"{key}\0\0".encode("utf-8", "surrogatepass"))
    return f"state:{digest.hexdigest()}"
