"""Who may read and write what: a table of principals, in a file or any store, followed."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import datastream
from datastream import (
    Batch,
    DatastreamError,
    Entry,
    SourceUnavailable,
    Status,
    Store,
    Unreadable,
)
from datastream.entry import DELETE
from datastream.errors import shown
from datastream.selection import Selection
from datastream.source import is_below
from datastream_grpc._narrow import rights_of
from datastream_grpc._principal import Principal

Action = Literal["read", "write"]

ALL = "*"
"""Stands for everybody, known by name or not."""
FIELDS = ("read", "write", "deny")
FIRST = 5.0
"""Seconds that the first table may take."""
DOCUMENTS = (".toml", ".yaml", ".yml", ".json")

log = logging.getLogger("datastream.grpc")


class Authorize(Protocol):
    """Decides what a principal may do; called for each request, on any thread, and quick.

    It may have a method ``subscribe(changed)``, which calls `changed` whenever it may decide
    otherwise from then on, and returns what ends that. Streams that run are then asked for again.
    """

    def __call__(
        self, principal: Principal, action: Action, selection: Selection, /
    ) -> Selection | bool | None:
        """What of `selection` the principal may read or write.

        Of everything it is asked to find out whether a client may write at all.

        Returns:
            True for all of it, a false value for nothing, or a selection: what both select.
        """
        ...


class Rules(AbstractContextManager["Rules"]):
    """Read and write by key, prefix and pattern: `Authorize` from a file or a store.

    A TOML file has a table for each principal, named as in the file of tokens or as the
    certificate; ``"*"`` is for everybody, in addition::

        ["*"]
        read = ["public/"]

        [web]
        read = ["fx/", "app/*"]
        write = ["fx/"]
        deny = ["app/secret"]

    ``"**"`` is everything; what is in `deny` is neither read nor written. In a store the same are
    the keys ``*/read``, ``web/read`` and so on, each a list or a text. Changes count at once, also
    for streams that run; a table that is wrong, or cannot be read, is logged, and the last
    good one stands.

    Args:
        where: the file (``.toml``, ``.yaml``, ``.json``), a URL, or a store, which stays yours.

    Raises:
        DatastreamError: the table cannot be read, or is wrong.
    """

    def __init__(self, where: str | os.PathLike[str] | Store) -> None:
        store = where if isinstance(where, Store) else datastream.open(_url(where))
        self._listeners: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._leaves: dict[str, Entry] = {}
        self._unread: frozenset[str] = frozenset()
        self._table: Table | None = None
        self._error: DatastreamError | None = None
        following = ExitStack()
        following.callback(_follow(store, weakref.WeakMethod(self._take)).dispose)
        owned = None if store is where else store
        self._finalizer = weakref.finalize(self, _end, following, owned)
        if self._table is None:
            self._finalizer()
            raise self._error or _unread(store)
        following.callback(store.status.subscribe(_say_trouble).dispose)

    def __call__(self, principal: Principal, action: Action, selection: Selection) -> Any:
        table = self._table
        return None if table is None else table.allowed(principal.name, action)

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` whenever the table is another one; the answer ends that."""
        token = object()
        with self._lock:
            self._listeners[token] = changed
        return lambda: self._forget(token)

    def close(self) -> None:
        """Follow the table no more; the last one stands."""
        self._finalizer()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _forget(self, token: object) -> None:
        with self._lock:
            self._listeners.pop(token, None)

    def _take(self, batch: Batch) -> None:
        if batch.reset:
            # What cannot be read just now is not gone.
            kept = self._leaves.items()
            self._leaves = {key: entry for key, entry in kept if is_below(key, batch.unread)}
        if batch.reset or batch.initial:
            self._unread = batch.unread
        for entry in batch.entries:
            if entry.operation is DELETE:
                self._leaves.pop(entry.key, None)
            else:
                self._leaves[entry.key] = entry
        try:
            self._check_whole()
            self._table = Table.of({key: e.decode() for key, e in self._leaves.items()})
        except DatastreamError as error:
            self._error = error
            log.error("the rules are wrong, those before stand: %s", error)
            return
        with self._lock:
            listeners = list(self._listeners.values())
        for changed in listeners:
            changed()

    def _check_whole(self) -> None:
        """Refuse a table of which a part was never read: it may be what denies.

        Raises:
            Unreadable: there is such a part.
        """
        for place in sorted(self._unread):
            if not any(is_below(key, {place}) for key in self._leaves):
                raise Unreadable(f"{shown(place)} cannot be read")


