"""Bytes of writes under way: a client may send them faster than the backend takes them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from datastream_grpc._limits import LimitReached
from datastream_grpc._loop import ask
from datastream_grpc._turns import Turns

SMALL = 16 << 10
"""Bytes of a write that does not count: the limit of calls is enough for those."""


class UnderWay:
    """Counts for each principal; each may have one write, however large it is.

    Args:
        most: bytes of a principal.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # On the loop only.
        self._bytes: Counter[str] = Counter()
        self._turns = Turns()

    def room(self, who: str, size: int) -> Room:
        """Room for a write of so many bytes.

        Raises:
            LimitReached: there is none.
        """
        size = size if size > SMALL else 0
        if not self._has(who, size):
            raise LimitReached(
                f"writes of more than {self._most} bytes are under way; write when they are done, "
                "or through Push, which waits"
            )
        self._bytes[who] += size
        return Room(self, who, size)

    async def wait(self, who: str, size: int) -> Room:
        """The same, once there is room."""
        waited = False
        try:
            while size > SMALL and not self._has(who, size):
                waited = True
                await self._turns.take(who)
            return self.room(who, size)
        finally:
            if waited:
                # There may be room for one more, or this one is cancelled.
                self._turns.give(who)

    def give_back(self, who: str, size: int) -> None:
        """Free the room of a write that is over."""
        self._bytes[who] -= size
        if self._bytes[who] <= 0:
            del self._bytes[who]
        self._turns.give(who)

    def _has(self, who: str, size: int) -> bool:
        used = self._bytes[who]
        return not (used and size) or used + size <= self._most


class Room:
    """Room for one write, to be held or left.

    Args:
        under_way: where it is counted, for `who`.
    """

    def __init__(self, under_way: UnderWay, who: str, size: int) -> None:
        self._under_way = under_way
        self._who = who
        self._size = size
        self._is_held = False
        self._running = 0

    def hold(self, write: asyncio.Future[Any]) -> None:
        """Keep it until a write is done, and every other one for which it is kept."""
        self._is_held = True
        self._running += 1
        write.add_done_callback(self._over)

    def leave(self) -> None:
        """Give it back, if no write has begun in it."""
        if not self._is_held:
            self._give_back()

    def _over(self, write: asyncio.Future[Any]) -> None:
        self._running -= 1
        if not self._running:
            self._give_back()
        # Its client may have left.
        ask(write)

    def _give_back(self) -> None:
        self._under_way.give_back(self._who, self._size)
