"""The change log: triggers that note the key of every row touched, by whichever program.

The log says only *which* keys were touched and in what order; what they hold now is read from
the table in the same statement. So a delete is a key without a row, nothing depends on any
clock, and a transaction shows wholly or not at all. Touching a row without changing it costs a
line in the log but is no news, because revisions are made from content.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlite_utils.db import quote_identifier

from datastream.sources.sqlite.connection import schema_version, transaction
from datastream.sources.sqlite.layout import Layout
from datastream.sources.sqlite.rows import Row

KEPT = 100_000
"""Lines the log keeps; a reader that missed more gets the full state again."""


class Line(NamedTuple):
    """A place in the log: its number, and the random mark that tells it from one restored."""

    seq: int
    mark: int


class ChangeLog:
    """The log of one table on one connection."""

    def __init__(self, connection: sqlite3.Connection, layout: Layout) -> None:
        self._db = connection
        self._layout = layout
        name = quote_identifier(layout.mark)
        key = layout.column("key")
        self._changes = (
            f"SELECT l.seq, l.key, {layout.fields('t')} "
            f"FROM (SELECT key, max(seq) AS seq FROM {name} WHERE seq > ? GROUP BY key) AS l "
            # Twice: by the column's collation to use its index, then exactly.
            f"LEFT JOIN {layout.name} AS t ON t.{key} = l.key AND t.{key} = l.key COLLATE BINARY "
            "WHERE typeof(l.key) IN ('text', 'integer') ORDER BY l.seq"
        )
        self._line = f"SELECT seq, mark FROM {name} WHERE seq = ?"
        self._newest = f"SELECT seq, mark FROM {name} ORDER BY seq DESC LIMIT 1"
        self._oldest = f"SELECT seq FROM {name} ORDER BY seq LIMIT 1"
        self._prune = f"DELETE FROM {name} WHERE seq <= (SELECT max(seq) FROM {name}) - {KEPT}"
        self.epoch = ""

    def attach(self) -> bool:
        """Find what `install` made, and its epoch; False if it cannot be trusted.

        After another program changed the schema it cannot: a trigger may have been missing for
        a while, and what happened then is not in the log.
        """
        if not self._is_complete():
            return False
        row = self._db.execute(
            "SELECT epoch, schema FROM _datastream WHERE log = ?", (self._layout.mark,)
        ).fetchone()
        self.epoch = row[0] if row else ""
        return row is not None and row[1] == schema_version(self._db)

    def install(self) -> None:
        """Make log and triggers where they are missing, and begin a new epoch."""
        with transaction(self._db):
            # Another process may have installed it while this one waited for the lock.
            if not self.attach():
                with self._schema_change():
                    self._make()
                self._begin_epoch()
        self.prune()

    def uninstall(self) -> None:
        """Remove triggers and log; the table itself stays as it is."""
        with transaction(self._db), self._schema_change():
            self._drop_triggers()
            self._db.execute(f"DROP TABLE IF EXISTS {quote_identifier(self._layout.mark)}")
            self._db.execute("DELETE FROM _datastream WHERE log = ?", (self._layout.mark,))
        if not self._db.execute("SELECT 1 FROM _datastream").fetchone():
            self._db.execute("DROP TABLE _datastream")

    def _is_complete(self) -> bool:
        sql = {sql for (sql,) in self._db.execute("SELECT sql FROM sqlite_master WHERE sql <> ''")}
        return sql.issuperset(self._statements())

    def _make(self) -> None:
        if self._is_complete():
            return
        self._drop_triggers()
        for statement in self._statements():
            if statement.startswith("CREATE TABLE "):
                statement = statement.replace("TABLE", "TABLE IF NOT EXISTS", 1)  # noqa: PLW2901
            self._db.execute(statement)

    def _begin_epoch(self) -> None:
        self.epoch = secrets.token_hex(4)
        self._db.execute(
            "INSERT OR REPLACE INTO _datastream (log, epoch, schema) VALUES (?, ?, ?)",
            (self._layout.mark, self.epoch, schema_version(self._db)),
        )

    @contextmanager
    def _schema_change(self) -> Iterator[None]:
        """Keep the trust of the logs of other tables: this change is our own."""
        before = schema_version(self._db)
        yield
        self._db.execute(
            "UPDATE _datastream SET schema = ? WHERE schema = ?",
            (schema_version(self._db), before),
        )

    def changes(self, after: int) -> list[tuple[int, str, Row]]:
        """Sequence number, key and row (its key None if deleted) of each key touched since."""
        return [(row[0], row[1], row[2:]) for row in self._db.execute(self._changes, (after,))]

    def newest(self) -> Line:
        row = self._db.execute(self._newest).fetchone()
        return Line(*row) if row else START

    def has(self, line: Line) -> bool:
        """Whether this very line is still there, or nothing was cut off if it is the start."""
        if line == START:
            oldest = self._db.execute(self._oldest).fetchone()
            return oldest is None or oldest[0] == 1
        return bool(self._db.execute(self._line, (line.seq,)).fetchone() == line)

    def length(self) -> int:
        oldest = self._db.execute(self._oldest).fetchone()
        return self.newest().seq - oldest[0] + 1 if oldest else 0

    def prune(self) -> None:
        self._db.execute(self._prune)

    def _drop_triggers(self) -> None:
        for event in self._triggers():
            name = quote_identifier(f"{self._layout.mark}_{event}")
            self._db.execute(f"DROP TRIGGER IF EXISTS {name}")

    def _statements(self) -> Iterator[str]:
        """Exactly as SQLite will have them in ``sqlite_master``."""
        # AUTOINCREMENT is not needed: the newest line is never deleted, so numbers only grow,
        # and without it a write touches one page less.
        yield (
            "CREATE TABLE _datastream "
            "(log TEXT PRIMARY KEY, epoch TEXT NOT NULL, schema INTEGER NOT NULL)"
        )
        mark = quote_identifier(self._layout.mark)
        columns = "seq INTEGER PRIMARY KEY, key NOT NULL, mark DEFAULT (random())"
        yield f"CREATE TABLE {mark} ({columns})"
        for event, body in self._triggers().items():
            name = quote_identifier(f"{self._layout.mark}_{event}")
            yield f"CREATE TRIGGER {name} {body}"

    def _triggers(self) -> dict[str, str]:
        layout = self._layout
        table, key = layout.name, layout.column("key")
        log = f"INSERT INTO {quote_identifier(layout.mark)} (key)"
        after = {
            "insert": f"AFTER INSERT ON {table} WHEN NEW.{key} IS NOT NULL "
            f"BEGIN {log} VALUES (NEW.{key}); END",
            "delete": f"AFTER DELETE ON {table} WHEN OLD.{key} IS NOT NULL "
            f"BEGIN {log} VALUES (OLD.{key}); END",
            "update": f"AFTER UPDATE ON {table} WHEN NEW.{key} IS NOT NULL AND "
            f"({self._changed()}) BEGIN {log} VALUES (NEW.{key}); END",
            "rename": f"AFTER UPDATE OF {key} ON {table} WHEN OLD.{key} IS NOT NULL AND "
            f"{_differs(key)} BEGIN {log} VALUES (OLD.{key}); END",
        }
        return after | self._rival_triggers(log)

    def _rival_triggers(self, log: str) -> dict[str, str]:
        """Before OR REPLACE removes other rows, for which SQLite fires no delete trigger."""
        table, key = self._layout.name, self._layout.column("key")
        triggers = {}
        for number, unique in enumerate(self._layout.rivals):
            body = (
                f"{log} SELECT {key} FROM {table} WHERE {unique.same_row()} AND {key} IS NOT NULL"
            )
            for event in ("INSERT", "UPDATE"):
                triggers[f"rival{number}_{event.lower()}"] = (
                    f"BEFORE {event} ON {table} BEGIN {body}; END"
                )
        return triggers

    def _changed(self) -> str:
        columns = self._layout.columns
        value = self._layout.column("value")
        # All that a revision is made from: whoever was told one may expect it.
        roles = [role for role in columns._fields if getattr(columns, role)]
        differs = [_differs(self._layout.column(role)) for role in roles]
        return " OR ".join([*differs, f"typeof(OLD.{value}) <> typeof(NEW.{value})"])


START = Line(0, 0)
"""The place before the first line."""


def _differs(column: str) -> str:
    # Not by the column's own collation, to which "a" and "A" may be the same.
    return f"OLD.{column} IS NOT NEW.{column} COLLATE BINARY"
