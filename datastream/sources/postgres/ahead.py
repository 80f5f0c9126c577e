"""A question that is sent as soon as a notification arrives, by the thread that waits for those.

What it is was worked out, and analysed by the server, before.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import psycopg
from psycopg.adapt import Transformer

PATIENCE = 1.0
"""Seconds without anything from the server after which an answer is not waited for."""

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
        self._loads = Transformer(db)
        self._prepared: bytes | None = None
        self._is_asked = False

    def prepare(self, statement: bytes) -> bool:
        """Have the server analyse what will be asked; only what comes first.

        Returns:
            Whether that was done just now.

        Raises:
            psycopg.Error: the connection is lost.
        """
        if self._prepared is not None:
            return False
        result = self._db.pgconn.prepare(_NAME, statement)
        # What it does not understand is not asked ahead: who asks will be told why.
        understood = result.status == psycopg.pq.ExecStatus.COMMAND_OK
        self._prepared = statement if understood else b""
        return understood

    def ask(self, question: Question) -> Sequence[Any] | None:
        """The rows of the answer, as a binary cursor's.

        None if the server has not analysed that question, fails, or takes long: who asks in turn
        finds out why, or waits.

        Raises:
            psycopg.Error: the connection is lost.
        """
        if question.statement != self._prepared:
            return None
        self._db.pgconn.send_query_prepared(_NAME, question.parameters, result_format=_BINARY)
        self._is_asked = True
        return self._rows() if self._is_answered(PATIENCE) else None

    def forget(self) -> None:
        """Free the connection of what was asked, once that is answered.

        Raises:
            psycopg.Error: the connection is lost.
        """
        if self._is_asked:
            self._is_answered(None)
            self._result()

    def _is_answered(self, patience: float | None) -> bool:
        pgconn = self._db.pgconn
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        while pgconn.flush() or pgconn.is_busy():
            if not poll.poll(None if patience is None else ceil(patience * 1000)):
                return False
            pgconn.consume_input()
        return True

    def _rows(self) -> Sequence[Any] | None:
        result = self._result()
        if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
            return None
        self._loads.set_pgresult(result)
        rows = self._loads.load_rows(0, result.ntuples, tuple)
        self._loads.set_pgresult(None)
        return rows

    def _result(self) -> psycopg.pq.abc.PGresult:
        self._is_asked = False
        pgconn = self._db.pgconn
        result = pgconn.get_result()
        if result is None:
            raise psycopg.OperationalError("the server has not answered")
        while pgconn.get_result() is not None:
            pass
        return result
