"""`View`: the selected values of a store in memory, kept current."""

from __future__ import annotations

import sys
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase

from datastream._observable import NamedObservable
from datastream._view.changes import ChangeBuffer
from datastream._view.following import Following, Place
from datastream._view.handover import NOWHERE, Given, Keys, take
from datastream._view.keeper import Keeper
from datastream._view.state import Picture, ViewState
from datastream.aio import AsyncWatch
from datastream.entry import Change, ChangeBatch, Rejected
from datastream.errors import InvalidKey, KeyNotFound, shown

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from datastream.notebook import LiveTable

T = TypeVar("T")
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

__all__ = ["View", "ViewSnapshot"]


class ViewSnapshot(Mapping[str, V_co]):
    """The values of a view at one moment; never changes."""

    __slots__ = ("_values", "cursor")

    def __init__(self, values: dict[str, V_co], cursor: str) -> None:
        self._values = values
        self.cursor = cursor
        """Place of this moment in the stream; give it to `Store.watch_batches` as ``since``."""

    def __getitem__(self, key: str) -> V_co:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __repr__(self) -> str:
        return f"<ViewSnapshot {len(self._values)} keys at {self.cursor!r}>"


class View(Following[ViewState], Mapping[str, V]):
    """The selected values in memory: a read is a dict look-up, also while the backend is away.

    Made by `Store.view`. Each batch of the store appears whole or not at all. Iterating it,
    ``keys()``, ``items()``, ``values()``, ``dict(view)`` and `copy` are each of one moment, as is
    `snapshot`.

    Reading before the first state waits for as long as the view was told to, then raises
    `SourceUnavailable`. After `close` the last state stays readable. Every method is safe to call
    from any thread.
    """

    # Reading.

    def __init__(
        self, keeper: Keeper[ViewState], release: Callable[[], object], what: str, wait: float
    ) -> None:
        super().__init__(keeper, release, what, wait)
        self._given: Given = {}

    def __getitem__(self, key: str) -> V:
        if self._given and (value := take(self._given, key, sys._getframe(1))) is not NOWHERE:
            return value  # type: ignore[no-any-return]
        try:
            return self._state.values[key]  # type: ignore[no-any-return]
        except KeyError:
            return self._missing(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, `default` if there is none."""
        state = self._state
        if not state.exists:
            self._await_state()
        return state.values.get(key, default)

    def __contains__(self, key: object) -> bool:
        if not self._state.exists:
            self._await_state()
        return key in self._state.values

    def __len__(self) -> int:
        if not self._state.exists:
            self._await_state()
        return len(self._state.values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._picture().values)

    def __bool__(self) -> bool:
        """True, also if it is empty or not ready, as for a store."""
        return True

    # Two views are never "equal", as two stores are not.
    __eq__ = object.__eq__
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def keys(self) -> KeysView[str]:
        """The keys of one moment."""
        return Keys(self._picture().values, self._given)

    def values(self) -> ValuesView[V]:
        """All values, of one moment."""
        return self._picture().values.values()

    def items(self) -> ItemsView[str, V]:
        """All keys and values, of one moment."""
        return self._picture().values.items()

    def copy(self) -> dict[str, V]:
        """A dict of your own with all values, of one moment."""
        return self._picture().values.copy()

    def snapshot(self) -> ViewSnapshot[V]:
        """All values of one moment, with their cursor.

        Costs next to nothing; the change that follows it copies the view's dict once.
        """
        picture = self._picture()
        return ViewSnapshot(picture.values, picture.cursor)

    def live(self) -> LiveTable:
        """A table of the values for a notebook, which follows while it is on a page.

        Raises:
            ImportError: anywidget is not installed: the extra ``notebook``.
        """
        from datastream.notebook import _table, _widget

        _widget.check()
        return _table.of_view(self)

    def to_pandas(self) -> pd.DataFrame:
        """All values of one moment as a frame, with the index ``key`` and the column ``value``.

        Raises:
            ImportError: pandas is not installed: the extra ``pandas``.
        """
        from datastream.notebook import _frames

        return _frames.to_pandas(_frames.of_values(self.snapshot()), "key")

    def to_polars(self) -> pl.DataFrame:
        """The same as a frame of polars, with the columns ``key`` and ``value``.

        Raises:
            ImportError: polars is not installed: the extra ``polars``.
        """
        from datastream.notebook import _frames

        return _frames.to_polars(_frames.of_values(self.snapshot()))

    @property
    def rejected(self) -> Mapping[str, Rejected]:
        """By key, the newest values that did not decode, or that ``as_`` refused, and why.

        The last good value of such a key stands; where there was none, the key is missing.
        """
        return {key: refused.rejected for key, refused in self._state.refused.items()}

    # Changes.

    @property
    def changes(self) -> Observable[Change]:
        """Each change of a value after ``subscribe``, with the old value and the new one."""
        return self._observable(_each, "changes")

    @property
    def change_batches(self) -> Observable[ChangeBatch]:
        """`changes`, in batches of what changed together, with author and message if known."""
        return self._observable(_whole, "change_batches")

    def on(self, key: str, callback: Callable[[Change], object]) -> DisposableBase:
        """Call `callback` with each change of one key; dispose of what is returned to end that.

        Raises:
            InvalidKey: the view does not select this key.
        """
        if key.endswith("/"):
            raise InvalidKey(f"{shown(key)} is a prefix, on() takes one key; subscribe to changes")
        if not self._keeper.selection.matches(key):
            raise InvalidKey(f"{self._what} does not select the key {shown(key)}")

        return self._observable(_each, "on", key).subscribe(_returning_none(callback))

    def achanges(self) -> AsyncWatch[Change]:
        """`changes` for ``async for``, from the first step of the iterator on."""
        return self._alisten(_each, ChangeBuffer, self._place())

    def _repr_html_(self) -> str:
        from datastream.notebook import _html

        return _html.view_table(self)

    # Inside.

    def _picture(self) -> Picture:
        state = self._state
        if not state.exists:
            self._await_state()
        return state.last_picture() if self._keeper.is_forked else state.picture()

    def _missing(self, key: str) -> V:
        """The slow half of ``[]``."""
        state = self._state
        if not state.exists:
            self._await_state()
            if key in state.values:
                return self[key]
        refused = state.refused.get(key)
        if refused is not None:
            raise KeyNotFound(
                f"{self._what} has no value at {shown(key)}: it was refused, "
                f"{refused.rejected.reason}"
            )
        if not self._keeper.selection.matches(key):
            raise KeyNotFound(f"{self._what} does not select {shown(key)}")
        raise KeyNotFound(f"{self._what} holds nothing at {shown(key)}; list(view) gives its keys")

    def _observable(
        self,
        unpack: Callable[[ChangeBatch], Iterable[Any]],
        call: str,
        key: str | None = None,
    ) -> Observable[Any]:
        def subscribe(
            observer: ObserverBase[Any], scheduler: SchedulerBase | None = None
        ) -> DisposableBase:
            return self._listen(observer, unpack, ChangeBuffer(), self._place(key))

        return NamedObservable(subscribe, f"{self._what}, {call}")

    def _place(self, key: str | None = None) -> Place:
        state = self._state
        return Place(partial(state.listen, key=key), partial(state.listeners.remove, key=key))


def _each(batch: ChangeBatch) -> tuple[Change, ...]:
    return batch.changes


def _whole(batch: ChangeBatch) -> tuple[ChangeBatch]:
    return (batch,)


def _returning_none(callback: Callable[[T], object]) -> Callable[[T], None]:
    def call(item: T) -> None:
        callback(item)

    return call
