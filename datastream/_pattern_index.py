"""Patterns, indexed so that a key is compared with few of those that it does not match.

They form a tree with one level per segment of a pattern. A key walks down all branches at once:
the one of its literal segment, the one of ``*``, and those whose glob matches. Who stands in front
of a ``**/`` goes on beside it at every later segment.

Readers take no lock: what they iterate over is replaced as a whole, never changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from datastream._glob import Matcher, Token, Wild, compile_glob, parse, segments

T = TypeVar("T")

_Part = tuple[Token, ...]
_Place = tuple[str, int]
"""Where a literal is in a glob, at the "start", the "end" or "in" it, and its length."""


class PatternIndex(Generic[T]):
    """Patterns and the values to be found for the keys that match them."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._whole: _Globs[T] = _Globs()
        """Patterns that cannot be cut at slashes."""
        self._uses: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._uses)

    @property
    def patterns(self) -> frozenset[str]:
        """All patterns there are now."""
        return frozenset(self._uses)

    def add(self, pattern: str, value: T) -> None:
        """Let keys that match `pattern` find `value`."""
        tokens = parse(pattern)
        parts = segments(tokens)
        if parts is None:
            whole = tuple(tokens)
            leaf = self._whole.nodes.get(whole) or self._whole.add(whole)
        else:
            leaf = self._root
            for part in parts:
                leaf = leaf.branch(part)
        leaf.values = (*leaf.values, value)
        self._uses[pattern] = self._uses.get(pattern, 0) + 1

    def remove(self, pattern: str, value: T) -> None:
        """Undo one `add` of the same pattern and value."""
        tokens = parse(pattern)
        parts = segments(tokens)
        if parts is None:
            self._remove_whole(tuple(tokens), value)
        else:
            self._remove_cut(parts, value)
        self._uses[pattern] -= 1
        if not self._uses[pattern]:
            del self._uses[pattern]

    def of(self, key: str) -> list[T]:
        """The values of all patterns that `key` matches; of each pattern, so perhaps repeated."""
        nodes = [self._root]
        staying: dict[_Node[T], None] = {}
        for segment in key.split("/"):
            for node in nodes:
                if node.dirs is not None:
                    staying[node.dirs] = None
            nodes = _after(segment, nodes, _after(segment, staying, []))
            if not (nodes or staying):
                break
        found = [value for node in nodes for value in node.values]
        for node in self._whole.of(key):
            found += node.values
        return found

    def _remove_whole(self, tokens: _Part, value: T) -> None:
        leaf = self._whole.nodes[tokens]
        leaf.values = _without(leaf.values, value)
        if leaf.empty:
            self._whole.remove(tokens)

    def _remove_cut(self, parts: Sequence[_Part], value: T) -> None:
        node = self._root
        way: list[tuple[_Node[T], _Part]] = []
        for part in parts:
            way.append((node, part))
            node = node.branch(part)
        node.values = _without(node.values, value)
        for parent, part in reversed(way):
            if not node.empty:
                break
            parent.cut(part)
            node = parent


class _Node(Generic[T]):
    """The patterns that share the parts up to here."""

    __slots__ = ("dirs", "found_by", "globs", "literal", "star", "values")

    def __init__(self) -> None:
        self.literal: dict[str, _Node[T]] = {}
        self.star: _Node[T] | None = None
        self.dirs: _Node[T] | None = None
        self.globs: _Globs[T] | None = None
        self.values: tuple[T, ...] = ()
        self.found_by: tuple[_Place, str] = ("start", 0), ""

    @property
    def empty(self) -> bool:
        return not (self.literal or self.star or self.dirs or self.globs or self.values)

    def branch(self, part: _Part) -> _Node[T]:
        """What is below, behind `part`; made if there is nothing."""
        if part == _STAR:
            self.star = self.star or _Node()
            return self.star
        if part == _DIRS:
            self.dirs = self.dirs or _Node()
            return self.dirs
        if (text := _literal(part)) is not None:
            return self.literal.get(text) or self.literal.setdefault(text, _Node())
        self.globs = self.globs or _Globs()
        return self.globs.nodes.get(part) or self.globs.add(part)

    def cut(self, part: _Part) -> None:
        """Remove a branch."""
        if part == _STAR:
            self.star = None
        elif part == _DIRS:
            self.dirs = None
        elif (text := _literal(part)) is not None:
            del self.literal[text]
        elif self.globs is not None:
            self.globs.remove(part)
            self.globs = self.globs or None


