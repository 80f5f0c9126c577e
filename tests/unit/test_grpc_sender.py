"""Changes sent by callbacks of a loop, to a client that takes messages when told to."""

import asyncio
import gc
from types import SimpleNamespace

import pytest
from datastream_grpc import _sender
from datastream_grpc._follow import Line
from datastream_grpc._outgoing import ClientLeft
from datastream_grpc._sender import FEW, TOGETHER, Ready, Sender

from datastream import Batch, Entry
from datastream.aio import Inbox, Overflow
from datastream.testing import TIMEOUT
from tests.unit.beside import Beside, at_each_instruction


class Client:
    """A call's context: a message is under way until it is taken."""

    def __init__(self):
        self.taken = []
        self.under_way = asyncio.Queue()
        self.left = False

    async def write(self, message):
        if self.left:
            raise RuntimeError("the call has ended")
        done = asyncio.get_running_loop().create_future()
        self.under_way.put_nowait((message, done))
        await done
        self.taken.append(message)

    async def take(self):
        message, done = await self.under_way.get()
        done.set_result(None)
        return message


class Counted:
    deliveries = 0


class Setting:
    """A sender of the cursors of what its inbox is offered."""

    def __init__(self):
        self.inbox, self.client, self.counted = Inbox(), Client(), Counted()
        ready = Ready(asyncio.get_running_loop())
        self.sender = Sender(self.inbox, self.client, self.messages_of, self.counted, ready)

    def messages_of(self, batch):
        return None if batch.initial else [batch.cursor.encode()] * len(batch)

    def offer(self, cursor, *, entries=1, initial=False):
        self.inbox.offer(Batch((Entry("a"),) * entries, cursor, initial=initial))


@pytest.fixture
def running():
    """Runs a coroutine function with a setting, on a loop of its own."""

    def run(use):
        async def made():
            await asyncio.wait_for(use(Setting()), TIMEOUT)

        asyncio.run(made())

    return run


def test_messages_are_sent_in_order_one_at_a_time(running):
    async def use(it):
        task = asyncio.ensure_future(it.sender.run())
        for cursor in "123":
            it.offer(cursor, entries=2)
        assert [await it.client.take() for _ in range(6)] == [b"1", b"1", b"2", b"2", b"3", b"3"]
        assert it.client.under_way.empty()
        it.offer("4")
        assert await it.client.take() == b"4"
        it.inbox.end()
        assert await task is None
        assert it.sender.is_over
        assert it.counted.deliveries == 7

    running(use)


def test_what_takes_longer_is_left_to_the_task_when_all_before_it_is_sent(running):
    async def use(it):
        it.offer("1")
        it.offer("2", initial=True)
        it.offer("3")
        task = asyncio.ensure_future(it.sender.run())
        assert await it.client.take() == b"1"
        assert (await task).cursor == "2"
        assert it.client.under_way.empty()
        again = asyncio.ensure_future(it.sender.run())
        assert await it.client.take() == b"3"
        again.cancel()

    running(use)


def test_an_interruption_comes_before_the_next_batch(running):
    async def use(it):
        it.offer("1")
        task = asyncio.ensure_future(it.sender.run())
        message = await it.client.under_way.get()
        it.offer("2")
        # From another thread, as rules change.
        await asyncio.to_thread(it.sender.interrupt)
        message[1].set_result(None)
        assert await task is None
        assert not it.sender.is_over
        assert it.client.under_way.empty()
        again = asyncio.ensure_future(it.sender.run())
        assert await it.client.take() == b"2"
        again.cancel()

    running(use)


def test_what_was_offered_before_the_end_is_sent(running):
    async def use(it):
        task = asyncio.ensure_future(it.sender.run())
        await asyncio.sleep(0)
        it.offer("1")
        it.offer("2")
        it.inbox.end()
        assert [await it.client.take(), await it.client.take()] == [b"1", b"2"]
        assert await task is None
        assert it.sender.is_over

    running(use)


@pytest.mark.parametrize("is_end", [True, False])
def test_an_end_and_an_interruption_are_seen_whenever_they_come(is_end):
    """At whichever instruction of the loop's thread that looks for news, and finds none."""

    def check(at):
        it = Setting()
        running = it.sender.run()
        with (beside := Beside(_sender, at, it.inbox.end if is_end else it.sender.interrupt)):
            waits = next(running.__await__(), None)
        # What the loop does, if it was told to.
        it.sender.step()
        assert waits is None or waits.done() == beside.has_acted
        running.close()
        return beside.has_acted

    at_each_instruction(check)


