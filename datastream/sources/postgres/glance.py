"""What the last commits changed, asked as soon as they are notified: by few relations.

`changes` asks for the marks of `logged` with every answer, in nine relations of the catalogue. Each
costs the server's process, which was just woken, as much as all that is wanted. Here the server is
asked whether it has analysed the statement anew (`Marked.analysed`): it does so once the definition
of anything in it has changed. An answer counts if it has the mark that an earlier one had, after
which the marks of `logged` were as they should be; else a poll finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from datastream.sources.postgres.ahead import Question
from datastream.sources.postgres.arrays import START
from datastream.sources.postgres.log import Names
from datastream.sources.postgres.position import Position
from datastream.sources.postgres.table import RowTable

LINES = 20
"""Keys in the log that are looked at; where there are more, a poll asks for all at once."""
MOST_OPEN = 1000
"""Transactions between the oldest open one and the next."""
_START = round(START.timestamp()) * 1_000_000
"""Microseconds from 1970 to there."""


class Seen(NamedTuple):
    """What an answer says."""

    content: str
    """Its place, as in `position`."""
    touched: list[Any]
    """Each key once: with what happened to it since, and the row it has now."""


class Glance:
    """Asks for what changed since a position; holds no connection.

    Args:
        marks: expressions of the server, as `Marked.analysed` gives them.
    """

    def __init__(self, table: RowTable, names: Names, marks: Sequence[str]) -> None:
        self.mark: str | None = None
        """Of the last answer."""
        self._trusted: str | None = None
        mark = f"pg_catalog.concat_ws(' ', {', '.join(marks)}, st.epoch, st.ctid)"
        # A line without keys says that anything may have changed, and one with none is the first.
        # No `nullif`: an operator that somebody made for two text[] would fit better.
        listed = "CASE WHEN pg_catalog.cardinality(keys) > 0 THEN keys ELSE '{NULL}' END"
        keys = f"pg_catalog.unnest({listed})"
        self._statement = (
            f"SELECT {mark}, pg_catalog.pg_current_snapshot()::text, $2::xid8 >= st.cut, "
            "l.xid::text, pg_catalog.timestamptz_send(l.at), l.key, l.delta, t.* "
            f"FROM {table.locked} AS locked RIGHT JOIN {names.state} st ON true LEFT JOIN "
            # Ordered, so that the planner takes the index whatever it expects.
            f"(SELECT xid, at, delta, {keys} AS key FROM {names.log} WHERE xid >= $1::xid8 "
            "AND (xid >= $3::xid8 OR xid = $4::xid8 OR xid = ANY($5::xid8[])) "
            f"ORDER BY xid LIMIT {LINES}) l ON true LEFT JOIN LATERAL ({table.select} "
            f"WHERE l.xid <> $4::xid8 AND {table.is_key('l.key')} OFFSET 0) t ON true"
        ).encode()

    def question(self, place: Position) -> Question | None:
        """What to ask after `place`; None if that is no matter of a few lines."""
        if place.line_xid == "0" or int(place.next) - int(place.oldest) > MOST_OPEN:
            return None
        # From the newest line that was seen, so that it is missed where it has gone.
        first = min(place.oldest, place.line_xid, key=int)
        opened = f"{{{','.join(place.open)}}}"
        given = (first, place.oldest, place.next, place.line_xid, opened)
        return Question(self._statement, tuple(text.encode() for text in given))

    def trust(self, mark: str | None) -> None:
        """All was as it should be after an answer with this mark."""
        # Another one may have come while that was found out.
        if mark == self.mark:
            self._trusted = mark

    def changes(self, rows: Sequence[Any], place: Position) -> Seen | None:
        """What the rows of an answer say; None if only a poll can tell."""
        marks = {row[0] for row in rows}
        self.mark = marks.pop() if len(marks) == 1 else None
        if self.mark is None or self.mark != self._trusted:
            return None
        _, snapshot, is_kept, *_ = rows[0]
        if not is_kept or len(rows) >= LINES:
            return None
        lines = {row[3]: _at(row[4]) for row in rows if row[3] is not None}
        if lines.get(place.line_xid) != place.line_at:
            return None
        newest = max(lines, key=int)
        new = [row[5:] for row in rows if row[3] != place.line_xid]
        return Seen(f"{snapshot}/{newest}.{lines[newest]}", _summed_up(new))


def _at(sent: bytes) -> str:
    return str(int.from_bytes(sent, "big", signed=True) + _START)


def _summed_up(lines: list[Any]) -> list[Any]:
    """Each key once."""
    if len(lines) < 2:
        return lines
    found: dict[str | None, list[Any]] = {}
    for key, delta, *row in lines:
        before = found[key][1] if key in found else 0
        found[key] = [key, before + (delta or 0), *row]
    return list(found.values())
