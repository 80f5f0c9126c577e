"""What of a store cannot be read, while all else can: named once in the log, and in the status."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Hashable, Mapping
from heapq import nsmallest
from time import monotonic
from typing import NamedTuple

from datastream.errors import Unreadable, printable, shown

RETRY_FIRST, RETRY_MOST = 10.0, 3600.0
"""Seconds until something unchanged is tried again: the first time, and doubling up to the last."""
NAMED, LOGGED = 3, 20
"""Keys that the status names, and that the log names each."""

log = logging.getLogger("datastream")


class _Failure(NamedTuple):
    reason: str
    signature: Hashable = None
    pause: float = 0.0
    due: float = 0.0
    """When it is tried again; 0 until `Unread.tried` has set it."""


class Unread:
    """The keys that could not be read lately, and why. Safe to use from any thread.

    Args:
        where: what log lines call the store.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._failures: dict[str, _Failure] = {}
        # What the status says, until something changes.
        self._text: str | None = ""

    def __bool__(self) -> bool:
        return bool(self._failures)

    @property
    def keys(self) -> tuple[str, ...]:
        """All of them."""
        with self._lock:
            return tuple(self._failures)

    def add(self, key: str, reason: str) -> None:
        """Note that `key` cannot be read; one that ends in "/" stands for all keys below."""
        with self._lock:
            before = self._failures.get(key)
            self._failures[key] = (before or _Failure(reason))._replace(reason=reason, due=0.0)
            self._text = None
            count = len(self._failures)
        if before is None:
            self._log(key, reason, count)

    def _log(self, key: str, reason: str, count: int) -> None:
        where = printable(self._where)
        if count <= LOGGED:
            text = "%s: %s cannot be read and is left out: %s"
            log.warning(text, where, shown(key), printable(reason))
        elif count == LOGGED + 1:
            text = "%s: over %d keys cannot be read and are left out; status.degraded counts them"
            log.warning(text, where, LOGGED)

    def tried(self, signatures: Mapping[str, Hashable]) -> None:
        """After an attempt to read these: what failed is left alone for a while.

        Args:
            signatures: by key, what changes when the content may have; None where nothing tells,
                so that each look tries again.
        """
        if not self._failures:
            return
        with self._lock:
            for key, failure in list(self._failures.items()):
                if key in signatures and not failure.due:
                    self._failures[key] = _again(failure, signatures[key])

    def discard(self, key: str) -> None:
        """It was read, or has gone."""
        if key in self._failures:
            with self._lock:
                self._failures.pop(key, None)
                self._text = None

    def keep(self, keys: Collection[str], concerns: Callable[[str], bool]) -> None:
        """Forget what `concerns` and is not among `keys`."""
        for key in list(self._failures):
            if key not in keys and concerns(key):
                self.discard(key)

    def has(self, key: str) -> bool:
        """Whether it could not be read lately."""
        return key in self._failures

    def skips(self, key: str, signature: Hashable) -> bool:
        """Whether it is as it was when it could not be read, and that was just now."""
        failure = self._failures.get(key)
        return (
            failure is not None
            and signature is not None
            and failure.signature == signature
            and monotonic() < failure.due
        )

    def error(self, key: str) -> Unreadable:
        """Why a reader of just this key gets nothing."""
        failure = self._failures.get(key)
        reason = failure.reason if failure is not None else "try again"
        return Unreadable(f"{shown(key)} in {self._where} cannot be read: {reason}")

    @property
    def degraded(self) -> str:
        """What to say of it in the status; "" if all can be read."""
        text = self._text
        if text is None:
            with self._lock:
                text = self._text = _text_of(self._failures)
        return text


def _text_of(failures: Mapping[str, _Failure]) -> str:
    some = nsmallest(NAMED, failures)
    if not some:
        return ""
    texts = ", ".join(f"{shown(key)} ({printable(failures[key].reason)})" for key in some)
    more = len(failures) - len(some)
    rest = f" and {more} more" if more else ""
    return f"left out, as it cannot be read: {texts}{rest}"


def _again(failure: _Failure, signature: Hashable) -> _Failure:
    is_same = failure.pause and failure.signature == signature
    pause = min(2 * failure.pause, RETRY_MOST) if is_same else RETRY_FIRST
    return _Failure(failure.reason, signature, pause, monotonic() + pause)
