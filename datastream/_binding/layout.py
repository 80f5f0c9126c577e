"""How the keys of a store make one object: many below a prefix, or one document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datastream._binding import document
from datastream._binding.tree import Node, tree_of
from datastream._watch.values import reason_of
from datastream.entry import Entry, Rejected
from datastream.selection import Selection


@dataclass(frozen=True)
class Layout:
    """Where an object lies.

    Args:
        place: a prefix that ends in ``/``, "" for all keys, or one key.
    """

    place: str

    @property
    def is_document(self) -> bool:
        return bool(self.place) and not self.place.endswith("/")

    @property
    def selection(self) -> Selection:
        return Selection.of(*([self.place] if self.place else []))

    def read(self, entries: Mapping[str, Entry]) -> tuple[Node, list[Rejected]]:
        """The tree of these entries, and which of them do not decode."""
        values: dict[str, Any] = {}
        rejected = []
        for key, entry in entries.items():
            try:
                values[key] = document.parse(entry) if self.is_document else entry.decode()
            except Exception as error:  # noqa: BLE001
                rejected.append(Rejected(key, entry.revision, reason_of(error, entry)))
        if not self.is_document:
            return tree_of(values, self.place), rejected
        root = Node(values[self.place], self.place) if self.place in values else Node()
        if root.value is None:
            # An empty YAML document.
            root = Node()
        return root, rejected

    def key(self, at: tuple[str, ...]) -> str:
        """What a field at these segments would be looked for as, for people to read."""
        if self.is_document:
            return f"{self.place}: {'.'.join(at)}" if at else self.place
        return self.place + "/".join(at)
