"""Writes in bulk over gRPC, beside writes one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import datastream
from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, take_turns

ALONE, MANY = 400, 8_000
"""Puts in one round."""
IN_FLIGHT = 256
VALUE = b"v" * 64


def grpc_bulk(effort: Effort) -> Iterator[Figure]:
    """`put_many` and `aput` with many in flight, in puts per second."""
    with Child("store_server") as server:
        with datastream.open(f"grpc://{server.ask('address')}") as store:
            alone = _per_second(effort.of(ALONE), lambda number: _one_by_one(store, number))
            many = _per_second(effort.of(MANY), lambda number: _at_once(store, number))
            rounds = take_turns(effort, many, alone)
            wanted = "≥ 10 × put, one by one"
            yield rounds.figure("put_many over gRPC", "/s", wanted, lambda r: r >= 10)
            flight = _per_second(effort.of(MANY), lambda number: asyncio.run(_fly(store, number)))
            rounds = take_turns(effort, flight, alone)
            name = f"aput over gRPC, {IN_FLIGHT} in flight"
            yield rounds.figure(name, "/s", wanted, lambda r: r >= 10)


def _per_second(number: int, run: Callable[[int], None]) -> Callable[[], float]:
    def measure() -> float:
        begin = time.perf_counter()
        run(number)
        return number / (time.perf_counter() - begin)

    return measure


def _one_by_one(store: datastream.Store, number: int) -> None:
    for n in range(number):
        store.put(f"k/{n % 100}", VALUE)


def _at_once(store: datastream.Store, number: int) -> None:
    for start in range(0, number, 1000):
        store.put_many({f"k/{n}": VALUE for n in range(start, min(start + 1000, number))})


async def _fly(store: datastream.Store, number: int) -> None:
    numbers = iter(range(number))

    async def put_all() -> None:
        for n in numbers:
            await store.aput(f"k/{n % 100}", VALUE)

    await asyncio.gather(*(put_all() for _ in range(IN_FLIGHT)))
