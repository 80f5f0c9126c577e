"""A Source over another store, whose keys and values are spelled otherwise there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from datastream._translated.rules import Translation
from datastream._upstream import Upstream
from datastream._watch.subscription import Load
from datastream.entry import DELETE, PUT, Batch, Capability, Entry
from datastream.errors import DatastreamError, InvalidKey, InvalidValue, shown
from datastream.selection import Selection, Selects
from datastream.source import Feature, Health, Reading, Source, Write
from datastream.sources._common.wake import WakeEvent

PASSED_ON = frozenset(
    {
        *(Feature.WRITE, Feature.COMPARE_AND_SET, Feature.ATOMIC, Feature.TYPES),
        *(Feature.MESSAGES, Feature.LOG, Feature.TRANSIENT),
    }
)
"""What it can do if the store below can."""


class TranslatedSource(Source):
    """A Source over one store; positions, revisions and transactions are that one's.

    Args:
        upstream: the store below.
        translation: how keys and values are spelled there.
    """

    def __init__(self, upstream: Upstream, translation: Translation) -> None:
        self.upstream = upstream
        self.translation = translation
        self.features = PASSED_ON & upstream.features
        self.eventually_consistent = upstream.store._source.eventually_consistent
        self._wake = WakeEvent()
        self._lock = threading.Lock()
        self._closed = False
        self._followed: Selection | None = None
        # The position that was read last, if the store below was made to look then, and has offered
        # nothing since.
        self._told = ""
        self._ends: list[Callable[[], None]] = []
        # Values that are no translated ones, and why, as of the last look at each.
        self._foreign: dict[str, str] = {}

    # Reading.

    def capabilities(self) -> Sequence[Capability]:
        return [Capability(e.key, e.value_type) for e in self.read(Selection(), None).entries]

    def get(self, key: str) -> Entry | None:
        try:
            found = self.upstream.get(self.translation.there(key))
        except InvalidKey:
            return None
        return None if found is None else next(iter(self._translated([found])), None)

    def read(self, selection: Selects, since: str | None) -> Reading:
        asked = self.translation.asked(selection)
        try:
            if since is None:
                state = self.upstream.snapshot(asked)
                if not isinstance(selection, Selection):
                    # A poll, that has to look at everything.
                    self._tell_below(state.cursor)
                found = Reading(state.entries, state.cursor, True, unread=state.unread)
                if self._followed not in (None, asked):
                    # A newcomer may join with it: the next poll asks for its keys too.
                    self._wake.set()
            else:
                self._follow(asked, since)
                found = self.upstream.changes(asked, since)
                if found.position != self._told:
                    self._tell_below(found.position)
            return self._seen(found)
        finally:
            self._look()

    def _tell_below(self, position: str) -> None:
        """What was read may be ahead of what the store below has offered: have that told as well.

        What is undone before the store below looks is no change to it, so it would not ring again.
        """
        if self.upstream.reached() == position:
            return
        # What is offered from here on, on the way too, is not what was told.
        self._told = position
        try:
            self.upstream.catch_up()
        except DatastreamError:
            self._told = ""
            raise
        if self.upstream.reached() != position:
            self._wake.set()

    def _seen(self, found: Reading) -> Reading:
        """A reading of the store below, as it is here."""
        load = found.load
        if load is None:
            entries = self._translated(found.entries)
        else:
            entries = list(self._named(found.entries))
            load = partial(self._loaded, load, {entry.key: entry for entry in found.entries})
        unread = {key if key.endswith("/") else self.translation.here(key) for key in found.unread}
        created = {key for key in map(self.translation.here, found.created) if key}
        before = {self.translation.here(key): rev for key, rev in found.before.items()}
        return found._replace(
            entries=entries,
            load=load,
            unread=frozenset(key for key in unread if key) | self._foreign.keys(),
            created=frozenset(created),
            before={key: revision for key, revision in before.items() if key},
        )

    def _loaded(
        self, load: Load, stubs: Mapping[str, Entry], wanted: Sequence[Entry]
    ) -> Sequence[Entry]:
        return self._translated(load([stubs[self.translation.there(e.key)] for e in wanted]))

    def _named(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        for entry in entries:
            key = self.translation.here(entry.key)
            if key is not None:
                yield entry._replace(key=key)

    def _translated(self, entries: Iterable[Entry]) -> list[Entry]:
        """Entries from there, as they are here; without values that are no translated ones."""
        found = []
        for entry in self._named(entries):
            self._foreign.pop(entry.key, None)
            try:
                is_put = entry.operation is PUT
                found.append(self.translation.read(entry.key, entry) if is_put else entry)
            except ValueError as error:
                self._foreign[entry.key] = str(error) or type(error).__name__
        return found

    # Following.

    def _follow(self, asked: Selection, since: str) -> None:
        """Be woken by changes there, from before the next read on."""
        with self._lock:
            if self._closed or self._followed == asked:
                return
            self._followed, ends, self._ends = asked, self._ends, []
        _call(ends)
        sink = _Sink(self._ring)
        self._ends = [
            self.upstream.follow(asked, sink, since),
            self.upstream.follow_status(lambda _: self._wake.set()),
        ]

    def _ring(self) -> None:
        self._told = ""
        self._wake.set()

    def wait(self, timeout: float | None) -> None:
        self._wake.wait(timeout)
        self._look()

    def wake(self) -> None:
        self._wake.set()

    def refresh(self) -> None:
        self.upstream.refresh()

    def release(self) -> None:
        with self._lock:
            self._followed, ends, self._ends = None, self._ends, []
            self._told = ""
        _call(ends)

    def _look(self) -> None:
        """Say how the store below is."""
        status = self.upstream.status
        texts = [status.degraded]
        for key, reason in list(self._foreign.items())[:1]:
            texts.append(f"{shown(key)} holds what was not translated: {reason}")
        health = Health(status.error, "; ".join(filter(None, texts)))
        if not health.says_what(self.health):
            self.health = health

    # Writing.

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        types = Feature.TYPES in self.features
        made = [self.translation.write(write, types=types) for write in writes]
        try:
            stored = self.upstream.write(made)
        except (InvalidKey, InvalidValue) as error:
            raise type(error)(f"{_named_in(error, writes, made)}: {error}") from error
        return [
            entry._replace(key=write.key)
            if entry.operation is DELETE
            else self.translation.read(write.key, entry)
            for write, entry in zip(writes, stored, strict=True)
        ]

    def translate(self, error: Exception, key: str | None) -> Exception:
        if isinstance(error, DatastreamError):
            return error
        return DatastreamError(f"translating {shown(key or '')} raised {error!r}")

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.release()
        self._wake.set()
        self.upstream.close()


class _Sink:
    """Rings when the store below offers something."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring

    def offer(self, batch: Batch, before: Sequence[str | None] | None = None, /) -> None:
        self._ring()

    def end(self, error: Exception | None = None) -> None:
        self._ring()


def _named_in(error: Exception, writes: Sequence[Write], made: Sequence[Write]) -> str:
    """The key here that an error of the store below is about."""
    text = str(error)
    pairs = zip(writes, made, strict=True)
    named = (write.key for write, there in pairs if shown(there.key) in text)
    return shown(next(named, writes[0].key))


def _call(ends: Iterable[Callable[[], None]]) -> None:
    for end in ends:
        end()
