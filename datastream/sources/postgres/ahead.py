"""A question that is sent as soon as a notification arrives, before anybody asks it.

While the server works on the answer, this side gets as far as to want it: the store's poller wakes
up, and asks what changed since the position that it had last.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.adapt import Transformer

_NAME = b"ahead"
_BINARY = psycopg.pq.Format.BINARY


class Question(NamedTuple):
    """A statement, and its parameters as text."""

    statement: bytes
    parameters: tuple[bytes, ...]


class Ahead:
    """Asks on `db`, which is used for nothing else before the answer was taken."""

    def __init__(self, db: psycopg.Connection[Any]) -> None:
        self._db = db
        self._prepared: bytes | None = None
        self._asked: Question | None = None

    def prepare(self, statement: bytes) -> None:
        """Have the server plan what will be asked; only what comes first.

        Raises:
            psycopg.Error: the connection is lost.
        """
        if self._prepared is None:
            result = self._db.pgconn.prepare(_NAME, statement)
            # What it does not understand is not asked ahead: who asks will be told why.
            understood = result.status == psycopg.pq.ExecStatus.COMMAND_OK
            self._prepared = statement if understood else b""

    def ask(self, question: Question) -> None:
        """Send it.

        Raises:
            psycopg.Error: the connection is lost.
        """
        if question.statement != self._prepared:
            return
        pgconn = self._db.pgconn
        pgconn.send_query_prepared(_NAME, question.parameters, result_format=_BINARY)
        pgconn.flush()
        self._asked = question

    def forget(self) -> None:
        """Free the connection of what was asked and is not wanted.

        Raises:
            psycopg.Error: the connection is lost.
        """
        if self._asked is not None:
            self.answer(None)

    def answer(self, question: Question | None) -> Sequence[Any] | None:
        """The rows, as a binary cursor's; None if something else was asked, or failed.

        Raises:
            psycopg.Error: the connection is lost.
        """
        asked, self._asked = self._asked, None
        if asked is None:
            return None
        result = self._result()
        if asked != question or result.status != psycopg.pq.ExecStatus.TUPLES_OK:
            return None
        loads = Transformer(self._db)
        loads.set_pgresult(result)
        return loads.load_rows(0, result.ntuples, tuple)

    def _result(self) -> psycopg.pq.abc.PGresult:
        pgconn = self._db.pgconn
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        while pgconn.flush() or pgconn.is_busy():
            poll.poll()
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            raise psycopg.OperationalError("the server has not answered")
        while pgconn.get_result() is not None:
            pass
        return result
