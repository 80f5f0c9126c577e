"""One subscription: what it selects, where its batches go, and how it joins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from datastream._columns import EntryColumns, by_key, held, keys_of, matching, revisions_of
from datastream._watch import diff
from datastream._watch.routing import Route
from datastream.entry import DELETE, PUT, Batch, Entry, deleted
from datastream.selection import Selection
from datastream.source import Reading, Written, is_below

Since = str | Mapping[str, str] | None
"""Where to resume: a cursor, or the revision of each key one has."""

Load = Callable[[Sequence[Entry]], Sequence[Entry]]


class Sink(Protocol):
    """Where the publisher puts a subscription's batches; called under its lock, never blocks."""

    def offer(self, batch: Batch, before: Sequence[str | None] | None = None, /) -> None:
        """Take a batch; `before` has the revision of each of its keys before it, if known."""
        ...

    def end(self, error: Exception | None = None) -> None:
        """No batch follows: the store was closed, or with `error` the watch cannot begin."""


class Subscription:
    """One subscription of a publisher.

    Args:
        selection: which keys.
        sink: takes the batches.
        since: where it resumes; None begins with the whole state.
        transient: it wants the DELETEs of keys too that were created after `since`.
        lacking: keys, or places ending in "/", which could not be read when it read its state: it
            does not have them, though they were there at `since`.
    """

    __slots__ = (
        "buffer", "is_first", "lacking", "left", "needs_state", "position", "registered", "route",
        "selection", "since", "sink", "transient", "was_idle",
    )  # fmt: skip

    def __init__(
        self,
        selection: Selection,
        sink: Sink,
        since: Since = None,
        *,
        transient: bool = False,
        lacking: Collection[str] = (),
    ) -> None:
        self.selection = selection
        self.sink = sink
        self.since = since or None
        self.route: Route | None = None
        self.buffer: list[Published] | None = None
        """What was published since it registered; None once it has joined."""
        self.transient = transient
        self.lacking = frozenset(lacking)
        self.needs_state = False
        """What changed since the cursor was not enough to join with."""
        self.registered = 0
        """The number of the last read that began before it registered."""
        self.position: str | None = None
        """Where the publisher stood when it registered; None if nobody had joined."""
        self.was_idle = False
        """Nothing was polled when it registered, so that `buffer` may begin too late."""
        self.is_first = False
        """It has joined while nobody else had: the publisher stands where it began."""
        self.left = False


class Published:
    """A reading as a joining subscription has to apply it.

    Args:
        reading: as read, not yet reduced to what was news to others.
        values: those of its entries that were loaded.
        skipped: keys that were left out of it, because a write was published meanwhile.
    """

    __slots__ = ("reading", "skipped", "values")

    def __init__(
        self,
        reading: Reading,
        values: Mapping[str, Entry],
        skipped: frozenset[str] = frozenset(),
    ) -> None:
        self.reading = reading
        self.values = values
        self.skipped = skipped


