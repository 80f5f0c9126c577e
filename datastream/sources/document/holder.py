"""What holds a document, and the document at one of its revisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from datastream._formats import Format, Malformed
from datastream.entry import PUT, Entry, Revision, deleted
from datastream.selection import Selection
from datastream.source import WELL, Feature, Health, Write
from datastream.sources.document.leaves import Leaf, leaves

NAMED = 3
"""Leaves left out that the status names."""


class Holder(Protocol):
    """The store that holds the document."""

    name: str

    @property
    def features(self) -> frozenset[Feature]: ...
    def get(self, key: str) -> Entry | None: ...
    def write(self, writes: Sequence[Write]) -> Sequence[Entry]: ...
    def history(self, key: str) -> Iterator[Revision]: ...
    def catch_up(self) -> None: ...
    def follow(self, selection: Selection, sink: Any) -> Callable[[], None]: ...
    def follow_status(self, changed: Callable[[Any], None]) -> Callable[[], None]: ...
    def close(self) -> None: ...


class Parsed(NamedTuple):
    """A document at one revision."""

    revision: str
    data: bytes
    leaves: dict[str, Leaf]
    skipped: Sequence[str] = ()
    """Why leaves were left out."""

    @property
    def health(self) -> Health:
        """What of it is left out, as the status says it."""
        if not self.skipped:
            return WELL
        more = f" and {len(self.skipped) - NAMED} more" if len(self.skipped) > NAMED else ""
        return Health(degraded=f"left out: {'; '.join(self.skipped[:NAMED])}{more}")


def history_of(key: str, revisions: Iterator[Revision], format: Format) -> Iterator[Revision]:
    """The revisions of a document, newest first, in which the leaf `key` differs."""
    newer: Revision | None = None
    for revision in revisions:
        older = revision._replace(entry=_leaf_in(revision.entry, key, format))
        if newer is not None and newer.entry.revision != older.entry.revision:
            yield newer
        newer = older
    if newer is not None and newer.entry.operation is PUT:
        yield newer


def _leaf_in(document: Entry, key: str, format: Format) -> Entry:
    if document.operation is PUT:
        try:
            leaf = leaves(format.read(document.value))[0].get(key)
        except Malformed:
            leaf = None
        if leaf is not None:
            return leaf.entry._replace(updated_at=document.updated_at)
    return deleted(key, document.updated_at)
