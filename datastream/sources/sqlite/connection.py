"""Connections to an SQLite file, and what SQLite's errors mean for a store."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote

from datastream.errors import (
    DatastreamError,
    Denied,
    InvalidKey,
    InvalidValue,
    ReadOnly,
    SourceUnavailable,
    shown,
)

FileId = tuple[int, int]
"""Device and inode: another one at the same path is another database."""

UNKNOWN = -1
"""No schema has this number."""
LONGEST_WAIT = 0.05
"""Seconds that SQLite may wait for a lock by itself: neither Ctrl-C nor `close` ends that."""
RETRY = 0.005
"""Seconds between attempts to get a lock, or to read a file that is being written."""
IMMUTABLE = "ro&immutable=1"
"""The mode for a file that nobody can write: no locks, and no files beside it."""


class Outdated(SourceUnavailable):
    """The file or its schema is not the one that was looked up; look it up again."""


class Connection(sqlite3.Connection):
    """A connection that waits for other programs' locks, and knows its statements' schema."""

    compiled: Compiled
    """For which schema its statements were compiled."""
    is_durable = False
    """`make_durable` was called."""
    timeout = 0.0
    """Seconds to wait for another program's lock."""
    is_outdated = False
    """It was to be closed while a thread used it: what waits for a lock gives up."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As in `sqlite3`, but Ctrl-C and `is_outdated` end the wait for a lock.

        Raises:
            Outdated: it was to be closed meanwhile.
        """
        try:
            return _execute(self, sql, parameters)
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or self.timeout <= LONGEST_WAIT:
                raise
        until = monotonic() + self.timeout - LONGEST_WAIT
        while True:
            if self.is_outdated:
                raise Outdated("the file was closed meanwhile; retry")
            sleep(RETRY)
            try:
                return _execute(self, sql, parameters)
            except sqlite3.OperationalError as error:
                if not _is_locked(error) or monotonic() >= until:
                    raise


class Compiled:
    """The schema for which all statements of a connection were compiled.

    SQLite compiles a cached statement again, unseen, when the schema changed. It asks the
    authorizer each time; so a caller that compares `schema` afterwards finds out for free.
    """

    __slots__ = ("schema",)

    def __init__(self) -> None:
        self.schema = UNKNOWN

    def authorize(self, *_: object) -> int:
        """Allow everything; what is being compiled may be for another schema."""
        self.schema = UNKNOWN
        return sqlite3.SQLITE_OK


def lenient(raw: bytes) -> str:
    """Text as other programs wrote it, which need not be UTF-8: it must not break reading."""
    return raw.decode("utf-8", "surrogateescape")


def connect(path: str, mode: str, timeout: float) -> Connection:
    """A connection without implicit transactions; `mode` is ro, rw or rwc, or `IMMUTABLE`."""
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=min(timeout, LONGEST_WAIT),
        isolation_level=None,
        check_same_thread=False,
        factory=Connection,
    )
    connection.timeout = timeout
    connection.text_factory = lenient
    # Not a method of the connection: that would be a cycle, which keeps files open.
    connection.compiled = compiled = Compiled()
    connection.set_authorizer(compiled.authorize)
    return connection


def make_durable(connection: Connection, *, new: bool) -> None:
    """Choose WAL for a new file; an existing one keeps its journal mode.

    In WAL mode NORMAL keeps every commit through a crash of any process; in the older modes
    only FULL does.
    """
    if new:
        connection.execute("PRAGMA journal_mode=wal")
    synchronous = "NORMAL" if is_wal(connection) else "FULL"
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.is_durable = True


def is_wal(connection: Connection) -> bool:
    """Whether the file has a write-ahead log, and no rollback journal."""
    return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def data_version(connection: sqlite3.Connection) -> int:
    """A number that moves when another connection, of any process, has committed."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def schema_version(connection: sqlite3.Connection) -> int:
    """A number that moves when a table, trigger or view is made or dropped."""
    return int(connection.execute("PRAGMA schema_version").fetchone()[0])


def file_id(path: str) -> FileId:
    """Which file is at `path` now.

    Raises:
        SourceUnavailable: no file at `path`.
    """
    stat = file_stat(path)
    return stat.st_dev, stat.st_ino


def file_stat(path: str) -> os.stat_result:
    """What the system knows of the file at `path`.

    Raises:
        SourceUnavailable: no file at `path`.
    """
    try:
        # Before every access, so not through pathlib, which takes three times as long.
        return os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise SourceUnavailable(f"{path} is not there: {error.strerror}; bring it back") from error


@contextmanager
def moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Several reads of one state."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # A failing disk has ended it already; its error is the one to raise.
        if connection.in_transaction:
            _end(connection)


def _end(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        # It has ended, and tells that a page was broken, though all that was wanted could be read.
        if _code(error) != sqlite3.SQLITE_CORRUPT or connection.in_transaction:
            raise


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, holding the write lock from the start: what was read stays true."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk or a trigger's RAISE(ROLLBACK) has ended it already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds the lock."""
    return _code(error) == sqlite3.SQLITE_BUSY


