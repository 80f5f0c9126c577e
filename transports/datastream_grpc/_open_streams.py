"""The calls of a server that stay open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from datastream_grpc._limits import Charged, Meter
from datastream_grpc._principal import Principal, host_or_name

T = TypeVar("T")


class OpenStreams:
    """Counts streams, and ends them with the server.

    Args:
        meter: limits how many there are.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._tasks: set[asyncio.Task[Any]] = set()
        self.carriers: set[asyncio.Task[Any]] = set()
        """Streams that carry those of one client; they count no more than what they carry."""
        self.stopping = False
        """The server shuts down."""

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def opened(self, principal: Principal) -> Iterator[Charged]:
        """Around a stream, which counts for its principal and ends with the server."""
        with (
            listed(self._tasks, asyncio.current_task()),
            self._meter.stream(host_or_name(principal), principal.peer) as charge,
        ):
            yield charge

    def carrying(self) -> AbstractContextManager[None]:
        """Around a stream that carries others, which ends with the server, too."""
        return listed(self.carriers, asyncio.current_task())

    async def stop(self) -> None:
        """End all of them."""
        self.stopping = True
        tasks = [*self._tasks, *self.carriers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def listed(items: set[T], item: T | None) -> Iterator[None]:
    """Keep `item` in a set while in the block, if there is one."""
    if item is None:
        yield
        return
    items.add(item)
    try:
        yield
    finally:
        items.discard(item)
