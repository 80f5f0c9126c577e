"""Streams that begin: who waits for whom."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from datastream_grpc import _outgoing
from datastream_grpc._long_reads import OF_PRINCIPAL, LongReads
from datastream_grpc._outgoing import Outgoing
from datastream_grpc._principal import Principal

from datastream.aio import Inbox

EVERYTHING = frozenset(), frozenset()
TURNS = 10
"""Of the loop, after which whatever could begin has begun."""
WITHIN = 10
"""Seconds that suffice for what waits for nobody."""


class Watch:
    """Of which nothing is there yet."""

    async def inbox(self):
        return Inbox()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(_outgoing, "JOIN_ALONE", 1_000)


def test_nobody_waits_for_streams_of_another_principal_that_wait_for_a_place():
    async def main():
        reads, gate = LongReads(), asyncio.Event()
        outgoing = Outgoing(asyncio.to_thread, lambda batch: None, reads, is_memory=True)
        one = [Principal("a", f"ipv4:10.0.0.1:{peer}") for peer in range(OF_PRINCIPAL + 1)]
        running = [asyncio.ensure_future(reads.read(of, gate.wait)) for of in one]
        first = partial(outgoing.first, Watch(), EVERYTHING)
        waiting = [asyncio.ensure_future(first(of)) for of in one]
        for _ in range(TURNS):
            await asyncio.sleep(0)
        async with asyncio.timeout(WITHIN):
            assert await first(Principal("b", "ipv4:10.0.0.2:1")) is None
        assert not any(task.done() for task in waiting)
        gate.set()
        await asyncio.gather(*running, *waiting)

    asyncio.run(main())
