"""Which keys: the arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click
from reactivex import Observable

from datastream import Batch, Entry, Store

F = TypeVar("F", bound=Callable[..., Any])


class Keys(NamedTuple):
    """What was selected, as `Store.snapshot` and `Store.watch` take it."""

    keys: tuple[str, ...]
    match: tuple[str, ...]
    exclude: tuple[str, ...]

    @property
    def everything(self) -> bool:
        """Nothing was named."""
        return not (self.keys or self.match)

    def watched(self, store: Store, **pace: Any) -> Observable[Batch]:
        """The watch of them."""
        match, exclude = self.match, self.exclude
        return store.watch_batches(*self.keys, match=match, exclude=exclude, **pace)

    def snapshot(self, store: Store) -> list[Entry]:
        """What they hold now, sorted."""
        state = store.snapshot(*self.keys, match=self.match, exclude=self.exclude)
        return [state[key] for key in sorted(state)]


def selection(command: F) -> F:
    """Options ``--match`` and ``--exclude``."""
    exclude = click.option(
        "--exclude", multiple=True, metavar="GLOB", help="What to leave out. Repeatable."
    )
    match = click.option(
        "--match", multiple=True, metavar="GLOB", help="* within a segment, ** across. Repeatable."
    )
    return match(exclude(command))
