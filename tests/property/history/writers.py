"""What writers do: random commits with unique values, keys that live for milliseconds."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from itertools import count
from random import Random

SINGLE = ("a", "b", "fx/USD", "fx/GBP", "fx/old/DEM")
FLASHES = tuple(f"fx/flash/{n}" for n in range(4))
PAIR = ("pair/a", "pair/b")
BIG = 60_000
"""Bytes of a big value: a few of them are more than a slow subscriber's buffer keeps."""


class Gate:
    """Lets writers work, and on demand waits until all of them rest."""

    def __init__(self):
        self._changed = threading.Condition()
        self._working = 0
        self._closed = False

    @contextmanager
    def working(self):
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    @contextmanager
    def rest(self):
        with self._changed:
            self._closed = True
            if not self._changed.wait_for(lambda: not self._working, 60):
                raise AssertionError("a write never returned")
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class Journal:
    """Commits of one line, in order; the lock is for writers that share it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.commits: list[dict[str, bytes | None]] = []


class Writer:
    """Commits at random.

    Args:
        name: what its values start with.
        space: the folder that its keys lie in.
        commit: does it.
        pairs: commits of several keys are atomic.
        journal: where commits are noted, with its lock held meanwhile; None if the backend does.
        acknowledge: told each (key, value) once its commit has returned.
        peek: what the backend holds at a key, asked after a commit that failed.
    """

    def __init__(self, name, space, seed, commit, *, pairs, journal, acknowledge, peek, pace=1.0):
        self.name, self.space = name, space
        self.random = Random(seed)
        self.pairs, self.journal, self.peek = pairs, journal, peek
        self.pace = pace
        self.commits = 0
        self.failures = 0
        self._commit, self._acknowledge = commit, acknowledge
        self._numbers = count(1)

    def step(self):
        kind = self.random.random()
        if kind < 0.4:
            self.commit({self._key(): self._value()})
        elif kind < 0.6:
            self._pair()
        elif kind < 0.7:
            self.commit({self._key(): None})
        elif kind < 0.9:
            self._flash()
        elif kind < 0.94:
            self._there_and_back()
        elif kind < 0.945:
            self._clear()
        else:
            self.commit({self._key(): self._value(size=BIG)})

    def sleep(self):
        if self.random.random() < 0.7:
            time.sleep(self.random.random() * 0.004 * self.pace)

    def commit(self, changes):
        self.commits += 1
        if self.journal is None:
            failed = self._try(changes)
        else:
            with self.journal.lock:
                failed = self._try(changes)
                if not failed or self._happened(changes):
                    self.journal.commits.append(changes)
        if not failed:
            for key, value in changes.items():
                if value is not None:
                    self._acknowledge(key, value)

    def _try(self, changes):
        failed = self._commit(changes)
        self.failures += bool(failed)
        return failed

    def _happened(self, changes):
        """Nobody else writes to these keys meanwhile."""
        key, value = next(((k, v) for k, v in changes.items() if v), (next(iter(changes)), None))
        return self.peek(key) == value

    def mark(self):
        """Write what everybody selects something of: who has it has all that came before."""
        for name in ("a", "fx/USD", FLASHES[0]):
            self.commit({f"{self.space}/{name}": self._value()})
        self._pair()

    def _key(self):
        return f"{self.space}/{self.random.choice(SINGLE)}"

    def _value(self, *, size=0, tag=""):
        text = f"{tag}{':' if tag else ''}{self.name}.{next(self._numbers)}"
        return text.encode().ljust(size, b".")

    def _pair(self):
        """Both keys of the pair at once; perhaps more, and deletes."""
        if not self.pairs:
            self.commit({self._key(): self._value()})
            return
        tag = f"{self.name}-{next(self._numbers)}"
        first, last = (f"{self.space}/{key}" for key in PAIR)
        changes = {first: self._value(tag=tag)}
        for _ in range(self.random.choice((0, 0, 1, 2))):
            changes[self._key()] = self.random.choice((None, self._value(tag=tag)))
        changes[last] = self._value(tag=tag)
        self.commit(changes)

    def _flash(self):
        """A key that lives for milliseconds, or less."""
        often = self.random.random() < 0.5
        name = self.random.choice(FLASHES) if often else f"fx/flash/n{next(self._numbers)}"
        key = f"{self.space}/{name}"
        self.commit({key: self._value()})
        if self.random.random() < 0.5:
            time.sleep(self.random.random() * 0.003)
        self.commit({key: None})

    def _there_and_back(self):
        key, value = self._key(), self._value()
        for content in (value, self.random.choice((None, self._value())), value):
            self.commit({key: content})

    def _clear(self):
        """All that this writer may have made, one by one."""
        for name in (*SINGLE, *FLASHES):
            self.commit({f"{self.space}/{name}": None})
