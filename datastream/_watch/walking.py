"""Reading a state entry by entry, however large it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from datastream._watch.core import Core
from datastream._watch.subscription import concerning
from datastream.entry import Entry
from datastream.errors import Unreadable
from datastream.selection import Selection
from datastream.source import HasSummaries, HasWalk, Summary

LOADED, LOADED_BYTES = 500, 8 << 20
"""Most values, and bytes of them, that are read at once."""


def walk(core: Core, selection: Selection, unread: set[str]) -> Iterator[Entry]:
    """The selected entries, where it can be with few in memory.

    Args:
        unread: takes what cannot be read.
    """
    source = core._source
    left_out: set[str] = set()
    if isinstance(source, HasWalk):
        found: Iterable[Entry] = core.iterate(None, lambda: source.walk(selection, left_out))
    elif isinstance(source, HasSummaries):
        summaries = core.call(None, lambda: list(source.summaries(selection)))
        found = _listed(core, summaries, selection, unread)
    else:
        state = core.state(selection)
        unread |= concerning(state.unread, selection)
        found = sorted(state, key=attrgetter("key"))
    yield from (entry for entry in found if selection.matches(entry.key))
    unread |= concerning(frozenset(left_out), selection)


def _listed(
    core: Core, summaries: Iterable[Summary], selection: Selection, unread: set[str]
) -> Iterator[Entry]:
    """The entries of a listing, in pieces."""
    sizes = {summary.key: summary.size or 0 for summary in summaries}
    places = frozenset(key for key in sizes if key.endswith("/"))
    unread |= concerning(places, selection)
    keys = sorted(key for key in sizes.keys() - places if selection.matches(key))
    for piece in in_pieces(keys, sizes.__getitem__):
        found = fetch(core, piece, unread)
        for key in piece:
            # What has gone meanwhile is no part of it.
            entry = found.pop(key, None)
            if entry is not None:
                yield entry


def fetch(core: Core, keys: Sequence[str], unread: set[str]) -> dict[str, Entry]:
    """The entries of keys of a source that summarises; those that cannot be read go to `unread`."""
    source = core._source
    if not isinstance(source, HasSummaries):
        return {}
    found = {entry.key: entry for entry in core.call(None, source.contents, keys)}
    for key in keys:
        if key not in found:
            try:
                entry = core.get(key)
            except Unreadable:
                unread.add(key)
            else:
                found |= {} if entry is None else {key: entry}
    return found


def in_pieces(keys: Sequence[str], size: Callable[[str], int]) -> Iterator[list[str]]:
    """Keys in pieces whose values may be in memory together."""
    piece: list[str] = []
    total = 0
    for key in keys:
        if piece and (len(piece) >= LOADED or total + size(key) > LOADED_BYTES):
            yield piece
            piece, total = [], 0
        piece.append(key)
        total += size(key)
    if piece:
        yield piece
