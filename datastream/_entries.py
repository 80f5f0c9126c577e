"""`Entries`: what a store holds, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from datastream._closing import Closing
from datastream.entry import Entry


class Entries(Closing, Iterator[Entry]):
    """What `Store.entries` returns: an iterator of `Entry`, read as you go on.

    Args:
        start: begins to read; takes the set that gets what cannot be read.
    """

    def __init__(self, start: Callable[[set[str]], Iterator[Entry]]) -> None:
        self._unread: set[str] = set()
        self._entries = start(self._unread)

    def __next__(self) -> Entry:
        return next(self._entries)

    @property
    def unread(self) -> frozenset[str]:
        """Keys that cannot be read just now, which are left out; one that ends in "/" stands for
        all below it. Complete once the last entry was given."""
        return frozenset(self._unread)

    def close(self) -> None:
        """Read no further, and free what reading holds; so does letting go of it. Idempotent."""
        getattr(self._entries, "close", lambda: None)()
