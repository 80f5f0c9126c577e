"""One at a time, but nobody waits for one that takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager


@asynccontextmanager
async def in_turn(
    lock: asyncio.Lock | asyncio.Semaphore, seconds: float
) -> AsyncIterator[Callable[[], None]]:
    """Hold `lock` in the block, for `seconds` at most; gives what lets go of it before that."""
    await lock.acquire()
    with ExitStack() as held:
        held.callback(lock.release)
        late = asyncio.get_running_loop().call_later(seconds, held.close)
        try:
            yield held.close
        finally:
            late.cancel()
