"""What the watchers of one store know, as far as its poller does.

A reading may be dropped, and own writes move the position beside the poller. So nothing that was
looked at is forgotten until a later position shows that it was published.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from datastream.selection import Selects
from datastream.sources._common.look import Known, Look, Seen, digest_of, hash_of
from datastream.sources.files.tree import Moment
from datastream.sources.files.walk import Walk

OWN = 1000
"""Positions of own writes that are remembered."""

_Names = tuple[frozenset[str], frozenset[str], frozenset[str]]


class Ask(NamedTuple):
    """What a read with a position asks for."""

    selection: Selects
    since: str
    known: Known
    """Contents that need not be read again."""


class Followed:
    """The state at the position of the poller's last look, and what has changed since the last
    position at which watchers are known to have been.

    A store's poller is the thread that calls `Source.wait`; before that, the first one that reads
    is taken for it. Reads of other threads, and those that follow no wait, look at everything.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._polling = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._thread: int | None = None
        self._has_waited = False
        self._names: _Names | None = None
        self._position = ""
        self._moment: Moment | None = None
        self._seen: dict[str, Seen] = {}
        self._total = 0
        # None where it is not known from which position on.
        self._changed: set[str] | None = None
        self._own_keys: set[str] = set()
        self._own: dict[str, None] = {}
        self._is_all = False
        self.linked = False
        """The last look at everything met symbolic links."""

    def clear(self) -> None:
        """Nobody watches any more."""
        with self._lock:
            self._clear()

    @property
    def is_following(self) -> bool:
        """Whether anybody watches, as far as there were looks for watchers."""
        return self._names is not None

    def known(self, key: str) -> Seen | None:
        """What was seen of a key at the last look."""
        return self._seen.get(key)

    @contextmanager
    def poll(self) -> Iterator[bool]:
        """Read as the poller; gives False if another thread is the poller."""
        thread = threading.get_ident()
        with self._lock:
            self._thread = self._thread or thread
            mine = self._thread == thread
        # One that was taken for the poller may still be reading.
        with self._polling if mine else nullcontext():
            yield mine

    def waits(self) -> bool:
        """This thread waits: it is the poller. Whether it was known to be that when it read."""
        thread = threading.get_ident()
        with self._lock:
            self._has_waited = self._thread == thread
            self._thread = thread
            return self._has_waited

    def has_waited(self) -> bool:
        """Whether this is the first read after a wait, so that notifications say what changed.

        A notification comes a little later than its change. The poller may miss that change, as it
        waits again; other reads have to show all that happened before them.
        """
        waited, self._has_waited = self._has_waited, False
        return waited

    def due(self, ask: Ask, moment: Moment) -> set[str] | None:
        """Keys that may differ from what watchers know, as far as looks have shown.

        None if it is not known, so that everything has to be looked at.
        """
        with self._lock:
            if self._names != _names_of(ask.selection):
                self._changed = None
            elif ask.since == self._position:
                self._changed = set()
            elif ask.since not in self._own:
                self._changed = None
            if self._changed is None or self._moment != moment:
                return None
            return self._changed | self._own_keys

    def state_at(self, ask: Ask) -> Mapping[str, Seen] | None:
        """All that was in that part of the tree at that position, if it is known."""
        with self._lock:
            # A position is one of that part of the tree alone.
            return {**self._seen} if ask.since == self._position and self._is_all else None

    def looked_at_all(
        self,
        ask: Ask,
        walk: Walk,
        found: Look,
        position: str,
    ) -> None:
        """Take in a look at everything."""
        names = _names_of(ask.selection)
        with self._lock:
            if ask.since == position:
                self._changed = set()
            elif self._changed is not None:
                self._changed |= _difference(self._seen, found.seen)
            self._names, self._is_all = names, found.is_all
            self._seen, self._total = dict(found.seen), found.total
            self._position, self._moment, self.linked = position, walk.moment, walk.linked
            self._own_keys.clear()

    def looked_at(self, keys: Set[str], found: Look, epoch: str) -> str:
        """Take in a look at some keys; returns the position, as a look at everything gives it."""
        with self._lock:
            for key in keys:
                for seen, sign in ((self._seen.get(key), -1), (found.seen.get(key), 1)):
                    self._total += sign * hash_of(key, seen.revision) if seen else 0
            if self._changed is not None:
                self._changed |= keys
            for key in keys - found.seen.keys():
                self._seen.pop(key, None)
            self._seen.update(found.seen)
            self._position = f"{epoch}:{digest_of(self._total)}"
            self._is_all = self._is_all and found.is_all
            self._own_keys -= keys
            return self._position

    def wrote(self, position: str, keys: Set[str], before: Moment, after: Moment) -> None:
        """Take in an own write, which moved watchers to `position`, wherever they were."""
        with self._lock:
            self._own_keys |= keys
            self._own[position] = None
            while len(self._own) > OWN:
                del self._own[next(iter(self._own))]
            if self._moment == before:
                # Else others have written several files, which no look here has shown yet.
                self._moment = after


def _names_of(selection: Selects) -> _Names:
    return selection.keys, selection.prefixes, selection.patterns


def _difference(before: Mapping[str, Seen], after: Mapping[str, Seen]) -> set[str]:
    changed = before.keys() ^ after.keys()
    return changed | {
        key
        for key, seen in after.items()
        if key in before and before[key].revision != seen.revision
    }