class Join:
    """What one joining subscription will be given first: its own read, brought up to date.

    Args:
        selection: which keys.
        since: where the subscriber resumes.
        is_told_all: what is published names all that has changed, see `Feature.TRANSIENT`.
    """

    def __init__(self, selection: Selection, since: Since, *, is_told_all: bool = True) -> None:
        self.selection = selection
        self._is_told_all = is_told_all
        self._had = had_of(selection, since)
        self.cursor = since if isinstance(since, str) else None
        self.reset = False
        self.found = 0
        """See `Publisher.await_told`, before the cursor was used."""
        self.position = ""
        self.has_state = False
        self.is_as_read = True
        """It is the state at `position`: nothing was applied to it since."""
        self.is_patched = False
        """Some of it is later than the rest was read."""
        # The state as it was read, until something changes it: then `state` has it by key.
        self._read: EntryColumns | None = None
        self._state: dict[str, Entry] = {}
        # The last DELETE of each key; what loads the values that are not there yet.
        self._gone: dict[str, Entry] = {}
        self._stubs: dict[str, Load] = {}
        # For a cursor: keys that changed since it, and the revisions before anything followed.
        self._resumed: dict[str, None] = {}
        self._created: frozenset[str] = frozenset()
        # What is applied from here on begins where this was read, or later. Until that is sure:
        # keys that were created meanwhile, and may have been there at the cursor all the same.
        self._has_met = False
        self._doubtful: set[str] = set()
        # What changed since the cursor was read where the state was; else, keys of which a second
        # read has told whether they were there at the cursor.
        self.is_aligned = True
        self._confirmed: set[str] = set()
        # Revisions at the cursor, where they are known, of keys that have changed since.
        self._before: dict[str, str] = {}
        self._transient = False
        self._origin: dict[str, str] = {}
        self._unread: frozenset[str] = frozenset()

    def begin(self, reading: Reading) -> None:
        """Take in the complete state."""
        self.position = reading.position
        self._unread = reading.unread
        if self.has_state or self.state or self._gone:
            self._apply(Published(reading, {}))
        elif isinstance(reading.entries, EntryColumns) and reading.load is None:
            self._read = reading.entries
        else:
            # Read for this very selection: most of the time of a join with many keys is this.
            self._state = {entry.key: entry for entry in reading.entries}
            if reading.load is not None:
                self._stubs = dict.fromkeys(self._state, reading.load)
        self.has_state = True

    @property
    def state(self) -> dict[str, Entry]:
        """Every selected key; not maintained where the publisher knows them already."""
        if self._read is not None:
            self._state, self._read = by_key(self._read), None
        return self._state

    @property
    def columns(self) -> EntryColumns | None:
        """Every selected key, if nothing has changed since they were read as columns."""
        return self._read

    @property
    def is_empty(self) -> bool:
        """Whether no selected key holds anything."""
        return not (self._read or self._state)

    def advance(self, reading: Reading) -> None:
        """Take in what changed since the state was read."""
        self.position = reading.position
        self._apply(Published(reading, {}))

    def resume(self, reading: Reading, *, transient: bool = False) -> None:
        """Take in what changed since the cursor, or the state if the cursor is not honoured."""
        if reading.complete:
            self.reset, self.cursor = True, None
            self.begin(reading)
            return
        # What names all that was touched since the cursor, later than the state, corrects it.
        is_same = self._is_told_all or self.position == reading.position
        self.is_aligned = not self.has_state or is_same
        self.position = reading.position
        self._apply(Published(reading, {}))
        matches = self.selection.matches
        # In the order of the backend, which is that of the changes where it has a log.
        self._resumed = {entry.key: None for entry in reading.entries if matches(entry.key)}
        self._transient = transient
        self._created = reading.created
        if not transient:
            self._before = dict(reading.before)
        self._origin = self.revisions()

    def apply(self, published: Iterable[Published], since: str | None) -> bool:
        """Take in what was published since the subscription registered, in that order.

        Args:
            since: the position at which that begins.

        Returns:
            False if that needs the state, which was not read.
        """
        self._has_met = self._has_met or self._is_of(since)
        for one in published:
            self.is_as_read = False
            if not self.has_state and (one.reading.complete or self._is_unsure(one.reading)):
                return False
            self._apply(one)
            self.is_patched = not one.reading.complete and (
                self.is_patched or bool(one.reading.entries)
            )
            self._take_created(one.reading)
            is_state = one.reading.complete
            self._has_met = self._has_met or is_state or self._is_of(one.reading.position)
        return True

    def is_exact(self, position: str) -> bool:
        """Whether this is the state at `position`, to which it was brought.

        Else it may have what came and went between the readings that were published, which a log
        that compares two states does not name.
        """
        is_there = self.is_as_read and self._is_of(position)
        return self._is_told_all or self._has_met or is_there

    def _is_of(self, position: str | None) -> bool:
        """Whether what was read, of one moment, was so at `position`."""
        return self.is_aligned and self.position == position

    def _take_created(self, reading: Reading) -> None:
        """Learn which keys held nothing at the cursor."""
        if self.cursor is None:
            return
        created = reading.created - self._resumed.keys()
        if self.has_state:
            # What was there when the changes were read, and is none of them, was there before.
            self._created |= created - self._origin.keys()
        elif self._has_met:
            self._created |= created
            self._take_before(reading)
        elif self._is_told_all:
            # Else it would be named among what changed since the cursor.
            self._created |= created
        else:
            self._doubtful |= created

    def _take_before(self, reading: Reading) -> None:
        """Learn what keys held at the cursor of which nothing has changed until now."""
        if self._transient:
            return
        for key, revision in reading.before.items():
            if key not in self._resumed and key not in self._created:
                self._before.setdefault(key, revision)

    def _is_unsure(self, reading: Reading) -> bool:
        """Whether it deletes a key of which nothing says that there was one at the cursor.

        Its creation may have been published before this subscription registered, and both be over
        in what was read since the cursor.
        """
        if self.cursor is None:
            return False
        known = self._resumed.keys() | self._created | (self.state.keys() - self._doubtful)
        if self._has_met:
            known |= reading.created
        return any(
            entry.operation is DELETE
            and entry.key not in known
            and self.selection.matches(entry.key)
            for entry in reading.entries
        )

    def unconfirmed(self) -> set[str]:
        """Keys of the state that are gone now, and may have come after the cursor."""
        if self.is_aligned or self.cursor is None:
            return set()
        known = self._resumed.keys() | self._confirmed
        return self._origin.keys() - self.state.keys() - known

    def confirm(self, reading: Reading) -> None:
        """Take in what changed since the cursor, read after all of these were gone."""
        keys = self.unconfirmed()
        named = {entry.key for entry in reading.entries} - reading.created
        self._created |= keys - named
        self._confirmed |= keys

    def load(self) -> bool:
        """Load the values still needed; True if a value has changed since it was listed."""
        missing = [entry for entry in self._news() if entry.key in self._stubs]
        moved = False
        while missing:
            load = self._stubs[missing[0].key]
            same = [entry for entry in missing if self._stubs[entry.key] is load]
            missing = [entry for entry in missing if self._stubs[entry.key] is not load]
            for entry in load(same):
                moved |= entry.revision != self.state[entry.key].revision
                self._put(entry)
            self._leave_out([entry.key for entry in same if entry.key in self._stubs])
        if moved:
            # Not the state of that position any more.
            self.position = ""
        return moved

    def _leave_out(self, keys: Iterable[str]) -> None:
        """Take in that keys cannot be read."""
        self._unread = self._unread.union(keys)
        for key in keys:
            del self._stubs[key]
            del self.state[key]

    def kept(self) -> dict[str, str]:
        """Revisions of keys that cannot be read, and which the subscriber therefore keeps."""
        if not self._unread or self._had is None:
            return {}
        had = self._had.items()
        return {k: rev for k, rev in had if k not in self.state and self._is_unread(k)}

    def _is_unread(self, key: str) -> bool:
        return key not in self._gone and is_below(key, self._unread)

    def needs_values(self) -> bool:
        return bool(self._stubs) and any(entry.key in self._stubs for entry in self._news())

    def batch(self, cursor: str) -> Batch:
        """The first batch."""
        news = held(self._news())
        created: frozenset[str] = frozenset()
        if self.cursor is not None:
            created = self._created.intersection(keys_of(news))
        unread = concerning(self._unread, self.selection)
        return Batch(news, cursor, initial=True, reset=self.reset, created=created, unread=unread)

    def revisions(self) -> dict[str, str]:
        """The revision of every selected key, at the position reached."""
        if self._read is not None:
            return revisions_of(self._read)
        return {key: entry.revision for key, entry in self._state.items()}

    def _news(self) -> Sequence[Entry]:
        if self._read is not None and self._had is None and self.cursor is None:
            return self._read
        if self._had is not None:
            news = diff.difference(self._had, list(self.state.values()))
            if not self._unread:
                return news
            return [e for e in news if e.key in self.state or not self._is_unread(e.key)]
        if self.cursor is None:
            return list(self.state.values())
        had = self._before
        return [e for e in self._since_cursor() if had.get(e.key) != e.revision]

    def _since_cursor(self) -> list[Entry]:
        # What was created after the cursor and is gone again, the subscriber never had.
        never_had = self._created - self.state.keys()
        if self._transient:
            never_had = frozenset()
        if not self.has_state:
            gone = [entry for key, entry in self._gone.items() if key not in never_had]
            return [*gone, *self.state.values()]
        changes = diff.difference(self._origin, list(self.state.values()))
        told = self._resumed.keys() | never_had
        later = [entry for entry in changes if entry.key not in told]
        return [self._now(key) for key in self._resumed if key not in never_had] + later

    def _now(self, key: str) -> Entry:
        return self.state.get(key) or self._gone.get(key) or deleted(key)

    def _apply(self, published: Published) -> None:
        reading, skipped = published.reading, published.skipped
        matches = self.selection.matches
        entries = [e for e in reading.entries if matches(e.key) and e.key not in skipped]
        if reading.complete:
            self._unread = reading.unread
            present = {entry.key for entry in entries}
            for key in [k for k in self.state if k not in present and k not in skipped]:
                if not reading.is_unread(key):
                    self._put(deleted(key))
        else:
            self._unread |= reading.unread
        for entry in entries:
            self._take(published.values.get(entry.key, entry), reading, published.values)

    def _take(self, entry: Entry, reading: Reading, values: Mapping[str, Entry]) -> None:
        key = entry.key
        is_put = entry.operation is PUT
        is_stub = is_put and reading.load is not None and key not in values
        current = self.state.get(key)
        if is_stub and current is not None and current.revision == entry.revision:
            # The same state, and the one that is there may have its value.
            return
        self._put(entry)
        if is_stub and reading.load is not None:
            self._stubs[key] = reading.load

    def _put(self, entry: Entry) -> None:
        self._stubs.pop(entry.key, None)
        if entry.operation is DELETE:
            self.state.pop(entry.key, None)
            self._gone[entry.key] = entry
        else:
            self._gone.pop(entry.key, None)
            self.state[entry.key] = entry


