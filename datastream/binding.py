"""`Binding`: a validated object that follows the keys it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase

from datastream._binding.changes import BindingChange, BindingChanges
from datastream._binding.evaluate import Evaluator
from datastream._binding.explain import Explained, Explainer, Hidden, Origins
from datastream._binding.layout import Layout
from datastream._binding.paths import check_path
from datastream._binding.state import BindingState
from datastream._binding.tree import Path
from datastream._binding.writing import plan
from datastream._observable import NamedObservable
from datastream._view.following import Following, Place
from datastream._view.keeper import Keeper
from datastream.aio import AsyncWatch
from datastream.entry import Rejected
from datastream.errors import InvalidKey, InvalidValue, shown
from datastream.source import Feature

if TYPE_CHECKING:
    from datastream.notebook import LiveTable
    from datastream.store import Store

T = TypeVar("T")

__all__ = ["Binding", "BindingChange", "Explained", "Hidden"]

SEEN_WITHIN = 5.0
"""Seconds that `put` and `patch` wait until the new object is in force here."""


class Binding(Following[BindingState[T]], Generic[T]):
    """One object, validated by pydantic, of keys below a prefix or of one document.

    Made by `Store.bind`. `current` is swapped as a whole when a state validates; a state that
    does not leaves it alone, whatever other keys change, until one validates again. Every method
    is safe to call from any thread.
    """

    current: T
    """The object in force; an attribute in memory, not to be set.

    Before the first state, reading it waits for as long as the binding was told to, then raises
    `SourceUnavailable`, or `InvalidValue` if the first state does not validate.
    """

    def __getattr__(self, name: str) -> Any:
        # Only of what is not there: `current` before the first state.
        if name != "current":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self._await_state()
        in_force = self._state.in_force
        return None if in_force is None else in_force.outcome.value

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Why the newest state is not in force: key, revision and reason of each; empty if it is.

        The status is `degraded` meanwhile.
        """
        return self._state.rejected

    # Changes.

    @property
    def changes(self) -> Observable[BindingChange[T]]:
        """Each new object after ``subscribe``, with the old one and the paths that differ."""
        return self._observable(_whole, "changes")

    def on(self, path: str, callback: Callable[[BindingChange[Any]], object]) -> DisposableBase:
        """Call `callback` with each change of one field, such as ``db.url``, or of what is in it.

        ``old`` and ``new`` are the values at `path`. Dispose of what is returned to end that.

        Raises:
            InvalidKey: there is no such field.
        """
        in_force, parts = self._state.in_force, _path(path)
        if in_force is not None:
            check_path(in_force.outcome.value, parts, self._what)

        def call(change: BindingChange[Any]) -> None:
            callback(change)

        return self._observable(partial(_narrowed, parts), "on").subscribe(call)

    def achanges(self) -> AsyncWatch[BindingChange[T]]:
        """`changes` for ``async for``, from the first step of the iterator on."""
        return self._alisten(_whole, BindingChanges, self._place())

    # Where it comes from.

    def explain(self) -> dict[str, Explained]:
        """By path, where the value of each field comes from; asks the backend for authors.

        Secrets are shown as stars: pydantic's secret types, and fields that are called so.
        """
        self._await_state()
        state, store = self._state, self._keeper.store
        if state.in_force is None:
            return {}
        return Explainer(state.in_force, state.evaluate, Origins(store, state.about))()

    async def aexplain(self) -> dict[str, Explained]:
        """`explain`, without holding up the event loop."""
        return await self._keeper.store.threads.call(self.explain)

    # Writing.

    def put(self, **values: Any) -> None:
        """Replace whole fields; see `patch`."""
        self._write({(name,): value for name, value in values.items()}, "", "")

    def patch(self, values: Mapping[str, Any], *, message: str = "", author: str = "") -> None:
        """Replace what is at some paths, such as ``{"db.pool": 5}``.

        The whole is validated first, then the keys that differ are written as one batch, on the
        condition that nobody has changed them meanwhile. On return the new object is in force,
        unless another key holds since then what does not validate: `rejected` has it.

        Args:
            values: by path; models, dicts and lists replace all that is there.
            message, author: why and who, where the backend keeps them.

        Raises:
            InvalidValue: the whole does not validate; nothing was written.
            InvalidKey: there is no such field; nothing was written.
            RevisionConflict: a key has changed meanwhile; nothing was written.
            ReadOnly, Unsupported: the store cannot be written, or keys cannot say this.
        """
        self._write({_path(path): value for path, value in values.items()}, message, author)

    async def aput(self, **values: Any) -> None:
        """`put`, without holding up the event loop."""
        await self._keeper.store.threads.run(partial(self.put, **values))

    async def apatch(
        self, values: Mapping[str, Any], *, message: str = "", author: str = ""
    ) -> None:
        """`patch`, without holding up the event loop."""
        call = partial(self.patch, values, message=message, author=author)
        await self._keeper.store.threads.run(call)

    # Display.

    def live(self) -> LiveTable:
        """A table of the fields for a notebook, which follows while it is on a page.

        It shows where each value comes from, as `explain` does, and why a newer state is rejected.

        Raises:
            ImportError: anywidget is not installed: the extra ``notebook``.
        """
        from datastream.notebook import _bound, _widget

        _widget.check()
        return _bound.of_binding(self)

    def _repr_html_(self) -> str:
        from datastream.notebook import _html

        return _html.binding_card(self)

    # Inside.

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "current":
            raise AttributeError("current cannot be set; write with put() or patch()")
        object.__setattr__(self, name, value)

    def _show(self, value: T) -> None:
        object.__setattr__(self, "current", value)

    def _hide(self) -> None:
        vars(self).pop("current", None)

    def _write(self, values: Mapping[Path, Any], message: str, author: str) -> None:
        state, store = self._state, self._keeper.store
        store._core.check_open()
        if self._keeper.live_at is None:
            # Out of what is not known nothing can be made.
            self._await_state()
        try:
            made = plan(state.evaluate, state.entries, values, self._what)
        except RecursionError as error:
            raise InvalidValue(f"{self._what}: this is nested too deeply") from error
        if not made.writes:
            return
        can_expect = Feature.COMPARE_AND_SET in store.features
        writes = [
            write._replace(
                message=message, author=author, expect=write.expect if can_expect else None
            )
            for write in made.writes
        ]
        stored = store.write(*writes)
        # A write that changes nothing for the backend brings no news.
        news = {e.key: made.before[e.key] for e in stored if e.revision != made.before[e.key]}
        state.await_seen(news, SEEN_WITHIN)

    def _observable(self, unpack: Callable[[BindingChange[T]], Any], call: str) -> Observable[Any]:
        def subscribe(
            observer: ObserverBase[Any], scheduler: SchedulerBase | None = None
        ) -> DisposableBase:
            return self._listen(observer, unpack, BindingChanges(), self._place())

        return NamedObservable(subscribe, f"{self._what}, {call}")

    def _place(self) -> Place:
        return Place(self._state.listen, self._state.listeners.remove)


def bind(store: Store, model: Any, place: str, wait: float) -> Binding[Any]:
    """What `Store.bind` does."""
    layout = Layout(place)
    selection = layout.selection
    name = getattr(model, "__name__", None) or str(model)
    what = f"{store.name}, bind({name}, {shown(place)})"
    state: BindingState[Any] = BindingState(Evaluator(model, layout), what)
    keeper = Keeper(store, selection, state)
    keeper.open()
    if state.error is not None:
        keeper.close()
        raise state.error
    binding: Binding[Any] = Binding(keeper, keeper.close, what, wait)
    state.show(binding)
    return binding


def _whole(change: BindingChange[T]) -> tuple[BindingChange[T]]:
    return (change,)


def _narrowed(path: Path, change: BindingChange[Any]) -> tuple[BindingChange[Any], ...]:
    narrowed = change.narrowed(path)
    return () if narrowed is None else (narrowed,)


def _path(path: str) -> Path:
    """A path as it is written, with dots or slashes.

    Raises:
        InvalidKey: it has an empty part.
    """
    parts = tuple(path.replace("/", ".").split("."))
    if not all(parts):
        raise InvalidKey(f"{shown(path)} is no path; write one such as 'db.url'")
    return parts
