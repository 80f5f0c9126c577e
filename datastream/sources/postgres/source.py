"""A table or view of a PostgreSQL database, watched through every session's commits.

With a change log and notifications (`_postgres_log`) where triggers may be made; elsewhere by
comparing whole states at an interval (`_postgres_states`).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import psycopg

from datastream.entry import Capability, Change, Entry
from datastream.errors import (
    DatastreamError,
    InvalidKey,
    InvalidValue,
    ReadOnly,
    SourceUnavailable,
)
from datastream.selection import Selects
from datastream.source import WRITING, Feature, Reading, Source, Write
from datastream.sources._common.wake import jittered
from datastream.sources.postgres.changes import Altered
from datastream.sources.postgres.connection import (
    connect,
    explain,
    is_lost,
    parameters,
    persistently,
    unknown_outcome,
)
from datastream.sources.postgres.history import past
from datastream.sources.postgres.layout import Columns, create_table
from datastream.sources.postgres.listener import Listener
from datastream.sources.postgres.log import Names, run
from datastream.sources.postgres.session import POLL, Session, Wishes
from datastream.sources.postgres.table import RowTable
from datastream.url import Location, configured

INSTALL_AGAIN = 60.0
"""Seconds until triggers are tried again that others' writes have prevented."""
PRUNE_EVERY = 10_000
"""Changes read after which the log is cut."""
MODES = ("", "notify", POLL)
LONGEST = 63
"""Bytes of an identifier."""

log = logging.getLogger("datastream")

_REFUSED = (
    InvalidKey,
    InvalidValue,
    psycopg.DataError,
    psycopg.NotSupportedError,
    psycopg.ProgrammingError,
)

T = TypeVar("T")


