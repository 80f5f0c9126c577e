"""The dict that a store is, made honest about the I/O below it."""

from __future__ import annotations

import logging
import sys
import threading
from abc import abstractmethod
from collections.abc import ItemsView, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from types import FrameType
from typing import Any, NamedTuple, Self, TypeVar

from datastream import codecs
from datastream._watch.core import Core
from datastream.entry import PUT, Entry
from datastream.errors import (
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    RevisionConflict,
    shown,
)
from datastream.selection import Selection, check_key
from datastream.source import Feature, Reading, Write

T = TypeVar("T")

EVERYTHING = Selection()
_MISSING: Any = object()

log = logging.getLogger("datastream")


class StoreMapping(MutableMapping[str, Any]):
    """The part of a `Store` that is a mapping of decoded values.

    One-key reads ask for that key alone. ``keys()``, ``values()``, ``items()`` and ``dict(store)``
    are of one moment. ``setdefault`` and ``pop`` are atomic where the backend has
    compare-and-set. A value that does not decode raises `InvalidValue` where it is asked for by
    its key; among many it stands as its bytes, and a warning names it.
    """

    name: str
    _core: Core

    @property
    @abstractmethod
    def features(self) -> frozenset[Feature]: ...
    @abstractmethod
    def put(self, key: str, value: Any, *, expect: str | None = None) -> Entry: ...
    @abstractmethod
    def put_many(self, values: Mapping[str, Any]) -> list[Entry]: ...
    @abstractmethod
    def delete(self, key: str, *, expect: str | None = None, missing_ok: bool = False) -> None: ...
    @abstractmethod
    def write(self, *writes: Write) -> Any: ...
    @abstractmethod
    def entry(self, key: str) -> Entry: ...

    def __getitem__(self, key: str) -> Any:
        if _passing.given is not None:
            entry = _passing.take(self, key, sys._getframe(1))
            if entry is not None:
                return self._decoded(entry)
        check_key(key)
        found = self._core.get_value(key)
        if found is None:
            raise self._missing(key)
        return codecs.decode(*found, key=key)

    def _missing(self, key: str) -> KeyNotFound:
        return KeyNotFound(f"{self.name} holds nothing at {shown(key)}; list(store) gives its keys")

    def __setitem__(self, key: str, value: Any) -> None:
        self.put(key, value)

    def __delitem__(self, key: str) -> None:
        self.delete(key)

    def __iter__(self) -> Iterator[str]:
        """The keys of one moment, without their values."""
        keys = [capability.key for capability in self._core.capabilities()]
        _counting.give(self, len(keys), sys._getframe(1))
        return iter(keys)

    def __len__(self) -> int:
        counted = _counting.take(self, sys._getframe(1))
        return len(self._core.capabilities()) if counted is None else counted

    def __bool__(self) -> bool:
        """True, also if it is empty: a store is an object, and asking would be I/O."""
        return True

    def __contains__(self, key: object) -> bool:
        try:
            check_key(key)  # type: ignore[arg-type]
        except InvalidKey:
            return False
        return self._core.get(key) is not None  # type: ignore[arg-type]

    # Two stores are never "equal": comparing means reading both, and a store is hashable.
    __eq__ = object.__eq__
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def keys(self) -> KeysView[str]:
        """The keys of one moment; ``dict(store)`` gets their values of the same one."""
        return _Keys(self)

    def values(self) -> ValuesView[Any]:
        """All values, of one moment."""
        return self.copy().values()

    def items(self) -> ItemsView[str, Any]:
        """All keys and values, of one moment."""
        return self.copy().items()

    def copy(self) -> dict[str, Any]:
        """A dict of all decoded values, of one moment."""
        batch = self._core.snapshot(EVERYTHING)
        return {entry.key: self._decoded(entry) for entry in batch.entries}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, `default` if it holds nothing.

        Raises:
            InvalidValue: it holds something that does not decode.
        """
        try:
            return self[key]
        except KeyNotFound:
            return default

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove `key` and return its value; nobody else gets the same one.

        Raises:
            KeyNotFound: it holds nothing, and there is no `default`.
            InvalidValue: its value does not decode; it stays.
        """
        while True:
            try:
                entry = self.entry(key)
                value = entry.decode()
                self._delete(entry)
            except RevisionConflict:
                continue
            except KeyNotFound:
                if default is _MISSING:
                    raise
                return default
            return value

    def popitem(self) -> tuple[str, Any]:
        """Remove some key and return it with its value.

        Raises:
            KeyNotFound: the store is empty.
        """
        for key in self:
            value = self.pop(key, _MISSING_VALUE)
            if value is not _MISSING_VALUE:
                return key, value
        raise KeyNotFound(f"{self.name} is empty; there is nothing to pop")

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of `key`; if it holds nothing, `default` is stored and returned."""
        while True:
            try:
                return self[key]
            except KeyNotFound:
                pass
            expect = "" if Feature.COMPARE_AND_SET in self.features else None
            try:
                return self.put(key, default, expect=expect).decode()
            except RevisionConflict:
                continue

    def clear(self) -> None:
        """Remove every key, in one batch where the backend can."""
        keys = list(self)
        if keys:
            self.write(*(Write(key, None) for key in keys))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """`dict.update`, as one `put_many`."""
        self.put_many(dict(*args, **kwargs))

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        """A dict of both, as of two dicts."""
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**self.copy(), **_plain(other)}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**_plain(other), **self.copy()}

    def __ior__(self, other: Mapping[str, Any]) -> Self:
        self.update(other)
        return self

    def _delete(self, entry: Entry) -> None:
        if Feature.COMPARE_AND_SET in self.features:
            self.delete(entry.key, expect=entry.revision)
        else:
            self.delete(entry.key)

    def _decoded(self, entry: Entry) -> Any:
        """The value of one of many: one that does not decode must not hide the others."""
        try:
            return codecs.decode(entry.value, entry.value_type, key=entry.key)
        except InvalidValue as error:
            log.warning("%s: %s", self.name, error)
            return entry.value


_MISSING_VALUE: Any = object()


def _plain(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return mapping.copy() if isinstance(mapping, StoreMapping) else dict(mapping)


class _Keys(KeysView[str]):
    """Keys which take their entries along to the `[]` that ``dict(store)`` calls next.

    It asks for all keys, then for each value: both are to be of one moment, and to cost one read.
    """

    def __init__(self, store: StoreMapping) -> None:
        super().__init__(store)
        self._store = store

    def __iter__(self) -> Iterator[str]:
        core = self._store._core
        snapshot = _Snapshot(core, core.read_keys(EVERYTHING))
        _counting.give(self, len(snapshot.keys), sys._getframe(1))
        return self._pass(snapshot)

    def __len__(self) -> int:
        counted = _counting.take(self, sys._getframe(1))
        return len(self._store) if counted is None else counted

    def _pass(self, snapshot: _Snapshot) -> Iterator[str]:
        yield from snapshot.keys
        _passing.give(self._store, snapshot, sys._getframe(1))


class _Snapshot:
    """A complete reading whose values are loaded when the first one is asked for."""

    def __init__(self, core: Core, reading: Reading) -> None:
        self._core = core
        self._reading = reading
        self._entries: dict[str, Entry] | None = None
        self.keys = [entry.key for entry in reading.entries]

    def entry(self, key: str) -> Entry | None:
        if self._entries is None:
            loaded = self._core.load(self._reading, self._reading.entries)
            self._entries = {e.key: e for e in loaded if e.operation is PUT}
        return self._entries.get(key)


def _place(frame: FrameType) -> tuple[int, int]:
    """The instruction that a frame is at: within one, only what that itself calls can run."""
    return id(frame), frame.f_lasti


class _Given(NamedTuple):
    """A snapshot, and the one place in a program that may have its values."""

    store: StoreMapping
    snapshot: _Snapshot
    left: Iterator[str]
    place: tuple[int, int]


class _Passing(threading.local):
    """The snapshot whose keys were taken last in this thread.

    ``dict(store)`` and ``{**store}`` take all keys and then all values, in that order, within one
    instruction of the calling frame. No other program does, so that none is given old values.
    """

    given: _Given | None = None

    def give(self, store: StoreMapping, snapshot: _Snapshot, frame: FrameType) -> None:
        self.given = _Given(store, snapshot, iter(snapshot.keys), _place(frame))

    def take(self, store: StoreMapping, key: str, frame: FrameType) -> Entry | None:
        """The entry of `key`, if it is the next one to be asked for."""
        given = self.given
        if given is None:
            return None
        is_next = next(given.left, None) is key and given.store is store
        if is_next and given.place == _place(frame):
            if key is given.snapshot.keys[-1]:
                self.given = None
            return given.snapshot.entry(key)
        self.given = None
        return None


_passing = _Passing()


class _Counting(threading.local):
    """How many keys the iterator has that was made last in this thread.

    ``list(store)`` makes one and then asks for the length, to reserve memory, within one
    instruction of the calling frame: that is to cost no second listing.
    """

    given: tuple[int, int, tuple[int, int]] | None = None

    def give(self, mapping: object, count: int, frame: FrameType) -> None:
        # By number: it must not keep the store alive.
        self.given = count, id(mapping), _place(frame)

    def take(self, mapping: object, frame: FrameType) -> int | None:
        """The number of keys, if they are being put into a list."""
        given, self.given = self.given, None
        if given is None or given[1:] != (id(mapping), _place(frame)):
            return None
        return given[0]


_counting = _Counting()
