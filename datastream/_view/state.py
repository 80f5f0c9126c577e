"""The decoded values of a view: each batch appears whole, each picture is of one moment.

The dict that readers look into is changed in place, by one C call that no other thread sees half
done: assignment, ``del`` or ``dict.update``. What has no such call, such as a commit with deletes
among other changes, and what somebody still has a picture of, is done in a copy that then
replaces the dict. So a change costs its own size, and a copy only where a picture was taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from datastream import codecs
from datastream._columns import EntryColumns
from datastream._view.cache import RawRow, rows_of
from datastream._view.changes import Listener, Listeners
from datastream._watch.values import reason_of
from datastream.entry import DELETE, Batch, Change, ChangeBatch, Entry, Rejected, deleted

MANY = 100
"""Entries of a first state that are decoded together, if they are of one type."""

Rejects = Callable[[Rejected], None]


class Picture(NamedTuple):
    """Values of one moment; nobody changes these dicts any more."""

    values: dict[str, Any]
    rows: dict[str, RawRow]
    refused: Mapping[str, Refused]
    cursor: str


class Refused(NamedTuple):
    """The newest entry of a key whose value was not taken."""

    rejected: Rejected
    entry: Entry


class _Prepared(NamedTuple):
    """A batch, decoded before any lock is taken."""

    puts: dict[str, Any]
    gone: dict[str, Entry]
    refused: dict[str, Refused]
    entries: Sequence[Entry]
    """Those of the batch; those of `puts` among them."""


class ViewState:
    """The values of one view. One thread at a time applies batches; any reads.

    Args:
        convert: makes of a decoded value what users want; what it raises is a rejection.
        rejects: called with each rejection, once for each revision.
        keeps_rows: the stored bytes are kept beside the values, for a cache.
    """

    __slots__ = (
        "_convert", "_keeps_rows", "_lock", "_rejects", "_shared", "cursor", "exists",
        "listeners", "refused", "rows", "values",
    )  # fmt: skip

    def __init__(
        self, convert: Callable[[Any], Any] | None, rejects: Rejects, *, keeps_rows: bool = False
    ) -> None:
        self._convert = convert
        self._rejects = rejects
        self._keeps_rows = keeps_rows
        self._lock = threading.Lock()
        self.listeners = Listeners()
        # A picture of the dicts was given out, so that the next change needs a copy.
        self._shared = False
        self.values: dict[str, Any] = {}
        self.rows: dict[str, RawRow] = {}
        self.refused: Mapping[str, Refused] = {}
        self.cursor = ""
        self.exists = False
        """There is a state, if only an old one out of a cache."""

    def picture(self) -> Picture:
        """The values now; the next change leaves them alone."""
        with self._lock:
            self._shared = True
            return self.last_picture()

    def last_picture(self) -> Picture:
        """The same where nothing changes any more: in a child process, whose locks are not its own.

        Another thread of the parent may have held the lock.
        """
        return Picture(self.values, self.rows, self.refused, self.cursor)

    def listen(self, listener: Listener, key: str | None = None) -> None:
        """Offer `listener` all changes that follow the values of now, or those of one key."""
        with self._lock:
            self.listeners.add(listener, key)

    def apply(self, batch: Batch) -> None:
        """Take in a batch, and offer what changed to the listeners.

        Never raises for what a value or the conversion does.
        """
        prepared = self._prepare(batch)
        puts, gone = prepared.puts, prepared.gone
        # The old values outlive the C call: their finalizers would let other threads in.
        before = [self.values.get(key) for key in (*puts, *gone)] if self.values else []
        with self._lock:
            changes = self._changes(prepared) if self.listeners else ()
            if self._shared or (gone and len(puts) + len(gone) > 1):
                self._replace(prepared)
            else:
                self._change_in_place(prepared)
            self.refused = prepared.refused
            self.cursor = batch.cursor
            self.exists = True
            if changes:
                about = (batch.author, batch.message, batch.point)
                self.listeners.offer(ChangeBatch(changes, batch.cursor, batch.initial, *about))
        before.clear()

    def revisions(self) -> dict[str, str]:
        """The newest revision of each key, where rows are kept."""
        known = {key: row[2] for key, row in self.rows.items()}
        return known | {key: refused.entry.revision for key, refused in self.refused.items()}

    @property
    def complaint(self) -> str:
        """Nothing: each value is in force, or its last good one, see `refused`."""
        return ""

    @property
    def error(self) -> Exception | None:
        """None: any first state is one."""
        return None

    def restore(self, chunks: Iterable[EntryColumns], cursor: str) -> None:
        """Begin with what a cache held, before anything follows a backend."""
        for columns in chunks:
            decoded = self._decode_all(columns.values, columns.types)
            if decoded is None:
                self.apply(Batch(columns, cursor))
                continue
            self.values.update(zip(columns.keys, decoded, strict=True))
            self.rows.update(rows_of(columns))
        self.cursor = cursor
        self.exists = True

    # Preparing.

    def _prepare(self, batch: Batch) -> _Prepared:
        if batch.initial and len(batch) >= MANY and not (self.values or self.refused):
            alike = self._prepare_alike(batch.entries)
            if alike is not None:
                return alike
        prepared = _Prepared({}, {}, dict(self.refused), batch.entries)
        if batch.reset:
            present = {entry.key for entry in batch.entries}
            for key in (self.values.keys() | self.refused.keys()) - present:
                self._remove(deleted(key), prepared)
        self._prepare_each(batch, prepared)
        return prepared

    def _prepare_each(self, batch: Batch, prepared: _Prepared) -> None:
        puts, _, refused, _ = prepared
        convert, may_know = self._convert, batch.reset
        read, last_type = codecs.decoder("bytes"), "bytes"
        # With very many keys this is most of the cost: nothing is called that need not be.
        for entry in batch.entries:
            key, value, value_type, _, _, operation = entry
            if operation is DELETE:
                self._remove(entry, prepared)
                continue
            if may_know and self._knows(entry):
                continue
            if value_type != last_type:
                read, last_type = codecs.decoder(value_type), value_type
            try:
                decoded = read(value) if convert is None else convert(read(value))
            except Exception as error:  # noqa: BLE001
                self._refuse(entry, error, refused)
                continue
            puts[key] = decoded
            if refused:
                refused.pop(key, None)

    def _prepare_alike(self, entries: Sequence[Entry]) -> _Prepared | None:
        """Very many values of one type, decoded together; None if that cannot be."""
        columns = EntryColumns.of(entries)
        decoded = columns and self._decode_all(columns.values, columns.types)
        if columns is None or decoded is None:
            return None
        return _Prepared(dict(zip(columns.keys, decoded, strict=True)), {}, {}, columns)

    def _decode_all(self, values: Sequence[bytes], types: Sequence[str]) -> list[Any] | None:
        """The values of one type; None where that is not so easy."""
        if len(set(types)) != 1:
            return None
        decoded = codecs.decode_all(values, types[0])
        if decoded is None or self._convert is None:
            return decoded
        try:
            return list(map(self._convert, decoded))
        except Exception:  # noqa: BLE001
            # One by one, to find out which of them is refused.
            return None

    def _knows(self, entry: Entry) -> bool:
        """This very revision is there, decoded; only where rows are kept."""
        return entry.key not in self.refused and self.rows.get(entry.key) == row_of(entry)

    def _refuse(self, entry: Entry, error: Exception, refused: dict[str, Refused]) -> None:
        rejected = Rejected(entry.key, entry.revision, reason_of(error, entry))
        before = refused.get(entry.key)
        refused[entry.key] = Refused(rejected, entry)
        if before is None or before.entry.revision != entry.revision:
            self._rejects(rejected)

    def _remove(self, entry: Entry, prepared: _Prepared) -> None:
        prepared.refused.pop(entry.key, None)
        if entry.key in self.values:
            prepared.gone[entry.key] = entry

    def _changes(self, prepared: _Prepared) -> tuple[Change, ...]:
        old, puts = self.values.get, prepared.puts
        gone = [Change(key, old(key), None, entry) for key, entry in prepared.gone.items()]
        put = (entry for entry in prepared.entries if entry.key in puts)
        return (*gone, *(Change(e.key, old(e.key), puts[e.key], e) for e in put))

    # Committing.

    def _change_in_place(self, prepared: _Prepared) -> None:
        """One key removed, or any number put."""
        for key in prepared.gone:
            del self.values[key]
            self.rows.pop(key, None)
        if prepared.puts:
            self.values.update(prepared.puts)
        self._keep(self.rows, prepared)

    def _replace(self, prepared: _Prepared) -> None:
        values, rows = self.values.copy(), self.rows.copy()
        for key in prepared.gone:
            del values[key]
            rows.pop(key, None)
        values.update(prepared.puts)
        self._keep(rows, prepared)
        self.values, self.rows, self._shared = values, rows, False

    def _keep(self, rows: dict[str, RawRow], prepared: _Prepared) -> None:
        if self._keeps_rows:
            puts = prepared.puts
            rows.update((e.key, row_of(e)) for e in prepared.entries if e.key in puts)


def row_of(entry: Entry) -> RawRow:
    """What a cache keeps of an entry."""
    return entry.value, entry.value_type, entry.revision
