"""What changed, told from two states or from a log: pure functions, no threads, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from datastream.entry import DELETE, PUT, Entry, deleted
from datastream.source import Reading


def difference(known: Mapping[str, str], state: Sequence[Entry]) -> list[Entry]:
    """What turns `known` (key to revision) into the complete `state`, deletes first."""
    present = {entry.key for entry in state}
    gone = [deleted(key) for key in known if key not in present]
    return gone + [entry for entry in state if known.get(entry.key) != entry.revision]


def is_news(known: Mapping[str, str], entry: Entry) -> bool:
    """Whether this state of the key differs from the one already known."""
    # A DELETE has the revision "", and so has what is not known.
    return known.get(entry.key, "") != entry.revision


def revision_of(entry: Entry) -> str | None:
    """What its key is at; None where it holds nothing."""
    return None if entry.operation is DELETE else entry.revision


def without_value(news: Iterable[Sequence[Entry]], values: Mapping[str, Entry]) -> list[Entry]:
    """The entries, each key once, whose value has to be loaded."""
    puts = {e.key: e for entries in news for e in entries if e.operation is PUT}
    return [entry for key, entry in puts.items() if key not in values]


def created_among(entries: Sequence[Entry], before: Sequence[str | None]) -> frozenset[str]:
    """Keys of `entries` that held nothing before."""
    return frozenset(e.key for e, was in zip(entries, before, strict=True) if was is None)


def has_moved_on(reading: Reading, values: Mapping[str, Entry]) -> bool:
    """Whether a value was loaded that is newer than what was listed."""
    return bool(values) and any(
        entry.key in values and values[entry.key].revision != entry.revision
        for entry in reading.entries
    )


def changed_back(reading: Reading) -> set[str]:
    """The keys of what changed since a position that are as they were there."""
    return {
        entry.key
        for entry in reading.entries
        if (entry.operation is DELETE and entry.key in reading.created)
        or reading.before.get(entry.key) == entry.revision
    }
