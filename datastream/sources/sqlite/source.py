"""A table of an SQLite file, watched through every commit of every program.

With a change log (`log`) where triggers may be made; on views and read-only files by comparing
whole states whenever the file's ``data_version`` moves.

Threads share one `Attached`, which never changes and is replaced as a whole; each call borrows a
connection. A call that finds another file or another schema looks it up anew and starts over.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from time import monotonic

from datastream._columns import keys_of, matching
from datastream.entry import Capability, Entry, deleted
from datastream.errors import DatastreamError, ReadOnly, SourceUnavailable
from datastream.selection import MAX_KEY_BYTES, Selects
from datastream.source import WRITING, Feature, Health, Reading, Source, Write, Written
from datastream.sources._common.odd_names import OddNames
from datastream.sources._common.paths import local_path
from datastream.sources._common.unread import Unread
from datastream.sources.sqlite.attached import Attached
from datastream.sources.sqlite.commits import Commits
from datastream.sources.sqlite.connection import (
    Connection,
    Outdated,
    is_of_pages,
    is_of_rows,
    translated,
)
from datastream.sources.sqlite.current import Asked, CurrentTable, make_missing
from datastream.sources.sqlite.layout import Columns
from datastream.sources.sqlite.log import KEPT, ChangeLog, Touched
from datastream.sources.sqlite.position import parse, position
from datastream.sources.sqlite.removal import uninstall
from datastream.sources.sqlite.rows import Row, entry, entry_of, value_of
from datastream.url import Location, Seconds, checks_options, configured

MISSING = 1.0
"""Seconds for which a file may be missing until `wait` says so."""
PRUNE_EVERY = 10_000
"""Own writes, or changes read, after which the length of the log is looked at."""
IMMUTABLE_FILE = (
    "opened with immutable=1: the disk is read-only and the file in WAL mode; that it changes is "
    "seen only once it is replaced or written"
)
STATE_ATTEMPTS = 3
"""How often a state is read before that is done with the connection that counts versions."""

log = logging.getLogger("datastream")


class SqliteSource(Source):
    """A Source over one table or view.

    Args:
        path: the file. Missing, it is made, unless `create` or `table` says otherwise.
        table: an existing table or view; "data", if missing, is made with the columns
            ``key, value, value_type, updated_at``.
        key, value: their columns, of any type; the key's must be unique. ``key="tenant,id"`` joins
            several by "/"; ``value="title,done"``, or "*" for all but the key, makes the value a
            JSON object of columns, into which a put is merged.
        value_type, updated_at: their columns; "" uses those of that name, if there are any.
            Without a type column the type follows from how SQLite stores the value.
        create: True makes a missing file or table, False never does; None makes the file and
            the table "data", but not a table that was named.
        readonly: never write to the file, not even the triggers.
        triggers: False watches by comparing states, and leaves the schema alone.
        timeout: seconds to wait for another program's lock.
        interval: seconds between looks at the file's version (a few microseconds each).

    Raises:
        SourceUnavailable: locked, or not to be opened.
        DatastreamError: no such file or table, no database, wrong columns, no unique key.
    """

    @checks_options
    def __init__(
        self,
        path: str | Path,
        *,
        table: str = "data",
        key: str = "key",
        value: str = "value",
        value_type: str = "",
        updated_at: str = "",
        create: bool | None = None,
        readonly: bool = False,
        triggers: bool = True,
        timeout: Seconds = 5.0,
        interval: Seconds = 0.014,
    ) -> None:
        columns = Columns(key, value, value_type, updated_at)
        asked = Asked(os.fspath(path), table, columns, readonly, triggers, timeout)
        self._path = asked.path
        self._where = asked.where
        self._names = OddNames(asked.where, "a row")
        self._unread = Unread(asked.where)
        # How it watches, where that is not by the log.
        self._watching = ""
        self._triggers = triggers
        self._interval = interval
        # Held while there is no reason to wake. An Event would cost the idle poller a lock at
        # every look.
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self._watched = False
        self._is_unlogged = False
        self._writes = self._reads = 0
        _check_names(self._where, self._path, table, *columns)
        try:
            make_missing(asked, wanted=create or (create is None and table == "data"))
            self._current = CurrentTable(asked, self._unread, self._tell_health)
            self._commits = self._begin()
        except sqlite3.Error as error:
            raise translated(error, self._where) from error
        attached = self._current.attached
        self._suspicion = self._commits.suspicion
        if not readonly:
            self.why_only_read = self._why_only_read(attached)
        self.features = self._features(attached)
        self._can_write = Feature.WRITE in self.features

    def capabilities(self) -> Sequence[Capability]:
        found = self._current.call(self._list)
        self._show()
        return [capability for capability in found if self._names.admits(capability.key)]

    def read(self, selection: Selects, since: str | None) -> Reading:
        reading = self._current.call(partial(self._read, selection, since))
        if self._unread:
            reading = reading._replace(unread=frozenset(self._unread.keys))
        self._show()
        return reading

    def walk(self, selection: Selects, unread: set[str]) -> Iterator[Entry]:
        """As in `HasWalk`."""
        first, rest = self._current.call(partial(self._walk_from, selection))
        yield from chain(first, rest)
        unread.update(self._unread.keys)
        self._show()

    def _walk_from(
        self, selection: Selects, attached: Attached
    ) -> tuple[Sequence[Entry], Iterator[Entry]]:
        """The first entry, with which it is known that the schema is this one, and the others."""
        if not (attached.is_wal and _sorts_as_python(attached)):
            # With a rollback journal, a long read holds up all writers.
            found = self._read(selection, None, attached).entries
            return sorted(found, key=attrgetter("key")), iter(())
        entries = self._walk(selection, attached)
        return list(islice(entries, 1)), entries

    def _walk(self, selection: Selects, attached: Attached) -> Iterator[Entry]:
        with attached.moment() as connection:
            for found in attached.readable.walk(connection, selection):
                if self._names.admits(found.key):
                    yield found

    def get(self, key: str) -> Entry | None:
        row = self._find(key)
        return None if row is None else entry_of(key, *row[1:])

    def get_value(self, key: str) -> tuple[bytes, str] | None:
        row = self._find(key)
        return None if row is None else value_of(row[1], row[2])

    def _find(self, key: str) -> Row | None:
        """The row of one key."""
        attached = self._current.attached
        if attached.file.is_current():
            try:
                is_known, row = attached.one(key)
                if is_known:
                    return row
            except Outdated:
                pass
            except sqlite3.DatabaseError as error:
                # For a column that is gone, or a row that cannot be read, such as for text that is
                # not UTF-8.
                if not (is_of_rows(error) or is_of_pages(error)):
                    raise
        return self._current.call(partial(_row, key))

    def write(self, writes: Sequence[Write]) -> Written:
        if not self._can_write:
            raise ReadOnly(f"{self._where} can only be read; nothing was written")
        try:
            written = self._write(writes, self._current.attached)
        except Outdated:
            written = self._current.call(partial(self._write, writes))
        self._writes += len(writes)
        if self._writes >= PRUNE_EVERY:
            self._prune()
        return written

    def wait(self, timeout: float | None) -> None:
        self._watched = True
        until = None if timeout is None else monotonic() + timeout
        missing_since = None
        while True:
            now = monotonic()
            try:
                has_commits = self._commits.have_come(self._current.attached)
                if has_commits or self._suspicion.is_due(now):
                    return
                missing_since = None
            except SourceUnavailable:
                # Perhaps it is being replaced.
                missing_since = missing_since or now
                if now - missing_since >= MISSING:
                    raise
            left = self._interval if until is None else min(self._interval, until - now)
            if left <= 0 or self._asleep.acquire(timeout=left):
                return

    def wake(self) -> None:
        # Released already: once is enough.
        with suppress(RuntimeError):
            self._asleep.release()

    def translate(self, error: Exception, key: str | None) -> Exception:
        if isinstance(error, sqlite3.Error):
            return translated(error, self._where, key)
        return error

    def newcomer(self, since: str | None, *, covered: bool) -> bool:
        if self._current.attached.log is None:
            return True
        self._current.call(self._commits.settle)
        lacks = self._is_unlogged or self._suspicion.lacks(covered=covered)
        if not covered:
            self._suspicion.grow()
        return since is None or not lacks

    def compared(self, position: str, *, same: bool) -> None:
        if not same:
            log.info("%s: something was changed past the change log", self._where)
            self._is_unlogged = True
        if self._is_unlogged or self._suspicion.is_late:
            self._end_epoch()
        else:
            self._suspicion.end()

    def release(self) -> None:
        self._watched = False

    def close(self) -> None:
        self._current.close()
        self.wake()

    def uninstall(self) -> None:
        """Remove triggers and change log from the file; the table itself stays as it is.

        Meant for a source that is not watched any more: close it after this.
        """
        self._triggers = False
        try:
            self._current.uninstall()
        except sqlite3.Error as error:
            raise translated(error, self._where) from error

    def _begin(self) -> Commits:
        try:
            return self._current.call(partial(Commits, self._path, self._where))
        except BaseException:
            self._current.close()
            raise

    def _why_only_read(self, attached: Attached) -> str:
        cannot = "the file cannot be written" if self._current.asked.readonly else ""
        return attached.layout.only_read or cannot

    def _features(self, attached: Attached) -> frozenset[Feature]:
        can_write = not (attached.layout.only_read or self._current.asked.readonly)
        writing = WRITING if can_write else frozenset[Feature]()
        of_log = {Feature.LOG, Feature.TRANSIENT} if attached.log else set[Feature]()
        return writing | {Feature.TYPES} | of_log

    def _tell_health(self, attached: Attached) -> None:
        self._watching = self._why_no_log(attached)
        self._show()

    def _show(self) -> None:
        degraded = "; ".join(filter(None, (self._watching, self._unread.degraded)))
        if degraded != self.health.degraded:
            self.health = Health(degraded=degraded)

    def _why_no_log(self, attached: Attached) -> str:
        """Why it does not watch by a change log; "" if it does."""
        if attached.file.is_immutable:
            return IMMUTABLE_FILE
        if attached.log is not None:
            return ""
        if attached.layout.is_view:
            reason = "views have no triggers"
        elif not attached.layout.can_log:
            reason = "triggers do not see every change of this table"
        elif self._triggers:
            reason = "the file is read-only and has no up-to-date change log"
        else:
            reason = "opened with triggers=False"
        log.info("%s: compares whole states, as %s", self._where, reason)
        return f"compares whole states: {reason}"

    # Reading and writing.

    def _list(self, attached: Attached) -> list[Capability]:
        with attached.moment() as connection:
            return attached.readable.capabilities(connection)

    def _read(self, selection: Selects, since: str | None, attached: Attached) -> Reading:
        changes = attached.log
        if changes is None:
            # Each read is a comparison.
            self._suspicion.end()
            return self._read_state(selection, since, attached)
        if not self._watched:
            # Else the poller looks; what it has seen is its own matter.
            self._commits.note(attached)
        if since is not None:
            reading = self._read_changes(attached, changes, selection, since)
            if reading is not None:
                return reading
        with attached.moment() as connection:
            newest = changes.newest(connection)
            entries = attached.readable.state(connection, selection)
        return Reading(self._legal(entries), position(attached.epoch, *newest), complete=True)

    def _read_changes(
        self, attached: Attached, changes: ChangeLog, selection: Selects, since: str
    ) -> Reading | None:
        """What the log has after `since`; None if it does not reach back that far."""
        epoch, after = parse(since)
        if after is None or epoch != attached.epoch:
            return None
        began = monotonic()
        is_due = self._suspicion.is_due(began)
        if is_due:
            selects_all = not (selection.keys or selection.prefixes or selection.patterns)
            self._suspicion.begin_comparison(whole=selects_all)
            attached.file.renew()
        with attached.moment() as connection:
            if is_due:
                attached.check_epoch(connection)
            if not changes.has(connection, after):
                return None
            newest = changes.newest(connection)
            if is_due and newest == after:
                return self._compare(attached, connection, selection, since, began)
            touched = (
                attached.readable.changes(changes, connection, after.seq) if newest != after else []
            )
            if touched is None:
                return None
        self._reads += len(touched)
        if self._reads >= PRUNE_EVERY:
            self._prune()
        news = [deleted(str(one.key)) if one.row[0] is None else entry(one.row) for one in touched]
        return Reading(
            self._legal(news),
            position(epoch, *newest),
            complete=False,
            created=_created(touched),
        )

    def _compare(
        self,
        attached: Attached,
        connection: Connection,
        selection: Selects,
        since: str,
        began: float,
    ) -> Reading:
        """The complete state at `since`, which may differ from what the log told."""
        entries = attached.readable.state(connection, selection)
        if entries:
            # Else a second look has to confirm it, and costs nothing.
            self._suspicion.compared(began, monotonic())
        return Reading(self._legal(entries), since, complete=True)

    def _end_epoch(self) -> None:
        """Have no position honoured that was given out until now."""
        self._suspicion.begin_comparison(whole=True)
        # If that fails, the suspicion remains, and the next comparison leads here again.
        self._current.begin_epoch()
        self._is_unlogged = False
        self._suspicion.forget()
        self.wake()

    def _read_state(self, selection: Selects, since: str | None, attached: Attached) -> Reading:
        file = attached.file
        for _ in range(STATE_ATTEMPTS):
            version = file.version()
            if since is not None and since == f"{file.epoch}:{version}":
                return Reading((), since, False)
            if since is not None and not attached.is_wal:
                # Pages of a file that was overwritten may seem to be up to date.
                file.renew()
            with attached.moment() as connection:
                entries = attached.readable.state(connection, selection)
            if version == file.version():
                break
        else:
            # Commits follow each other faster than other connections can read.
            version, entries = file.read_with_version(partial(attached.state, selection))
        return Reading(self._legal(entries), f"{file.epoch}:{version}", True)

    def _legal(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Without the rows whose key no store can name."""
        if _are_plain(keys_of(entries)):
            return entries
        return matching(entries, self._names.admits)

    def _write(self, writes: Sequence[Write], attached: Attached) -> Written:
        if attached.layout.only_read:
            reason = attached.layout.only_read
            raise ReadOnly(f"{self._where} can only be read now: {reason}; nothing was written")
        file = attached.file
        connection = file.take_writer()
        try:
            # Only now, as it may have waited: a write to a replaced file would be lost.
            if not file.is_current():
                raise Outdated(f"{self._path} was replaced meanwhile; retry")
            return attached.write(connection, writes, with_position=self._watched)
        finally:
            file.give_writer(connection)

    def _prune(self) -> None:
        self._writes = self._reads = 0
        attached = self._current.attached
        if attached.log is None or self._current.asked.readonly:
            return
        try:
            with attached.file.idle_writer() as connection:
                if connection is not None and attached.log.length(connection) > 2 * KEPT:
                    # Before it commits: who looks then knows whose that is.
                    attached.file.cuts += 1
                    attached.log.prune(connection)
        except (sqlite3.OperationalError, Outdated) as error:
            # Housekeeping: the next attempt may find the lock free.
            log.debug("%s: log not cut: %s", self._where, error)


