"""Reading a table with its change log: everything, or what changed, in one statement each."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, NamedTuple

from psycopg import DataError

from datastream.entry import Entry, deleted
from datastream.selection import Selects
from datastream.source import Reading
from datastream.sources.postgres import position as positions
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.errors import Altered
from datastream.sources.postgres.layout import Layout
from datastream.sources.postgres.log import EVENTS, FORM, Names
from datastream.sources.postgres.marks import catalogue_marks
from datastream.sources.postgres.table import RowTable, beside


class Installed(NamedTuple):
    """What `look_up` found."""

    marks: str
    """`layout_mark` and `trigger_mark`."""
    history: str


class ChangedRows:
    """Reads the rows of a table whose triggers keep a log; holds no connection.

    Args:
        server: tells this server and its history from every other.
    """

    def __init__(self, layout: Layout, table: RowTable, server: str, found: Installed) -> None:
        self._table = table
        self._found = found
        names = Names.of(layout)
        where = (layout.oid, names.state)
        self._head = _head(*where, names.log)
        self._changes = self._changes_statement(layout, names)
        seed = f"{server}/{layout.oid}/{found.marks.rpartition('/')[2]}"
        self.epoch = blake2b(seed.encode(), digest_size=6).hexdigest()

    def read(self, db: Connection, selection: Selects, since: str | None) -> Reading:
        """What changed after `since`, else the complete state of `selection`.

        Raises:
            Altered: look the table up again.
        """
        changes = self._read_changes(db, since) if since is not None else None
        return changes or self._read_state(db, selection)

    def _read_state(self, db: Connection, selection: Selects) -> Reading:
        rows = self._table.rows_beside(db, self._head, selection)
        return Reading(self._table.entries(rows), self._position(beside(rows)), complete=True)

    def _read_changes(self, db: Connection, since: str) -> Reading | None:
        """None if the log does not reach back to `since`, or is of another epoch."""
        place = positions.parse(since, self.epoch)
        if place is None:
            return None
        try:
            with db.cursor(binary=True) as cursor:
                rows: list[Any] = cursor.execute(self._changes.encode(), place).fetchall()
        except DataError:
            # A key from when its column had another type.
            return None
        position = self._position(rows[0][0] if rows else None)
        if not rows[0][1]:
            return None
        touched = [row[3:] for row in rows if row[2]]
        if not touched:
            # Transactions elsewhere move the snapshot on; nothing of this table has changed.
            return Reading((), since, complete=False)
        if any(key is None for key, *_ in touched):
            return None
        # There now or not: one that was made once more than removed since was not there before,
        # nor was one that is gone and was made as often as removed.
        created = frozenset(
            key for key, delta, *row in touched if delta == (0 if row[0] is None else 1)
        )
        return Reading(self._changed(touched), position, complete=False, created=created)

    def _changed(self, touched: list[Any]) -> list[Entry]:
        present = self._table.entries(row for _, _, *row in touched)
        gone = [deleted(key) for key, _, *row in touched if row[0] is None]
        return gone + present

    def _position(self, head: str | None) -> str:
        marks, _, content = (head or "").partition(" ")
        if marks != self._found.marks:
            raise Altered
        return positions.write(self.epoch, content)

    def _changes_statement(self, layout: Layout, names: Names) -> str:
        honoured = (
            "$1::xid8 >= st.cut AND $2::xid8 <= pg_snapshot_xmax(pg_current_snapshot()) "
            "AND ($4::xid8 = '0'::xid8 OR EXISTS (SELECT FROM "
            f"{names.log} WHERE xid = $4::xid8 AND {_MICROSECONDS} = $5::int8))"
        )
        # Between two bounds: of an open range the planner expects a third of all lines.
        keys = f"SELECT unnest(coalesce(keys, '{{NULL}}')) AS key, delta FROM {names.log}"
        lines = (
            f"{keys} WHERE xid >= $2::xid8 AND xid <= pg_snapshot_xmax(pg_current_snapshot()) "
            f"UNION ALL {keys} WHERE xid = ANY($3::xid8[])"
        )
        return (
            f"SELECT h.*, r.* FROM ({_head(layout.oid, names.state, names.log, honoured)}) h "
            f"LEFT JOIN LATERAL (SELECT true, l.*, t.* FROM "
            f"(SELECT key, sum(delta)::int AS delta FROM ({lines}) u "
            # OFFSET 0: each key by the index, however many the planner expects.
            f"WHERE h.honoured GROUP BY key) l LEFT JOIN LATERAL ({self._table.select} "
            f"WHERE t.{layout.key.quoted} = l.key::{layout.key.type} OFFSET 0) t ON true) r ON true"
        )


_MICROSECONDS = "(extract(epoch FROM at) * 1000000)::int8"


def _head(oid: int, state: str, log: str, honoured: str = "") -> str:
    """One row: whether all is as it was found, and the place of this snapshot."""
    line = f"(SELECT concat(xid, '.', {_MICROSECONDS}) FROM {log} ORDER BY xid DESC LIMIT 1)"
    place = f"pg_current_snapshot(), '/', coalesce({line}, '0.0')"
    return (
        f"SELECT concat({catalogue_marks(oid)}, ' ', {place}) "
        f"AS head{f', {honoured} AS honoured' if honoured else ''} FROM {state} st"
    )


def look_up(connection: Connection, layout: Layout) -> Installed | None:
    """What is installed for `layout`; None if it is not all there, or not to be read."""
    names = Names.of(layout)
    row = connection.execute(
        f"SELECT {catalogue_marks(layout.oid)}, "
        "to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL "
        "AND has_table_privilege(to_regclass($1), 'SELECT') "
        "AND has_table_privilege(to_regclass($2), 'SELECT'), "
        "(SELECT count(*) FILTER (WHERE tgenabled = 'A') FROM pg_trigger "
        "WHERE tgrelid = $3::oid AND starts_with(tgname, $4))".encode(),
        (names.log, names.state, layout.oid, f"{names.channel}_"),
    ).fetchone()
    if row is None or not row[1] or row[2] != len(EVENTS):
        return None
    state = connection.execute(f"SELECT form, history FROM {names.state}".encode()).fetchone()
    if state is None or state[0] != FORM:
        return None
    return Installed(str(row[0]), str(state[1]))
