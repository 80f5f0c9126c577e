"""What of a branch cannot be read because single objects are missing or broken.

A damaged commit, root tree or ref is trouble of the whole store. A damaged file, or folder below
the root, is left out and named, and all else goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from hashlib import sha256
from time import monotonic
from typing import NamedTuple, TypeVar

from dulwich.objects import ObjectID

from datastream.errors import Unreadable
from datastream.sources._common.unread import RETRY_FIRST, Unread
from datastream.sources.git.objects import Broken, State

T = TypeVar("T")

MARK_DIGITS = 16
"""Length of what a position says of the keys that cannot be read."""


class _Fault(NamedTuple):
    object: ObjectID
    reason: str


class Faults:
    """What one look cannot read.

    Args:
        known: what earlier looks could not.
        signature: changes when an object may have come into the repository.
    """

    def __init__(self, known: UnreadObjects, signature: Callable[[ObjectID], Hashable]) -> None:
        self._known = known
        self._signature = signature
        self.found: dict[str, _Fault] = {}
        """By key; one that ends in "/" stands for all below."""
        self.settled: set[str] = set()
        """Keys that can be read, or are gone."""
        self.failed: set[str] = set()
        """Those found that were tried just now."""

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self.found)

    @property
    def objects(self) -> frozenset[ObjectID]:
        return frozenset(fault.object for fault in self.found.values())

    def attempt(self, key: str, name: ObjectID, read: Callable[[], T]) -> T | None:
        """What `read` gives; None if the object, or one that leads to it, cannot be read.

        Args:
            name: the object; not tried if it could not be read just now.
        """
        known = self._known.faults.get(key)
        if known is not None and self._known.skips(key, self._signature(name)):
            self.found[key] = known
            return None
        try:
            result = read()
        except Broken as error:
            self.found[key] = _Fault(error.object, error.reason)
            self.failed.add(key)
            return None
        self.settled.add(key) if known is not None else None
        return result

    def signatures(self) -> dict[str, Hashable]:
        """What changes when it is worth another attempt, by key."""
        return {key: self._signature(self.found[key].object) for key in self.failed}


class UnreadObjects:
    """The keys of a branch that could not be read lately. Safe to use from several threads.

    Args:
        where: what log lines call the store.
    """

    def __init__(self, where: str) -> None:
        self._unread = Unread(where)
        self._lock = threading.Lock()
        self.faults: dict[str, _Fault] = {}
        """Never changed, only replaced."""
        self._checked: tuple[ObjectID | None, float] = None, 0.0

    @property
    def degraded(self) -> str:
        """What to say of it in the status; "" if all can be read."""
        return self._unread.degraded

    def skips(self, key: str, signature: Hashable) -> bool:
        """Whether it is as it was when it could not be read, and that was just now."""
        return self._unread.skips(key, signature)

    def error(self, key: str) -> Unreadable:
        """Why a reader of just this key gets nothing."""
        return self._unread.error(key)

    def is_due(self, state: State) -> bool:
        """Whether what could not be read is to be tried again."""
        commit, at = self._checked
        return commit != state.commit or monotonic() - at >= RETRY_FIRST

    def checked(self, state: State) -> None:
        """All that could not be read was tried again, or is not due yet."""
        self._checked = state.commit, monotonic()

    def are_known(self, faults: Faults) -> bool:
        """Whether a look found no more than earlier ones."""
        return faults.found.keys() <= self.faults.keys()

    def note(self, faults: Faults) -> bool:
        """Take in what a look found; whether that is anything new."""
        if not (faults.found or self.faults):
            return False
        with self._lock:
            before, self.faults = self.faults, dict(faults.found)
        for key in before.keys() - faults.found.keys():
            self._unread.discard(key)
        for key in faults.failed:
            self._unread.add(key, faults.found[key].reason)
        self._unread.tried(faults.signatures())
        return before != self.faults

    def forget(self, keys: Iterable[str]) -> None:
        """These were written, so what could not be read is replaced."""
        if self.faults:
            gone = set(keys)
            with self._lock:
                self.faults = {k: fault for k, fault in self.faults.items() if k not in gone}
            for key in gone:
                self._unread.discard(key)


def position(commit: str, unread: Iterable[str]) -> str:
    """The position of a commit of which some keys cannot be read."""
    keys = "\0".join(sorted(unread)).encode("utf-8", "surrogatepass")
    mark = sha256(keys).hexdigest()[:MARK_DIGITS] if keys else ""
    return f"{commit}-{mark}" if mark else commit


def parse(position: str) -> tuple[str, str]:
    """The commit of a position, and what marks the keys that cannot be read, "" if all can."""
    name, _, mark = position.partition("-")
    return name, mark
