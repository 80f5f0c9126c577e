"""Observables that say what they follow."""

from __future__ import annotations

from typing import TypeVar

from reactivex import Observable
from reactivex.abc import Subscription

from datastream._watch.status import StatusHolder
from datastream.status import Status

T_co = TypeVar("T_co", covariant=True)


class NamedObservable(Observable[T_co]):
    """An Observable whose `repr`, and what a notebook shows of it, names what it follows.

    Args:
        subscribe: as of an Observable.
        what: it follows, such as ``memory:, watch('fx/')``.
    """

    def __init__(self, subscribe: Subscription[T_co], what: str) -> None:
        super().__init__(subscribe)
        self._what = what

    def __repr__(self) -> str:
        return f"<Observable {self._what}>"

    def _repr_html_(self) -> str:
        from datastream.notebook import _status

        return _status.observable_line(self._what)


class StatusObservable(Observable[Status]):
    """The current `Status` first, then each change; completes when the store is closed."""

    def __init__(self, holder: StatusHolder) -> None:
        super().__init__(holder.subscribe_observer)
        self._holder = holder

    @property
    def current(self) -> Status:
        """The status now: a memory read."""
        return self._holder.current

    def __repr__(self) -> str:
        return f"<Observable status of {self._holder.name}: {self.current.state}>"

    def _repr_html_(self) -> str:
        from datastream.notebook import _status

        return _status.observable_line(self._holder.name, "status of", self.current)
