"""A Source over the stores of an overlay: the first layer that holds a key shows it.

While nothing is watched, the layers are read. While something is, each layer is followed by one
subscription, which keeps a table of what it holds; what it held last stands while it is away.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from threading import get_ident

from datastream._overlay.following import Following, grown
from datastream._overlay.layer import OPEN_AGAIN, Layer, Look
from datastream._overlay.position import Place, count_of, parse, spell
from datastream._overlay.recent import Recent
from datastream._overlay.tombstone import visible
from datastream._overlay.writing import UNASKED, Around, Found, as_seen, needs_all, plan
from datastream._upstream import Upstream
from datastream.entry import Batch, Capability, Entry
from datastream.errors import (
    DatastreamError,
    InvalidKey,
    ReadOnly,
    SourceUnavailable,
    StoreClosed,
    Unreadable,
)
from datastream.selection import Selection, Selects
from datastream.source import (
    WELL,
    Feature,
    Health,
    Publish,
    Reading,
    Source,
    Write,
    Written,
    is_below,
)
from datastream.sources._common.wake import WakeEvent, jittered

OF_WRITES = frozenset(
    {Feature.WRITE, Feature.COMPARE_AND_SET, Feature.ATOMIC, Feature.TYPES, Feature.MESSAGES}
)
"""What an overlay can do if the layer that is written can."""
OF_ALL = frozenset({Feature.LOG, Feature.AT})
"""What an overlay can do if all layers can."""

EVERYTHING = Selection()
NO_CHANGE = Reading((), "", complete=False)


class OverlaySource(Source):
    """A Source over layers.

    It is never `instant`, even if they all are: that all of a layer is gone is looked at twice.

    Args:
        layers: the first one that holds a key shows it.
        written: the index of the layer that writes go to; None for an overlay that is only read.
    """

    def __init__(self, layers: Sequence[Layer], written: int | None) -> None:
        self.layers = tuple(layers)
        self._written = written
        there = [layer.upstream for layer in self.layers if layer.upstream is not None]
        target = None if written is None else self.layers[written].upstream
        self.features = OF_WRITES & target.features if target is not None else frozenset()
        if len(there) == len(self.layers):
            self.features |= OF_ALL.intersection(*(upstream.features for upstream in there))
        self._wake = WakeEvent()
        self._publish: Publish = lambda change, asked=None, /: False
        self._recent = Recent()
        self._lock = threading.Lock()
        self._following: Following | None = None
        # How the layers were when `health` was found.
        self._looks: list[Look] = []
        # The threads that write just now.
        self._writing: set[int] = set()
        self._closed = False

    # Reading.

    def capabilities(self) -> Sequence[Capability]:
        entries = self.read(EVERYTHING, None).entries
        return [Capability(entry.key, entry.value_type) for entry in entries]

    def get(self, key: str) -> Entry | None:
        for index in range(len(self.layers)):
            entry = self.held(index, key)
            if entry is not None:
                break
        else:
            entry = None
        if self.health is not WELL:
            # What was wrong may be over.
            self._look_at_layers()
        return visible(entry)

    def held(self, index: int, key: str) -> Entry | None:
        """What a layer holds of a key; of one in trouble, what it held last if that is known."""
        layer = self.layers[index]
        upstream = layer.upstream or layer.find()
        if upstream is None:
            return None
        try:
            entry = upstream.get(key)
        except InvalidKey:
            # A key that its backend cannot hold.
            return None
        except DatastreamError as error:
            following = self._following
            if following is not None and following.table.knows(index, key):
                self._look_at_layers()
                last = following.table.held(index, key)
                if last is not None or isinstance(error, SourceUnavailable | StoreClosed):
                    return last
            if layer.may_be_missing and not isinstance(error, Unreadable):
                return None
            raise layer.named(error) from error
        layer.seen = True
        return entry

    def read(self, selection: Selects, since: str | None) -> Reading:
        try:
            return self._read_state(selection) if since is None else self._read(selection, since)
        finally:
            self._look_at_layers()

    def _read_state(self, selection: Selects) -> Reading:
        following = self._following
        if following is None or not following.table.covers(selection):
            return self._read_layers(selection)
        following.catch_up()
        following.check_unread()
        return following.table.state(selection)

    def _read_layers(self, selection: Selects) -> Reading:
        """The state of the layers, without a table."""
        asked = Selection(selection.keys, selection.prefixes, selection.patterns)
        merged: dict[str, Entry] = {}
        unread: set[str] = set()
        batches: list[Batch | None] = []
        # The lowest first, so that those above replace what it holds.
        for layer in reversed(self.layers):
            upstream = layer.find()
            try:
                batch = None if upstream is None else upstream.snapshot(asked)
            except DatastreamError as error:
                if not layer.may_be_missing:
                    raise layer.named(error) from error
                batch = None
            if batch is not None:
                layer.seen = True
                # What it cannot read hides what is below all the same.
                hidden = [key for key in merged if is_below(key, batch.unread)]
                for key in hidden:
                    del merged[key]
                merged.update((entry.key, entry) for entry in batch.entries)
                unread.update(batch.unread)
            batches.insert(0, batch)
        following = self._following
        self._recent.add(asked, batches, following.table if following is not None else None)
        if following is not None:
            # A newcomer may have joined with this state: the next poll asks for its keys too, and
            # gets the state: what has changed back since is no change that a layer tells of.
            following.table.forget()
            self._wake.set()
        entries = [entry for entry in merged.values() if visible(entry) is not None]
        cursors = [batch.cursor if batch is not None else "" for batch in batches]
        left = frozenset(unread - merged.keys())
        return Reading(entries, spell("", 0, cursors), complete=True, unread=left)

    def _read(self, selection: Selects, since: str) -> Reading:
        begins = self._following is None
        following = self._follow(selection)
        table = following.table
        following.check_unread()
        is_poll = not isinstance(selection, Selection)
        if not is_poll:
            # Somebody's own read: it has to show what was acknowledged before.
            following.catch_up()
        count = count_of(since, table.epoch)
        changes = None if count is None else table.changes(since, count)
        if changes is None and (begins or not is_poll):
            # A poll, too, if it is the first: the layers are followed from then on, and what a
            # layer was given before that has an author, which a state has not.
            place = parse(since, len(self.layers))
            changes = None if place is None else self._resume(following, selection, place)
        if changes is None and is_poll:
            following.catch_up()
        return changes or table.state(selection)

    def _resume(self, following: Following, selection: Selects, place: Place) -> Reading | None:
        """What differs from a position of another table; None if not all layers can tell."""
        is_poll = not isinstance(selection, Selection)
        asked = selection if isinstance(selection, Selection) else following.table.selection
        with following.table.marking() as mark:
            changed = self._ask(following, asked, place)
            if changed is None:
                return None
            following.catch_up()
            return following.table.resumed(mark, changed, place, keep=not is_poll)

    def _ask(self, following: Following, asked: Selection, place: Place) -> list[Reading] | None:
        """What each layer has changed since its cursor; None if one of them cannot tell."""
        changed: list[Reading] = []
        for index, cursor in enumerate(place.cursors):
            upstream = self.layers[index].upstream
            if upstream is None or not following.table.has_joined(index):
                if cursor:
                    return None
                changed.append(NO_CHANGE)
                continue
            try:
                reading = upstream.changes(asked, cursor)
            except DatastreamError:
                return None
            if reading.complete:
                return None
            changed.append(reading)
        return changed

    def _follow(self, selection: Selects) -> Following:
        """What follows the layers for at least `selection`.

        Two threads may begin at once; the one that is later takes what the other has begun.
        """
        while True:
            current = self._following
            if current is not None and current.table.covers(selection):
                current.follow_missing()
                return current
            self._replace(
                current, Following(self.layers, *grown(current, selection), self._changed)
            )

    def _replace(self, current: Following | None, new: Following) -> None:
        """Follow with `new` from now on, unless another thread has replaced `current` already."""
        unused: Following | None = new
        table = current.table if current is not None else None
        try:
            new.start(partial(self._recent.state_of, table=table))
            with self._lock:
                if self._closed:
                    raise StoreClosed("this overlay was closed; open it again to go on")
                if self._following is current:
                    self._following, unused = new, current
                    self._recent.clear()
        finally:
            if unused is not None:
                unused.stop()

    def reach(self) -> None:
        following = self._following
        if following is not None:
            following.catch_up()

    def wait(self, timeout: float | None) -> None:
        if any(layer.upstream is None for layer in self.layers):
            again = jittered(OPEN_AGAIN)
            timeout = again if timeout is None else min(timeout, again)
        self._wake.wait(timeout)
        self._look_at_layers()

    def wake(self) -> None:
        self._wake.set()

    def publish_to(self, publish: Publish) -> None:
        """See `HasChanges`."""
        self._publish = publish

    def _changed(self, change: Written | None) -> None:
        """Publish what has changed, unless a write of this thread brings it along, or have it read.

        Memory only, and under the lock of a layer's publisher: locks are taken upwards.
        """
        if get_ident() in self._writing:
            return
        if change is None or not self._publish(change):
            self._wake.set()

    def _look_at_layers(self) -> None:
        """Say how the layers are: mostly as they were when it was last said."""
        if [layer.look for layer in self.layers] == self._looks:
            return
        with self._lock:
            self._looks = [layer.look for layer in self.layers]
            self._say()

    def _say(self) -> None:
        error = next((e for layer in self.layers if (e := layer.trouble) is not None), None)
        degraded = "; ".join(d for layer in self.layers if (d := layer.degraded))
        health = Health(error, degraded) if error or degraded else WELL
        if not health.says_what(self.health):
            self.health = health

    # The past.

    def at(self, point: str | datetime) -> OverlaySource:
        """See `HasAt`: all layers as they were, laid over each other."""
        layers: list[Layer] = []
        try:
            for layer in self.layers:
                # One by one: what was opened is closed if the next one does not know the point.
                layers += [layer.at(point)]
        except BaseException:
            for layer in layers:
                layer.close()
            raise
        return OverlaySource(layers, None)

    # Writing.

    def write(self, writes: Sequence[Write]) -> Written | Sequence[Entry]:
        written = self._written
        upstream = None if written is None else self.layers[written].upstream
        if written is None or upstream is None:
            raise ReadOnly("no layer can be written; nothing was written")
        following = self._following
        table = following.table if following is not None else None
        since, sequence = table.mark() if table is not None else ("", 0)
        if written == 0 and not any(map(needs_all, writes)):
            # What most writes are: nothing hides them, and they depend on nothing.
            entries = self._write(self.layers[written], upstream, writes)
        else:
            entries = self._write_planned(written, upstream, writes)
        known = None if table is None else table.written(since, sequence, entries)
        if known is None:
            self._wake.set()
        return known or entries

    def _write_planned(
        self, written: int, upstream: Upstream, writes: Sequence[Write]
    ) -> Sequence[Entry]:
        around = [self._around(written, write) for write in writes]
        planned = list(map(plan, writes, around))
        wanted = [write for write in planned if write is not None]
        stored: Sequence[Entry | None] = ()
        if wanted:
            stored = self._write(self.layers[written], upstream, wanted)
        if len(wanted) < len(planned):
            answers = iter(stored)
            stored = [next(answers) if write is not None else None for write in planned]
        return list(map(as_seen, writes, stored, around))

    def _write(self, layer: Layer, upstream: Upstream, writes: Sequence[Write]) -> Sequence[Entry]:
        thread = get_ident()
        self._writing.add(thread)
        try:
            return upstream.write(writes)
        except DatastreamError as error:
            self._wake.set()
            raise layer.named(error) from error
        finally:
            self._writing.discard(thread)

    def _around(self, written: int, write: Write) -> Around:
        key = write.key
        above = self._first(range(written), key) if written else None
        if above is None and not needs_all(write):
            return UNASKED
        if above is not None:
            return Around(above=above)
        below = self._first(range(written + 1, len(self.layers)), key)
        return Around(self.held(written, key), None, below)

    def _first(self, indices: range, key: str) -> Found | None:
        """What the first of these layers that holds `key` holds."""
        for index in indices:
            entry = self.held(index, key)
            if entry is not None:
                return Found(self.layers[index].name, entry)
        return None

    # The end.

    def release(self) -> None:
        with self._lock:
            following, self._following = self._following, None
            self._recent.clear()
        if following is not None:
            following.stop()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.release()
        self._wake.set()
        for layer in self.layers:
            layer.close()
