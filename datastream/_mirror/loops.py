"""Which store is which, and whether a mirror would feed itself."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

from datastream._identity import ON_DISK, identity_of, spoken
from datastream._mirror.progress import MIRRORS, Progress
from datastream._overlay.layer import Layer
from datastream._overlay.source import OverlaySource
from datastream._translated.source import TranslatedSource
from datastream.errors import DatastreamError
from datastream.selection import Selection, literal_prefix
from datastream.store import Store

_MEMORY = "memory:"
_process = secrets.token_hex(4)
_anonymous: WeakKeyDictionary[object, str] = WeakKeyDictionary()
_lock = threading.Lock()

log = logging.getLogger("datastream")


class Loop(DatastreamError):
    """A mirror would be fed by itself."""


class Edge(NamedTuple):
    """One mirror: what it reads, what it writes, and which keys."""

    source: str
    target: str
    selection: Selection


_running: list[Edge] = []


def identity(store: Store) -> str:
    """What tells a store from others, also in other processes, as far as its URL does.

    A store in other words is the one below; one of layers is these layers, in their order.
    """
    if isinstance(store._source, TranslatedSource):
        return identity(store._source.upstream.store)
    if isinstance(store._source, OverlaySource):
        return f"overlay({', '.join(map(_layer, store._source.layers))})"
    if found := identity_of(store.name, store._source):
        return found
    is_named = store.name.startswith(_MEMORY) and store.name != _MEMORY
    return f"{store.name}#{_process}" if is_named else _of_process(store)


def _layer(layer: Layer) -> str:
    """The identity of a layer; of one that is missing, what its URL tells."""
    if layer.upstream is None:
        return identity_of(layer.name, None) or layer.name
    return identity(layer.upstream.store)


def _of_process(store: Store) -> str:
    with _lock:
        return _anonymous.setdefault(store._source, f"{store.name}#{secrets.token_hex(8)}")


def words(*stores: Store) -> str:
    """How stores are translated; "" if none is."""
    found = (store._source for store in stores)
    return "; ".join(s.translation.name for s in found if isinstance(s, TranslatedSource))


def concerned(selection: Selection, translation: str) -> Selection:
    """The keys that a mirror may read or write; in other words, all of them."""
    return Selection() if translation else selection


def listed(selection: Selection) -> tuple[tuple[str, ...], ...]:
    """A selection as it is kept."""
    parts = (selection.keys, selection.prefixes, selection.patterns, selection.exclude)
    return tuple(tuple(sorted(part)) for part in parts)


def edges_into(store: Store) -> list[Edge]:
    """The mirrors that have written a store, and those which fed them in turn.

    Known are those which keep their place there, if the store can be read just now.
    """
    found, here = [], identity(store)
    for progress in _progresses(store):
        named = progress.target
        selection = concerned(Selection(*map(frozenset, progress.selection)), progress.words)
        found += [Edge(origin, named, selection) for origin in (progress.source, *progress.origins)]
        if not _is_of_a_copy(named, here):
            # What is written by another name, as that of a server, arrives here.
            found.append(Edge(named, here, selection))
    return found


def _is_of_a_copy(named: str, here: str) -> bool:
    """Whether a place came along when files were copied: two paths are two stores.

    Two addresses may lead to one.
    """
    scheme = here.partition(":")[0]
    return named != here and scheme in ON_DISK and named.startswith(f"{scheme}:")


def _progresses(store: Store) -> Iterator[Progress]:
    try:
        batch = store._core.state(Selection(prefixes=frozenset((MIRRORS,))))
    except DatastreamError as error:
        log.info("%s: it is not known which mirrors write it: %s", store.name, error)
        return
    for entry in batch.entries:
        try:
            yield Progress.loads(entry.value, entry.key)
        except DatastreamError as error:
            log.warning("%s: %s", store.name, error)


@contextmanager
def running(edge: Edge, into: Iterable[Edge]) -> Iterator[None]:
    """While a mirror runs: another one that would close a circle is refused.

    Args:
        edge: the mirror.
        into: mirrors that other processes run or ran, as far as it is known.

    Raises:
        Loop: it would itself.
    """
    with _lock:
        check(edge, [*_running, *into])
        _running.append(edge)
    try:
        yield
    finally:
        with _lock:
            _running.remove(edge)


def check_again(edge: Edge, into: Iterable[Edge]) -> None:
    """Refuse a mirror that runs, if others have begun since.

    Raises:
        Loop: it is fed by itself now.
    """
    with _lock:
        check(edge, [*_running, *into])


def check(new: Edge, edges: Iterable[Edge]) -> None:
    """Refuse a mirror from whose target its source is fed.

    Raises:
        Loop: it is.
    """
    if new.source == new.target:
        raise Loop(f"{spoken(new.source)} would be mirrored into itself; give another target")
    others = [edge for edge in edges if overlap(edge.selection, new.selection)]
    reached, before = {new.target}, 0
    while len(reached) > before:
        before = len(reached)
        reached |= {edge.target for edge in others if edge.source in reached}
    if new.source in reached:
        raise Loop(
            f"{spoken(new.source)} is itself a mirror of {spoken(new.target)}, directly or "
            "through others, so a change would go round for ever; mirror one way only, or "
            f"other keys, or if that one is over, remove its place below {MIRRORS}"
        )


def overlap(one: Selection, other: Selection) -> bool:
    """Whether a key may be selected by both."""
    starts = [
        mine if mine.startswith(theirs) else theirs
        for mine in _starts(one)
        for theirs in _starts(other)
        if mine.startswith(theirs) or theirs.startswith(mine)
    ]
    return any(not (_leaves_out(one, start) or _leaves_out(other, start)) for start in starts)


def _leaves_out(selection: Selection, start: str) -> bool:
    """Whether a selection excludes all that begins so; of other patterns that is not known."""
    starts = (p.removesuffix("**") for p in selection.exclude if p.endswith("/**"))
    return any(start.startswith(out) and literal_prefix(out) == out for out in starts)


def _starts(selection: Selection) -> set[str]:
    if selection.everything:
        return {""}
    # A key as if it were a prefix: rarely too careful.
    return {*selection.keys, *selection.prefixes, *map(literal_prefix, selection.patterns)}
