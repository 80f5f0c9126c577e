"""How far a consumer got: a cursor, and the revision of each key that was handled last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from datastream._watch.diff import revision_of
from datastream.entry import Entry
from datastream.selection import Selection

UNSURE = "unsure:"
"""Before a revision which may have been handled or not: equal to none there is."""

Handled = Mapping[str, str | None]
"""The revision at which keys were handled; None where they were removed."""


class Kept(NamedTuple):
    """Where a consumer stood that was here before."""

    store: str = ""
    """Which store it consumed; "" if that is not known."""
    cursor: str = ""


class Progress:
    """What is known of what was handled.

    Args:
        selection: which keys.
        store: which store, see `identity_of`.
    """

    def __init__(self, selection: Selection, store: str = "") -> None:
        self.selection = listed(selection)
        self.store = store
        self.kept = Kept()
        self.begun = False
        """A consumer has stood here before."""
        self.cursor = ""
        """Everything up to here was handled; "" where only the revisions tell."""
        self.revisions: dict[str, str] = {}

    def advance(self, handled: Handled, cursor: str | None) -> None:
        """Take in what was handled, and up to which cursor nothing is missing."""
        for key, revision in handled.items():
            if revision is None:
                self.revisions.pop(key, None)
            else:
                self.revisions[key] = revision
        if cursor is not None:
            self.begun, self.cursor = True, cursor

    def found(self, selection: list[list[str]], cursor: str, store: str) -> None:
        """Take in where a consumer of `selection` stood."""
        self.begun = True
        self.kept = Kept(store, cursor)
        # A cursor says nothing of keys that were not selected then.
        self.cursor = cursor if selection == self.selection else ""

    @property
    def may_be_another(self) -> bool:
        """Whether the store that was consumed until now has another URL."""
        return bool(self.store and self.kept.store) and self.store != self.kept.store

    def is_news(self, entry: Entry) -> bool:
        """Whether this state of the key was not handled yet."""
        return self.revisions.get(entry.key) != revision_of(entry)


class Place(Protocol):
    """Where a `Progress` is kept."""

    progress: Progress

    def save(self, handled: Handled, cursor: str | None, *, durable: bool = True) -> None:
        """Take in what was handled, and keep it.

        Args:
            durable: return only when it survives a power failure; else the end of the process.

        Raises:
            OSError, DatastreamError: it could not be kept; the same call may succeed later.
            Taken: somebody else keeps a place there; it never will.
        """
        ...

    def close(self) -> None: ...


class MemoryPlace:
    """A place that ends with the process.

    Args:
        selection: which keys.
    """

    def __init__(self, selection: Selection) -> None:
        self.progress = Progress(selection)

    def save(self, handled: Handled, cursor: str | None, *, durable: bool = True) -> None:
        self.progress.advance(handled, cursor)

    def close(self) -> None:
        pass


def listed(selection: Selection) -> list[list[str]]:
    """A selection as JSON has it."""
    parts = (selection.keys, selection.prefixes, selection.patterns, selection.exclude)
    return [sorted(part) for part in parts]