def had_of(selection: Selection, since: Since) -> dict[str, str] | None:
    """What a subscriber has that resumes by revisions, of the keys it selects."""
    if since is None or isinstance(since, str):
        return None
    return {key: revision for key, revision in since.items() if selection.matches(key)}


def concerning(unread: frozenset[str], selection: Selection) -> frozenset[str]:
    """Keys and places of `unread` that may be selected."""
    if not unread:
        return unread
    return frozenset(key for key in unread if key.endswith("/") or selection.matches(key))


def selected(reading: Reading, selection: Selection) -> Reading:
    """`reading`, less what a source has read beyond what one subscriber selects."""
    if not selection.everything or selection.exclude:
        entries = matching(reading.entries, selection.matches)
        if len(entries) < len(reading.entries):
            return reading._replace(entries=entries)
    return reading


def state_of(reading: Reading, selection: Selection) -> Batch:
    """A complete reading of `selection` as the first batch of a watch."""
    unread = concerning(reading.unread, selection)
    return Batch(held(reading.entries), reading.position, initial=True, unread=unread)


def as_batch(
    entries: tuple[Entry, ...],
    cursor: str,
    about: Reading | Written,
    created: frozenset[str] = frozenset(),
) -> Batch:
    """A batch of `entries`, with what `about` tells of the one commit it stands for."""
    # One is made for every write, and `__init__` would cost most of it.
    batch = object.__new__(Batch)
    fields = batch.__dict__
    fields["entries"] = entries
    fields["cursor"] = cursor
    fields["created"] = created
    if about.author or about.message or about.point:
        fields["author"] = about.author
        fields["message"] = about.message
        fields["point"] = about.point
    return batch
