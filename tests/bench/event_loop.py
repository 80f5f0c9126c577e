"""How long `awatch` holds the event loop while very many entries wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from statistics import median

import datastream
from datastream import Entry
from datastream.aio import AsyncWatch
from tests.bench.figures import Effort, Figure

ENTRIES = 50_000
TICK = 0.001
"""Seconds that the ticking task sleeps."""
ALONE = 0.2
"""Seconds for which nothing but the ticking task runs."""
WANTED_MS = 10.0


class Ticker:
    """A task beside others that notes how late it is woken."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._stopped = False

    async def __aenter__(self) -> Ticker:
        self._task = asyncio.create_task(self._tick())
        # So that it sleeps before anything else happens.
        await asyncio.sleep(5 * TICK)
        self._longest = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await self._task

    async def _tick(self) -> None:
        while not self._stopped:
            start = time.perf_counter()
            await asyncio.sleep(TICK)
            self._longest = max(self._longest, time.perf_counter() - start - TICK)

    @property
    def milliseconds(self) -> float:
        """The longest that the loop was held."""
        return self._longest * 1000


def event_loop(effort: Effort) -> Iterator[Figure]:
    """Entries that were there before, and entries that came while nobody took them."""
    rounds = [asyncio.run(_held()) for _ in range(effort.rounds)]
    *figures, alone = (median(held) for held in zip(*rounds, strict=True))
    for which, ours in zip(("initial", "changed"), figures, strict=True):
        yield Figure(
            name=f"event loop held by awatch, {ENTRIES:,} {which} entries waiting",
            unit="ms",
            ours=ours,
            floor=alone,
            wanted=f"≤ {WANTED_MS:g} ms",
            ok=ours <= WANTED_MS,
            note="longest gap between two ticks of another task; the floor is without the watch",
        )


async def _held() -> tuple[float, float, float]:
    """Milliseconds: with the initial entries, with as many that changed since, with nothing."""
    with datastream.open("memory:") as store:
        _fill(store, b"first")
        async with store.awatch() as watch:
            async with Ticker() as at_first:
                await _take(watch)
            await asyncio.to_thread(_fill, store, b"second")
            async with Ticker() as later:
                await _take(watch)
    async with Ticker() as alone:
        await asyncio.sleep(ALONE)
    return at_first.milliseconds, later.milliseconds, alone.milliseconds


def _fill(store: datastream.Store, value: bytes) -> None:
    for number in range(ENTRIES):
        store.put(f"key/{number}", value)


async def _take(watch: AsyncWatch[Entry]) -> None:
    taken = 0
    async for _ in watch:
        taken += 1
        if taken == ENTRIES:
            return
