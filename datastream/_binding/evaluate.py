"""From entries to a validated object, or to the reasons why not: pure, but for the validators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from datastream._binding.layout import Layout
from datastream._binding.paths import dotted
from datastream._binding.shape import Shaper, normalized
from datastream._binding.tree import Node, Path
from datastream._binding.types import part_of
from datastream._converting import adapter
from datastream._secrets import without
from datastream.entry import Entry, Rejected
from datastream.errors import shown

T = TypeVar("T")

OVERRIDDEN = ""
"""In place of a key, where no key says a value but a caller."""

Overrides = Mapping[Path, Any]
"""Values that take the place of what is at a path, whatever the keys say."""


@dataclass
class Outcome(Generic[T]):
    """What came of a state."""

    value: T
    """The object; meaningless where something was rejected."""
    rejected: tuple[Rejected, ...] = ()
    missing: tuple[str, ...] = ()
    """Keys of required fields that were looked for in vain."""
    keys: Mapping[Path, str] = field(default_factory=dict)
    """By path, the key that a value came from."""

    def key_of(self, path: Path) -> str | None:
        """The key that says what is at `path`; None where that is a default."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.keys:
                return self.keys[path[:length]]
        return None


class Evaluator(Generic[T]):
    """Makes objects of one model.

    Args:
        model: what pydantic's ``TypeAdapter`` takes.
        layout: where the object lies.
    """

    def __init__(self, model: Any, layout: Layout) -> None:
        self.model = model
        self.layout = layout
        self._adapter: TypeAdapter[T] = adapter(model, "bind")

    def __call__(self, entries: Mapping[str, Entry], overrides: Overrides) -> Outcome[T]:
        """The object that these entries make, with `overrides` in place of some of them."""
        try:
            return self._made(entries, overrides)
        except RecursionError:
            # Whoever may write a key can make one of many segments.
            refused = Rejected(self.layout.place, "", "its keys or values are nested too deeply")
            return Outcome(cast(T, None), (refused,))

    def _made(self, entries: Mapping[str, Entry], overrides: Overrides) -> Outcome[T]:
        root, rejected = self.layout.read(entries)
        if rejected:
            # What follows from keys that cannot be read says nothing.
            return Outcome(cast(T, None), tuple(rejected))
        if overrides:
            spelled = self._spelled(root)
            for path, value in overrides.items():
                self._override(root, spelled(path), value)
        shaper = self._shaper()
        shaped = shaper.shape(root, self.model)
        rejected += [
            Rejected(key, _revision(entries.get(key)), reason) for key, reason in shaper.problems
        ]
        outcome: Outcome[Any] = Outcome(None, keys=shaper.keys)
        try:
            outcome.value = self._adapter.validate_python(shaped)
        except ValidationError as error:
            found = [self._rejected(one, shaper, outcome, entries) for one in error.errors()]
            missing = [one.key for one, is_missing in found if is_missing]
            rejected += [one for one, _ in found]
            outcome.missing = tuple(missing)
        except Exception as error:  # noqa: BLE001
            # A validator of the user's that raises what pydantic does not take for a refusal.
            rejected.append(
                Rejected(self.layout.place, "", without(f"{type(error).__name__}: {error}", shaped))
            )
        outcome.rejected = tuple(rejected)
        return outcome

    def spelled(self, entries: Mapping[str, Entry]) -> Callable[[Path], Path]:
        """Makes of a path of fields one of the segments that mean them in these entries."""
        return self._spelled(self.layout.read(entries)[0])

    def _spelled(self, root: Node) -> Callable[[Path], Path]:
        shaper = self._shaper()
        shaper.shape(root, self.model)
        known = {location.path: location for location in shaper.locations.values()}

        def spelled(path: Path) -> Path:
            length = next(n for n in range(len(path), -1, -1) if path[:n] in known)
            _, at, kind = known[path[:length]]
            for name in path[length:]:
                segment, kind = part_of(kind, name)
                at = (*at, segment)
            return at

        return spelled

    def _shaper(self) -> Shaper:
        return Shaper("" if self.layout.is_document else self.layout.place)

    def _override(self, root: Node, path: Path, value: Any) -> None:
        """Put `value` at `path`, what is no field spelled as the keys there spell it."""
        node = root
        for name in path:
            below = node.expanded()
            segment = spelling(name, below)
            child = below.get(segment, Node())
            # What was within a JSON object is on its own from here on.
            node.children[segment] = child
            node = child
        node.value, node.key, node.children = value, OVERRIDDEN, {}

    def _rejected(
        self, problem: Any, shaper: Shaper, outcome: Outcome[Any], entries: Mapping[str, Entry]
    ) -> tuple[Rejected, bool]:
        loc = tuple(map(str, problem["loc"]))
        length = next(n for n in range(len(loc), -1, -1) if loc[:n] in shaper.locations)
        path, at, _ = shaper.locations[loc[:length]]
        rest = loc[length:]
        is_missing = problem["type"] == "missing"
        key = outcome.key_of((*path, *rest)) if not is_missing else None
        looked_for = self.layout.key((*at, *rest)) if is_missing else key
        key = looked_for or self.layout.key(at)
        where = dotted((*path, *rest))
        # A validator's own words may hold what it was given.
        fault = without(problem["msg"], problem.get("input"))
        reason = f"{where}: {fault}" if where else fault
        return Rejected(key, _revision(entries.get(key)), reason), is_missing


def described(rejected: tuple[Rejected, ...]) -> str:
    """Reasons in one line."""
    return "; ".join(f"{shown(one.key)}: {one.reason}" for one in rejected)


def spelling(name: str, below: Mapping[str, Any]) -> str:
    """The segment that means the field, dict key or item `name`."""
    if name in below:
        return name
    alike = sorted(s for s in below if normalized(s) == normalized(name))
    if alike:
        return alike[0]
    if name.isdecimal() and all(segment.isdecimal() for segment in below):
        # The items of a list need not be numbered without gaps.
        return dict(enumerate(sorted(below, key=int))).get(int(name), name)
    return name


def _revision(entry: Entry | None) -> str:
    return "" if entry is None else entry.revision
