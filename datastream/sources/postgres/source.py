"""A table or view of a PostgreSQL database, watched through every session's commits.

With a change log and notifications (`changes`, `log`) where triggers may be made; elsewhere by
comparing whole states at an interval (`states`).

All threads share one immutable `Catalogue`; each call borrows a session of the `Pool` for as long
as it takes. Only `wait` has a connection of its own, the `Listener`'s.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

import psycopg

from datastream.entry import Capability, Entry, Revision
from datastream.errors import DatastreamError, ReadOnly, SourceUnavailable, StoreClosed
from datastream.selection import Selects
from datastream.source import WRITING, Feature, Health, Publish, Reading, Source, Write, Written
from datastream.sources._common.columns import Columns
from datastream.sources._common.unread import Unread
from datastream.sources._common.wake import jittered
from datastream.sources.postgres.access import Access
from datastream.sources.postgres.ahead import Question
from datastream.sources.postgres.catalogue import (
    Catalogue,
    Inspector,
    Wishes,
    replace_statements,
)
from datastream.sources.postgres.connection import (
    Connection,
    Connector,
    Session,
    is_lost,
    persistently,
)
from datastream.sources.postgres.errors import (
    Altered,
    explain,
    is_of_a_row,
    passing,
    unknown_outcome,
)
from datastream.sources.postgres.history import past
from datastream.sources.postgres.keys import spells
from datastream.sources.postgres.layout import create_table
from datastream.sources.postgres.listener import Listener
from datastream.sources.postgres.log import Names, run
from datastream.sources.postgres.options import (
    NOTIFY,
    POLL,
    check_names,
    check_options,
    encoded,
    parameters,
    place,
)
from datastream.sources.postgres.pool import Pool, Use
from datastream.sources.postgres.removal import Removal
from datastream.sources.postgres.walking import begin, can_hold
from datastream.sources.postgres.walking import entries as walked
from datastream.url import Count, Days, Location, Seconds, checks_options, configured

PRUNE_EVERY = 10_000
"""Changes read after which the log is cut."""

log = logging.getLogger("datastream")
P = TypeVar("P", bound="PostgresSource")


class PostgresSource(Source):
    """A Source over one table or view.

    Args:
        conninfo: a URL or connection string as libpq takes it.
        table: an existing table or view; with `create`, a missing one is made with the columns
            ``key, value, value_type, updated_at``.
        schema: where it is; "" searches as the session does.
        key, value: their columns, of any type; to be written, the key's must be unique.
            ``key="tenant,id"`` joins several by "/"; ``value="title,done"``, or "*" for all but
            the key, makes the value a JSON object of columns, into which a put is merged.
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

    @checks_options
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
        interval: Seconds = 5.0,
        history: bool = False,
        history_rows: Count = 100_000,
        history_days: Days = 0.0,
        password: str = "",
        libpq: Mapping[str, str] | None = None,
    ) -> None:
        given = parameters(conninfo, {**(libpq or {}), "password": password})
        self._where = f"{place(given)}, table {table!r}"
        columns = Columns(key, value, value_type, updated_at)
        several = (part for name in (key, value) for part in name.split(","))
        check_names(self._where, mode, table, schema, *several, value_type, updated_at)
        kept = (history_rows, history_days) if history else None
        self._wishes = Wishes(table, schema, columns, mode, triggers, kept)
        self._removal = Removal(schema, table, columns, self._where)
        self._create = create
        self._interval = interval
        connector = Connector(given, self._where)
        self._unread = Unread(self._where)
        self._polling = ""
        """Why it polls; "" if it need not."""
        self._is_polling_told = False
        self._pool = Pool(connector, self._where)
        self._listener = Listener(self._pool.connect)
        self._inspector = Inspector(self._wishes, self._where, self._pool.connect, self._unread)
        self._access = Access(self._pool, self._look_up, self._publish, self._lend)
        self._trusted: tuple[int, str] | None = None
        self._changes = 0
        self._position = ""
        """Of the last poll, or of what was published since."""
        self._selection: Selects | None = None
        """What that asked for."""
        self._publish_change: Publish = lambda change, asked=None, /: False
        # The thread that waits. Its reads have a connection reserved, however many others read.
        self._poller = 0
        self._closed = False
        try:
            with self._translated():
                self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        catalogue = self._access.renew(None, install=True)
        self.why_only_read = catalogue.layout.cannot_write
        self.features = _features(catalogue)

    def capabilities(self) -> Sequence[Capability]:
        try:
            return self._access.call(Use.READ, lambda db, of: of.table.capabilities(db))
        finally:
            self._show()

    def get(self, key: str) -> Entry | None:
        return self._access.call(Use.READ, lambda db, catalogue: catalogue.table.get(db, key))

    def read(self, selection: Selects, since: str | None) -> Reading:
        polls = threading.get_ident() == self._poller
        if since is not None:
            # Only by reads of changes: a `get` does not wait for writers of the table.
            self._access.install_if_due()
        reading = self._read(selection, since, Use.POLL if polls else Use.READ)
        self._show()
        if polls:
            self._position, self._selection = reading.position, selection
        if not reading.complete:
            self._count(len(reading.entries))
        return reading

    def walk(self, selection: Selects, unread: set[str]) -> Iterator[Entry]:
        """As in `HasWalk`."""
        with ExitStack() as stack:
            found = self._access.keep(Use.WALK, partial(self._walked, selection, unread), stack)
            self._show()
            yield from found

    def _walked(
        self, selection: Selects, unread: set[str], session: Session, catalogue: Catalogue
    ) -> Iterable[Entry]:
        if can_hold(session):
            unread.update(begin(session.db, catalogue, selection))
            return walked(session.db, catalogue.table)
        reading = catalogue.rows.read(session.db, selection, None)
        unread.update(reading.unread)
        return sorted(reading.entries, key=attrgetter("key"))

    def _read(self, selection: Selects, since: str | None, use: Use) -> Reading:
        return self._access.call(
            use, lambda db, catalogue: catalogue.rows.read(db, selection, since)
        )

    def _question(self, catalogue: Catalogue, session: Session) -> Question | None:
        """What the next poll would most likely find out, asked on this session."""
        if session.started != catalogue.started:
            return None
        return catalogue.rows.question(session, self._position)

    def _tell(self, catalogue: Catalogue, rows: Sequence[Any]) -> bool:
        """Publish what the question was answered with; False if a poll has to find out."""
        since, health = self._position, self.health
        reading = catalogue.rows.answer(rows, since)
        if reading is None:
            return False
        if reading.entries:
            change = Written(reading.entries, reading.position, since)
            if not self._publish_change(change, self._selection):
                return False
            self._position = reading.position
            self._count(len(reading.entries))
            self._show()
        return self.health is health

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        # Without a position: this transaction may have changed other rows as well, through the
        # table's own triggers, and only the next `read` can tell.
        if Feature.WRITE not in self.features:
            raise ReadOnly(
                f"{self._where} can only be read: {self.why_only_read}; nothing was written"
            )
        try:
            return self._access.call(
                Use.WRITE, lambda db, catalogue: self._write(db, catalogue, writes)
            )
        except psycopg.Error as error:
            if self._closed:
                raise
            unread = next((w.key for w in writes if self._unread.has(w.key)), None)
            if unread is not None and is_of_a_row(error):
                # What is put is compared with what is there.
                raise self._unread.error(unread) from error
            raise explain(error, self._where, writes[0].key, writes=True) from error

    def wait(self, timeout: float | None) -> None:
        self._poller = threading.get_ident()
        catalogue = self._access.known
        channel = catalogue.channel
        if catalogue.is_install_due:
            # The next `read` does it.
            return
        if channel:
            with passing():
                ask, tell = partial(self._question, catalogue), partial(self._tell, catalogue)
                self._listener.wait(channel, timeout, ask, tell)
        else:
            self._tell_of_polling()
            interval = jittered(self._interval)
            self._listener.pause(interval if timeout is None else min(interval, timeout))

    def wake(self) -> None:
        self._listener.wake()

    def publish_to(self, publish: Publish) -> None:
        """As in `HasChanges`."""
        self._publish_change = publish

    def release(self) -> None:
        self._listener.release()

    def history(self, key: str) -> Iterator[Revision]:
        catalogue = self._access.known
        if not spells(catalogue.layout, key):
            return
        kept = Names.of(catalogue.layout).history
        found = None
        for found in past(self._fetch, kept, key, catalogue.table.shape.kind):
            yield found
        if found is None and (current := self.get(key)) is not None:
            # Nothing has happened to it since history is kept.
            yield Revision(current)

    def translate(self, error: Exception, key: str | None) -> Exception:
        is_answer = isinstance(error, DatastreamError)
        if self._closed and (not is_answer or isinstance(error, SourceUnavailable)):
            return StoreClosed(f"{self._where} was closed; open it anew")
        if isinstance(error, psycopg.Error):
            return explain(error, self._where, key)
        if isinstance(error, Altered):
            return SourceUnavailable(f"{self._where} is being altered; retry")
        if isinstance(error, TimeoutError):
            return SourceUnavailable(f"{self._where}: the server does not answer; retry")
        return error

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self._pool.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """For what is not called through a store."""
        try:
            yield
        except Exception as error:
            ours = self.translate(error, None)
            if ours is error:
                raise
            raise ours from error

    # What is installed, for the command line.

    def install_sql(self) -> list[str]:
        """The statements that `install` would run now."""
        layout = self._access.known.layout
        if layout.obstacle:
            raise DatastreamError(
                f"{self._where} cannot have triggers: {layout.obstacle}; watch it as it is"
            )
        with self._translated():
            return self._access.call(Use.LOOK_UP, self._install_statements)

    def uninstall_sql(self) -> list[str]:
        """The statements that `uninstall` would run now."""
        with self._translated(), self._pool.lend(Use.LOOK_UP) as session:
            return self._removal.statements(session.db)

    def install(self) -> None:
        """Make log and triggers, in place of those that are there."""
        self.install_sql()

        def run_all(db: Connection, catalogue: Catalogue) -> None:
            mark = catalogue.layout.mark
            run(db, mark, lambda: self._install_statements(db, catalogue))

        with self._translated():
            self._access.call(Use.LOOK_UP, run_all)

    def uninstall(self) -> None:
        """Remove log, history and triggers, also of a table that has gone; one that is there stays
        as it is.

        Raises:
            DatastreamError: there is neither such a table nor anything left of one.
        """
        with self._translated(), self._pool.lend(Use.LOOK_UP) as session:
            self._removal.run(session.db)

    def _install_statements(self, db: Connection, catalogue: Catalogue) -> list[str]:
        layout = catalogue.layout
        return replace_statements(db, layout, self._wishes.history(layout))

    # The catalogue.

    def _look_up(self, session: Session, install: bool) -> Catalogue:
        # Only at first: an empty table in place of one that was dropped would be deletes.
        if self._create and self._access.catalogue is None:
            wishes = self._wishes
            create_table(session.db, wishes.schema, wishes.table, wishes.columns, self._where)
        return self._inspector.look_up(session, self._trusted, install=install)

    def _publish(self, catalogue: Catalogue) -> None:
        obstacle = catalogue.log.obstacle
        # What is about to be made is no obstacle that lasts: the next read finds out.
        if obstacle and self._wishes.mode == NOTIFY and not catalogue.is_install_due:
            raise DatastreamError(
                f"{self._where} cannot notify: {obstacle}; without mode=notify it is polled"
            )
        degraded = f"polling every {self._interval:g} s: {obstacle}" if obstacle else ""
        self._is_polling_told &= degraded == self._polling
        if catalogue.log.installed is not None:
            self._trusted = (catalogue.layout.oid, catalogue.layout.mark)
        self._polling = degraded
        self._show()
        if self._access.catalogue is not None:
            # The listener looks anew, so that watchers learn of it, with statements for this table.
            self._listener.renew()

    def _tell_of_polling(self) -> None:
        """Log it, once something is watched: who only reads and writes loses nothing by it."""
        if self._polling and not self._is_polling_told:
            self._is_polling_told = True
            level = logging.INFO if self._wishes.mode == POLL else logging.WARNING
            log.log(level, "%s: %s", self._where, self._polling)

    def _show(self) -> None:
        degraded = "; ".join(filter(None, (self._polling, self._unread.degraded)))
        if degraded != self.health.degraded:
            self.health = Health(degraded=degraded)

    @contextmanager
    def _lend(self, use: Use) -> Iterator[Session]:
        """A session of the pool; for polls the one that listens, where there is one."""
        if use is Use.POLL:
            with self._listener.lend() as session:
                if session is not None:
                    yield session
                    return
        with self._pool.lend(use) as session:
            yield session

    def _write(
        self, db: Connection, catalogue: Catalogue, writes: Sequence[Write]
    ) -> Sequence[Entry]:
        writer = catalogue.writer
        if writer is None:
            reason = catalogue.layout.cannot_write
            raise ReadOnly(f"{self._where} can only be read now: {reason}; nothing was written")
        try:
            return persistently(lambda: writer.write(db, writes))
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if is_lost(db):
                raise unknown_outcome(error, self._where) from error
            raise

    def _fetch(self, statement: str, parameters: tuple[object, ...]) -> Sequence[Any]:
        def rows(db: Connection, _: Catalogue) -> Sequence[Any]:
            with db.cursor(binary=True) as cursor:
                return cursor.execute(statement.encode(), parameters).fetchall()

        return self._access.call(Use.READ, rows)

    def _count(self, changes: int) -> None:
        # Two threads may lose a count here, which only delays the cutting.
        self._changes += changes
        if self._changes >= PRUNE_EVERY:
            self._changes = 0
            self.prune()

    def prune(self) -> None:
        """Cut the log, if this role may. Writers do it as well, so trouble is only logged."""
        catalogue = self._access.known
        if catalogue.log.installed is None or not catalogue.layout.owns:
            return
        statement = f"SELECT {Names.of(catalogue.layout).prune}"
        try:
            with self._pool.lend(Use.LOOK_UP) as session:
                session.db.execute(statement.encode())
        except (psycopg.Error, DatastreamError) as error:
            log.debug("%s: log not cut: %s", self._where, error)


