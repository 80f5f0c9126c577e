"""Rows that can be read, where one of a relation cannot: a view divides by zero, a value is broken.

PostgreSQL fails the whole statement and does not name the row. So the keys are read alone, and the
rows in halves, until those are found for which it fails; all others are then read in one statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import sample
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import psycopg

from datastream.errors import SourceUnavailable
from datastream.sources._common.unread import Unread
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.errors import is_of_a_row, reason_of
from datastream.sources.postgres.keys import is_among, key_of
from datastream.sources.postgres.layout import Layout

MOST = 100
"""Rows that are left out; with more, all is called unreadable."""
PATIENCE = 5.0
"""Seconds to look for them."""
LOOKS = 5
"""Rows that are tried again by each read, and found to be unreadable still."""
ATTEMPTS = 5
"""Reads that may meet rows which were written meanwhile."""
T = TypeVar("T")


class Condition(NamedTuple):
    """SQL over a row called ``t``, and its parameters, numbered from the first free one."""

    text: str
    parameters: Sequence[Any] = ()


class Readable:
    """Asks for what can be read of one relation; holds no connection.

    Args:
        layout: of the relation.
        select: all its rows, called ``t``; a WHERE may follow.
        unread: takes those that cannot be read.
    """

    def __init__(self, layout: Layout, select: str, unread: Unread) -> None:
        self._key = f'{key_of(layout, "t")}::text COLLATE "C"'
        self._keys = f"SELECT DISTINCT {self._key} FROM {layout.name} t"
        some = f"{select} WHERE {is_among(layout, 1)}"
        # Also of text that is no UTF-8, as a database without an encoding may hold it.
        sent = "pg_catalog.convert_to(ROW(r.*)::text, 'UTF8')"
        self._try = f"SELECT sum(pg_catalog.length({sent})) FROM ({some}) r"
        self.unread = unread

    def ask(
        self,
        db: Connection,
        condition: Condition,
        question: Callable[[Condition], T],
        looks: int | None = LOOKS,
    ) -> tuple[T, frozenset[str]]:
        """What `question` answers to a condition that is false for rows which cannot be read.

        Args:
            looks: how many of those are tried again; None for all, where no later read tells that
                what was left out had just become readable, or had gone.

        Returns:
            The answer, and the keys that were left out.

        Raises:
            psycopg.Error: it fails whatever is left out.
            SourceUnavailable: rows become readable, or unreadable, again and again.
        """
        for _ in range(ATTEMPTS):
            left_out = self.unread.keys
            try:
                answer = question(self._without(left_out, condition))
            except psycopg.Error as error:
                if not (is_of_a_row(error) and self._find(db, condition)):
                    raise
            else:
                if self._are_unreadable(db, left_out, looks):
                    return answer, frozenset(left_out)
        raise SourceUnavailable("rows become readable, or unreadable, faster than they are read")

    def _without(self, left_out: Sequence[str], condition: Condition) -> Condition:
        if not left_out:
            return condition
        number = len(condition.parameters) + 1
        text = f"{condition.text} AND {self._key} <> ALL(${number}::text[])"
        return Condition(text, (*condition.parameters, sorted(left_out)))

    def _are_unreadable(self, db: Connection, keys: Sequence[str], looks: int | None) -> bool:
        """Whether rows that were left out cannot be read still; `unread` forgets those that can."""
        failed, is_any = 0, False
        for key in sample(keys, len(keys)):
            if self._trouble(db, [key]) is None:
                self.unread.discard(key)
                is_any = True
            elif (failed := failed + 1) == looks:
                break
        return not is_any

    def _find(self, db: Connection, condition: Condition) -> bool:
        """Find the rows that cannot be read; whether that succeeded."""
        # Of no row: where that fails, it is no matter of rows.
        if self._trouble(db, []) is not None:
            return False
        text, parameters = self._without(self.unread.keys, condition)
        rows = db.execute(f"{self._keys} WHERE {text}".encode(), parameters).fetchall()
        keys = [str(key) for (key,) in rows]
        found: dict[str, str] = {}
        until = monotonic() + PATIENCE
        for key, reason in self._unreadable(db, keys):
            found[key] = reason
            if len(found) > MOST or monotonic() > until:
                return False
        for key, reason in found.items():
            self.unread.add(key, reason)
        return bool(found)

    def _unreadable(self, db: Connection, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Those among `keys`, and why."""
        parts = [keys]
        while parts:
            some = parts.pop()
            reason = self._trouble(db, some)
            if reason is not None and len(some) == 1:
                yield some[0], reason
            elif reason is not None:
                middle = len(some) // 2
                parts += [some[middle:], some[:middle]]

    def _trouble(self, db: Connection, keys: Sequence[str]) -> str | None:
        """Why the rows of these keys cannot be read; None if they can."""
        try:
            db.execute(self._try.encode(), (list(keys),))
        except psycopg.Error as error:
            if not is_of_a_row(error):
                raise
            return reason_of(error)
        return None