def _created(found: Sequence[Touched]) -> frozenset[str]:
    """The keys that held nothing at the position read from."""
    # A column without type may hold 5 beside "5", which are one key.
    existed = {str(touched.key) for touched in found if not touched.created}
    return frozenset(str(touched.key) for touched in found if touched.created) - existed


def _sorts_as_python(attached: Attached) -> bool:
    """Whether text is compared as UTF-8, which sorts by code points; UTF-16 does not."""
    with attached.moment() as connection:
        return bool(connection.execute("PRAGMA encoding").fetchone()[0] == "UTF-8")


def _row(key: str, attached: Attached) -> Row | None:
    with attached.moment() as connection:
        return attached.readable.row(connection, key)


def _check_names(where: str, *names: str) -> None:
    """Refuse what SQLite would cut short or could not store.

    Raises:
        DatastreamError: the name of the file, the table or a column is such.
    """
    for number, name in enumerate(names):
        # The file's name may be any bytes, and the last two may be empty.
        if "\0" in name or (number and not _is_utf8(name)) or (not name and number < 4):
            raise DatastreamError(f"{where!r}: {name!r} cannot name a file, table or column")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_plain(keys: Sequence[str]) -> bool:
    """Whether all are legal for certain; what most keys are is found out at once."""
    together = "\n".join([*keys, ""])
    is_plain = together.isascii() and "\0" not in together and "/\n" not in together and all(keys)
    return is_plain and max(map(len, keys), default=0) <= MAX_KEY_BYTES


def open_sqlite(location: Location, **options: object) -> SqliteSource:
    """The Source of ``sqlite:PATH`` and ``sqlite:///ABSOLUTE/PATH``."""
    return configured(partial(SqliteSource, _path(location)), location, options)


def uninstall_sqlite(location: Location) -> None:
    """Remove triggers and logs of the table that `location` names, which may have gone."""
    configured(partial(_uninstall, _path(location)), location, {})


def _uninstall(path: str, *, table: str = "data", timeout: Seconds = 5.0, **_: object) -> None:
    # Whatever columns are asked for.
    uninstall(path, table, timeout)


def _path(location: Location) -> str:
    example = "sqlite:settings.db, or memory: for none"
    path = local_path(location, example, "file")
    if path.lstrip("/").startswith((":memory:", "file:")):
        # Each of SQLite's connections would have a database of its own; and its own URLs are not
        # taken, whose options are others.
        raise DatastreamError(f"{location.shown!r} names no file; write {example}")
    return path
