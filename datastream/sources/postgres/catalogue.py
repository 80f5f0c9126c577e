"""What was looked up in the server's catalogue, and the log that is made on that occasion.

A `Catalogue` is immutable and holds no connection: every thread uses the same one with a session
of its own, until a statement finds that the table is another one; then it is looked up again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

import psycopg

from datastream.sources._common.columns import Columns
from datastream.sources._common.unread import Unread
from datastream.sources.postgres.changes import ChangedRows, Found, Installed, look_up
from datastream.sources.postgres.connection import Connection, Session
from datastream.sources.postgres.errors import Altered
from datastream.sources.postgres.history import History
from datastream.sources.postgres.layout import Layout, find_layout
from datastream.sources.postgres.listener import hears
from datastream.sources.postgres.log import (
    Traced,
    begin_epoch,
    install_statements,
    run,
    traces,
    uninstall_statements,
)
from datastream.sources.postgres.objects import ObjectWriter
from datastream.sources.postgres.options import POLL
from datastream.sources.postgres.states import ComparedRows
from datastream.sources.postgres.table import RowTable
from datastream.sources.postgres.writer import RowWriter, Writing

PROBE = 1.0
"""Seconds a notification has to pass through a pooler."""
INSTALL_AGAIN = 60.0
"""Seconds until triggers are tried again that others' writes have prevented."""
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


class Log(NamedTuple):
    """The change log of a table, or why there is none."""

    installed: Installed | None
    obstacle: str = ""
    """Why nothing is installed, or cannot be used."""
    install_at: float | None = None
    """When it is to be made, on the clock of `monotonic`: the table was just being written, or
    the call that looked it up had no time for it."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A relation, what is installed for it, and the SQL for both."""

    started: str
    """`Session.started` of the server on which it was looked up."""
    layout: Layout
    table: RowTable
    writer: Writing | None
    """None where the relation can only be read."""
    log: Log
    rows: ChangedRows | ComparedRows
    marks: object

    @property
    def channel(self) -> str:
        """What to listen to; "" where nothing notifies."""
        return self.layout.mark if self.log.installed is not None else ""

    @property
    def is_install_due(self) -> bool:
        return self.log.install_at is not None and monotonic() >= self.log.install_at

    def is_current(self, db: Connection) -> bool:
        """Whether table and triggers are as they were found."""
        return _marks(db, self.layout)[0] == self.marks


class Inspector:
    """Looks up what `wishes` ask for.

    Args:
        connect: makes further connections, to find out whether a pooler passes notifications.
        unread: takes the keys of rows that cannot be read.
    """

    def __init__(
        self, wishes: Wishes, where: str, connect: Callable[[], Session], unread: Unread
    ) -> None:
        self._wishes = wishes
        self._unread = unread
        self._where = where
        self._connect = connect

    def look_up(
        self, session: Session, trusted: tuple[int, str] | None, *, install: bool
    ) -> Catalogue:
        """The catalogue of now.

        Args:
            trusted: table and mark that had triggers when they were last looked up. Gone
                meanwhile, they were removed on purpose.
            install: make the log if it is missing, which may take seconds.

        Raises:
            DatastreamError: there is no such relation, or a column is missing.
            Altered: it was altered in this very moment.
        """
        db, wishes = session.db, self._wishes
        layout = find_layout(db, wishes.schema, wishes.table, wishes.columns, self._where)
        table = RowTable(layout, self._where, self._unread)
        log = self._find_log(session, layout, trusted, install=install)
        rows = (
            ComparedRows(db, layout, table)
            if log.installed is None
            else ChangedRows(layout, table, _server(db), log.installed)
        )
        found, relation = _marks(db, layout)
        if relation != layout.fingerprint:
            raise Altered
        kind = ObjectWriter if layout.is_object else RowWriter
        writer = kind(layout, table, self._where) if layout.can_write else None
        return Catalogue(session.started, layout, table, writer, log, rows, found)

    def _find_log(
        self, session: Session, layout: Layout, trusted: tuple[int, str] | None, *, install: bool
    ) -> Log:
        obstacle = self._obstacle(session.db, layout)
        if layout.is_replicated and layout.owns:
            begin_epoch(session.db, layout)
        if obstacle:
            return Log(None, obstacle)
        if session.is_pooled and not install:
            return Log(None, install_at=monotonic())
        if session.is_pooled and not hears(self._connect, layout.mark, session.db, PROBE):
            return Log(
                None, "notifications do not pass the pooler (PgBouncer in transaction mode?)"
            )
        return self._find_triggers(session.db, layout, trusted, install=install)

    def _obstacle(self, db: Connection, layout: Layout) -> str:
        """Why a log would be of no use."""
        if self._wishes.mode == POLL:
            return "mode=poll"
        if layout.obstacle:
            return layout.obstacle
        if db.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
            return "the server is a replica"
        return ""

    def _find_triggers(
        self, db: Connection, layout: Layout, trusted: tuple[int, str] | None, *, install: bool
    ) -> Log:
        found = look_up(db, layout)
        wanted = self._wishes.history(layout)
        if _fits(found, wanted):
            return Log(found.installed)
        flaw = found.flaw or "it has no triggers of ours"
        if not (self._wishes.triggers and layout.owns):
            reason = "triggers=False" if layout.owns else f"it is another role's; {_REMEDY}"
            return _log(found, f"{flaw} ({reason})")
        if trusted == (layout.oid, layout.mark) and (
            found.is_off or not (found.installed or found.flaw)
        ):
            flaw = found.flaw or "its triggers were removed"
            return Log(None, f"{flaw}; to have them again, open it anew")
        if not install:
            return _log(found, f"{flaw}; they are made soon", monotonic())
        return _try_install(db, layout, found, wanted)


