"""Reading a table with its change log: everything, or what changed, in one statement each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import psycopg

from datastream.entry import Entry, deleted
from datastream.selection import Selects
from datastream.source import Reading
from datastream.sources.postgres import position as positions
from datastream.sources.postgres.ahead import Question
from datastream.sources.postgres.connection import Connection, Session, is_lost
from datastream.sources.postgres.errors import Altered, is_of_a_row
from datastream.sources.postgres.glance import Glance
from datastream.sources.postgres.layout import Layout, literal
from datastream.sources.postgres.log import EVENTS, Names, body_of, made_for
from datastream.sources.postgres.marks import has_rights, may_log
from datastream.sources.postgres.table import RowTable, beside


class Installed(NamedTuple):
    """What `look_up` found."""

    marks: str
    """`Marked.logged`, and the epoch of the log."""
    lasting: str
    """`Marked.lasting`, likewise: what positions go by."""
    history: str
    may_log: str
    """An expression: whether the triggers' function may write to the log."""


class Found(NamedTuple):
    """Whether there is a log that tells of every change, and why not."""

    installed: Installed | None
    flaw: str = ""
    """What is wrong with what is there; "" if there is nothing at all."""
    is_off: bool = False
    """Somebody has switched the triggers off."""


class ChangedRows:
    """Reads the rows of a table whose triggers keep a log; holds no connection.

    Args:
        server: tells this server and its history from every other.
    """

    def __init__(self, layout: Layout, table: RowTable, server: str, found: Installed) -> None:
        self._table = table
        self._found = found
        names = Names.of(layout)
        self._head = _head(layout, names, table)
        self._changes = self._changes_statement(layout, names).encode()
        seed = f"{server}/{found.lasting}"
        self.epoch = blake2b(seed.encode(), digest_size=6).hexdigest()
        marks = layout.marked.analysed(names.record, found.may_log)
        self._glance = Glance(table, names, marks)
        self._asked: tuple[str, positions.Position] | None = None
        """Since when, taken apart while there was time."""

    def read(self, db: Connection, selection: Selects, since: str | None) -> Reading:
        """What changed after `since`, else the complete state of `selection`.

        Raises:
            Altered: look the table up again.
        """
        seen = self._glance.mark
        changes = self._read_changes(db, since) if since is not None else None
        reading = changes or self._read_state(db, selection)
        self._glance.trust(seen)
        return reading

    def _read_state(self, db: Connection, selection: Selects) -> Reading:
        rows, unread = self._table.rows_beside(db, self._head, selection, looks=None)
        found, position = self._table.entries(rows), self._position(beside(rows))
        return Reading(found, position, complete=True, unread=unread)

    def _read_changes(self, db: Connection, since: str) -> Reading | None:
        """None if the log does not reach back to `since`, or is of another epoch."""
        place = positions.parse(since, self.epoch)
        if place is None:
            return None
        try:
            with db.cursor(binary=True) as cursor:
                rows = cursor.execute(self._changes, place).fetchall()
        except psycopg.Error as error:
            # A key from when its column had another type, or a row that cannot be read.
            if not is_of_a_row(error):
                raise
            return None
        position = self._position(cast("str", rows[0][0]))
        if not rows[0][1]:
            return None
        return self._reading([row[3:] for row in rows if row[2]], since, position)

    def question(self, session: Session, since: str) -> Question | None:
        """Asks on this session what `read` most likely would; None if only that can tell.

        Raises:
            psycopg.Error: the connection is lost.
        """
        place = positions.parse(since, self.epoch)
        question = None if place is None else self._glance.question(place)
        if place is None or question is None:
            return None
        self._asked = since, place
        if session.ahead.prepare(question.statement):
            rows = session.ahead.ask(question)
            if rows is None:
                return None
            self._look(session.db, rows, since)
        return question

    def answer(self, rows: Sequence[Any], since: str) -> Reading | None:
        """What the rows of the answer say; None if only `read` can tell."""
        if self._asked is None or self._asked[0] != since:
            return None
        seen = self._glance.changes(rows, self._asked[1])
        if seen is None:
            return None
        return self._reading(seen.touched, since, positions.write(self.epoch, seen.content))

    def _look(self, db: Connection, rows: Sequence[Any], since: str) -> None:
        """Have the answers after this one be trusted, if all is as it was found."""
        self.answer(rows, since)
        seen = self._glance.mark
        try:
            if self._read_changes(db, since) is not None:
                self._glance.trust(seen)
        except Altered:
            # The next poll looks the table up.
            pass
        except psycopg.Error:
            if is_lost(db):
                raise

    def _reading(self, touched: list[Any], since: str, position: str) -> Reading | None:
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

    def _changed(self, touched: list[Any]) -> Sequence[Entry]:
        self._table.was_read(key for key, *_ in touched)
        gone = [deleted(key) for key, _, *row in touched if row[0] is None]
        if len(touched) > 1 or gone:
            return [*gone, *self._table.entries(row for _, _, *row in touched)]
        # Most commits change one row. What makes many cheap takes longer than all else for one.
        _, _, *row = touched[0]
        return self._table.entry(row)

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
        keys = (
            f"SELECT pg_catalog.unnest(coalesce(keys, '{{NULL}}')) AS key, delta FROM {names.log}"
        )
        lines = (
            f"{keys} WHERE xid >= $2::xid8 AND xid <= pg_snapshot_xmax(pg_current_snapshot()) "
            f"UNION ALL {keys} WHERE xid = ANY($3::xid8[])"
        )
        return (
            f"SELECT h.*, r.* FROM ({_head(layout, names, self._table, honoured)} OFFSET 0) h "
            f"LEFT JOIN LATERAL (SELECT true, l.*, t.* FROM "
            f"(SELECT key, sum(delta)::int AS delta FROM ({lines}) u "
            # OFFSET 0: each key by the index, however many the planner expects.
            f"WHERE h.honoured GROUP BY key) l LEFT JOIN LATERAL ({self._table.select} "
            f"WHERE {self._table.is_key('l.key')} OFFSET 0) t ON true) r ON true"
        )


