"""A state read in pieces: the server keeps what it has found until that is fetched.

The server holds the cursor beyond its transaction. So a slow walk keeps neither a lock nor an old
snapshot, and a row that cannot be read fails before the first one comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from operator import attrgetter

import psycopg

from datastream.entry import Entry
from datastream.selection import Selects
from datastream.sources.postgres.catalogue import Catalogue
from datastream.sources.postgres.connection import Connection, Session
from datastream.sources.postgres.errors import Altered
from datastream.sources.postgres.readable import Condition
from datastream.sources.postgres.rows import Row
from datastream.sources.postgres.table import RowTable

FIRST, MOST = 16, 1000
"""Rows of the first piece, and of any."""
LARGE = 1 << 20
"""Bytes that a piece has about, unless one row has more."""
_CURSOR = "_datastream_walk"


def can_hold(session: Session) -> bool:
    """Whether a session can keep what a walk reads, sorted as Python sorts."""
    # Behind a pooler the next statement may be another session's.
    encoding = session.db.info.parameter_status("server_encoding")
    return not session.is_pooled and encoding == "UTF8"


def begin(db: Connection, catalogue: Catalogue, selection: Selects) -> frozenset[str]:
    """Have the server find the rows of `selection`; returns the keys that cannot be read.

    Raises:
        Altered: look the table up again.
    """
    table = catalogue.table

    def declare(given: Condition) -> None:
        # A row that cannot be read fails at the end of the transaction.
        with db.transaction():
            db.execute(b"CLOSE ALL")
            statement = (
                f"DECLARE {_CURSOR} NO SCROLL CURSOR WITH HOLD FOR {table.select} "
                f"WHERE {given.text} ORDER BY {table.order}"
            )
            db.execute(statement.encode(), given.parameters, prepare=False)
            # Only now nobody can alter it.
            if not catalogue.is_current(db):
                raise Altered

    return table.ask(db, selection, declare, None)[1]


def entries(db: Connection, table: RowTable) -> Iterator[Entry]:
    """What `begin` has found, sorted by key."""
    try:
        yield from _entries(_pieces(db), table)
    finally:
        # A connection that was lost has nothing left to close.
        with suppress(psycopg.Error):
            db.execute(b"CLOSE ALL")


def _entries(pieces: Iterable[Sequence[Row]], table: RowTable) -> Iterator[Entry]:
    # A view may show a key twice, and which one counts is decided among all of them.
    left: list[Row] = []
    for piece in pieces:
        found = [*left, *piece]
        last = found[-1][0]
        left = [row for row in found if row[0] == last]
        yield from _sorted(table, found[: len(found) - len(left)])
    yield from _sorted(table, left)


def _sorted(table: RowTable, found: Sequence[Row]) -> Iterable[Entry]:
    return sorted(table.entries(found), key=attrgetter("key"))


def _pieces(db: Connection) -> Iterator[Sequence[Row]]:
    number = FIRST
    while found := _fetched(db, number):
        yield found
        largest = max(len(row[1] or "") for row in found)
        number = min(2 * number, MOST, max(1, LARGE // (largest + 1)))


def _fetched(db: Connection, number: int) -> Sequence[Row]:
    with db.cursor(binary=True) as cursor:
        statement = f"FETCH FORWARD {number} FROM {_CURSOR}"
        return cursor.execute(statement.encode(), prepare=False).fetchall()