def _try_install(db: Connection, layout: Layout, found: Found, wanted: History | None) -> Log:
    def statements() -> list[str]:
        # Another process may have made the same while this one waited for its turn.
        return [] if _fits(look_up(db, layout), wanted) else replace_statements(db, layout, wanted)

    try:
        run(db, layout.mark, statements)
    except psycopg.errors.LockNotAvailable:
        reason = "it is being written; triggers are tried again"
        return _log(found, reason, monotonic() + INSTALL_AGAIN)
    except psycopg.errors.ReadOnlySqlTransaction:
        reason = "role or database is set to only read; triggers are tried again"
        return _log(found, reason, monotonic() + INSTALL_AGAIN)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        # Rights, an event trigger that lets nobody.
        return _log(found, f"triggers cannot be made: {error.diag.message_primary}; {_REMEDY}")
    return _log(look_up(db, layout), "its triggers were removed as soon as they were made")


def _log(found: Found, reason: str, install_at: float | None = None) -> Log:
    """What there is, else why not."""
    return Log(found.installed, "" if found.installed else reason, install_at)


def replace_statements(db: Connection, layout: Layout, history: History | None) -> list[str]:
    """All that makes the log; what is there already is replaced, also under a former name."""
    found = traces(db, Traced(layout.oid, layout.schema, layout.table, layout.mark))
    present = [trace for trace in found if trace.mark == layout.mark or not trace.is_of_name]
    return [*uninstall_statements(present), *install_statements(layout, history)]


def _fits(found: Found, wanted: History | None) -> bool:
    installed = found.installed
    return installed is not None and (wanted is None or wanted.form == installed.history)


def _marks(db: Connection, layout: Layout) -> Sequence[object]:
    """`Marked.polled` and `Marked.relation`."""
    marked = layout.marked
    statement = f"SELECT {marked.polled(layout.mark)}, {marked.relation}"
    return db.execute(statement.encode()).fetchone() or (None, None)


def _server(db: Connection) -> str:
    """This server, the branch of its history that it is on, and the database."""
    database = "(SELECT oid::text FROM pg_database WHERE datname = current_database())"
    try:
        row = db.execute(
            "SELECT system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8), "
            f"{database} FROM pg_control_system()".encode()
        ).fetchone()
    except psycopg.Error:
        # Some providers refuse it. A restart then counts as another history, which is safe.
        row = db.execute(f"SELECT pg_postmaster_start_time()::text, {database}".encode()).fetchone()
    return str(row)
