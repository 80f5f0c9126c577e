"""Who waits for whom, and for how long."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager


@asynccontextmanager
async def in_turn(
    lock: asyncio.Lock | asyncio.Semaphore, seconds: float
) -> AsyncIterator[Callable[[], None]]:
    """Hold `lock` in the block, for `seconds` at most; gives what lets go of it before that.

    So there is one at a time, but nobody waits for one that takes too long.
    """
    await lock.acquire()
    with ExitStack() as held:
        held.callback(lock.release)
        late = asyncio.get_running_loop().call_later(seconds, held.close)
        try:
            yield held.close
        finally:
            late.cancel()


class Turns:
    """Those who wait for room, each for that of one name, in the order in which they came."""

    def __init__(self) -> None:
        # On the loop only.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, name: str) -> None:
        """Wait until one of those that wait for the same may try again."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(turn)
        await turn

    def give(self, name: str) -> None:
        """Let the next try: all at once would find room for one."""
        waiting = self._waiting.get(name)
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._waiting.pop(name, None)
