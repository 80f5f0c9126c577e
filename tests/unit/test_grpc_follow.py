"""The watches of one Follow call, on a loop without a server."""

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from datastream_grpc._follow import WAITING, Follow
from datastream_grpc._limits import LimitReached, Limits
from datastream_grpc._pb import service_pb2 as pb

from datastream import InvalidValue
from datastream.testing import TIMEOUT


def test_what_makes_no_sense_ends_the_call_after_the_message_that_is_written():
    """gRPC would refuse to send the status of a call whose first message is under way."""

    async def main():
        begun, done = asyncio.Event(), asyncio.Event()

        async def write(message):
            begun.set()
            await done.wait()

        async def send(request, line):
            await line.write(b"first")
            await line.write(b"second")

        async def requests():
            yield pb.FollowRequest(watch=1, add=pb.DataRequest())
            await begun.wait()
            yield pb.FollowRequest(watch=1)

        follow = Follow(send, nullcontext, SimpleNamespace(write=write), None, Limits())
        taking = asyncio.ensure_future(follow.take(requests()))
        await begun.wait()
        begun.clear()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not taking.done()
        done.set()
        with pytest.raises(InvalidValue):
            await taking
        assert not begun.is_set()

    asyncio.run(main())


def test_no_more_is_read_of_a_client_that_begins_watches_and_takes_nothing():
    """Each that waits holds its request: they must not be as many as a client sends."""

    async def main():
        begun, may_write = 0, asyncio.Event()

        async def write(message):
            await may_write.wait()

        async def send(request, line):
            raise LimitReached("2 streams are open already; close some")

        async def requests():
            nonlocal begun
            for number in range(2 * WAITING):
                yield pb.FollowRequest(watch=number, add=pb.DataRequest())
                begun += 1
                await asyncio.sleep(0)

        texts = SimpleNamespace(of=lambda error, text, sent: text)
        context = SimpleNamespace(write=write, peer=lambda: "")
        limits = Limits(streams=2, principal_streams=2)
        taking = asyncio.ensure_future(
            Follow(send, nullcontext, context, texts, limits).take(requests())
        )
        for _ in range(3 * WAITING):
            await asyncio.sleep(0)
        assert begun == WAITING + 2
        may_write.set()
        await asyncio.wait_for(taking, TIMEOUT)
        assert begun == 2 * WAITING

    asyncio.run(main())
