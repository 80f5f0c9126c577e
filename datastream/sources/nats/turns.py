"""How writes of one store that change the same keys all get through."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Self
from weakref import WeakValueDictionary

Locks = WeakValueDictionary[str, asyncio.Lock]


class Turns:
    """What was refused since another one was quicker has its keys for itself the next time.

    A batch is refused if any of its keys has changed: among many writes of its keys, each time.
    Nothing relies on turns, since all writes are conditional.

    Args:
        patience: seconds after which a write goes on without a turn: a server may hang.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        # Of the keys with which somebody has a turn, or waits for one.
        self._locks: Locks = WeakValueDictionary()

    def of(self, keys: Iterable[str]) -> Turn:
        """The turn of a write of `keys`, which it may need."""
        return Turn(self._locks, keys, self._patience)

    async def wait(self, keys: Iterable[str]) -> None:
        """Let those go first that have a turn with one of `keys`, or wait for one."""
        if not self._locks:
            return
        with self.of([key for key in keys if key in self._locks]) as turn:
            await turn.take()


class Turn:
    """Of one write; ends with the block."""

    def __init__(self, locks: Locks, keys: Iterable[str], patience: float) -> None:
        self._locks = locks
        self._keys = keys
        self._patience = patience
        self._held: list[asyncio.Lock] = []

    async def take(self) -> None:
        """Wait for it. Who has it already, has it."""
        # In one order: no two wait for each other.
        keys, self._keys = sorted(self._keys), ()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                for key in keys:
                    lock = self._locks.setdefault(key, asyncio.Lock())
                    await lock.acquire()
                    self._held.append(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for lock in self._held:
            lock.release()
