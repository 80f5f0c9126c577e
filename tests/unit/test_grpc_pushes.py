"""The writes of one Push stream, on a loop without a server."""

import asyncio
from types import SimpleNamespace

from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._writes import Pushes

MANY = 10_000


class Client:
    """A call's context, which counts the answers."""

    answers = 0

    async def write(self, message):
        self.answers += len(pb.PushResponse.FromString(message).answers)


async def answer(request, principal):
    return b""


def test_a_message_of_very_many_writes_lets_others_run():
    """Also of a store that does no I/O, whose writes are done on the loop."""

    async def main():
        client, turns = Client(), 0

        async def others():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        running = asyncio.ensure_future(others())
        pushes = Pushes(SimpleNamespace(answer=answer), None, client, instant=True)
        await pushes.take(pb.WriteRequest() for _ in range(MANY))
        await pushes.end()
        running.cancel()
        assert client.answers == MANY
        assert turns > 2

    asyncio.run(main())
