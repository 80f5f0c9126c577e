"""A table or view of SQLite as a source."""

from datastream.sources.sqlite.restore import restore
from datastream.sources.sqlite.source import SqliteSource, open_sqlite, uninstall_sqlite

__all__ = [
    "SqliteSource",
    "open_sqlite",
    "restore",
    "uninstall_sqlite",
]
