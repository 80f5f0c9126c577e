"""Comparing what two stores hold, with as few values as possible."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeGuard

from datastream._mirror.entries import present, same
from datastream._watch.walking import fetch
from datastream.entry import Entry
from datastream.selection import Selection, is_reserved
from datastream.source import HasSummaries, Source, Summary, is_below
from datastream.sources._common.digests import digest_of
from datastream.store import Store

CONCLUSIVE = frozenset(("git",))
"""Algorithms by which what differs is different; an ETag may be something else than an MD5."""


class Item(NamedTuple):
    """What one store tells of a key."""

    size: int | None
    digest: str
    summary: Summary | None
    entry: Entry | None
    """With the value; None while that was not read."""


class Side:
    """One of two stores that are compared.

    Args:
        store: the store.
        selection: which keys.
    """

    def __init__(self, store: Store, selection: Selection) -> None:
        self._store = store
        self._summarises = isinstance(store._source, HasSummaries)
        self.unread: set[str] = set()
        """Keys that cannot be read, or with a "/" at the end all below."""
        self.items = self._summaries(selection) if self._summarises else self._entries(selection)

    def _summaries(self, selection: Selection) -> dict[str, Item]:
        source = self._store._source
        items: dict[str, Item] = {}
        if isinstance(source, HasSummaries):
            for summary in self._store._core.call(None, lambda: list(source.summaries(selection))):
                if summary.key.endswith("/"):
                    self.unread.add(summary.key)
                elif selection.matches(summary.key) and not is_reserved(summary.key):
                    items[summary.key] = Item(summary.size, summary.digest, summary, None)
        return items

    def _entries(self, selection: Selection) -> dict[str, Item]:
        core = self._store._core
        reading = core.read_state(selection)
        self.unread |= reading.unread
        entries = core.load(reading, reading.entries)
        return {k: Item(len(e.value), "", None, e) for k, e in present(entries).items()}

    def digest(self, key: str, algorithm: str) -> str:
        """The digest of a value, where it can be had without sending the value."""
        source, item = self._store._source, self.items[key]
        if item.digest.startswith(f"{algorithm}:"):
            return item.digest
        if item.entry is not None:
            return digest_of(algorithm, len(item.entry.value), (item.entry.value,))
        if isinstance(source, HasSummaries):
            return self._store._core.call(key, source.digest, key, algorithm)
        return ""

    def load(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries of keys; without those that are gone, or cannot be read."""
        there = {key: self.items[key].entry for key in keys if key in self.items}
        missing = [key for key, entry in there.items() if entry is None]
        found = {key: entry for key, entry in there.items() if entry is not None}
        return found | (fetch(self._store._core, missing, self.unread) if missing else {})

    def size(self, key: str) -> int:
        """Bytes that loading the value takes, as far as it is known."""
        item = self.items.get(key)
        return 0 if item is None or item.entry is not None else item.size or 0

    def bare(self, key: str) -> Entry | None:
        """The entry of a key, without a value that was not read."""
        item = self.items.get(key)
        if item is None or item.entry is not None or item.summary is None:
            return None if item is None else item.entry
        return Entry(key, b"", "", item.summary.updated_at, item.digest)


def differing_keys(a: Store, b: Store, selection: Selection) -> list[str] | None:
    """The keys that differ, where both stores are of a kind that knows; else None."""
    source, other = a._source, b._source
    if not (_summarises(source) and _is_summarising(type(other))):
        return None
    keys = a._core.call(None, source.differing, other, selection)
    return None if keys is None else sorted(key for key in keys if not is_reserved(key))


def _summarises(source: Source) -> TypeGuard[HasSummaries]:
    return _is_summarising(type(source))


@lru_cache
def _is_summarising(kind: type[Source]) -> bool:
    """Whether sources of a kind summarise: to look at all methods takes as long as a small diff."""
    return issubclass(kind, HasSummaries)


def tell(key: str, a: Side, b: Side, *, types: bool, times: bool) -> bool | None:
    """Whether a key that both hold is the same in both; None if only the values tell."""
    one, other = a.items[key], b.items[key]
    if one.entry is not None and other.entry is not None:
        return same(one.entry, other.entry, types=types)
    if None not in (one.size, other.size) and one.size != other.size:
        return False
    if times and _is_not_older(one, other):
        return True
    for item, side in ((one, b), (other, a)):
        if item.digest:
            algorithm = item.digest.partition(":")[0]
            theirs = side.digest(key, algorithm)
            if theirs == item.digest:
                return True
            if theirs and algorithm in CONCLUSIVE:
                return False
    return None


def _is_not_older(one: Item, other: Item) -> bool:
    """Whether a copy was made after the original was written last, and has its size."""
    if one.summary is None or other.summary is None or one.size is None or other.size is None:
        return False
    at, copied = one.summary.updated_at, other.summary.updated_at
    # Objects have whole seconds.
    return at is not None and copied is not None and copied >= at.replace(microsecond=0)


def is_told(key: str, *sides: Side) -> bool:
    """Whether both sides can say what a key holds."""
    return not any(is_below(key, side.unread) for side in sides)
