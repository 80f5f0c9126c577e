"""Reads that may take long: few at a time, and never all of them for one client."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, TypeAlias, TypeVar

from datastream_grpc._loop import ask
from datastream_grpc._principal import Principal, Whose, whose

PLACES = 8
"""Reads at the same time: as many as leave cores and threads to all others."""
OF_CONNECTION, OF_PRINCIPAL = 2, 4
"""At most, of one connection, and of one principal, however long each takes: a thread goes on."""
ALONE = 5.0
"""Seconds after which others no longer wait for a read, as where a backend hangs."""

T = TypeVar("T")
Turns: TypeAlias = "OrderedDict[asyncio.Future[None], None]"
"""In the order in which they came; any of them may be taken back."""


class LongReads:
    """Makes them, each once there is a place; all of it on the loop."""

    def __init__(self) -> None:
        self._free = PLACES
        # Of principals, and of each on one connection: a proxy's may be of several.
        self._running: Counter[str | Whose] = Counter()
        # Of each principal by connection; at both, who was served last comes last.
        self._waiting: dict[str, dict[Whose, Turns]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    async def read(self, principal: Principal, make: Callable[[], Awaitable[T]]) -> T:
        """What `make` gives.

        It goes on though the call is cancelled, and counts as long: its thread goes on, too, and
        who cancels and asks again would have any number of them.
        """
        of = whose(principal)
        await self._take(of)
        place = ExitStack()
        place.callback(self._free_place)
        late = asyncio.get_running_loop().call_later(ALONE, place.close)
        reading = asyncio.ensure_future(_made(make))
        self._tasks.add(reading)

        def ended(done: asyncio.Future[T]) -> None:
            self._tasks.discard(done)
            late.cancel()
            self._count(of, -1)
            place.close()
            # If it was late, its principal alone has waited for this.
            self._serve()
            ask(done)

        reading.add_done_callback(ended)
        return await asyncio.shield(reading)

    async def stop(self) -> None:
        """Wait for none of those that were given up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, of: Whose) -> None:
        # Who waits may not have the places that are free.
        if self._may(of):
            self._begin(of)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(of.who, {}).setdefault(of, OrderedDict())[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._take_back(of, turn)
            else:
                # It was given a place at the same moment.
                self._count(of, -1)
                self._free_place()
            raise

    def _take_back(self, of: Whose, turn: asyncio.Future[None]) -> None:
        connections = self._waiting.get(of.who, {})
        turns = connections.get(of)
        if turns is None or turn not in turns:
            return
        del turns[turn]
        if not turns:
            del connections[of]
        if not connections:
            del self._waiting[of.who]

    def _free_place(self) -> None:
        self._free += 1
        self._serve()

    def _serve(self) -> None:
        """Let those begin who may now."""
        while (following := self._next()) is not None:
            turn = self._turn_of(following)
            if not turn.done():
                self._begin(following)
                turn.set_result(None)

    def _next(self) -> Whose | None:
        """Who is to have a place; few are looked at, since few have all that they may."""
        for who, connections in self._waiting.items():
            if self._free <= 0:
                break
            if self._running[who] >= OF_PRINCIPAL:
                continue
            for of in connections:
                if self._may(of):
                    return of
        return None

    def _turn_of(self, of: Whose) -> asyncio.Future[None]:
        """Whose turn it is of those that wait, who are the last then."""
        connections = self._waiting.pop(of.who)
        turns = connections.pop(of)
        turn, _ = turns.popitem(last=False)
        if turns:
            connections[of] = turns
        if connections:
            self._waiting[of.who] = connections
        return turn

    def _may(self, of: Whose) -> bool:
        running = self._running
        return (
            self._free > 0
            and running[of.who] < OF_PRINCIPAL
            and (not of.connection or running[of] < OF_CONNECTION)
        )

    def _begin(self, of: Whose) -> None:
        self._free -= 1
        self._count(of, 1)

    def _count(self, of: Whose, step: int) -> None:
        for counted in (of.who, of):
            self._running[counted] += step
            if not self._running[counted]:
                del self._running[counted]


async def _made(make: Callable[[], Awaitable[T]]) -> T:
    return await make()
