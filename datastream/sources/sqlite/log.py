"""The change log: triggers that note the key of every row touched, by any program.

The log says only *which* keys were touched and in what order; what they hold now is read from
the table in the same statement. So a delete is a key without a row, nothing depends on any
clock, and a transaction shows wholly or not at all. Touching a row without changing it costs a
line in the log but is no news, because revisions are made from content.

``created`` is 1 in a line of a key that had no row before. The first line of a key after some
position says by it whether the key existed there.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from datastream.sources.sqlite.connection import schema_version, transaction
from datastream.sources.sqlite.layout import Layout, folded
from datastream.sources.sqlite.rows import Row
from datastream.sources.sqlite.schema import quote_identifier

KEPT = 100_000
"""Lines the log keeps; a reader that missed more gets the full state again."""


class Line(NamedTuple):
    """A place in the log: its number, and the random mark that tells it from one restored."""

    seq: int
    mark: int


class Touched(NamedTuple):
    """A key that was touched after some line."""

    key: Any
    created: bool
    """It had no row at that line."""
    row: Row
    """What it holds now; its key is None if it has no row."""


class ChangeLog:
    """The SQL of the log of one table."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        name = quote_identifier(layout.mark)
        # By the column's collation to use its index, then exactly.
        same = (
            f"t.{layout.column('key')} = l.key AND t.{layout.column('key')} = l.key COLLATE BINARY"
            if len(layout.keys) == 1
            else layout.is_key("l.key", "t")
        )
        self._changes = (
            f"SELECT l.key, l.created, {layout.fields('t')} "
            "FROM (SELECT key, max(seq) AS seq, min(seq * 2 + created) & 1 AS created "
            f"FROM {name} WHERE seq > ? GROUP BY key) AS l "
            f"LEFT JOIN {layout.name} AS t ON {same} "
            "WHERE typeof(l.key) IN ('text', 'integer') ORDER BY l.seq"
        )
        self._line = f"SELECT seq, mark FROM {name} WHERE seq = ?"
        self._newest = f"SELECT seq, mark FROM {name} ORDER BY seq DESC LIMIT 1"
        self._last = f"SELECT seq, mark FROM {name} ORDER BY seq DESC LIMIT ?"
        self._oldest = f"SELECT seq FROM {name} ORDER BY seq LIMIT 1"
        self._prune = f"DELETE FROM {name} WHERE seq <= (SELECT max(seq) FROM {name}) - {KEPT}"

    def epoch(self, db: sqlite3.Connection) -> str:
        """The epoch of what `install` made, "" if it cannot be trusted.

        After another program changed the schema it cannot: a trigger may have been missing for
        a while, and what happened then is not in the log. Neither can it in a file that was made
        from a dump, which may have been edited: dumps carry all but the rowid.
        """
        if not self._is_complete(db):
            return ""
        row = db.execute(
            "SELECT epoch, schema, rowid FROM _datastream WHERE log = ?", (self._layout.mark,)
        ).fetchone()
        is_sure = row and row[1:] == (schema_version(db), _rowid(row[0]))
        return str(row[0]) if is_sure else ""

    def install(self, db: sqlite3.Connection) -> None:
        """Make log and triggers where they are missing, and begin a new epoch."""
        with transaction(db):
            # Another thread or process may have installed it while this one waited for the lock.
            if not self.epoch(db):
                with schema_change(db):
                    self._make(db)
                self._begin_epoch(db)
        self.prune(db)

    def begin_epoch(self, db: sqlite3.Connection) -> None:
        """Have no position honoured that was given out until now."""
        with transaction(db):
            # Not over one that another program's change of the schema has ended.
            if self.epoch(db):
                self._begin_epoch(db)

    def uninstall(self, db: sqlite3.Connection) -> None:
        """Remove triggers and log; the table itself stays as it is."""
        with transaction(db), schema_change(db):
            remove(db, self._layout.mark)
        if not db.execute("SELECT 1 FROM _datastream").fetchone():
            db.execute("DROP TABLE _datastream")

    def changes(self, db: sqlite3.Connection, after: int) -> list[Touched]:
        """Every key touched since a line, in the order in which each was touched last."""
        shaped = self._layout.shaped
        found = db.execute(self._changes, (after,))
        return [Touched(r[0], bool(r[1]), shaped(r[2:])) for r in found]

    def last(self, db: sqlite3.Connection, count: int) -> list[tuple[int, int]]:
        """The newest lines, newest first."""
        return db.execute(self._last, (count,)).fetchall()

    def newest(self, db: sqlite3.Connection) -> Line:
        row = db.execute(self._newest).fetchone()
        return Line(*row) if row else START

    def has(self, db: sqlite3.Connection, line: Line) -> bool:
        """Whether this very line is still there, or nothing was cut off if it is the start."""
        if line == START:
            oldest = db.execute(self._oldest).fetchone()
            return oldest is None or oldest[0] == 1
        return bool(db.execute(self._line, (line.seq,)).fetchone() == line)

    def length(self, db: sqlite3.Connection) -> int:
        oldest = db.execute(self._oldest).fetchone()
        return self.newest(db).seq - int(oldest[0]) + 1 if oldest else 0

    def prune(self, db: sqlite3.Connection) -> None:
        db.execute(self._prune)

    def _is_complete(self, db: sqlite3.Connection) -> bool:
        """Whether log and triggers are there, and no trigger too many."""
        statements, prefix = set(self._statements()), f"{self._layout.mark}_"
        made = db.execute("SELECT name, sql FROM sqlite_master WHERE sql <> ''").fetchall()
        return statements <= {sql for _, sql in made} and all(
            sql in statements for name, sql in made if folded(name).startswith(prefix)
        )

    def _make(self, db: sqlite3.Connection) -> None:
        if self._is_complete(db):
            return
        _drop_triggers(db, self._layout.mark)
        for statement in self._statements():
            if statement.startswith("CREATE TABLE "):
                statement = statement.replace("TABLE", "TABLE IF NOT EXISTS", 1)  # noqa: PLW2901
            db.execute(statement)
        tables = {folded(name) for (name,) in db.execute("SELECT tbl_name FROM sqlite_master")}
        for mark in self._layout.former_marks & tables:
            remove(db, mark)

    def _begin_epoch(self, db: sqlite3.Connection) -> None:
        epoch = secrets.token_hex(4)
        db.execute(
            "INSERT OR REPLACE INTO _datastream (rowid, log, epoch, schema) VALUES (?, ?, ?, ?)",
            (_rowid(epoch), self._layout.mark, epoch, schema_version(db)),
        )

    def _statements(self) -> Iterator[str]:
        """Exactly as SQLite will have them in ``sqlite_master``."""
        # AUTOINCREMENT is not needed: the newest line is never deleted, so numbers only grow,
        # and without it a write touches one page less.
        yield (
            "CREATE TABLE _datastream "
            "(log TEXT PRIMARY KEY, epoch TEXT NOT NULL, schema INTEGER NOT NULL)"
        )
        mark = quote_identifier(self._layout.mark)
        columns = "seq INTEGER PRIMARY KEY, key NOT NULL, created NOT NULL, mark DEFAULT (random())"
        yield f"CREATE TABLE {mark} ({columns})"
        for event, body in self._triggers().items():
            name = quote_identifier(f"{self._layout.mark}_{event}")
            yield f"CREATE TRIGGER {name} {body}"

    def _triggers(self) -> dict[str, str]:
        """They name no column but the key in what they do: SQLite lets others drop those.

        Columns in ``UPDATE OF`` are no obstacle. They are why an update of other columns costs
        nothing.
        """
        layout = self._layout
        table, old, new = layout.name, layout.key("OLD"), layout.key("NEW")
        log = f"INSERT INTO {quote_identifier(layout.mark)} (key, created)"
        differs = self._differs()
        after = {
            "delete": f"AFTER DELETE ON {table} WHEN {old} IS NOT NULL "
            f"BEGIN {log} VALUES ({old}, 0); END",
            # All that a revision is made from: a watcher may expect the one it was given.
            "update": f"AFTER UPDATE{self._of(*layout.columns._fields)} ON {table} "
            f"WHEN {new} IS NOT NULL BEGIN {log} VALUES ({new}, {differs}); END",
            "rename": f"AFTER UPDATE{self._of('key')} ON {table} WHEN {old} IS NOT NULL AND "
            f"{differs} BEGIN {log} VALUES ({old}, 0); END",
        }
        return after | self._insert_triggers(log) | self._rival_triggers(log)

    def _of(self, *roles: str) -> str:
        """For which columns an update fires; for any, if one is computed from others."""
        names = self._layout.fires_on(*roles)
        return f" OF {', '.join(names)}" if names else ""

    def _differs(self) -> str:
        # Not by the column's own collation, to which "a" and "A" may be the same.
        return f"{self._layout.key('OLD')} IS NOT {self._layout.key('NEW')} COLLATE BINARY"

    def _insert_triggers(self, log: str) -> dict[str, str]:
        """What notes new keys, and the row of the same key that OR REPLACE removes before.

        SQLite fires no delete trigger for that one; without a line of its own, the insert that
        replaces it looks like a creation.
        """
        layout = self._layout
        table, key, new = layout.name, layout.key(), layout.key("NEW")
        columns = [quote_identifier(name) for name in layout.keys]
        equal = " AND ".join(f"{column} = NEW.{column} COLLATE BINARY" for column in columns)
        same = f"FROM {table} WHERE {equal}"
        replaced = f"{log} SELECT {key}, 0 {same}"
        rename = {
            "replace_rename": f"BEFORE UPDATE{self._of('key')} ON {table} "
            f"WHEN {self._differs()} BEGIN {replaced}; END"
        }
        if layout.verbatim:
            # One line for both: the key is known before the insert, which costs less.
            created = f"NOT EXISTS (SELECT 1 {same})"
            return rename | {
                "insert": f"BEFORE INSERT ON {table} WHEN {new} IS NOT NULL "
                f"BEGIN {log} VALUES ({new}, {created}); END"
            }
        insert = {
            "insert": f"AFTER INSERT ON {table} WHEN {new} IS NOT NULL "
            f"BEGIN {log} VALUES ({new}, 1); END"
        }
        if not layout.exact:
            # A rival covers it.
            return insert
        return (
            insert | rename | {"replace_insert": f"BEFORE INSERT ON {table} BEGIN {replaced}; END"}
        )

    def _rival_triggers(self, log: str) -> dict[str, str]:
        """Before OR REPLACE removes other rows, for which SQLite fires no delete trigger."""
        layout = self._layout
        table, key = layout.name, layout.key()
        triggers = {}
        for number, unique in enumerate(layout.rivals):
            rival = f"FROM {table} WHERE {unique.same_row()} AND {key} IS NOT NULL"
            note = f"BEGIN {log} SELECT {key}, 0 {rival}"
            # The row that is updated is no rival of its own.
            other = f"AND {key} IS NOT {layout.key('OLD')} COLLATE BINARY"
            triggers[f"rival{number}_insert"] = f"BEFORE INSERT ON {table} {note}; END"
            triggers[f"rival{number}_update"] = f"BEFORE UPDATE ON {table} {note} {other}; END"
        return triggers


