"""Which subscriptions get which change: indexed by key, by prefix and by pattern.

Finding the routes of a key costs one look-up for the key, one for each of its slashes, and a walk
down the tree of patterns, however many subscriptions there are for other keys.

The caller locks. Only `union`, its parts and `matches` are also used by the threads of a Source,
while routes come and go: they read what is replaced as a whole, never what is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

from datastream._pattern_index import PatternIndex
from datastream.entry import Entry
from datastream.selection import Selection


class Route:
    """One selection and its subscriptions: they share one filtered list of entries."""

    __slots__ = ("joining", "selection", "subscriptions")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.subscriptions: list[Any] = []
        """Those that have their initial state."""
        self.joining: list[Any] = []
        """Those whose initial state is being read."""


class Union(NamedTuple):
    """The union of all selections at one moment, as a Source sees it."""

    keys: frozenset[str]
    prefixes: frozenset[str]
    patterns: frozenset[str]
    selects: Callable[[str], bool]

    def matches(self, key: str) -> bool:
        """Whether a route selects the key now."""
        return self.selects(key)


class Routes:
    """All routes of a publisher. Is itself the union of their selections, as a Source sees it.

    A call that reads more than one of `keys`, `prefixes` and `patterns` takes them from one
    `union`: a route may come or go between two of them.
    """

    def __init__(self) -> None:
        self._routes: dict[Selection, Route] = {}
        self._by_key: dict[str, tuple[Route, ...]] = {}
        self._by_prefix: dict[str, tuple[Route, ...]] = {}
        self._by_pattern: PatternIndex[Route] = PatternIndex()
        self._of_everything: tuple[Route, ...] = ()
        self._excluding = 0
        self._only_keys = True
        self._version = 0
        self._union: tuple[int, Union] | None = None

    def __bool__(self) -> bool:
        return bool(self._routes)

    def __contains__(self, selection: Selection) -> bool:
        return selection in self._routes

    @property
    def union(self) -> Union:
        """What all routes select together, without keys, prefixes and patterns if that is all.

        The same object until a route comes or goes.
        """
        known = self._union
        # The version is read first: what is made while a route comes or goes is made anew.
        version = self._version
        if known is None or known[0] != version:
            known = self._union = version, self._make_union()
        return known[1]

    @property
    def excluding(self) -> bool:
        """Whether a route leaves keys out of what it selects."""
        return self._excluding > 0

    @property
    def keys(self) -> frozenset[str]:
        return self.union.keys

    @property
    def prefixes(self) -> frozenset[str]:
        return self.union.prefixes

    @property
    def patterns(self) -> frozenset[str]:
        return self.union.patterns

    def matches(self, key: str) -> bool:
        """Whether any route selects `key`."""
        return bool(self._find(key))

    def of(self, key: str) -> Collection[Route]:
        """The routes whose selection has `key`, each once."""
        if self._only_keys:
            return self._by_key.get(key, ())
        found = self._find(key)
        return found if len(found) < 2 else dict.fromkeys(found)

    def is_everything_watched(self) -> bool:
        """Whether somebody who has joined leaves nothing out."""
        everything = self._of_everything
        return any(route.subscriptions and not route.selection.exclude for route in everything)

    def all(self) -> Iterable[Route]:
        return self._routes.values()

    def add(self, selection: Selection) -> Route:
        """The route of `selection`, made if there is none."""
        route = self._routes.get(selection)
        if route is None:
            route = self._routes[selection] = Route(selection)
            for index, place in self._places(selection):
                index[place] = (*index.get(place, ()), route)
            for pattern in selection.patterns:
                self._by_pattern.add(pattern, route)
            if selection.everything:
                self._of_everything = (*self._of_everything, route)
            self._changed(selection, 1)
        return route

    def remove(self, route: Route) -> None:
        selection = route.selection
        del self._routes[selection]
        for index, place in self._places(selection):
            index[place] = _without(index[place], route)
            if not index[place]:
                del index[place]
        for pattern in selection.patterns:
            self._by_pattern.remove(pattern, route)
        self._of_everything = _without(self._of_everything, route)
        self._changed(selection, -1)

    def split(self, entries: list[Entry]) -> dict[Route, list[Entry]]:
        """The entries of each route that gets any."""
        parts: dict[Route, list[Entry]] = {}
        for entry in entries:
            for route in self.of(entry.key):
                parts.setdefault(route, []).append(entry)
        return parts

    def _find(self, key: str) -> Collection[Route]:
        """The routes that select `key`, some perhaps more than once."""
        exact = self._by_key.get(key, ())
        if self._only_keys:
            return exact
        found = [*exact, *self._of_everything]
        if self._by_prefix:
            end = key.find("/") + 1
            while end:
                found += self._by_prefix.get(key[:end], ())
                end = key.find("/", end) + 1
        if self._by_pattern:
            found += self._by_pattern.of(key)
        if self._excluding:
            found = [route for route in found if not route.selection.excludes(key)]
        return found

    def _places(self, selection: Selection) -> Iterator[tuple[dict[str, tuple[Route, ...]], str]]:
        for key in selection.keys:
            yield self._by_key, key
        for prefix in selection.prefixes:
            yield self._by_prefix, prefix

    def _changed(self, selection: Selection, step: int) -> None:
        self._excluding += step if selection.exclude else 0
        others = self._by_prefix or self._by_pattern or self._of_everything or self._excluding
        self._only_keys = not others
        self._version += 1

    def _make_union(self) -> Union:
        if self._of_everything:
            return Union(frozenset(), frozenset(), frozenset(), self.matches)
        # Each of these copies is made in one step: a frozenset of a dict runs no Python code.
        keys, prefixes = frozenset(self._by_key), frozenset(self._by_prefix)
        return Union(keys, prefixes, self._by_pattern.patterns, self.matches)


def _without(routes: tuple[Route, ...], route: Route) -> tuple[Route, ...]:
    # Slices: thousands of selections may share a key.
    if route not in routes:
        return routes
    at = routes.index(route)
    return routes[:at] + routes[at + 1 :]