class PostgresSource(Source):
    """A Source over one table or view.

    Args:
        conninfo: a URL or connection string as libpq takes it.
        table: an existing table or view; with `create`, a missing one is made with the columns
            ``key, value, value_type, updated_at``.
        schema: where it is; "" searches as the session does.
        key, value: their columns, of any type; to be written, the key's must be unique.
        value_type, updated_at: their columns; "" uses those of that name, if there are any.
            Without a type column the type follows from the value's.
        create: make the table if it is missing.
        mode: "notify" insists on triggers, "poll" compares states; "" takes what can be had.
        triggers: False makes none, but uses those that are there.
        interval: seconds between looks where nothing notifies.
        history: keep what keys held before, in a table beside; needs triggers.
        history_rows: changes kept, of all keys together.
        history_days: and for how long; 0 for as long as that.
        password: of the user.
        libpq: further connection parameters.

    Raises:
        SourceUnavailable: the server does not answer.
        Denied: it refuses user or password, or the table.
        DatastreamError: no such database or table, wrong columns, or no way to `mode`.
    """

    def __init__(
        self,
        conninfo: str = "",
        *,
        table: str = "data",
        schema: str = "",
        key: str = "key",
        value: str = "value",
        value_type: str = "",
        updated_at: str = "",
        create: bool = False,
        mode: str = "",
        triggers: bool = True,
        interval: float = 5.0,
        history: bool = False,
        history_rows: int = 100_000,
        history_days: float = 0.0,
        password: str = "",
        libpq: Mapping[str, str] | None = None,
    ) -> None:
        self._parameters = parameters(conninfo, {**(libpq or {}), "password": password})
        self._where = f"{_place(self._parameters)}, table {table!r}"
        columns = Columns(key, value, value_type, updated_at)
        _check(self._where, mode, table, schema, *columns)
        kept = (history_rows, history_days) if history else None
        self._wishes = Wishes(table, schema, columns, mode, triggers, kept)
        self._create = create
        self._interval = interval
        self._listener = Listener(partial(connect, self._parameters, self._where))
        self._session: Session | None = None
        self._trusted: int | None = None
        self._install_at: float | None = None
        self._channel = ""
        self._changes = 0
        self._known = False
        try:
            session = self._guarded(self._open)
        except BaseException:
            self.close()
            raise
        self._known = True
        self.features = _features(session)

    def capabilities(self) -> Sequence[Capability]:
        return self._steadily(lambda session: session.table.capabilities())

    def read(self, selection: Selects, since: str | None) -> Reading:
        reading = self._steadily(lambda session: session.read(selection, since))
        if not reading.complete:
            self._count(len(reading.entries))
        return reading

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        if Feature.WRITE not in self.features:
            raise ReadOnly(f"{self._where} can only be read; nothing was written")
        return self._guarded(lambda: self._write(writes), writes[0].key)

    def wait(self, timeout: float | None) -> None:
        if self._channel:
            self._guarded(lambda: self._listener.wait(self._channel, timeout))
        else:
            interval = jittered(self._interval)
            self._listener.pause(interval if timeout is None else min(interval, timeout))

    def wake(self) -> None:
        self._listener.wake()

    def release(self) -> None:
        self._listener.release()

    def history(self, key: str) -> Iterator[Change]:
        with closing(connect(self._parameters, self._where)) as connection:
            table = RowTable(connection, self._layout, self._where)
            changes = past(connection, table, Names.of(self._layout).history, key)
            while (change := self._guarded(lambda: next(changes, None), key)) is not None:
                yield change

    def close(self) -> None:
        self._listener.close()
        self._hang_up()

    # What is installed, for the command line.

    def install_sql(self) -> list[str]:
        """The statements that `install` would run now."""
        session = self._guarded(self._open)
        if session.layout.obstacle:
            raise DatastreamError(
                f"{self._where} cannot have triggers: {session.layout.obstacle}; watch it as it is"
            )
        return session.install_statements(self._wishes.history(session.layout))

    def uninstall_sql(self) -> list[str]:
        """The statements that `uninstall` would run now."""
        return self._guarded(self._open).uninstall_statements()

    def install(self) -> None:
        """Make log and triggers, in place of those that are there."""
        self._run(self.install_sql())

    def uninstall(self) -> None:
        """Remove log, history and triggers; the table itself stays as it is."""
        self._run(self.uninstall_sql())

    def _run(self, statements: list[str]) -> None:
        session = self._guarded(self._open)
        self._guarded(lambda: run(session.db, session.layout, statements))

    # The session.

    def _open(self) -> Session:
        """The session; a new one if there is none, or it is lost."""
        due = self._install_at is not None and monotonic() >= self._install_at
        if self._session is not None and not due and not is_lost(self._session.db):
            return self._session
        self._hang_up()
        db = connect(self._parameters, self._where)
        try:
            # Only at first: an empty table in place of one that was dropped would be deletes.
            if self._create and not self._known:
                create_table(db, self._wishes.schema, self._wishes.table)
            session = Session(db, self._wishes, self._where, self._listener, self._trusted)
            self._take(session)
        except BaseException:
            db.close()
            raise
        return session

    def _take(self, session: Session) -> None:
        note = ""
        if session.obstacle:
            note = f"polling every {self._interval:g} s: {session.obstacle}"
        if session.obstacle and self._wishes.mode == "notify":
            raise DatastreamError(
                f"{self._where} cannot notify: {session.obstacle}; without mode=notify it is polled"
            )
        if note and note != self.note:
            log.log(self._level, "%s: %s", self._where, note)
        self.note = note
        self._session, self._layout, self._channel = session, session.layout, session.channel
        if session.installed is not None:
            self._trusted = session.layout.oid
        self._install_at = monotonic() + INSTALL_AGAIN if session.busy else None
        # Who waits as before is to wait as from now on.
        self._listener.wake()

    @property
    def _level(self) -> int:
        return logging.INFO if self._wishes.mode == POLL else logging.WARNING

    def _hang_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.db.close()

    def _steadily(self, look: Callable[[Session], T]) -> T:
        """Look; once more on a new session, if the old one turned out to be of no use."""
        try:
            return look(self._guarded(self._open))
        except Altered:
            pass
        except psycopg.Error as error:
            if not self._is_outdated(error):
                raise explain(error, self._where) from error
        self._hang_up()
        return self._guarded(lambda: look(self._open()))

    def _is_outdated(self, error: psycopg.Error) -> bool:
        """Whether it may be gone with another look at server and catalogue."""
        if self._session is None or is_lost(self._session.db):
            return True
        return not isinstance(
            error, psycopg.OperationalError | psycopg.errors.InsufficientPrivilege
        )

    def _write(self, writes: Sequence[Write]) -> list[Entry]:
        session = self._open()
        try:
            return self._write_on(session, writes)
        except _REFUSED:
            # Nothing was done. Perhaps it was for another table than the one there is now.
            if session.is_current():
                raise
        self._hang_up()
        return self._write_on(self._open(), writes)

    def _write_on(self, session: Session, writes: Sequence[Write]) -> list[Entry]:
        if not session.layout.can_write:
            raise ReadOnly(f"{self._where} can only be read now; nothing was written")
        try:
            return persistently(lambda: session.table.write(writes))
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if is_lost(session.db):
                raise unknown_outcome(error, self._where) from error
            raise

    def _count(self, changes: int) -> None:
        self._changes += changes
        if self._changes >= PRUNE_EVERY and self._session is not None:
            self._changes = 0
            try:
                self._session.prune()
            except psycopg.Error as error:
                # Housekeeping: writers do it as well, and the next attempt may succeed.
                log.debug("%s: log not cut: %s", self._where, error)

    def _guarded(self, action: Callable[[], T], key: str | None = None) -> T:
        """The one place where PostgreSQL's errors become ours."""
        try:
            return action()
        except psycopg.Error as error:
            raise explain(error, self._where, key) from error
        except Altered as error:
            raise SourceUnavailable(f"{self._where} is being altered; retry") from error
        except DatastreamError as error:
            # What was there once, such as a table, may come back.
            if self._known and type(error) is DatastreamError:
                raise SourceUnavailable(str(error)) from error
            raise


