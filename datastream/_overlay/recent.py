"""What was last read of each layer, for one that goes away before it is followed: memory only.

A watch begins with a state that was read, and its layers are followed with the next poll. What was
read stands for a layer that goes away between the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from datastream._overlay.table import Table, covers
from datastream.entry import Batch, Entry
from datastream.selection import Selection

KEPT = 8
"""States kept of those who joined since the layers were last followed anew."""


class Recent:
    """The last states that were read without a table."""

    def __init__(self) -> None:
        self._read: tuple[tuple[Selection, Sequence[Batch | None]], ...] = ()

    def add(
        self, selection: Selection, layers: Sequence[Batch | None], table: Table | None
    ) -> None:
        """Remember a state of all layers; without a table only the last one."""
        before = self._read[1 - KEPT :] if table is not None else ()
        self._read = (*before, (selection, layers))

    def clear(self) -> None:
        """The layers are followed, and so known."""
        self._read = ()

    def state_of(self, layer: int, selection: Selection, table: Table | None) -> Batch | None:
        """What a layer was last known to hold of `selection`; None if not all of that is known.

        Args:
            table: the one until now, which knows another selection.
        """
        parts = [(read, batches[layer]) for read, batches in self._read]
        if table is not None:
            parts.insert(0, (table.selection, table.last_of(layer)))
        known = [(read, batch) for read, batch in parts if batch is not None]
        if not known or not covers(_union([read for read, _ in known]), selection):
            return None
        held: dict[str, Entry] = {}
        for read, batch in known:
            # What was read later counts, also where it shows that a key is gone.
            for key in [key for key in held if read.matches(key)]:
                del held[key]
            held.update((entry.key, entry) for entry in batch.entries)
        return Batch(tuple(held.values()), known[-1][1].cursor, initial=True)


def _union(selections: Sequence[Selection]) -> Selection:
    if any(selection.everything for selection in selections):
        return Selection()
    return Selection(
        frozenset().union(*(selection.keys for selection in selections)),
        frozenset().union(*(selection.prefixes for selection in selections)),
        frozenset().union(*(selection.patterns for selection in selections)),
    )