def test_a_client_that_left_and_a_watch_that_failed_end_it(running):
    async def use(it):
        it.client.left = True
        it.offer("1")
        with pytest.raises(ClientLeft):
            await it.sender.run()
        it.client.left = False
        it.offer("2")
        task = asyncio.ensure_future(it.sender.run())
        _, done = await it.client.under_way.get()
        done.set_exception(RuntimeError("the client is gone"))
        with pytest.raises(ClientLeft):
            await task
        it.inbox.end(Overflow("too far behind"))
        with pytest.raises(Overflow):
            await it.sender.run()

    running(use)


def test_what_cancels_the_task_cancels_the_write_and_no_other_begins(running):
    async def use(it):
        it.offer("1")
        it.offer("2")
        task = asyncio.ensure_future(it.sender.run())
        _, done = await it.client.under_way.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done.cancelled()
        await asyncio.sleep(0)
        assert it.client.under_way.empty()
        assert it.client.taken == []
        again = asyncio.ensure_future(it.sender.run())
        assert await it.client.take() == b"2"
        again.cancel()

    running(use)


def test_a_write_that_fails_just_as_its_task_is_cancelled_prints_nothing(running):
    async def use(it):
        printed = []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: printed.append(said))
        it.offer("1")
        task = asyncio.ensure_future(it.sender.run())
        _, done = await it.client.under_way.get()
        done.set_exception(RuntimeError("the client has died"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        del done
        gc.collect()
        assert printed == []

    running(use)


def test_a_write_that_cancels_its_watch_cancels_the_task(running):
    async def use(it):
        it.offer("1")
        task = asyncio.ensure_future(it.sender.run())
        _, done = await it.client.under_way.get()
        done.set_exception(asyncio.CancelledError())
        with pytest.raises(asyncio.CancelledError):
            await task

    running(use)


def test_senders_whose_client_takes_one_message_at_a_time_wait_for_each_other(running):
    """As the watches of one Follow call do."""

    async def use(it):
        other, turns = Setting(), asyncio.Lock()

        async def write(message):
            async with turns:
                await Client.write(it.client, message)

        it.sender._context = other.sender._context = SimpleNamespace(write=write)
        first, second = (asyncio.ensure_future(one.sender.run()) for one in (it, other))
        await asyncio.sleep(0)
        for one in (it, other, it):
            one.offer("1")
        _, done = await it.client.under_way.get()
        # Its message has not begun: it is never sent.
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        done.set_result(None)
        await it.client.take()
        assert it.client.under_way.empty()
        first.cancel()

    running(use)


def test_threads_offer_while_messages_are_written(running):
    async def use(it):
        task = asyncio.ensure_future(it.sender.run())

        def offer():
            for cursor in range(300):
                it.offer(str(cursor))

        offering = asyncio.ensure_future(asyncio.to_thread(offer))
        for cursor in range(300):
            assert await it.client.take() == str(cursor).encode()
        await offering
        task.cancel()

    running(use)


def test_very_many_that_begin_to_write_let_the_loop_run_in_between():
    class Many:
        def __init__(self):
            self.made = 0

        def step(self):
            self.made += 1

    async def use():
        many, ready = Many(), Ready(asyncio.get_running_loop())
        for _ in range(FEW + 2 * TOGETHER):
            ready.add(many)
        seen = []
        while many.made < FEW + 2 * TOGETHER:
            await asyncio.sleep(0)
            seen.append(many.made)
        assert [made for made in seen if made] == [TOGETHER, 2 * TOGETHER, many.made]

    asyncio.run(asyncio.wait_for(use(), TIMEOUT))


@pytest.mark.parametrize("is_sender", [True, False])
@pytest.mark.parametrize("is_its_turn", [True, False])
def test_a_watch_that_is_removed_while_it_waits_for_its_turn_writes_nothing(
    running, is_sender, is_its_turn
):
    """The cancelling of a write that has just begun would break the next one of its call."""

    async def use(it):
        written = []

        async def write(message):
            written.append(message)

        writing = asyncio.Lock()
        line = Line(1, SimpleNamespace(write=write), writing, describes=False)
        await writing.acquire()
        it.sender._context = line
        it.offer("late")
        line.task = asyncio.ensure_future(it.sender.run() if is_sender else line.write(b"late"))
        line.has_begun = True
        await asyncio.sleep(0)
        if is_its_turn:
            writing.release()
        line.remove()
        with pytest.raises(asyncio.CancelledError):
            await line.task
        assert written == []
        if not is_its_turn:
            writing.release()
        await line.end("", "")
        assert len(written) == 1

    running(use)
