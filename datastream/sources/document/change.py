"""What some writes do to a document: pure."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from datastream.entry import Entry, deleted
from datastream.source import Write, check_expected
from datastream.sources.document.holder import Parsed
from datastream.sources.document.leaves import entry_of, put, remove, value_of


class Change:
    """What some writes do to a document.

    Raises:
        RevisionConflict, KeyNotFound, InvalidValue: one of them cannot be done.
    """

    def __init__(self, document: Parsed, writes: Sequence[Write]) -> None:
        self._leaves = document.leaves
        self.steps: list[tuple[Write, Any]] = []
        self.entries = [self._add(write) for write in writes]

    def _add(self, write: Write) -> Entry:
        leaf = self._leaves.get(write.key)
        check_expected(write, leaf.entry.revision if leaf is not None else None)
        if write.value is None:
            if leaf is not None:
                self.steps.append((write, None))
            return deleted(write.key, write.updated_at)
        value = value_of(write)
        entry = entry_of(write.key, value)
        if leaf is not None and leaf.entry.revision == entry.revision:
            return leaf.entry
        self.steps.append((write, value))
        return entry

    def apply(self, document: MutableMapping[Any, Any]) -> None:
        """Make it, deletes first: what they leave empty may become a value."""
        for write, _ in self.steps:
            if write.value is None:
                remove(document, self._leaves[write.key].path)
        for write, value in self.steps:
            if write.value is not None:
                leaf = self._leaves.get(write.key)
                path = leaf.path if leaf is not None else tuple(write.key.split("/"))
                put(document, path, value)


def about(writes: Sequence[Write]) -> tuple[str, str]:
    """Message and author: the first that is given."""
    message = next((write.message for write in writes if write.message), "")
    return message, next((write.author for write in writes if write.author), "")
