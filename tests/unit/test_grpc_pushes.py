"""The writes of one Push stream, on a loop without a server."""

import asyncio

import pytest
from datastream_grpc._convert import MESSAGE_BYTES
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._principal import NOBODY
from datastream_grpc._under_way import UnderWay
from datastream_grpc._writes import IN_FLIGHT, UNSENT, Pushes

MANY = 10_000
LARGE, NUMBER = 100_000, 300


class Client:
    """A call's context, which counts the answers."""

    answers = 0

    async def write(self, message):
        self.answers += len(pb.PushResponse.FromString(message).answers)


class Writes:
    """Answers with what a function makes of a request."""

    def __init__(self, make=lambda request: b"", most=1 << 30):
        self.make = make
        self.under_way = UnderWay(most)

    async def answer(self, request, principal, room=None):
        return self.make(request)


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
        pushes = Pushes(Writes(), NOBODY, client, instant=True)
        await pushes.take(pb.WriteRequest() for _ in range(MANY))
        await pushes.end()
        running.cancel()
        assert client.answers == MANY
        assert turns > 2

    asyncio.run(main())


class Reader:
    """A call's context, whose client reads nothing until it is told to."""

    def __init__(self):
        self.reads = asyncio.Event()
        self.sizes = []
        self.ids = []

    async def write(self, message):
        await self.reads.wait()
        self.sizes.append(len(message))
        self.ids += [answer.id for answer in pb.PushResponse.FromString(message).answers]


@pytest.mark.parametrize("instant", [True, False])
def test_of_a_client_that_reads_no_answer_few_writes_are_done(instant):
    done = []

    def answer(request):
        done.append(request.id)
        return pb.WriteResponse(entries=[pb.Data(value=b"v" * LARGE)]).SerializeToString()

    def requests():
        for number in range(NUMBER):
            item = pb.WriteItem(data=pb.Data(key=f"k{number}"))
            yield pb.WriteRequest(id=str(number), writes=[item])

    async def main():
        client = Reader()
        pushes = Pushes(Writes(answer), NOBODY, client, instant=instant)
        taking = asyncio.ensure_future(pushes.take(requests()))
        for _ in range(10 * NUMBER):
            await asyncio.sleep(0)
        if not instant:
            assert len(done) * LARGE <= MESSAGE_BYTES + UNSENT + IN_FLIGHT * LARGE
        client.reads.set()
        await taking
        await pushes.end()
        assert sorted(client.ids, key=int) == [str(number) for number in range(NUMBER)]
        # Any client takes them.
        assert max(client.sizes) <= MESSAGE_BYTES + LARGE

    asyncio.run(main())


def test_what_is_cancelled_before_it_is_written_leaves_its_room():
    class Hanging(Writes):
        async def answer(self, request, principal, room=None):
            await asyncio.Event().wait()

    async def main():
        writes = Hanging(most=LARGE)
        pushes = Pushes(writes, NOBODY, Client(), instant=False)
        item = pb.WriteItem(data=pb.Data(key="k", value=b"v" * LARGE))
        await pushes.take([pb.WriteRequest(writes=[item])])
        pushes.cancel()
        await pushes.end()
        for _ in range(2):
            writes.under_way.room("host ", LARGE).leave()

    asyncio.run(main())