_MICROSECONDS = "(extract(epoch FROM at) * 1000000)::int8"


def _head(layout: Layout, names: Names, table: RowTable, honoured: str = "") -> str:
    """One row: whether all is as it was found, and the place of this snapshot."""
    line = (
        f"(SELECT pg_catalog.concat(xid, '.', {_MICROSECONDS}) FROM {names.log} "
        "ORDER BY xid DESC LIMIT 1)"
    )
    place = f"pg_current_snapshot(), '/', coalesce({line}, '0.0')"
    return (
        f"SELECT pg_catalog.concat({_marks(layout)}, ' ', {place}) "
        f"AS head{f', {honoured} AS honoured' if honoured else ''} "
        f"FROM {table.locked} AS locked RIGHT JOIN ("
        # One row also where a dump that was loaded has brought another one.
        "SELECT pg_catalog.string_agg(epoch, '+') AS epoch, (pg_catalog.array_agg(cut))[1] AS cut "
        f"FROM {names.state}) st ON true"
    )


def _marks(layout: Layout) -> str:
    return _in_epoch(layout.marked.logged(layout.mark))


def _in_epoch(marks: str) -> str:
    return f"pg_catalog.concat({marks}, '/', st.epoch)"


def look_up(connection: Connection, layout: Layout) -> Found:
    """What is installed for `layout`."""
    names = Names.of(layout)
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE tgenabled IN ('D', 'R')), "
        "count(*) FILTER (WHERE tgenabled = 'A' AND tgfoid = to_regprocedure($5)), "
        "coalesce(pg_catalog.has_table_privilege(to_regclass($1), 'SELECT') "
        "AND pg_catalog.has_table_privilege(to_regclass($2), 'SELECT'), false) "
        "FROM pg_trigger WHERE tgrelid = $3::oid AND pg_catalog.starts_with(tgname, $4)",
        (names.log, names.state, layout.oid, f"{names.channel}_", names.record),
    ).fetchone()
    number, off, always, readable = row or (0, 0, 0, False)
    if not number:
        return Found(None)
    if off:
        return Found(None, "its triggers are switched off", is_off=True)
    if number != len(EVENTS) or always != len(EVENTS):
        return Found(None, "its triggers do not fire for all writers")
    if not readable:
        return Found(None, "this role may not read its change log, or that was dropped")
    return _look_into(connection, layout, names)


def _look_into(connection: Connection, layout: Layout, names: Names) -> Found:
    row = connection.execute(
        f"SELECT {_marks(layout)}, {_in_epoch(layout.marked.lasting(layout.mark))}, st.history, "
        "pg_catalog.to_jsonb(st) @> $1::jsonb "
        "AND (SELECT relpersistence = 'u' FROM pg_class WHERE oid = to_regclass($2)) = $3::bool, "
        # Of a cluster with more transactions than this one has had.
        "greatest(st.cut, (SELECT xid FROM "
        f"{names.log} ORDER BY xid DESC LIMIT 1)) <= pg_snapshot_xmax(pg_current_snapshot()), "
        f"pg_catalog.to_jsonb(st) ->> 'body' = {body_of(names)}, "
        f"(SELECT count(*) FROM {names.state}) = 1 "
        f"AND (st.history = '' OR to_regclass({literal(names.history)}) IS NOT NULL), "
        "(SELECT ARRAY[proowner, relnamespace, l.oid, relowner]::text[] FROM pg_proc p, pg_class l "
        f"WHERE p.oid = to_regprocedure({literal(names.record)}) AND l.oid = to_regclass($2) "
        f"AND {may_log('p', 'l')}) "
        f"FROM {names.state} st".encode(),
        (json.dumps(made_for(layout)), names.log, layout.is_unlogged),
    ).fetchone()
    if row is None:
        return Found(None, "its change log was emptied, or is hidden from this role")
    if not (row[3] and row[4] and row[6]):
        return Found(None, "its change log is one of another table, server or version")
    if not row[5]:
        return Found(None, "what its triggers run was replaced")
    if not row[7]:
        return Found(None, "who owns its triggers' function may not write its change log")
    owner, *line = (f"{number}::oid" for number in cast("list[str]", row[7]))
    return Found(Installed(str(row[0]), str(row[1]), str(row[2]), has_rights(owner, *line)))
