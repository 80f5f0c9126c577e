"""Streams that begin and end with a server."""

from __future__ import annotations

import asyncio

import pytest
from datastream_grpc import _open_streams
from datastream_grpc._answering import Answering
from datastream_grpc._limits import Limits, Meter
from datastream_grpc._open_streams import OpenStreams, begin
from datastream_grpc._outgoing import ClientLeft
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._principal import NOBODY
from datastream_grpc._telemetry import Metrics
from datastream_grpc._texts import Texts

TIMEOUT = 10.0


class Context:
    """Of a call whose metadata are on their way until `sent` has a result."""

    def __init__(self):
        self.sent = asyncio.get_running_loop().create_future()
        self.asked = asyncio.Event()

    async def send_initial_metadata(self, metadata):
        self.asked.set()
        await self.sent


async def opened(streams, context, log):
    try:
        with streams.opened(NOBODY):
            await begin(context)
            log.append("opened")
    except asyncio.CancelledError:
        log.append("cancelled")
        raise


def run(main):
    async def soon():
        async with asyncio.timeout(TIMEOUT):
            await main(OpenStreams(Meter(Limits())))

    asyncio.run(soon())


def test_a_stream_that_ends_as_it_begins_has_sent_its_metadata():
    """gRPC sends no status while they are under way: it would not be told when to come back."""

    async def main(streams):
        context, log = Context(), []
        asyncio.create_task(opened(streams, context, log))  # noqa: RUF006
        await context.asked.wait()
        stopping = asyncio.create_task(streams.stop())
        for _ in range(5):
            await asyncio.sleep(0)
        assert (log, len(streams)) == ([], 1)
        context.sent.set_result(None)
        await stopping
        assert (log, len(streams)) == (["cancelled"], 0)

    run(main)


def test_a_client_that_takes_no_metadata_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(_open_streams, "BEGIN_WITHIN", 0.01)

    async def main(streams):
        context, log = Context(), []
        asyncio.create_task(opened(streams, context, log))  # noqa: RUF006
        await context.asked.wait()
        await streams.stop()
        assert log == ["cancelled"]
        context.sent.set_exception(RuntimeError("left"))
        await asyncio.sleep(0)

    run(main)


def test_a_client_that_has_left_is_told_nothing():
    async def main(streams):
        context = Context()
        context.sent.set_exception(RuntimeError("left"))
        with pytest.raises(ClientLeft):
            await opened(streams, context, [])
        assert len(streams) == 0

    run(main)


def test_a_call_whose_client_has_left_ends_without_a_status():
    """gRPC may not know that it has left, and would print that it can send none."""

    async def left(request, context):
        raise ClientLeft

    async def main(streams):
        metrics = Metrics("address", "memory", lambda: 0)
        answering = Answering(Texts("memory:", hides_keys=False), metrics, streams, 1)
        answer = answering.around("Subscribe", left, is_stream=True)
        with pytest.raises(asyncio.CancelledError):
            await answer(pb.DataRequest(), Context())
        assert dict(metrics.calls) == {("Subscribe", "CANCELLED"): 1}

    run(main)
