"""What can be watched: entries, batches and values, as Observables and as async iterators."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, get_args

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from datastream._converting import converter
from datastream._observable import NamedObservable
from datastream._watch.bounded import BoundedBuffer, Charge
from datastream._watch.buffer import Conflate, ConflatingBuffer, buffer_for
from datastream._watch.core import Core
from datastream._watch.dispatcher import Dispatcher
from datastream._watch.subscriber import Subscriber
from datastream._watch.subscription import Since, Sink
from datastream._watch.values import ValueChanges
from datastream.aio import AsyncWatch, Threads
from datastream.entry import Batch, Change, Entry
from datastream.errors import InvalidValue, shown
from datastream.selection import Selection

T = TypeVar("T")

FEW = 8
"""Keys of a watch that are checked for a missing slash."""

Unpack = Callable[[Batch], Iterable[Any]]

log = logging.getLogger("datastream")


class StoreWatches:
    """The part of a `Store` that is watched."""

    name: str
    threads: Threads
    _core: Core
    _dispatcher: Dispatcher

    def watch(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> Observable[Entry]:
        """The selected keys' entries now, then every change, deletes included.

        Each subscription starts with the current state, delivered before ``subscribe`` returns.
        Changes are delivered one at a time on a thread of the store. A subscriber that raises is
        logged and disposed. The subscription keeps the store open until it is disposed.

        Args:
            keys: exact keys, and prefixes ending in "/"; with neither keys nor match, everything.
            match: globs: ``*`` within a segment, ``**`` across.
            exclude: globs of what to leave out.
            initial: False for changes only.
            conflate: "slow": a subscriber that cannot keep up gets the newest entry of each key.
                "always": it gets only that, at most once in `every` seconds. "never": it gets
                every change; if it falls too far behind, the watch ends with an error.
            every: seconds between two deliveries, with ``conflate="always"``.

        Raises:
            InvalidKey, InvalidValue: at once, not at ``subscribe``.
        """
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = _entries if initial else _later_entries
        return self._observable(selection, None, unpack, Pace.of(conflate, every))

    def watch_batches(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        since: Since = None,
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> Observable[Batch]:
        """Like `watch`, in batches: what was committed together, with cursor and marks.

        Args:
            since: the cursor of an earlier batch, or a mapping of key to revision: the first
                batch then holds only what differs. If the cursor is too old or of another
                epoch, that batch has ``reset=True`` and holds the full state.
            keys, match, exclude, initial, conflate, every: as for `watch`.
        """
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = partial(_whole, initial=initial)
        return self._observable(selection, since, unpack, Pace.of(conflate, every))

    def watch_values(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        as_: Callable[[Any], T] | type[T] | None = None,
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> Observable[Change]:
        """Like `watch`, in decoded values: what each key held, and what it holds now.

        A value that does not decode, or that `as_` refuses, is logged and left out: the last
        good one stands, and the watch goes on.

        Args:
            as_: makes of a decoded value what you want, as for `view`.
            keys, match, exclude, initial, conflate, every: as for `watch`.
        """
        selection = Selection.of(*keys, match=match, exclude=exclude)
        convert = converter(as_)

        def unpack() -> ValueChanges:
            return ValueChanges(convert, described(selection), initial=initial)

        return self._observable(selection, None, unpack, Pace.of(conflate, every), fresh=True)

    def awatch(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> AsyncWatch[Entry]:
        """`watch` for ``async for``; other tasks run every few milliseconds meanwhile."""
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = _entries if initial else _later_entries
        return self._async_watch(selection, None, unpack, Pace.of(conflate, every))

    def awatch_batches(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        since: Since = None,
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
        transient: bool = False,
        lacking: Collection[str] = (),
        charge: Charge | None = None,
    ) -> AsyncWatch[Batch]:
        """`watch_batches` for ``async for``.

        Args:
            transient: for relays: after a cursor, the first batch has the DELETEs of keys too
                that were created after it.
            lacking: for relays: the `Batch.unread` of the state at the cursor; these keys are sent
                once they can be read.
            charge: for relays: counts what waits for the iterator; where it grants no more, the
                watch ends with `Overflow`, to be made again from the last cursor.
        """
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = partial(_whole, initial=initial)
        pace = Pace.of(conflate, every)
        return self._async_watch(
            selection, since, unpack, pace, transient=transient, lacking=lacking, charge=charge
        )

    def reached(self) -> str | None:
        """For relays: the cursor to go on from for who has taken all that its watch was offered.

        Newer than that of its last batch, once the backend has changed in what it does not select.
        None if nothing is watched, or nothing can be told for all watches just now.
        """
        return self._core.reached()

    def awatch_values(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        as_: Callable[[Any], T] | type[T] | None = None,
        initial: bool = True,
        conflate: Conflate = "slow",
        every: float = 0.0,
    ) -> AsyncWatch[Change]:
        """`watch_values` for ``async for``."""
        selection = Selection.of(*keys, match=match, exclude=exclude)
        unpack = ValueChanges(converter(as_), described(selection), initial=initial)
        return self._async_watch(selection, None, unpack, Pace.of(conflate, every))

    def _observable(
        self,
        selection: Selection,
        since: Since,
        unpack: Callable[..., Any],
        pace: Pace,
        *,
        fresh: bool = False,
    ) -> Observable[Any]:
        """An Observable over a watch.

        Args:
            unpack: what the observer gets for a batch; with `fresh`, makes that for each
                subscription.
        """

        def subscribe(
            observer: ObserverBase[Any], scheduler: SchedulerBase | None = None
        ) -> DisposableBase:
            made = unpack() if fresh else unpack
            return self._subscribe(observer, selection, since, made, pace)

        return NamedObservable(subscribe, f"{self.name}, {described(selection)}")

    def _subscribe(
        self,
        observer: ObserverBase[Any],
        selection: Selection,
        since: Since,
        unpack: Unpack,
        pace: Pace,
    ) -> DisposableBase:
        what = f"{self.name}, {described(selection)}"
        subscriber: Subscriber[Batch] = Subscriber(
            observer,
            unpack,
            buffer_for(pace.conflate, what),
            self._dispatcher,
            what,
            every=pace.every,
            keep=self,
        )
        core = self._core
        subscription = core.subscribe(selection, subscriber, since)
        subscriber.on_close = partial(core.unsubscribe, subscription)
        self._warn_missing_slash(selection)
        subscriber.start()
        return Disposable(partial(self._dispose, subscriber))

    def _dispose(self, subscriber: Subscriber[Batch]) -> None:
        # In a child process, a thread of the parent may have held a lock.
        if not self._core.is_forked:
            subscriber.close()

    def _async_watch(
        self,
        selection: Selection,
        since: Since,
        unpack: Callable[[Batch], Iterable[T]],
        pace: Pace,
        *,
        transient: bool = False,
        lacking: Collection[str] = (),
        charge: Charge | None = None,
    ) -> AsyncWatch[T]:
        what = f"{self.name}, {described(selection)}"

        def subscribe(inbox: Sink) -> Callable[[], None]:
            # Naming the store keeps it open as long as the iterator is.
            core = self._core
            subscription = core.subscribe(
                selection, inbox, since, transient=transient, lacking=lacking
            )
            self._warn_missing_slash(selection)
            return partial(core.unsubscribe, subscription)

        buffer: Callable[[], ConflatingBuffer] = partial(buffer_for, pace.conflate, what)
        if charge is not None:
            buffer = partial(BoundedBuffer, charge)
        return AsyncWatch(subscribe, unpack, self.threads, buffer, pace.every)

    def _warn_missing_slash(self, selection: Selection) -> None:
        """A key that holds nothing while others lie below it was probably meant as a prefix."""
        if selection.prefixes or selection.patterns or not 0 < len(selection.keys) <= FEW:
            return
        for key in selection.keys:
            try:
                is_folder = self._core.is_folder(key)
            except Exception as error:  # noqa: BLE001
                log.debug("%s: %s", self.name, error)
                return
            if is_folder:
                log.warning(
                    "%s: a watch of %s waits for that very key, while others lie below it; to "
                    "watch those, write %s",
                    self.name,
                    shown(key),
                    shown(f"{key}/"),
                )
            elif "?" in key:
                log.warning(
                    "%s: a watch of %s waits for that very key, question mark included; for a "
                    "pattern, write match=%s",
                    self.name,
                    shown(key),
                    shown(key),
                )


class Pace(NamedTuple):
    """How often, and how much of what it missed, a subscriber gets."""

    conflate: Conflate = "slow"
    every: float = 0.0

    @classmethod
    def of(cls, conflate: Conflate, every: float) -> Pace:
        """Checked.

        Raises:
            InvalidValue: there is no such pace.
        """
        if conflate not in get_args(Conflate):
            raise InvalidValue(
                f"conflate={conflate!r}: give one of {', '.join(map(repr, get_args(Conflate)))}"
            )
        check_seconds(every, "every")
        if every and conflate != "always":
            raise InvalidValue(f'every={every} needs conflate="always"')
        return cls(conflate, every)


def check_seconds(value: float, name: str) -> None:
    """Refuse what is no time to wait: no number, negative, or longer than the system can.

    Raises:
        InvalidValue: it is such.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= threading.TIMEOUT_MAX:
        raise InvalidValue(f"{name}={shown(str(value))[1:-1]}: give a number of seconds")


def described(selection: Selection, call: str = "watch") -> str:
    """A selection in the words of the call that made it."""
    names = [shown(key) for key in sorted((*selection.keys, *selection.prefixes))]
    names += [f"match={shown(pattern)}" for pattern in sorted(selection.patterns)]
    names += [f"exclude={shown(pattern)}" for pattern in sorted(selection.exclude)]
    more = [f"and {len(names) - FEW} more"] if len(names) > FEW else []
    return f"{call}({', '.join([*names[:FEW], *more])})"


_entries: Unpack = attrgetter("entries")


def _later_entries(batch: Batch) -> Iterable[Entry]:
    return () if batch.initial else batch.entries


def _whole(batch: Batch, *, initial: bool) -> Iterable[Batch]:
    return (batch,) if initial or not batch.initial else ()
