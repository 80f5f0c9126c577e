"""A write that was refused has its keys for itself, for a time."""

import asyncio

from datastream.sources.nats.turns import Turns


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


def test_turns_come_in_order_and_others_wait():
    async def run():
        turns, log = Turns(60), []

        async def write(name, keys, go_on):
            with turns.of(keys) as turn:
                await turn.take()
                await turn.take()
                log.append(name)
                await go_on.wait()

        async def wait(name, keys):
            await turns.wait(keys)
            log.append(name)

        first, second = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(write("first", "cab", first))]
        await settled()
        tasks.append(asyncio.create_task(write("second", "bcd", second)))
        await settled()
        tasks += [asyncio.create_task(wait(key, key)) for key in "aez"]
        await settled()
        assert log == ["first", "e", "z"]
        first.set()
        await settled()
        assert sorted(log[3:]) == ["a", "second"]
        tasks.append(asyncio.create_task(wait("d", "d")))
        await settled()
        assert "d" not in log
        second.set()
        await asyncio.gather(*tasks)
        assert log[-1] == "d"

    asyncio.run(run())


def test_who_hangs_holds_nobody_up_for_ever():
    async def run():
        turns = Turns(0.05)
        with turns.of("a") as hangs:
            await hangs.take()
            with turns.of("ab") as turn:
                await turn.take()
        with turns.of("ab") as turn:
            await turn.take()
            await turns.wait("c")

    asyncio.run(run())