def _features(catalogue: Catalogue) -> frozenset[Feature]:
    # Without a column for types, what is of another type than the value's column is refused.
    features = frozenset((Feature.TYPES, *(WRITING if catalogue.layout.can_write else ())))
    if catalogue.log.installed is not None:
        features |= {Feature.LOG, Feature.TRANSIENT}
        if catalogue.log.installed.history:
            features |= {Feature.HISTORY}
    return features


class Remains(PostgresSource):
    """What is installed for a table, without a look at the table: only to `uninstall` it."""

    def _begin(self) -> None:
        """The table may have gone."""


def open_postgres(location: Location, **options: Any) -> PostgresSource:
    """``postgresql://user@host:port/database?table=…``: a table or view of a database.

    What is no option of `PostgresSource` is a parameter of libpq.
    """
    return _opened(PostgresSource, location, options)


def open_remains(location: Location) -> Remains:
    """The same, of a table that may have gone."""
    return _opened(Remains, location, {})


def _opened(kind: type[P], location: Location, options: Mapping[str, Any]) -> P:
    own = inspect.signature(kind).parameters.keys() - {"conninfo"}
    foreign = {**location.options, **options}
    libpq = {name: str(value) for name, value in foreign.items() if name not in own}
    check_options(location.shown, libpq, own)
    libpq |= dict(options.get("libpq") or {})
    ours = {name: text for name, text in location.options.items() if name in own}
    mine = {name: value for name, value in options.items() if name in own} | {"libpq": libpq}
    factory = partial(kind, encoded(location.path))
    return configured(factory, location._replace(options=ours), mine)
