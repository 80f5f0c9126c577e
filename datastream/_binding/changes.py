"""What changed in a bound object, and what its subscribers have not taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from datastream._binding.paths import at, covers, differing, dotted, leaves
from datastream._binding.tree import Path
from datastream.entry import Entry

T = TypeVar("T")

KEPT = 1_000
"""Changes kept one by one for a subscriber that does not take them."""


@dataclass(frozen=True)
class BindingChange(Generic[T]):
    """The object of a binding, or what is at one path of it, before and after."""

    old: T | None
    """None where there was none."""
    new: T
    paths: tuple[str, ...]
    """What differs, such as ``db.url``."""
    entries: tuple[Entry, ...] = ()
    """The changed keys as the backend stored them."""
    author: str = ""
    """Who made the change, where the backend knows, and it was one change."""
    message: str = ""
    """Why, likewise."""

    def narrowed(self, path: Path) -> BindingChange[Any] | None:
        """The same of what is at `path`; None if nothing changed there."""
        paths = tuple(p for p in self.paths if covers(path, tuple(p.split("."))))
        if not paths:
            return None
        old = None if self.old is None else at(self.old, path)
        return replace(self, old=old, new=at(self.new, path), paths=paths)


def changed_paths(old: Any, new: Any) -> tuple[str, ...]:
    """What differs; of a first object, all of it."""
    if old is None:
        return tuple(dotted(path) for path, _ in leaves(new))
    return tuple(dotted(path) for path in differing(old, new))


class BindingChanges:
    """Every change while they are few, then one from the oldest old to the newest new object.

    Not locked: the owner serialises the calls.
    """

    def __init__(self) -> None:
        self._queue: deque[BindingChange[Any]] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(
        self, item: BindingChange[Any], before: Sequence[str | None] | None = None, /
    ) -> Exception | None:
        if len(self._queue) >= KEPT:
            first = self._queue[0]
            self._queue.clear()
            item = BindingChange(first.old, item.new, changed_paths(first.old, item.new))
        self._queue.append(item)
        return None

    def take(self) -> BindingChange[Any] | None:
        return self._queue.popleft() if self._queue else None

    def clear(self) -> None:
        self._queue.clear()