class Table:
    """What the rules of one moment allow.

    Args:
        rights: for each name and action.
    """

    def __init__(self, rights: Mapping[tuple[str, str], Selection | None]) -> None:
        self._rights = rights

    @classmethod
    def of(cls, leaves: Mapping[str, Any]) -> Table:
        """The table of ``{"web/read": ["fx/"], …}``.

        Raises:
            DatastreamError: a field or a value is none.
        """
        lists: dict[str, _Lists] = {ALL: _Lists()}
        for key, value in leaves.items():
            name, _, field = key.rpartition("/")
            if not name or field not in FIELDS:
                raise DatastreamError(
                    f"{shown(key)} is no rule; a principal has the lists {', '.join(FIELDS)}"
                )
            given = lists.get(name) or _Lists()
            lists[name] = given._replace(**{field: _places(key, value)})
        everybody = lists[ALL]
        return cls(
            {
                (name, action): _right(given, everybody, action)
                for name, given in lists.items()
                for action in ("read", "write")
            }
        )

    def allowed(self, name: str, action: Action) -> Selection | None:
        """What `name` may read or write; None for nothing."""
        right = self._rights.get((name, action), _NO_RIGHT)
        return self._rights[ALL, action] if right is _NO_RIGHT else right


class _Lists(NamedTuple):
    read: Sequence[str] = ()
    write: Sequence[str] = ()
    deny: Sequence[str] = ()


_NO_RIGHT = Selection()


def _right(given: _Lists, everybody: _Lists, action: str) -> Selection | None:
    places = [*getattr(given, action), *getattr(everybody, action)]
    return rights_of(places, [*given.deny, *everybody.deny])


def _places(key: str, value: Any) -> Sequence[str]:
    places = [value] if isinstance(value, str) else value
    if not isinstance(places, list) or not all(isinstance(p, str) and p for p in places):
        raise DatastreamError(
            f'{shown(key)} is no list of keys, prefixes such as "fx/" and patterns such as "**"'
        )
    return places


def _url(where: str | os.PathLike[str]) -> str:
    text = os.fspath(where)
    is_file = isinstance(where, os.PathLike) or text.endswith(DOCUMENTS)
    if is_file and ":" not in text:
        return Path(text).absolute().as_uri()
    return text


def _follow(store: Store, take: weakref.WeakMethod[Callable[[Batch], None]]) -> Any:
    """Call what `take` refers to, as long as it is there: it must not be kept by its store."""
    first = threading.Event()

    def call(batch: Batch) -> None:
        method = take()
        if method is not None:
            method(batch)
        first.set()

    subscription = store.watch_batches().subscribe(call)
    # Where it cannot be read, the status says so.
    with store.status.subscribe(lambda status: _set_if(status.error, first)):
        first.wait(FIRST)
    return subscription


def _set_if(condition: object, event: threading.Event) -> None:
    if condition:
        event.set()


def _say_trouble(status: Status) -> None:
    """Log that the rules cannot be read, so that the last ones that could stay in force."""
    if status.error is not None:
        log.error("the rules cannot be read, those before stand: %s", status.error)


def _end(following: ExitStack, owned: Store | None) -> None:
    following.close()
    if owned is not None:
        owned.close()


def _unread(store: Store) -> DatastreamError:
    error = store.status.current.error
    return SourceUnavailable(f"the rules cannot be read: {error or store.name}")
