"""The content of one file in place of another's, without a moment in which either is half there."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from time import monotonic

from datastream.errors import DatastreamError, SourceUnavailable
from datastream.sources.sqlite.connection import (
    Connection,
    connect,
    file_id,
    is_wal,
    make_durable,
    translated,
)

TIMEOUT = 5.0
"""Seconds to wait for other programs' locks."""
RETRY = 0.05
"""Seconds between two attempts to get a lock."""


def restore(new: str | Path, target: str | Path, *, timeout: float = TIMEOUT) -> None:
    """Put the content of `new` in place of that of `target`, which other programs may have open.

    All of it in one transaction, by SQLite's backup interface: every program sees the old or the
    new content, and watchers are offered the difference. A file that is copied or moved over an
    open database instead leaves the write-ahead log of the one before beside it, and SQLite
    applies that to the new one.

    Args:
        new: a database; it stays as it is.
        target: another one, made if it is missing.
        timeout: seconds to wait for other programs' locks.

    Raises:
        SourceUnavailable: there is no `new`, or another program holds a lock; nothing is changed.
        DatastreamError: `new` is no database or is damaged, or `target` cannot take it; likewise.
    """
    source, place = os.fspath(new), os.fspath(target)
    if _is_same(source, place):
        raise DatastreamError(f"{source} and {place} are the same file; name two")
    about = source
    try:
        with closing(connect(source, "ro", timeout)) as origin:
            _check_sound(origin, source)
            about = place
            with closing(connect(place, "rwc", timeout)) as goal:
                _check_pages(origin, goal, source, place)
                _copy(origin, goal, place, timeout)
    except sqlite3.Error as error:
        raise translated(error, about) from error


def _is_same(source: str, place: str) -> bool:
    found = file_id(source)
    try:
        return found == file_id(place)
    except SourceUnavailable:
        return False


def _check_sound(origin: Connection, source: str) -> None:
    found = origin.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        what = str(found).splitlines()[-1]
        raise DatastreamError(f"{source} is damaged: {what}; take another backup")


def _check_pages(origin: Connection, goal: Connection, source: str, place: str) -> None:
    """A database in WAL mode cannot change the size of its pages."""
    is_new = goal.execute("PRAGMA page_count").fetchone()[0] == 0
    if is_new:
        make_durable(goal, new=True)
    sizes = [db.execute("PRAGMA page_size").fetchone()[0] for db in (origin, goal)]
    if sizes[0] != sizes[1] and is_wal(goal) and not is_new:
        raise DatastreamError(
            f"{source} has pages of {sizes[0]} bytes, {place} of {sizes[1]}, which cannot change "
            f"in WAL mode; on {source}, run "
            f"`PRAGMA journal_mode=delete; PRAGMA page_size={sizes[1]}; VACUUM`"
        )


def _copy(origin: Connection, goal: Connection, place: str, timeout: float) -> None:
    until = monotonic() + timeout

    def check(status: int, _remaining: int, _pages: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and monotonic() >= until:
            raise SourceUnavailable(
                f"{place}: another program holds the lock; end its transaction, or wait longer; "
                "nothing was changed"
            )

    # It would wait for a lock for ever.
    origin.backup(goal, progress=check, sleep=RETRY)
