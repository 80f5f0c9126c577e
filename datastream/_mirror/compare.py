"""Comparing what two stores hold, with as few values as possible."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, TypeGuard

from datastream._mirror.entries import same
from datastream._watch.walking import fetch, walk
from datastream.entry import Entry
from datastream.errors import DatastreamError, shown
from datastream.selection import Selection, is_reserved
from datastream.source import HasSummaries, Source, Summary, is_below
from datastream.sources._common.digests import digest_of
from datastream.store import Store

CONCLUSIVE = frozenset(("git",))
"""Algorithms by which what differs is different; an ETag may be something else than an MD5."""


class Item(NamedTuple):
    """What one store tells of a key."""

    key: str
    size: int | None
    digest: str
    summary: Summary | None
    entry: Entry | None
    """With the value; None while that was not read."""

    @property
    def bare(self) -> Entry | None:
        """The entry, without a value that was not read."""
        if self.entry is not None or self.summary is None:
            return self.entry
        return Entry(self.key, b"", "", self.summary.updated_at, self.digest)

    @property
    def held(self) -> int:
        """Bytes of the value that are in memory."""
        return 0 if self.entry is None else len(self.entry.value)

    @property
    def missing(self) -> int:
        """Bytes that loading the value takes, as far as it is known."""
        return 0 if self.entry is not None else self.size or 0


class Both(NamedTuple):
    """What two stores tell of a key; None of one that does not hold it."""

    key: str
    a: Item | None
    b: Item | None

    @property
    def held(self) -> int:
        """Bytes of values that are in memory."""
        return sum(item.held for item in (self.a, self.b) if item is not None)

    @property
    def missing(self) -> int:
        """Bytes of values that are not."""
        return sum(item.missing for item in (self.a, self.b) if item is not None)


class Side:
    """One of two stores that are compared.

    Args:
        store: the store.
        selection: which keys.
    """

    def __init__(self, store: Store, selection: Selection) -> None:
        self._store = store
        self._selection = selection
        self.unread: set[str] = set()
        """Keys that cannot be read, or with a "/" at the end all below."""

    def items(self) -> Generator[Item, None, None]:
        """What there is, sorted by key; values are in it where they cost nothing more."""
        source, last = self._store._source, ""
        if isinstance(source, HasSummaries):
            yield from self._summaries(source)
            return
        for entry in walk(self._store._core, self._selection, self.unread):
            if entry.key < last:
                raise DatastreamError(
                    f"{self._store.name} gave {shown(entry.key)} after {shown(last)}; the `walk` "
                    "of its source has to sort by key"
                )
            # A column without type may hold 5 beside "5", which are one key.
            if entry.key != last and not is_reserved(entry.key):
                yield Item(entry.key, len(entry.value), "", None, entry)
            last = entry.key

    def _summaries(self, source: HasSummaries) -> list[Item]:
        matches, items = self._selection.matches, {}
        for found in self._store._core.call(None, lambda: list(source.summaries(self._selection))):
            if found.key.endswith("/"):
                self.unread.add(found.key)
            elif matches(found.key) and not is_reserved(found.key):
                items[found.key] = Item(found.key, found.size, found.digest, found, None)
        return [items[key] for key in sorted(items)]

    def digest(self, item: Item, algorithm: str) -> str:
        """The digest of a value, where it can be had without sending the value."""
        source = self._store._source
        if item.digest.startswith(f"{algorithm}:"):
            return item.digest
        if item.entry is not None:
            return digest_of(algorithm, len(item.entry.value), (item.entry.value,))
        if isinstance(source, HasSummaries):
            return self._store._core.call(item.key, source.digest, item.key, algorithm)
        return ""

    def load(self, items: Iterable[Item | None]) -> dict[str, Entry]:
        """The entries; without those that are gone, or cannot be read."""
        there = {item.key: item.entry for item in items if item is not None}
        missing = [key for key, entry in there.items() if entry is None]
        found = {key: entry for key, entry in there.items() if entry is not None}
        return found | (fetch(self._store._core, missing, self.unread) if missing else {})


def joined(a: Iterator[Item], b: Iterator[Item]) -> Iterator[Both]:
    """What two stores tell of each key, from what each tells, sorted: no more is in memory."""
    one, other = next(a, None), next(b, None)
    while one is not None or other is not None:
        key = min(item.key for item in (one, other) if item is not None)
        mine = one if one is not None and one.key == key else None
        theirs = other if other is not None and other.key == key else None
        yield Both(key, mine, theirs)
        if mine is not None:
            one = next(a, None)
        if theirs is not None:
            other = next(b, None)


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


def tell(found: Both, a: Side, b: Side, *, types: bool, times: bool) -> bool | None:
    """Whether a key is the same in both; None if only the values tell."""
    one, other = found.a, found.b
    if one is None or other is None:
        return False
    if one.entry is not None and other.entry is not None:
        return same(one.entry, other.entry, types=types)
    if None not in (one.size, other.size) and one.size != other.size:
        return False
    if times and _is_not_older(one, other):
        return True
    return _tell_by_digest(((one, other, b), (other, one, a)))


def _tell_by_digest(pairs: Iterable[tuple[Item, Item, Side]]) -> bool | None:
    for item, against, side in pairs:
        if item.digest:
            algorithm = item.digest.partition(":")[0]
            theirs = side.digest(against, algorithm)
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