def open_postgres(location: Location, **options: Any) -> PostgresSource:
    """``postgresql://user@host:port/database?table=…``: a table or view of a database.

    What is no option of `PostgresSource` is a parameter of libpq.
    """
    own = inspect.signature(PostgresSource).parameters.keys() - {"conninfo", "libpq"}
    foreign = {**location.options, **options}
    given = foreign.pop("libpq", {})
    libpq = {name: str(value) for name, value in foreign.items() if name not in own} | dict(given)
    ours = {name: text for name, text in location.options.items() if name in own}
    factory = partial(PostgresSource, f"postgresql:{location.path or '//'}", libpq=libpq)
    mine = {name: value for name, value in options.items() if name in own}
    return configured(factory, location._replace(options=ours), mine)


def _features(session: Session) -> frozenset[Feature]:
    # Without a column for types, what is of another type than the value's column is refused.
    features = frozenset((Feature.TYPES, *(WRITING if session.layout.can_write else ())))
    if session.installed is not None:
        features |= {Feature.LOG}
        if session.installed.history:
            features |= {Feature.HISTORY}
    return features


def _place(given: Mapping[str, str]) -> str:
    """Where a connection leads, for error texts: nothing that could be a secret."""
    if "service" in given:
        return f"postgresql service {given['service']!r}"
    host, port = given.get("host", ""), given.get("port", "")
    return f"postgresql://{host}{f':{port}' if port else ''}/{given.get('dbname', '')}"


def _check(where: str, mode: str, *names: str) -> None:
    """Refuse what PostgreSQL would cut short, and modes that there are none of."""
    if mode not in MODES:
        raise DatastreamError(f"{where}: there is no mode {mode!r}; use notify or poll, or none")
    for number, name in enumerate(names):
        # Empty may be the schema, and the columns of type and time.
        is_needed = number in (0, 2, 3)
        if (is_needed and not name) or "\0" in name or len(name.encode(errors="replace")) > LONGEST:
            raise DatastreamError(f"{where}: {name!r} names no schema, table or column")
