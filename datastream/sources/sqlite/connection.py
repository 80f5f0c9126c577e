"""Connections to an SQLite file, and what SQLite's errors mean for a store."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


def connect(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    """A connection without implicit transactions; `mode` is SQLite's ro, rw or rwc."""
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    # Text written by other programs need not be UTF-8; it must not break everybody's reading.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


def make_durable(connection: sqlite3.Connection, *, new: bool) -> None:
    """WAL for a file of our own; whoever made the file decides for all others.

    In WAL mode NORMAL keeps every commit through a crash of any process; in the older modes
    only FULL does.
    """
    if new:
        connection.execute("PRAGMA journal_mode=wal")
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    connection.execute(f"PRAGMA synchronous={'NORMAL' if mode == 'wal' else 'FULL'}")


def data_version(connection: sqlite3.Connection) -> int:
    """A number that moves when another connection, of whatever process, has committed."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def schema_version(connection: sqlite3.Connection) -> int:
    """A number that moves when a table, trigger or view is made or dropped."""
    return int(connection.execute("PRAGMA schema_version").fetchone()[0])


def file_id(path: Path) -> FileId:
    """Which file is at `path` now.

    Raises:
        SourceUnavailable: none.
    """
    try:
        # Before every access, so not through pathlib, which takes three times as long.
        stat = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise SourceUnavailable(f"{path} is not there: {error.strerror}; bring it back") from error
    return stat.st_dev, stat.st_ino


@contextmanager
def moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Several reads of one state."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # A disk that fails has ended it already; its error is the one to see.
        if connection.in_transaction:
            connection.execute("COMMIT")


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


def explain(error: sqlite3.Error, where: str, key: str | None = None) -> DatastreamError:
    """The error to raise instead: what failed, on what, what to do."""
    # Extended codes carry the primary one in their low byte.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    kind, advice = _MEANINGS.get(code, (DatastreamError, "see SQLite's message"))
    place = f"{where}, key {shown(key)}" if key is not None else where
    return kind(f"{place}: {error}; {advice}")


_MEANINGS: dict[int, tuple[type[DatastreamError], str]] = {
    sqlite3.SQLITE_BUSY: (
        SourceUnavailable,
        "another program holds the lock: end its transaction, or raise timeout=",
    ),
    sqlite3.SQLITE_LOCKED: (SourceUnavailable, "another connection holds the lock; retry"),
    sqlite3.SQLITE_CANTOPEN: (SourceUnavailable, "check that path and permissions are right"),
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
