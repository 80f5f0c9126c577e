"""The past of a store, read by threads as a client takes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from time import monotonic
from typing import Generic, TypeVar

from datastream import Batch, DatastreamError, Revision, Store

ITEMS, BYTES, SECONDS = 64, 256 << 10, 0.1
"""What is read at once: no more is begun beyond that."""

T = TypeVar("T")


class Pieces(Generic[T]):
    """An iterator that threads advance, a piece at a time.

    Args:
        start: makes the iterator, in a thread too.
        size_of: the bytes of an item, about.
    """

    def __init__(self, start: Callable[[], Iterator[T]], size_of: Callable[[T], int]) -> None:
        self._start = start
        self._size_of = size_of
        self._items: Iterator[T] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> list[T]:
        """The next items, as many as are there soon; none at the end."""
        with self._lock:
            if self._items is None:
                self._items = self._start()
            piece: list[T] = []
            left, until = BYTES, monotonic() + SECONDS
            for item in self._items:
                piece.append(item)
                left -= self._size_of(item)
                if self._closed or len(piece) == ITEMS or left <= 0 or monotonic() > until:
                    break
            if self._closed:
                self._free()
            return piece

    def close(self) -> None:
        """Free what the iterator holds, unless a thread advances it just now: then that does."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._free()
            finally:
                self._lock.release()

    def _free(self) -> None:
        getattr(self._items, "close", lambda: None)()


def size_of_revision(revision: Revision) -> int:
    """Bytes of what a key held."""
    return len(revision.entry.value)


def size_of_batch(batch: Batch) -> int:
    """Bytes of what keys held after a change."""
    return sum(len(entry.value) for entry in batch.entries)


class NoSuchPoint(DatastreamError):
    """A client has named a point that the past does not have."""


def at_point(store: Store, point: str, use: Callable[[Store], T]) -> T:
    """What `use` finds in `store` as it was.

    Raises:
        NoSuchPoint: there is no such point.
    """
    with _at(store, point) as past:
        return use(past)


def from_point(start: Callable[[], Iterator[T]]) -> Iterator[T]:
    """What an iterator gives that begins at a point of the past.

    Raises:
        NoSuchPoint: there is no such point.
    """
    items = start()
    try:
        first = [*islice(items, 1)]
    except DatastreamError as error:
        raise _of_point(error) from error
    yield from first
    yield from items


def history_of(store: Store, key: str, at: str, *, may_read: bool = True) -> Iterator[Revision]:
    """What a key held before, now or as of a point in the past.

    Args:
        may_read: False is as if it had never held anything.
    """
    if not at:
        revisions = store.history(key)
        yield from revisions if may_read else ()
        return
    with _at(store, at) as past:
        yield from history_of(past, key, "", may_read=may_read)


def _at(store: Store, point: str) -> Store:
    try:
        return store.at(point)
    except DatastreamError as error:
        raise _of_point(error) from error


def _of_point(error: DatastreamError) -> DatastreamError:
    """An error without a kind of its own is of the point, which is the client's."""
    return NoSuchPoint(str(error)) if type(error) is DatastreamError else error
