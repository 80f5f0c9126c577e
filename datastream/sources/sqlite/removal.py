"""The change log of a table removed, for any columns, also when the table has gone."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing, nullcontext

from datastream.errors import DatastreamError
from datastream.sources.sqlite.connection import connect, file_id, transaction, translated
from datastream.sources.sqlite.layout import folded, stored_name
from datastream.sources.sqlite.log import remove, schema_change
from datastream.sources.sqlite.schema import table_names


def uninstall(path: str, table: str, timeout: float) -> None:
    """Remove triggers and logs of `table`; the table itself stays as it is.

    Raises:
        SourceUnavailable: no file at `path`, or another program holds a lock.
        DatastreamError: there is neither such a table nor anything left of one.
    """
    where = f"{path}, table {table!r}"
    file_id(path)
    try:
        with closing(connect(path, "rw", timeout)) as db, transaction(db):
            marks = _marks(db, table)
            if not marks and stored_name(db, table) is None:
                names = [name for name in table_names(db) if not name.startswith("_datastream")]
                raise DatastreamError(
                    f"{where}: no such table, and nothing is left of one; it has "
                    f"{', '.join(names) or 'none'}: name one with table="
                )
            _remove(db, marks)
    except sqlite3.Error as error:
        raise translated(error, where) from error


def _marks(db: sqlite3.Connection, table: str) -> set[str]:
    """By which the names of what is installed for a table begin."""
    log = re.compile(rf"_datastream_{re.escape(folded(table))}_[0-9a-f]{{8}}")
    trigger = re.compile(r"(_datastream_.*_[0-9a-f]{8})_")
    marks = {folded(name) for name in table_names(db) if log.fullmatch(folded(name))}
    rows = db.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'")
    for name, of in rows:
        found = trigger.match(folded(name)) if folded(of) == folded(table) else None
        # Of a table that was renamed, they have the name of before.
        marks |= {found[1]} if found else set()
    return marks


def _remove(db: sqlite3.Connection, marks: set[str]) -> None:
    # Somebody may have dropped it.
    has_records = stored_name(db, "_datastream") is not None
    with schema_change(db) if has_records else nullcontext():
        for mark in marks:
            remove(db, mark, has_records=has_records)
    if has_records and not db.execute("SELECT 1 FROM _datastream").fetchone():
        db.execute("DROP TABLE _datastream")
