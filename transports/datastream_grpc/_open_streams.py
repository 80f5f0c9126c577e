"""The calls of a server that stay open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from datastream_grpc._limits import Charged, Meter
from datastream_grpc._loop import ask
from datastream_grpc._outgoing import ClientLeft, Context
from datastream_grpc._principal import Principal, host_or_name

BEGIN_WITHIN = 1.0
"""Seconds that the begin of a stream may take when its end is due."""

END_WITHIN, END_EACH = 2.0, 0.0005
"""Seconds that clients have to take why their streams end, and those for each of very many: five
times what it takes."""

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
        """End all of them; those that do not end soon are left to gRPC."""
        self.stopping = True
        tasks = [*self._tasks, *self.carriers]
        for task in tasks:
            task.cancel()
        if tasks:
            # A status comes after what its client has not read yet: of one that does not, never.
            await asyncio.wait(tasks, timeout=END_WITHIN + END_EACH * len(tasks))


async def begin(context: Context) -> None:
    """Send what a stream begins with apart from its first message, once that is there.

    gRPC sends no status while that is under way: a stream that ends just then with the server would
    not be told when to come back. And a client of gRPC retries no call that has begun: one that has
    to fail does so before.

    Raises:
        ClientLeft: nobody takes it.
    """
    sending = asyncio.ensure_future(context.send_initial_metadata(()))
    sending.add_done_callback(ask)
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait((sending,), timeout=BEGIN_WITHIN)
        raise
    except Exception as error:
        raise ClientLeft from error


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
