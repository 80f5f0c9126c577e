"""Calls beside a loop, which are made though nobody waits for them any more."""

import asyncio
import threading

import pytest
from datastream_grpc._aside import Aside

from datastream.testing import TIMEOUT


@pytest.mark.parametrize("fails", [False, True])
def test_a_server_that_ends_leaves_none_undone(fails):
    begun, may_end, made, printed = threading.Event(), threading.Event(), [], []

    def call(number):
        begun.set()
        assert may_end.wait(TIMEOUT)
        made.append(number)
        if fails:
            raise ValueError(number)

    async def use():
        asyncio.get_running_loop().set_exception_handler(lambda _, said: printed.append(said))
        aside = Aside(1)
        waiting = [asyncio.create_task(aside.run(call, number)) for number in range(3)]
        assert await asyncio.to_thread(begun.wait, TIMEOUT)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert made == []
        may_end.set()
        await aside.finish()
        assert made == [0, 1, 2]

    asyncio.run(asyncio.wait_for(use(), TIMEOUT))
    assert printed == []
