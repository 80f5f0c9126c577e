"""A tree of keys in the shape of a model: segments become fields, items and dict keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from datastream._binding.tree import ABSENT, Node, Path
from datastream._binding.types import Field, arms_of, fields_of, items_of, unwrapped, values_of
from datastream.errors import InvalidValue, shown


class Location(NamedTuple):
    """A part of an object."""

    path: Path
    at: Path
    """The segments of its key."""
    kind: Any
    """Its type."""


class Shaper:
    """Makes of a tree what pydantic takes, and remembers where each part comes from.

    Args:
        prefix: of all keys.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.keys: dict[Path, str] = {}
        """By path of the object, the key that a value came from."""
        self.locations: dict[Path, Location] = {}
        """By pydantic's location of a part, where that is."""
        self.problems: list[tuple[str, str]] = []
        """Keys that cannot be understood, and why."""

    def shape(
        self, node: Node, annotation: Any, path: Path = (), loc: Path = (), at: Path = ()
    ) -> Any:
        """The value of `node` as its type wants it; `at` are the segments of its key."""
        kind = unwrapped(annotation)
        if node.value is not ABSENT:
            self.keys[path] = node.key
        self.locations[loc] = Location(path, at, kind)
        arms = arms_of(kind)
        if arms is not None:
            return self._union(node, arms, (path, loc, at))
        fields = fields_of(kind)
        items, values = items_of(kind), values_of(kind)
        has_parts = bool(node.children) or isinstance(node.value, dict | list | tuple)
        is_loose = not node.children and fields is None and items is None and values is None
        if node.value is not ABSENT and (is_loose or not has_parts):
            return node.value
        if fields is not None:
            return self._model(node, fields, (path, loc, at))
        if items is not None:
            return self._items(node, items, (path, loc, at))
        return self._dict(node, Any if values is None else values, (path, loc, at))

    def _model(self, node: Node, fields: dict[str, Field], where: tuple[Path, Path, Path]) -> Any:
        path, loc, at = where
        if isinstance(node.value, list | tuple):
            return node.bare()
        below = node.expanded()
        shaped: dict[str, Any] = {}
        matched = self._matched(fields.values(), below, at)
        for name, field in fields.items():
            segment = matched.get(name, field.input)
            is_model = fields_of(unwrapped(field.annotation)) is not None
            # A required model without keys has defaults, or fields that are missing by name.
            if name in matched or (field.required and is_model):
                here = (*path, name), (*loc, field.input), (*at, segment)
                child = below.pop(segment, Node())
                shaped[field.input] = self.shape(child, field.annotation, *here)
        # The model says whether more is ignored, kept or refused.
        self.keys |= {(*path, segment): child.any_key() for segment, child in below.items()}
        for name in fields.keys() - matched.keys():
            self._note_alias(node, fields[name], path)
        return shaped | {segment: child.bare() for segment, child in below.items()}

    def _note_alias(self, node: Node, field: Field, path: Path) -> None:
        """Which key says a field that pydantic takes from elsewhere in the model's input."""
        found = (node.at(segments) for segments in field.alias_paths)
        place = next((one for one in found if one is not None), None)
        if place is not None:
            self.keys[(*path, field.name)] = place.any_key()

    def _matched(self, fields: Iterable[Field], below: dict[str, Node], at: Path) -> dict[str, str]:
        """By field, the segment that means it; the exact spelling wins."""
        found: dict[str, str] = {}
        spelled: dict[str, list[str]] = {}
        for segment in below:
            spelled.setdefault(normalized(segment), []).append(segment)
        for field in fields:
            alike = [s for name in field.names for s in spelled.get(normalized(name), ())]
            exact = [segment for segment in alike if segment in field.names]
            chosen = sorted(set(exact or alike))
            if len(chosen) > 1 and not exact:
                self._ambiguous(field, [*(self.key((*at, segment)) for segment in chosen)])
            if chosen:
                found[field.name] = field.input if field.input in chosen else chosen[0]
        return found

    def _ambiguous(self, field: Field, keys: list[str]) -> None:
        several = " and ".join(map(shown, keys))
        self.problems.append((keys[0], f"{several} both mean {field.name}; remove one"))

    def _items(self, node: Node, kinds: tuple[Any, ...], where: tuple[Path, Path, Path]) -> Any:
        path, loc, at = where
        below = node.expanded()
        if not all(segment.isdecimal() for segment in below):
            return node.bare()
        shaped = []
        for number, segment in enumerate(sorted(below, key=int)):
            kind = kinds[min(number, len(kinds) - 1)]
            here = (*path, str(number)), (*loc, str(number)), (*at, segment)
            shaped.append(self.shape(below[segment], kind, *here))
        return shaped

    def _dict(self, node: Node, kind: Any, where: tuple[Path, Path, Path]) -> Any:
        if isinstance(node.value, list | tuple) and not node.children:
            return node.value
        path, loc, at = where
        return {
            segment: self.shape(child, kind, (*path, segment), (*loc, segment), (*at, segment))
            for segment, child in node.expanded().items()
        }

    def _union(self, node: Node, arms: tuple[Any, ...], where: tuple[Path, Path, Path]) -> Any:
        """The shape of the first type that takes it; else of the first model, for its errors."""
        candidates = []
        for arm in arms:
            shaper = Shaper(self._prefix)
            value = shaper.shape(node, arm, *where)
            candidates.append((arm, shaper, value))
            if node.is_empty or _takes(arm, value):
                break
        else:
            models = [one for one in candidates if fields_of(unwrapped(one[0])) is not None]
            candidates = models[::-1] or candidates
        _, shaper, value = candidates[-1]
        self.keys |= shaper.keys
        self.locations |= shaper.locations
        self.problems += shaper.problems
        return value

    def key(self, at: Path) -> str:
        """The key of what is at these segments."""
        return self._prefix + "/".join(at)


def normalized(segment: str) -> str:
    """Case does not matter in keys, and ``-`` is ``_``."""
    return segment.replace("-", "_").casefold()


def _takes(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except (ValidationError, InvalidValue):
        return False
    return True
