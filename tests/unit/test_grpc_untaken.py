"""Answers that clients do not take wait for each other, connection by connection."""

import asyncio

import pytest
from datastream_grpc._limits import Limits
from datastream_grpc._untaken import Untaken

LIMITS = Limits(stream_bytes=100_000, principal_bytes=250_000)
STATE = b"x" * 60_000


class Call:
    """Of a client at a port, as gRPC's context; `take` is the client that reads."""

    def __init__(self, port):
        self._port = port
        self.take = None

    def auth_context(self):
        return {}

    def peer(self):
        return f"ipv4:10.0.0.1:{self._port}"

    def add_done_callback(self, callback):
        self.take = lambda: callback(self)


class Maker:
    def __init__(self, answer=STATE):
        self.answer = answer
        self.made = 0

    async def __call__(self):
        self.made += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


async def begun(untaken, calls, maker):
    tasks = [asyncio.create_task(untaken.answer(maker, call)) for call in calls]
    await settled()
    return tasks


def test_a_connection_has_few_answers_made_ahead():
    async def run():
        untaken, maker = Untaken(LIMITS), Maker()
        calls, gone = [Call(1) for _ in range(5)], set()
        tasks = await begun(untaken, calls, maker)
        for number in range(1, 6):
            await settled()
            taken = [call for call in calls if call.take is not None]
            assert len(taken) == number
            # All made one at first; then one makes it again, and one more in vain.
            assert maker.made <= 5 + 2 * (number - 1)
            (held,) = set(taken) - gone
            gone.add(held)
            held.take()
        assert await asyncio.gather(*tasks) == [STATE] * 5
        return untaken

    assert not asyncio.run(run())._bytes


def test_small_answers_and_other_connections_do_not_wait():
    async def run():
        untaken = Untaken(LIMITS)
        await begun(untaken, [Call(1), Call(1)], Maker())
        assert await untaken.answer(Maker(b"small"), Call(1)) == b"small"
        assert await untaken.answer(Maker(), Call(2)) == STATE

    asyncio.run(run())


def test_one_that_is_larger_than_allowed_is_taken_alone():
    async def run():
        untaken, large = Untaken(LIMITS), Maker(b"x" * 1_000_000)
        calls = [Call(1), Call(1)]
        first, second = await begun(untaken, calls, large)
        assert (first.done(), second.done()) == (True, False)
        calls[0].take()
        assert await asyncio.wait_for(second, 30) == large.answer

    asyncio.run(run())


def test_a_principal_has_a_limit_beyond_its_connections():
    async def run():
        untaken, maker = Untaken(LIMITS), Maker()
        calls = [Call(port) for port in range(4)]
        for call in calls:
            await untaken.answer(maker, call)
        (waiting,) = await begun(untaken, [Call(9)], maker)
        assert not waiting.done()
        calls[0].take()
        assert await asyncio.wait_for(waiting, 30) == STATE

    asyncio.run(run())


@pytest.mark.parametrize("end", ["cancelled", "failed", "small"])
def test_one_that_needs_its_turn_no_more_gives_it_on(end):
    async def run():
        untaken, maker = Untaken(LIMITS), Maker()
        first = Call(1)
        await untaken.answer(maker, first)
        odd = Maker()
        (waiting,) = await begun(untaken, [Call(1)], odd)
        (last,) = await begun(untaken, [Call(1)], maker)
        odd.answer = {"failed": ValueError(), "small": b"", "cancelled": STATE}[end]
        first.take()
        if end == "cancelled":
            # Just as its turn has come.
            waiting.cancel()
        assert await asyncio.wait_for(last, 30) == STATE
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(run())
