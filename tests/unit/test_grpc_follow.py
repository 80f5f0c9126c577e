"""The watches of one Follow call, on a loop without a server."""

import asyncio
from types import SimpleNamespace

import pytest
from datastream_grpc._follow import Follow
from datastream_grpc._pb import service_pb2 as pb

from datastream import InvalidValue


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

        follow = Follow(send, SimpleNamespace(write=write), None)
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
