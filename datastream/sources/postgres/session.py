"""One connection with all that was looked up on it; made anew when any of it has changed."""

from __future__ import annotations

from typing import NamedTuple

import psycopg

from datastream.selection import Selects
from datastream.source import Reading
from datastream.sources.postgres.changes import (
    ChangedRows,
    Installed,
    catalogue_marks,
    look_up,
)
from datastream.sources.postgres.connection import Connection, is_pooled
from datastream.sources.postgres.history import History
from datastream.sources.postgres.layout import Columns, Layout, find_layout
from datastream.sources.postgres.listener import Listener
from datastream.sources.postgres.log import (
    Names,
    install_statements,
    marks,
    run,
    uninstall_statements,
)
from datastream.sources.postgres.states import ComparedRows
from datastream.sources.postgres.table import RowTable

PROBE = 1.0
"""Seconds a notification has to pass through a pooler."""
POLL = "poll"
_REMEDY = "have its owner run: datastream postgres install URL"


class Wishes(NamedTuple):
    """What was asked for: the options of a `PostgresSource`."""

    table: str
    schema: str
    columns: Columns
    mode: str
    triggers: bool
    kept: tuple[int, float] | None
    """Rows and days of history."""

    def history(self, layout: Layout) -> History | None:
        return History(layout, *self.kept) if self.kept else None


class Session:
    """A connection to the server and the relation found on it.

    Args:
        trusted: the table that had triggers when it was last looked at. Gone meanwhile, they
            were removed on purpose.
    """

    def __init__(
        self,
        db: Connection,
        wishes: Wishes,
        where: str,
        listener: Listener,
        trusted: int | None = None,
    ) -> None:
        self.db = db
        self.layout = find_layout(db, wishes.schema, wishes.table, wishes.columns, where)
        self.table = RowTable(db, self.layout, where)
        self._marks = self._look_up_marks()
        self.busy = False
        """The log could not be made only because others were writing."""
        self._wishes = wishes
        self._listener = listener
        self.installed, self.obstacle = self._find_log(trusted)
        self.rows: ChangedRows | ComparedRows
        if self.installed is None:
            self.rows = ComparedRows(db, self.layout, self.table)
        else:
            self.rows = ChangedRows(db, self.layout, self.table, _server(db), self.installed)

    @property
    def channel(self) -> str:
        """What to listen to; "" where nothing notifies."""
        return self.layout.mark if self.installed is not None else ""

    def read(self, selection: Selects, since: str | None) -> Reading:
        if isinstance(self.rows, ComparedRows):
            return self.rows.read(selection, since)
        changes = self.rows.changes(since) if since is not None else None
        return changes or self.rows.read(selection)

    def is_current(self) -> bool:
        """Whether table and triggers are as they were found."""
        return self._look_up_marks() == self._marks

    def _look_up_marks(self) -> object:
        row = self.db.execute(f"SELECT {catalogue_marks(self.layout.oid)}".encode()).fetchone()
        return row and row[0]

    def prune(self) -> None:
        """Cut the log, if this role may."""
        if self.installed is not None and self.layout.owns:
            self.db.execute(f"SELECT {Names.of(self.layout).prune}".encode())

    def _find_log(self, trusted: int | None) -> tuple[Installed | None, str]:
        """What is installed, or why nothing is or can be used."""
        obstacle = self._obstacle()
        if obstacle:
            return None, obstacle
        found = look_up(self.db, self.layout)
        wanted = self._wishes.history(self.layout)
        if found is not None and (wanted is None or wanted.form == found.history):
            return found, ""
        if not (self._wishes.triggers and self.layout.owns):
            reason = "triggers=False" if self.layout.owns else f"it is another role's; {_REMEDY}"
            return found, "" if found else f"it has no triggers of ours ({reason})"
        if found is None and trusted == self.layout.oid:
            return None, "its triggers were removed; to have them again, open it anew"
        return self._try_install(found, wanted)

    def _obstacle(self) -> str:
        """Why the log would be of no use."""
        if self._wishes.mode == POLL:
            return "mode=poll"
        if self.layout.obstacle:
            return self.layout.obstacle
        if self.db.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
            return "the server is a replica"
        if is_pooled(self.db) and not self._listener.hears(self.layout.mark, self.db, PROBE):
            return "notifications do not pass the pooler (PgBouncer in transaction mode?)"
        return ""

    def _try_install(
        self, found: Installed | None, history: History | None
    ) -> tuple[Installed | None, str]:
        try:
            run(self.db, self.layout, self.install_statements(history))
        except psycopg.errors.LockNotAvailable:
            self.busy = True
            return found, "" if found else "it is being written; triggers are tried again"
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as e:
            reason = str(e.diag.message_primary)
            return found, "" if found else f"triggers cannot be made: {reason}; {_REMEDY}"
        found = look_up(self.db, self.layout)
        return found, "" if found else "its triggers were removed as soon as they were made"

    def install_statements(self, history: History | None) -> list[str]:
        """All that makes the log; what is there already is replaced."""
        present = [mark for mark in marks(self.db, self.layout) if mark == self.layout.mark]
        return [
            *uninstall_statements(self.layout, present),
            *install_statements(self.layout, history),
        ]

    def uninstall_statements(self) -> list[str]:
        """All that removes whatever is installed for this table."""
        return uninstall_statements(self.layout, marks(self.db, self.layout))


def _server(db: Connection) -> str:
    """This server and the branch of its history that it is on."""
    try:
        row = db.execute(
            "SELECT system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8) "
            "FROM pg_control_system()"
        ).fetchone()
    except psycopg.Error:
        # Some providers refuse it. A restart then counts as another history, which is safe.
        row = db.execute("SELECT pg_postmaster_start_time()::text").fetchone()
    return str(row)
