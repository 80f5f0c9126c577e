"""Work that needs the store's lock, or much time, beside the event loop: little of it at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from datastream_grpc._loop import ask

P = ParamSpec("P")
T = TypeVar("T")


class Aside:
    """Makes calls in the loop's own threads, of which some are left to who checks tokens there.

    Args:
        most: at the same time; the loop has five threads or more.
    """

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What a call gives; it is made though nobody waits for it any more."""

        async def make() -> T:
            async with self._places:
                return await asyncio.to_thread(function, *args, **kwargs)

        making = asyncio.create_task(make())
        self._tasks.add(making)
        making.add_done_callback(self._tasks.discard)
        making.add_done_callback(ask)
        return await asyncio.shield(making)

    async def finish(self) -> None:
        """Wait for all that are to be made; before the loop ends, which would leave them undone."""
        while self._tasks:
            await asyncio.wait(self._tasks)
