"""What a store keeps in memory for its users: views and bindings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from reactivex.abc import DisposableBase, ObserverBase

from datastream._converting import converter, needs_pydantic
from datastream._view.cache import CacheFile
from datastream._view.keeper import Keeper, Keepers
from datastream._view.state import ViewState
from datastream._view.write_behind import WriteBehind
from datastream._watch.subscription import Since
from datastream._watches import Pace, StoreWatches, check_seconds, described
from datastream.entry import Batch, Rejected
from datastream.errors import InvalidKey, InvalidValue
from datastream.selection import Selection
from datastream.view import View

if TYPE_CHECKING:
    from datastream.binding import Binding
    from datastream.store import Store

T = TypeVar("T")
V = TypeVar("V")

log = logging.getLogger("datastream")


class StoreViews(StoreWatches):
    """The part of a `Store` that is kept in memory."""

    _keepers: Keepers

    @overload
    def view(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        as_: None = None,
        cache: str | PathLike[str] | None = None,
        wait: float = 0.0,
    ) -> View[Any]: ...
    @overload
    def view(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        as_: Callable[[Any], V] | type[V],
        cache: str | PathLike[str] | None = None,
        wait: float = 0.0,
    ) -> View[V]: ...
    def view(
        self,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        as_: Callable[[Any], Any] | None = None,
        cache: str | PathLike[str] | None = None,
        wait: float = 0.0,
    ) -> View[Any]:
        """The selected values in memory, kept current; see `View`.

        With a backend that answers, the state is there on return. Views with the same arguments
        share one subscription and their values.

        Args:
            keys, match, exclude: as for `watch`.
            as_: makes of a decoded value what you want: a function or class that is called with
                it, such as ``float``; or what pydantic validates: a BaseModel, a dataclass, a
                TypedDict, a named tuple, a type such as ``list[int]`` or ``int | None``. A value
                that it refuses leaves the last good one in place, see `View.rejected`.
            cache: a file in which the last good state is kept, written within some seconds and
                readable by you alone. A start with the backend away begins with it, STALE; else
                only what differs is read. Processes may share it.
            wait: seconds that a read waits for the first state; 0 raises at once.

        Raises:
            InvalidKey, StoreClosed, Denied: as for `watch`.
            InvalidValue: `as_` is neither a function nor a type.
            ImportError: pydantic is not installed: the extra ``settings``.
        """
        self._core.check_open()
        check_seconds(wait, "wait")
        convert = converter(as_)
        if not isinstance(cache, str | PathLike | None):
            raise InvalidValue("cache is the path of a file")
        selection = Selection.of(*keys, match=match, exclude=exclude)
        file = None if cache is None else CacheFile(cache, self.name, selection)
        what = f"{self.name}, {described(selection, 'view')}"
        key = (selection, _identity(as_), None if file is None else file.path)
        keepers, store = self._keepers, cast("Store", self)
        make = partial(_make_keeper, store, selection, convert, file, what)
        keeper = keepers.share(key, make, _open_keeper)
        return View(keeper, partial(keepers.release, key, keeper), what, wait)

    def bind(self, model: type[T], place: str = "", *, wait: float = 0.0) -> Binding[T]:
        """One object of many keys, or of one document, validated by pydantic; see `Binding`.

        Args:
            model: what pydantic's ``TypeAdapter`` takes: a BaseModel, a dataclass, a TypedDict, …
            place: a prefix, such as ``app/``, below which ``app/db/url`` is ``db.url``; "" for all
                keys; or one key that holds the whole object as JSON, YAML or TOML.
            wait: seconds that reading `Binding.current` waits for the first state; 0 raises.

        Raises:
            InvalidValue: the present state does not validate; the text lists missing keys.
            ImportError: pydantic is not installed: the extra ``settings``.
        """
        self._core.check_open()
        check_seconds(wait, "wait")
        if not isinstance(place, str):
            raise InvalidKey("place is a prefix such as 'app/', or a key")
        with needs_pydantic("bind"):
            from datastream.binding import bind
        return bind(cast("Store", self), model, place, wait)

    def _follow(
        self, observer: ObserverBase[Batch], selection: Selection, since: Since
    ) -> DisposableBase:
        """Call `observer` with each batch, like `watch_batches`, and the least in between."""
        return self._subscribe(observer, selection, since, _alone, Pace())


def _make_keeper(
    store: Store,
    selection: Selection,
    convert: Callable[[Any], Any] | None,
    file: CacheFile | None,
    what: str,
) -> Keeper[ViewState]:
    state = ViewState(convert, partial(_log_rejected, what), keeps_rows=file is not None)
    keeper = Keeper(store, selection, state)
    if file is not None:
        keeper.after = WriteBehind(file, state, store._dispatcher)
    return keeper


def _open_keeper(keeper: Keeper[ViewState]) -> None:
    since: Since = None
    if isinstance(keeper.after, WriteBehind):
        keeper.known_at = keeper.after.restore()
        # Without a cursor, what is there is named revision by revision.
        since = keeper.state.cursor or keeper.state.revisions()
    keeper.open(since or None)


def _log_rejected(what: str, rejected: Rejected) -> None:
    log.warning(
        "%s: %s at revision %s is refused, its last good value stands: %s",
        what,
        repr(rejected.key),
        repr(rejected.revision),
        rejected.reason,
    )


def _identity(convert: Callable[[Any], Any] | None) -> Hashable:
    """What tells whether two conversions are the same one."""
    try:
        hash(convert)
    except TypeError:
        return id(convert)
    return convert


def _alone(batch: Batch) -> tuple[Batch]:
    return (batch,)