def _is_locked(error: sqlite3.OperationalError) -> bool:
    """Whether the same statement may succeed later: not if what was read before is too old."""
    return getattr(error, "sqlite_errorcode", None) in _LOCKED


def cannot_open(error: sqlite3.Error) -> bool:
    """Whether the file, or one that SQLite needs beside it, cannot be opened."""
    return _code(error) == sqlite3.SQLITE_CANTOPEN


def is_about_sql(error: sqlite3.Error) -> bool:
    """Whether a statement does not fit the schema, such as for a column that is gone."""
    return _code(error) == sqlite3.SQLITE_ERROR


def is_of_rows(error: sqlite3.Error) -> bool:
    """Whether a read may have failed because of what is in a row, or is made of it."""
    return _code(error) in _OF_ROWS


def is_io(error: sqlite3.Error) -> bool:
    """Whether a file could not be read or written, be it the database or one beside it."""
    return _code(error) == sqlite3.SQLITE_IOERR


def is_of_pages(error: sqlite3.Error) -> bool:
    """Whether a call failed because of what was read from the file."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def translated(error: sqlite3.Error, where: str, key: str | None = None) -> DatastreamError:
    """The error to raise instead: what failed, on what, what to do."""
    meaning = _UNFINISHED if _extended_code(error) in _CUT_OFF else _MEANINGS.get(_code(error))
    kind, advice = meaning or (DatastreamError, "see SQLite's message")
    place = f"{where}, key {shown(key)}" if key is not None else where
    return kind(f"{place}: {error}; {advice}")


def _code(error: sqlite3.Error) -> int:
    # Extended codes carry the primary one in their low byte.
    return _extended_code(error) & 0xFF


def _extended_code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR))


_execute = sqlite3.Connection.execute
_OF_ROWS = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY)
_CUT_OFF = (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY)
_UNFINISHED = (
    SourceUnavailable,
    "a program was ended in the middle of a transaction; who opens the file for writing takes "
    "that back",
)

_MEANINGS: dict[int, tuple[type[DatastreamError], str]] = {
    sqlite3.SQLITE_BUSY: (
        SourceUnavailable,
        "another program holds the lock: end its transaction, or raise timeout=",
    ),
    sqlite3.SQLITE_LOCKED: (SourceUnavailable, "another connection holds the lock; retry"),
    sqlite3.SQLITE_CANTOPEN: (
        SourceUnavailable,
        "check path, permissions, and how many files may be open",
    ),
    sqlite3.SQLITE_IOERR: (SourceUnavailable, "check the disk"),
    sqlite3.SQLITE_FULL: (SourceUnavailable, "the disk is full: make room and retry"),
    sqlite3.SQLITE_NOMEM: (SourceUnavailable, "out of memory; retry"),
    sqlite3.SQLITE_SCHEMA: (SourceUnavailable, "the table was changed meanwhile; retry"),
    sqlite3.SQLITE_NOTADB: (DatastreamError, "this file is no SQLite database; name another"),
    sqlite3.SQLITE_CORRUPT: (DatastreamError, "restore the file from a backup"),
    sqlite3.SQLITE_READONLY: (ReadOnly, "open a writable file, or do not write"),
    sqlite3.SQLITE_PERM: (Denied, "check the permissions"),
    sqlite3.SQLITE_AUTH: (Denied, "check the permissions"),
    sqlite3.SQLITE_CONSTRAINT: (InvalidValue, "the table refuses this row; nothing was written"),
    sqlite3.SQLITE_TOOBIG: (InvalidValue, "the value is too large for SQLite"),
    sqlite3.SQLITE_MISMATCH: (InvalidKey, "the key column takes integers only"),
    sqlite3.SQLITE_ERROR: (DatastreamError, "check table and columns"),
}
