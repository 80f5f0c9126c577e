"""Reads that may take long: how many at a time, and whose."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from datastream_grpc import _long_reads
from datastream_grpc._long_reads import OF_CONNECTION, OF_PRINCIPAL, PLACES, LongReads
from datastream_grpc._principal import Principal

SETTLED = 10
"""Turns of the loop after which whatever could begin has begun."""
SEVERAL = OF_PRINCIPAL + 3
"""Reads of one principal that are not all made at the same time."""


class Reading:
    """Reads that last until they are let go, counted by their principal."""

    def __init__(self):
        self.running = Counter()
        self.begun = []
        self.gate, self.all_begun = asyncio.Event(), asyncio.Event()
        self.reads = LongReads()

    def begin(self, name, peer, *, fails=False):
        async def make():
            self.begun.append(name)
            self.running[name] += 1
            if len(self.begun) == PLACES + OF_PRINCIPAL:
                self.all_begun.set()
            try:
                await self.gate.wait()
            finally:
                self.running[name] -= 1
            if fails:
                raise ValueError("it fails")
            return name

        principal = Principal(name, f"ipv4:10.0.0.1:{peer}")
        return asyncio.ensure_future(self.reads.read(principal, make))


def told(test):
    """`test` on a loop, which says nothing of errors that nobody asked for."""

    def run():
        errors = []

        async def watched():
            asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.append(what))
            await test()

        asyncio.run(watched())
        assert errors == []

    run.__name__ = test.__name__
    return run


async def settled():
    for _ in range(SETTLED):
        await asyncio.sleep(0)


@told
async def test_one_connection_and_one_principal_leave_places_to_others():
    reading = Reading()
    first = [reading.begin("a", 1) for _ in range(100)]
    await settled()
    assert reading.running["a"] == OF_CONNECTION
    first += [reading.begin("a", peer) for peer in range(2, 50)]
    await settled()
    assert reading.running["a"] == OF_PRINCIPAL
    second = [reading.begin(name, 1) for name in "bcd"]
    await settled()
    assert sum(reading.running.values()) == OF_PRINCIPAL + 3 <= PLACES
    reading.gate.set()
    assert await asyncio.gather(*first, *second) == ["a"] * 148 + ["b", "c", "d"]
    assert not reading.reads._running
    assert reading.reads._free == PLACES


@told
async def test_who_cancels_keeps_the_place_until_the_read_ends():
    reading = Reading()
    for _ in range(20):
        cancelled = [reading.begin("a", peer, fails=True) for peer in range(20)]
        await settled()
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
    assert len(reading.begun) == OF_PRINCIPAL
    reading.gate.set()
    await settled()
    assert await reading.begin("a", 1) == "a"
    assert (reading.reads._free, reading.reads._waiting) == (PLACES, {})


@told
async def test_those_that_hang_keep_places_from_their_own_principals_only():
    reading = Reading()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_long_reads, "ALONE", 0.01)
        hanging = [reading.begin(name, peer) for name in "ab" for peer in range(SEVERAL)]
        others = [reading.begin("c", peer) for peer in range(OF_PRINCIPAL)]
        async with asyncio.timeout(10):
            await reading.all_begun.wait()
    await settled()
    assert reading.running == dict.fromkeys("abc", OF_PRINCIPAL)
    reading.gate.set()
    assert await asyncio.gather(*hanging, *others) == ["a"] * SEVERAL + ["b"] * SEVERAL + [
        "c"
    ] * len(others)
    assert (reading.reads._free, reading.reads._running) == (PLACES, {})


@told
async def test_those_who_wait_take_turns():
    reading = Reading()
    tasks = [reading.begin(name, peer) for name in "ab" for peer in range(4)]
    await settled()
    assert reading.running == {"a": 4, "b": 4}
    tasks += [reading.begin(name, peer) for name in "abc" for peer in range(10) for _ in range(10)]
    reading.gate.set()
    await asyncio.gather(*tasks)
    following = reading.begun[8:]
    assert set(following[:9]) == set("abc")
    assert all(following[:90].count(name) >= 25 for name in "abc")


@told
async def test_who_is_next_is_found_among_very_many_that_wait():
    reading = Reading()
    looked = []
    may = reading.reads._may
    reading.reads._may = lambda of: looked.append(of) or may(of)
    tasks = [reading.begin("a", peer) for peer in range(1_000)]
    reading.gate.set()
    await asyncio.gather(*tasks)
    assert len(looked) < 10 * len(tasks)


@told
async def test_a_turn_that_comes_with_the_cancellation_is_given_on():
    reading = Reading()
    held = [reading.begin("a", 1) for _ in range(OF_CONNECTION)]
    waiting, other = reading.begin("a", 1), reading.begin("a", 1)
    await settled()
    reading.gate.set()
    await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert await other == "a"
    assert (reading.reads._free, reading.reads._waiting) == (PLACES, {})


@told
async def test_nothing_is_left_of_those_that_are_cancelled_while_they_wait():
    reading = Reading()
    held = [reading.begin("a", peer) for peer in range(OF_PRINCIPAL)]
    waiting = [reading.begin("a", peer % 3) for peer in range(100)]
    await settled()
    last = waiting.pop()
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    (connections,) = reading.reads._waiting.values()
    assert [len(turns) for turns in connections.values()] == [1]
    reading.gate.set()
    assert await asyncio.gather(*held, last) == ["a"] * (OF_PRINCIPAL + 1)
    assert reading.reads._waiting == {}


@told
async def test_a_stop_waits_for_none():
    reading = Reading()
    given_up = reading.begin("a", 1)
    await settled()
    given_up.cancel()
    await reading.reads.stop()
    assert reading.running["a"] == 0
