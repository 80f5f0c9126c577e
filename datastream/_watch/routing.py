"""Who gets which change: subscribers indexed by key and by prefix.

Finding the routes of a key costs one look-up for the key and one for each of its slashes,
however many subscribers there are for other keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Protocol

from datastream.entry import Batch, Entry
from datastream.selection import Selection, literal_prefix


class Sink(Protocol):
    """Where the hub puts a subscriber's batches. Called under the hub's lock: never blocks."""

    def offer(self, batch: Batch, /) -> None: ...
    def end(self, error: Exception | None = None) -> None:
        """No batch follows: the store was closed, or with `error` never could begin."""


class Route:
    """One selection and all its subscribers: they share one filtered batch."""

    __slots__ = ("selection", "sinks")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.sinks: list[Sink] = []


class Routes:
    """All routes of a hub. Is itself the union of their selections, as a Source sees it."""

    def __init__(self) -> None:
        self._routes: dict[Selection, Route] = {}
        self._by_key: dict[str, list[Route]] = {}
        self._by_prefix: dict[str, list[Route]] = {}
        self._by_pattern: dict[str, list[Route]] = {}
        self._keys: frozenset[str] | None = None

    def __bool__(self) -> bool:
        return bool(self._routes)

    def __contains__(self, selection: Selection) -> bool:
        return selection in self._routes

    @property
    def keys(self) -> frozenset[str]:
        if self._everything:
            return frozenset()
        # Kept until a route comes or goes: with thousands of keys it is not made at every read.
        if self._keys is None:
            self._keys = frozenset(self._by_key)
        return self._keys

    @property
    def prefixes(self) -> frozenset[str]:
        return frozenset() if self._everything else frozenset(self._by_prefix)

    @property
    def patterns(self) -> frozenset[str]:
        if self._everything:
            return frozenset()
        routes = chain.from_iterable(self._by_pattern.values())
        return frozenset(chain.from_iterable(route.selection.patterns for route in routes))

    @property
    def _everything(self) -> bool:
        return "" in self._by_prefix

    def matches(self, key: str) -> bool:
        return next(iter(self.of(key)), None) is not None

    def of(self, key: str) -> Iterable[Route]:
        """The routes whose selection has `key`, each once."""
        exact = self._by_key.get(key)
        if not self._by_prefix and not self._by_pattern:
            return exact or ()
        found = list(exact or ())
        for start in _starts(key):
            found += self._by_prefix.get(start, ())
            found += (r for r in self._by_pattern.get(start, ()) if r.selection.matches(key))
        return found if len(found) < 2 else dict.fromkeys(found)

    def all(self) -> Iterable[Route]:
        return self._routes.values()

    def add(self, selection: Selection) -> Route:
        """The route of `selection`, made if there is none."""
        route = self._routes.get(selection)
        if route is None:
            route = self._routes[selection] = Route(selection)
            self._keys = None
            for index, place in self._places(selection):
                index.setdefault(place, []).append(route)
        return route

    def remove(self, route: Route) -> None:
        del self._routes[route.selection]
        self._keys = None
        for index, place in self._places(route.selection):
            index[place].remove(route)
            if not index[place]:
                del index[place]

    def split(self, entries: list[Entry]) -> dict[Route, list[Entry]]:
        """The entries of each route that gets any."""
        if len(entries) == 1:
            return dict.fromkeys(self.of(entries[0].key), entries)
        parts: dict[Route, list[Entry]] = {}
        for entry in entries:
            for route in self.of(entry.key):
                parts.setdefault(route, []).append(entry)
        return parts

    def _places(self, selection: Selection) -> Iterator[tuple[dict[str, list[Route]], str]]:
        for key in selection.keys:
            yield self._by_key, key
        for prefix in selection.prefixes:
            yield self._by_prefix, prefix
        for start in {literal_prefix(pattern) for pattern in selection.patterns}:
            yield self._by_pattern, start
        if selection.everything:
            yield self._by_prefix, ""


def _starts(key: str) -> Iterator[str]:
    """Every prefix of `key` that ends in a slash, and the empty one."""
    yield ""
    end = key.find("/") + 1
    while end:
        yield key[:end]
        end = key.find("/", end) + 1
