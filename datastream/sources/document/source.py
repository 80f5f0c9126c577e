"""One document, such as ``settings.toml``, whose leaves are keys.

The text lies at one key of another store, the *holder*: a file, a blob in git, a row. The document
has the history of that key: each of its revisions is a position here, and a write is one new
revision of it. Leaves are compared by content, so that a change of one is news of that one only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from datastream._formats import Malformed, format_of
from datastream.entry import Batch, Capability, Entry, Revision
from datastream.errors import (
    DatastreamError,
    InvalidValue,
    RevisionConflict,
    SourceUnavailable,
    shown,
)
from datastream.selection import Selection, Selects
from datastream.source import Feature, Health, Reading, Source, Write, Written
from datastream.sources._common.file_types import type_of_name
from datastream.sources._common.versions import Versions
from datastream.sources._common.wake import WakeEvent
from datastream.sources.document.change import Change, about
from datastream.sources.document.holder import Holder, Parsed, history_of
from datastream.sources.document.leaves import Leaf, leaves

SETTLED = 0.1
"""Seconds for which a file that has lost keys must stay the same until that is believed."""
SETTLES = 50
"""How often that is looked at until the file counts as one that changes all the time."""
WRITES = 100
"""Attempts of a write to be the next one after what it has read."""
WRITE_TIMEOUT = 10.0
"""Seconds that a write waits for others of this process."""
MISSING = "missing"
"""The position where there is no document yet."""

OF_HOLDER = frozenset({Feature.WRITE, Feature.COMPARE_AND_SET, Feature.MESSAGES, Feature.HISTORY})

log = logging.getLogger("datastream")


class _Found(threading.local):
    """What one thread has found: another one may read beside it, and find something else."""

    revision = ""


class DocumentSource(Source):
    """A Source over the leaves of a document.

    Args:
        holder: the store that holds it.
        key: where; the extension says what it is written in.
        create: a document that is not there is empty, and made by the first write.
        torn: others may write it in place, so that it may be read half.

    Raises:
        DatastreamError: the key has no extension of a document.
        ImportError: the library that reads it is missing.
    """

    def __init__(
        self, holder: Holder, key: str, *, create: bool = False, torn: bool = False
    ) -> None:
        self._holder = holder
        self._key = key
        self._create = create
        self._torn = torn
        self._format = format_of(key)
        self.features = OF_HOLDER & holder.features
        if Feature.WRITE in self.features:
            self.features |= {Feature.ATOMIC}
        self._wake = WakeEvent()
        self._versions = Versions()
        self._stopped = threading.Event()
        self._writing = threading.Lock()
        self._lock = threading.Lock()
        self._ends: list[Callable[[], None]] | None = None
        # The last good one: what stands while it is watched, and what need not be parsed again.
        self._parsed: Parsed | None = None
        # The revisions that the holder has offered last, and up to which it was made to look since.
        self._offered = self._told = ""
        # The one that each thread has read last.
        self._found = _Found()
        # The last change of it: the revisions before and after, author and message.
        self._about = ("", "", "", "")
        self._skipped: set[str] = set()

    # Reading.

    def capabilities(self) -> Sequence[Capability]:
        found = self._document().leaves.values()
        return [Capability(leaf.entry.key, leaf.entry.value_type) for leaf in found]

    def get(self, key: str) -> Entry | None:
        leaf = self._document().leaves.get(key)
        return leaf.entry if leaf is not None else None

    def read(self, selection: Selects, since: str | None) -> Reading:
        if since is not None:
            self._follow()
        parsed = self._document()
        position = self._versions.position(parsed.revision)
        if since is not None:
            self._tell_holder()
            if self._versions.is_same(since, position):
                return Reading((), since, complete=False)
        entries = [leaf.entry for leaf in parsed.leaves.values()]
        selected = [entry for entry in entries if selection.matches(entry.key)]
        before, after, author, message = self._about
        if after != parsed.revision or not (since or "").endswith(f":{before}"):
            author = message = ""
        return Reading(selected, position, True, author=author, message=message)

    def _tell_holder(self) -> None:
        """What was read may be ahead of what the holder has offered: have that told as well.

        What changes back before the holder looks is no change to it, so it would not ring again.
        """
        revision, told = self._found.revision, self._told
        self._told = revision
        if revision in (self._offered, told):
            return
        with suppress(DatastreamError):
            # Its status says what prevents it, and rings when it is well again.
            self._holder.catch_up()
        if revision != self._offered:
            self._wake.set()

    def _document(self) -> Parsed:
        """The document now; while it is watched and in trouble, as it last was.

        Raises:
            SourceUnavailable: it is not there, or half saved.
        """
        try:
            parsed = self._read()
        except DatastreamError as error:
            last = self._parsed
            if last is None or self._ends is None:
                raise
            if str(self.health.error) != str(error):
                self.health = Health(error)
            return last
        if self.health != parsed.health:
            self.health = parsed.health
        return parsed

    def _read(self) -> Parsed:
        before = self._parsed
        parsed = self._parse(self._fetch())
        for _ in range(SETTLES):
            if not self._torn or before is None or before.leaves.keys() <= parsed.leaves.keys():
                break
            # It may be half of what somebody is writing.
            self._stopped.wait(SETTLED)
            again = self._parse(self._fetch())
            if again.revision == parsed.revision:
                break
            parsed = again
        else:
            raise SourceUnavailable(f"{self._where} changes all the time; read it again")
        self._parsed = parsed
        return parsed

    def _fetch(self) -> Entry | None:
        entry = self._holder.get(self._key)
        self._found.revision = MISSING if entry is None else entry.revision
        return entry

    def _parse(self, entry: Entry | None) -> Parsed:
        if entry is None:
            if self._create:
                return Parsed(MISSING, b"", {})
            raise SourceUnavailable(
                f"{self._where} is not there; make it, or open it with create=True"
            )
        known = self._parsed
        if known is not None and known.revision == entry.revision:
            return known
        try:
            found, skipped = leaves(self._format.read(entry.value))
        except Malformed as error:
            raise SourceUnavailable(
                f"{self._where}: {error}; mend it, its last good state stands"
            ) from error
        self._warn(skipped)
        return Parsed(entry.revision, entry.value, found, skipped)

    @property
    def _where(self) -> str:
        return f"{shown(self._key)} in {self._holder.name}"

    def _warn(self, skipped: Sequence[str]) -> None:
        for why in skipped:
            if why not in self._skipped:
                self._skipped.add(why)
                log.warning("%s: left out: %s", self._where, why)

    # Following.

    def _follow(self) -> None:
        """Be woken by changes of the holder, from before the next read on."""
        with self._lock:
            if self._ends is not None or self._stopped.is_set():
                return
            ends = self._ends = []
        try:
            ends.append(self._holder.follow(Selection(frozenset((self._key,))), _Sink(self)))
            ends.append(self._holder.follow_status(lambda _: self._wake.set()))
        except DatastreamError:
            self.release()
            raise
        if self._ends is not ends:
            # Released meanwhile.
            _call(ends)

    def changed(self, batch: Batch, before: Sequence[str | None] | None) -> None:
        """Take in that the holder has a new revision; memory only."""
        revision = next((entry.revision for entry in batch.entries), "") or MISSING
        if len(batch.entries) == 1 and before:
            self._about = (before[0] or MISSING, revision, batch.author, batch.message)
        # What it was made to look at before is not what it has now.
        self._offered, self._told = revision, ""
        self._wake.set()

    def wait(self, timeout: float | None) -> None:
        self._wake.wait(timeout)

    def wake(self) -> None:
        self._wake.set()

    def release(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, None
        _call(ends or ())

    # Writing.

    def write(self, writes: Sequence[Write]) -> Written | Sequence[Entry]:
        if not self._writing.acquire(timeout=WRITE_TIMEOUT):
            raise SourceUnavailable(f"{self._where}: other writes have not ended; try again")
        try:
            return self._write(writes)
        finally:
            self._writing.release()

    def _write(self, writes: Sequence[Write]) -> Written | Sequence[Entry]:
        for attempt in range(WRITES):
            before = self._parse(self._fetch())
            change = Change(before, writes)
            since = self._versions.position(before.revision)
            if not change.steps:
                return Written(change.entries, since, since)
            data = self._format.edit(before.data or self._format.empty, change.apply)
            found, skipped = leaves(self._format.read(data))
            self._check(change.entries, found)
            try:
                after = self._replace(before, data, writes)
            except RevisionConflict:
                # Another writer was faster, and may be again; the pauses get longer.
                self._stopped.wait(0.001 * attempt)
                continue
            self._parsed = Parsed(after.revision, data, found, skipped)
            if _differing(before.leaves, found) - {write.key for write in writes}:
                # An alias of YAML is one value of several keys: all of them are read anew.
                return change.entries
            message, author = about(writes)
            position = self._versions.position(after.revision)
            return Written(change.entries, position, since, author, message)
        raise SourceUnavailable(f"{self._where}: others write all the time; try again")

    def _replace(self, before: Parsed, data: bytes, writes: Sequence[Write]) -> Entry:
        message, author = about(writes)
        expect: str | None = None
        if Feature.COMPARE_AND_SET in self.features:
            expect = "" if before.revision == MISSING else before.revision
        value_type = type_of_name(self._key) or "bytes"
        write = Write(self._key, data, value_type, expect, None, message, author)
        return self._holder.write([write])[0]

    def _check(self, wanted: Sequence[Entry], found: Mapping[str, Leaf]) -> None:
        """Refuse a text that would not say what is to be written."""
        for entry in wanted:
            leaf = found.get(entry.key)
            if (leaf.entry.revision if leaf is not None else "") != entry.revision:
                raise InvalidValue(
                    f"{self._where}: {shown(entry.key)} cannot be written so: another place of the "
                    "text says it, as an alias (*) or a merge (<<) of YAML; nothing was written"
                )

    def translate(self, error: Exception, key: str | None) -> Exception:
        if isinstance(error, Malformed):
            return SourceUnavailable(f"{self._where}: {error}; mend it and try again")
        return error

    # The past.

    def history(self, key: str) -> Iterator[Revision]:
        """See `HasHistory`: the revisions of the document in which the leaf differs."""
        return history_of(key, self._holder.history(self._key), self._format)

    def close(self) -> None:
        self._stopped.set()
        self.release()
        self._wake.set()
        self._holder.close()


def _differing(before: Mapping[str, Leaf], after: Mapping[str, Leaf]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


class _Sink:
    """Takes what the holder offers."""

    def __init__(self, source: DocumentSource) -> None:
        self._source = source

    def offer(self, batch: Batch, before: Sequence[str | None] | None = None, /) -> None:
        self._source.changed(batch, before)

    def end(self, error: Exception | None = None) -> None:
        self._source.wake()


def _call(ends: Sequence[Callable[[], None]]) -> None:
    for end in ends:
        end()
