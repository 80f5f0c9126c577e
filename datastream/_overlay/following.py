"""Following all layers at once, while the overlay is watched: one subscription for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from datastream._overlay.layer import Layer
from datastream._overlay.table import Table
from datastream.entry import Batch
from datastream.errors import DatastreamError, SourceUnavailable
from datastream.selection import Selection, Selects
from datastream.source import Written

MOST_GROWTHS = 8
"""After so many selections that added something, the layers are followed as a whole."""


class Following:
    """The subscriptions that keep one table.

    Args:
        layers: what is followed.
        selection: which keys.
        growths: how often the selection has grown.
        changed: called when the table has changed, with the change if it is one to publish; and
            when a layer's status has.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        selection: Selection,
        growths: int,
        changed: Callable[[Written | None], None],
    ) -> None:
        self.table = Table(len(layers), selection)
        self.growths = growths
        self._layers = layers
        self._changed = changed
        self._lock = threading.Lock()
        self._stopped = False
        self._ends: list[Callable[[], None]] = []
        self._followed: set[int] = set()
        # What each layer said of itself when it was last asked for what it cannot read.
        self._degraded: dict[int, str] = {}
        # Those whose status is followed.
        self._known: frozenset[int] = frozenset()

    def start(self, last: Callable[[int, Selection], Batch | None]) -> None:
        """Follow every layer; one that is away begins with its last good state.

        Args:
            last: that state, of a layer and a selection, None if it is not known.

        Raises:
            DatastreamError: a layer that must be there is not, and nothing is known of it.
        """
        for index, layer in enumerate(self._layers):
            state = last(index, self.table.selection)
            if state is not None:
                self.table.apply(index, state)
            error = self._follow(index, layer)
            if not (self.table.has_joined(index) or layer.may_be_missing):
                raise error or layer.trouble or layer.named(SourceUnavailable("it does not answer"))
        self.table.begin()

    def follow_missing(self) -> None:
        """Follow layers that have come into being."""
        if len(self._followed) < len(self._layers):
            for index, layer in enumerate(self._layers):
                if index not in self._followed and layer.find() is not None:
                    self._follow(index, layer)

    def check_unread(self) -> None:
        """Ask the layers that say something else than before what they cannot read now."""
        for index, layer in enumerate(self._layers):
            upstream = layer.upstream
            if upstream is None or not self.table.has_joined(index):
                continue
            said = upstream.status.degraded
            if said != self._degraded.get(index, ""):
                with suppress(DatastreamError):
                    unread = upstream.snapshot(self.table.selection).unread
                    self.table.set_unread(index, unread)
                    self._degraded[index] = said

    def _follow(self, index: int, layer: Layer) -> DatastreamError | None:
        """Follow one layer; why that cannot be, if it cannot."""
        upstream = layer.find()
        if upstream is None:
            return None
        with self._lock:
            if index in self._followed:
                return None
            self._followed.add(index)
            is_first, self._known = index not in self._known, self._known | {index}
        if is_first:
            # Also if it cannot be followed: it may be away, or be closed just now.
            self._until_stopped(upstream.follow_status(lambda _: self._changed(None)))
        last = self.table.last_of(index)
        # With what it had: that all of it is gone is then believed after a second look only.
        had = None if last is None else {entry.key: entry.revision for entry in last.entries}
        sink = _Sink(self, index, goes_on=last is not None)
        try:
            self._until_stopped(upstream.follow(self.table.selection, sink, had))
        except DatastreamError as error:
            self.left(index)
            return layer.named(error)
        return None

    def _until_stopped(self, end: Callable[[], None]) -> None:
        with self._lock:
            if not self._stopped:
                self._ends.append(end)
                return
        end()

    def take(self, index: int, batch: Batch) -> None:
        """Take in what a layer gives; memory only, under the lock of its publisher."""
        change = self.table.apply(index, batch)
        self._layers[index].seen = True
        self._changed(change)

    def left(self, index: int) -> None:
        """A layer gives nothing any more."""
        with self._lock:
            self._followed.discard(index)

    def stop(self) -> None:
        """End all subscriptions."""
        with self._lock:
            self._stopped = True
            ends, self._ends = self._ends, []
        for end in ends:
            end()

    def catch_up(self) -> None:
        """Have the table show all that is there; of a layer in trouble its last good state."""
        for index, layer in enumerate(self._layers):
            if layer.upstream is not None and self.table.has_joined(index):
                # Its status says that it is away.
                with suppress(DatastreamError):
                    layer.upstream.catch_up()


class _Sink:
    """Takes the batches of one layer; if it `goes_on`, the first is what differs from before."""

    def __init__(self, following: Following, index: int, *, goes_on: bool) -> None:
        self._following = following
        self._index = index
        self._goes_on = goes_on

    def offer(self, batch: Batch, before: Sequence[str | None] | None = None, /) -> None:
        if batch.initial and self._goes_on:
            batch = replace(batch, initial=False)
        self._following.take(self._index, batch)

    def end(self, error: Exception | None = None) -> None:
        self._following.left(self._index)


def grown(before: Following | None, selection: Selects) -> tuple[Selection, int]:
    """What to follow so that `selection` is among it, and how often that has grown."""
    asked = Selection(selection.keys, selection.prefixes, selection.patterns)
    if before is None:
        return asked, 0
    mine, growths = before.table.selection, before.growths + 1
    if growths > MOST_GROWTHS or asked.everything or mine.everything:
        return Selection(), growths
    return (
        Selection(
            mine.keys | asked.keys,
            mine.prefixes | asked.prefixes,
            mine.patterns | asked.patterns,
        ),
        growths,
    )
