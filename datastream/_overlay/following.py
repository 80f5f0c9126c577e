"""Following all layers at once, while the overlay is watched: one subscription for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from datastream._overlay.layer import Layer
from datastream._overlay.table import Table
from datastream._upstream import Upstream
from datastream.entry import Batch
from datastream.errors import DatastreamError, SourceUnavailable
from datastream.selection import Selection, Selects

MOST_GROWTHS = 8
"""After so many selections that added something, the layers are followed as a whole."""


class Following:
    """The subscriptions that keep one table.

    Args:
        layers: what is followed.
        selection: which keys.
        growths: how often the selection has grown.
        changed: called when the table has changed, or a layer's status.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        selection: Selection,
        growths: int,
        changed: Callable[[], None],
    ) -> None:
        self.table = Table(len(layers), selection)
        self.growths = growths
        # A position of before, which stands for a count of this table.
        self._alias: tuple[str, int] = ("", 0)
        self._layers = layers
        self._changed = changed
        self._lock = threading.Lock()
        self._stopped = False
        self._ends: list[Callable[[], None]] = []
        self._followed: set[int] = set()
        # Layers of which something was read that the table may not show yet.
        self._ahead: set[int] = set()

    def start(self) -> None:
        """Follow every layer that is there.

        Raises:
            DatastreamError: one that must be there is not.
        """
        for index, layer in enumerate(self._layers):
            self._follow(index, layer)
            if not self.table.has_joined(index) and not layer.may_be_missing:
                trouble = layer.trouble or layer.named(SourceUnavailable("it does not answer"))
                raise trouble
        self.table.begin()

    def follow_missing(self) -> None:
        """Follow layers that have come into being."""
        if len(self._followed) < len(self._layers):
            for index, layer in enumerate(self._layers):
                if index not in self._followed and layer.find() is not None:
                    self._follow(index, layer)

    def _follow(self, index: int, layer: Layer) -> None:
        upstream = layer.find()
        if upstream is None:
            return
        with self._lock:
            if index in self._followed:
                return
            self._followed.add(index)
        try:
            end = upstream.follow(self.table.selection, _Sink(self, index))
        except DatastreamError as error:
            self.left(index)
            if not layer.may_be_missing:
                raise layer.named(error) from error
            return
        ends = [end, upstream.follow_status(lambda _: self._changed())]
        with self._lock:
            if not self._stopped:
                self._ends += ends
                return
        for end in ends:
            end()

    def take(self, index: int, batch: Batch) -> None:
        """Take in what a layer gives; memory only, under the lock of its publisher."""
        self.table.apply(index, batch)
        self._layers[index].seen = True
        self._changed()

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

    # Bringing the table up to what is there.

    def catch_up(self) -> None:
        """Have the table show all that is there; of a layer in trouble its last good state."""
        for index, upstream in self._joined():
            try:
                upstream.catch_up()
            except DatastreamError as error:
                if index in self._ahead:
                    raise self._layers[index].named(error) from error
            else:
                self._ahead.discard(index)

    def catch_up_with_readers(self) -> None:
        """Have the table show at least what others have read."""
        for index, upstream in self._joined() if self._ahead else ():
            if index in self._ahead:
                self._ahead.discard(index)
                try:
                    upstream.catch_up()
                except DatastreamError as error:
                    self._ahead.add(index)
                    raise self._layers[index].named(error) from error

    def was_read_beside(self) -> None:
        """Somebody has read the layers without the table."""
        self._ahead.update(index for index, _ in self._joined())

    def _joined(self) -> list[tuple[int, Upstream]]:
        return [
            (index, layer.upstream)
            for index, layer in enumerate(self._layers)
            if layer.upstream is not None and self.table.has_joined(index)
        ]

    # Positions of another table.

    def stands_for(self, position: str) -> int | None:
        """The count that a position of another table was found to stand for."""
        alias, sequence = self._alias
        return sequence if alias == position else None

    def found_equal(self, position: str, sequence: int) -> None:
        """Nothing differs between that position and a count of this table."""
        self._alias = (position, sequence)


class _Sink:
    """Takes the batches of one layer."""

    def __init__(self, following: Following, index: int) -> None:
        self._following = following
        self._index = index

    def offer(self, batch: Batch, before: Sequence[str | None] | None = None, /) -> None:
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