class _Globs(Generic[T]):
    """Globs, each to be found by one literal text that is in it."""

    __slots__ = ("_by_place", "_places", "nodes")

    def __init__(self) -> None:
        self.nodes: dict[_Part, _Node[T]] = {}
        self._by_place: dict[_Place, dict[str, tuple[_Branch[T], ...]]] = {}
        self._places: tuple[tuple[_Place, dict[str, tuple[_Branch[T], ...]]], ...] = ()
        """The items of `_by_place`, for readers to iterate over."""

    def __bool__(self) -> bool:
        return bool(self.nodes)

    def add(self, part: _Part) -> _Node[T]:
        """The node of a new glob."""
        node = self.nodes[part] = _Node()
        place, text = min(_literals(part), key=self._cost)
        if place not in self._by_place:
            self._by_place[place] = {}
            self._places = tuple(self._by_place.items())
        branches = self._by_place[place]
        branches[text] = (*branches.get(text, ()), _Branch(part, node))
        node.found_by = place, text
        return node

    def remove(self, part: _Part) -> None:
        place, text = self.nodes.pop(part).found_by
        branches = self._by_place[place]
        left = tuple(branch for branch in branches[text] if branch.part != part)
        if left:
            branches[text] = left
        else:
            del branches[text]
        if not branches:
            del self._by_place[place]
            self._places = tuple(self._by_place.items())

    def of(self, text: str) -> Iterator[_Node[T]]:
        """The nodes of the globs that match."""
        for place, branches in self._places:
            for literal in _looked_up(text, place, branches):
                for branch in branches.get(literal, ()):
                    if branch.matches(text):
                        yield branch.node

    def _cost(self, found: tuple[_Place, str]) -> tuple[int, bool, bool, int]:
        """By which literal to find a glob: the one that fewest others are found by."""
        place, text = found
        branches = self._by_place.get(place)
        return len((branches or {}).get(text, ())), branches is None, place[0] == "in", -place[1]


class _Branch(Generic[T]):
    """A glob and what is below it. Compiled at the first use: most are never compared."""

    __slots__ = ("_matcher", "node", "part")

    def __init__(self, part: _Part, node: _Node[T]) -> None:
        self.part = part
        self.node = node
        self._matcher: Matcher | None = None

    def matches(self, text: str) -> object:
        if self._matcher is None:
            self._matcher = compile_glob(self.part)
        return self._matcher.fullmatch(text)


def _after(segment: str, nodes: Iterable[_Node[T]], found: list[_Node[T]]) -> list[_Node[T]]:
    """Add to `found` where `segment` leads from `nodes`."""
    for node in nodes:
        if (child := node.literal.get(segment)) is not None:
            found.append(child)
        if node.star is not None:
            found.append(node.star)
        if node.globs is not None:
            found += node.globs.of(segment)
    return found


def _literal(part: _Part) -> str | None:
    """The text of a part without wildcards."""
    if not part:
        return ""
    return part[0] if len(part) == 1 and isinstance(part[0], str) else None


def _literals(part: _Part) -> list[tuple[_Place, str]]:
    """The texts that every match of a glob holds, and where."""
    last = len(part) - 1
    where = {0: "start", last: "end"}
    texts = [(where.get(at, "in"), text) for at, text in enumerate(part) if isinstance(text, str)]
    return [((side, len(text)), text) for side, text in texts] or [(("start", 0), "")]


def _looked_up(text: str, place: _Place, branches: Collection[str]) -> Iterable[str]:
    """The literals in `branches` that `text` may have at `place`."""
    side, length = place
    if side == "start":
        return (text[:length],)
    if side == "end":
        return (text[-length:],)
    if len(text) - length < len(branches):
        return {text[at : at + length] for at in range(len(text) - length + 1)}
    return [literal for literal in tuple(branches) if literal in text]


def _without(values: tuple[T, ...], value: T) -> tuple[T, ...]:
    place = values.index(value)
    return values[:place] + values[place + 1 :]


_STAR: _Part = (Wild.STAR,)
_DIRS: _Part = (Wild.DIRS,)
