"""Keys as a tree: what each segment holds, and which key said so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

ABSENT: Any = object()

Path = tuple[str, ...]
"""Of segments of a key; or of attribute names, item numbers and dict keys of an object."""


@dataclass
class Node:
    """What is at one place: a value, places below it, or both; what is below wins."""

    value: Any = ABSENT
    key: str = ""
    """The key that holds the value, or the value that this is a part of."""
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return self.value is ABSENT and not self.children

    def expanded(self) -> dict[str, Node]:
        """The places below, also those within a JSON object or list that it holds."""
        below = {segment: Node(part, self.key) for segment, part in _parts(self.value)}
        for segment, child in self.children.items():
            within = below.get(segment)
            if within is not None and child.value is ABSENT:
                below[segment] = Node(within.value, within.key, child.children)
            else:
                below[segment] = child
        return below

    def any_key(self) -> str:
        """The key that holds the value, or one that holds something below."""
        return self.key or next((child.any_key() for child in self.children.values()), "")

    def at(self, segments: Path) -> Node | None:
        """What is at these segments, within JSON that is held, too; None if nothing is."""
        node: Node | None = self
        for segment in segments:
            node = None if node is None else node.expanded().get(segment)
        return node

    def bare(self) -> Any:
        """The value as plain objects, where no type says more."""
        if not self.children:
            return self.value
        return {segment: child.bare() for segment, child in self.expanded().items()}

    def place(self, segments: Path) -> Node:
        """The node at `segments`, made if it is missing."""
        node = self
        for segment in segments:
            node = node.children.setdefault(segment, Node())
        return node


def tree_of(values: Mapping[str, Any], prefix: str) -> Node:
    """The tree of keys that begin with `prefix`."""
    root = Node()
    for key, value in values.items():
        node = root.place(tuple(key[len(prefix) :].split("/")))
        node.value, node.key = value, key
    return root


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(number), part) for number, part in enumerate(value))