START = Line(0, 0)
"""The place before the first line."""


def _rowid(epoch: str) -> int | None:
    """The rowid of the record of an epoch; None if `epoch` was made by an earlier version."""
    try:
        # Larger than any that SQLite gives by itself.
        return (1 << 32) + int(epoch, 16)
    except ValueError:
        return None


@contextmanager
def schema_change(db: sqlite3.Connection) -> Iterator[None]:
    """Keep the logs of other tables trusted: this change is our own."""
    before = schema_version(db)
    yield
    db.execute("UPDATE _datastream SET schema = ? WHERE schema = ?", (schema_version(db), before))


def remove(db: sqlite3.Connection, mark: str, *, has_records: bool = True) -> None:
    """Remove the log and the triggers of that name, as SQLite compares names.

    Args:
        has_records: there is a table of the epochs.
    """
    _drop_triggers(db, mark)
    db.execute(f"DROP TABLE IF EXISTS {quote_identifier(mark)}")
    if has_records:
        db.execute("DELETE FROM _datastream WHERE log = ? COLLATE NOCASE", (mark,))


def _drop_triggers(db: sqlite3.Connection, mark: str) -> None:
    names = db.execute(
        "SELECT name FROM sqlite_master "
        "WHERE type = 'trigger' AND substr(name, 1, ?) = ? COLLATE NOCASE",
        (len(mark) + 1, f"{mark}_"),
    ).fetchall()
    for (name,) in names:
        db.execute(f"DROP TRIGGER {quote_identifier(name)}")
