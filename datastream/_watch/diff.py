"""What changed, told from two states or from a log: pure functions, no threads, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datastream.entry import Entry, Operation, deleted


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
    return None if entry.operation is Operation.DELETE else entry.revision
