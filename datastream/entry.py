"""What a store holds and what its watches carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from datastream import codecs

SHOWN_BYTES = 100
"""What `repr` shows of a value."""


class Operation(StrEnum):
    """Kind of change."""

    PUT = "PUT"
    """The key holds this value now."""
    DELETE = "DELETE"
    """The key holds nothing any more."""


PUT: Final = Operation.PUT
DELETE: Final = Operation.DELETE
"""For what looks at every entry: to find a member in its class takes longer than all the rest."""


class Entry(NamedTuple):
    """One key with its value, as the backend stored it."""

    key: str
    value: bytes = b""
    """The stored bytes; empty in a DELETE."""
    value_type: str = "bytes"
    """How to read the bytes: ``int float bool str json bytes`` or a media type."""
    updated_at: datetime | None = None
    """When it was written, with time zone, where the backend knows. Never used for ordering."""
    revision: str = ""
    """Place in the key's history: opaque, compared only for equality; empty in a DELETE."""
    operation: Operation = Operation.PUT

    def decode(self) -> Any:
        """The value as the Python object that its ``value_type`` stands for.

        Raises:
            InvalidValue: the bytes are not what the type says.
        """
        return codecs.decode(self.value, self.value_type, key=self.key)

    def __repr__(self) -> str:
        value = repr(self.value[:SHOWN_BYTES])
        if len(self.value) > SHOWN_BYTES:
            value += f"… {len(self.value)} bytes"
        return (
            f"Entry(key={self.key!r}, value={value}, value_type={self.value_type!r}, "
            f"updated_at={self.updated_at!r}, revision={self.revision!r}, "
            f"operation={self.operation.value})"
        )

    def _repr_html_(self) -> str:
        from datastream.notebook import _html

        return _html.entry_card(self)


@dataclass(frozen=True)
class Batch:
    """What belongs together: one commit, one transaction, or the net effect of several.

    Its length is the number of its entries; iterating it gives them.
    """

    entries: Sequence[Entry] = ()
    """The changed entries, each key at most once. Nobody changes the sequence."""
    cursor: str = ""
    """Place of the watch after this batch; give it back as ``since`` to resume."""
    initial: bool = False
    """The first batch of a watch: the current state, or with ``since`` what differs from it."""
    reset: bool = False
    """``since`` could not be honoured: ``entries`` is the full state, forget what you had."""
    author: str = ""
    """Who made the change, where the backend knows, and it was one change."""
    message: str = ""
    """Why, likewise."""
    point: str = ""
    """What `Store.at` takes to see the store as it was after this change, likewise."""
    created: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Keys of these entries that held nothing before it; after a cursor, those known to have held
    nothing then. Empty in a full state."""
    unread: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Keys that hold what cannot be read, so that a state or a first batch is without them; one
    that ends in "/" stands for all keys below it. Who has them keeps them."""

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __bool__(self) -> bool:
        # An empty initial batch is news too: the watch has begun.
        return True


class Change(NamedTuple):
    """A key's old and new value, decoded."""

    key: str
    old: Any
    """None where the key held nothing before, or nothing that could be decoded."""
    new: Any
    """None where the key holds nothing any more."""
    entry: Entry
    """The new state as the backend stored it; a DELETE where the key was removed."""


@dataclass(frozen=True)
class ChangeBatch:
    """What changed together in a view. Its length is the number of its changes."""

    changes: tuple[Change, ...] = ()
    """Each key at most once."""
    cursor: str = ""
    """Place of the view after it."""
    initial: bool = False
    """The first state from the backend: what it changed in an empty view, or one from a cache."""
    author: str = ""
    """Who made the change, where the backend knows, and it was one change."""
    message: str = ""
    """Why, likewise."""
    point: str = ""
    """What `Store.at` takes to see the store as it was after this change, likewise."""

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __bool__(self) -> bool:
        return True


class Rejected(NamedTuple):
    """A value that a view or a binding did not take; the last good one stands."""

    key: str
    revision: str
    reason: str


class Revision(NamedTuple):
    """One revision in the past of a key, with what its backend knows of how it came about."""

    entry: Entry
    """What the key held; a DELETE where it was removed."""
    point: str = ""
    """What `Store.at` takes to see the whole store as it was then: in git the commit's id."""
    author: str = ""
    message: str = ""


class Capability(NamedTuple):
    """A key one may watch, with its type."""

    key: str
    value_type: str


def deleted(key: str, updated_at: datetime | None = None) -> Entry:
    """The entry that says that `key` is gone."""
    return Entry(key, b"", "", updated_at, "", DELETE)
