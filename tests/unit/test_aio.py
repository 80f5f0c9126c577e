"""Watches in an event loop; the tests drive a loop of their own."""

import asyncio
import threading

import pytest

import datastream
from datastream import Batch, Entry, InvalidKey, Store, aio
from datastream._watch.buffer import ConflatingBuffer, NewestBuffer
from datastream.aio import Inbox, Overflow
from datastream.sources.memory import MemorySource
from datastream.testing import TIMEOUT, Spy
from datastream.testing._tools import eventually
from tests.unit.beside import Beside, at_each_instruction


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT))


def test_leaving_the_loop_unsubscribes():
    spy = Spy(MemorySource())

    async def follow(store):
        async for entry in store.awatch():
            assert entry.key == "a"
            break

    with Store(spy) as store:
        store["a"] = 1
        run(follow(store))
        eventually(lambda: not spy.waiting.is_set(), "the hub stopped reading")


def test_closing_the_store_ends_the_iteration():
    async def follow(store):
        seen = []
        async for entry in store.awatch():
            seen.append(entry.decode())
            if len(seen) == 2:
                threading.Thread(target=store.close).start()
            else:
                store["a"] = 2
        return seen

    with datastream.open("memory:") as store:
        store["a"] = 1
        assert run(follow(store)) == [1, 2]


@pytest.mark.parametrize("instant", [True, False])
def test_a_cancelled_watch_leaves_no_subscription(instant):
    spy = Spy(MemorySource())
    spy.instant = instant

    async def follow(store):
        watch = store.awatch()
        step = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        await watch.aclose()

    with Store(spy) as store:
        run(follow(store))
        eventually(lambda: not spy.waiting.is_set(), "the hub stopped reading")


def test_a_watch_survives_the_end_of_its_loop():
    with datastream.open("memory:") as store:
        watch = store.awatch_batches()

        async def first():
            return await anext(watch)

        assert run(first()).initial
        store["a"] = 1
        assert store["a"] == 1


def test_a_slow_iterator_gets_the_newest_of_each_key():
    async def follow(store):
        async with store.awatch("k/") as watch:
            store["k/0"] = 0
            seen = [(await anext(watch)).decode()]
            for number in range(20_000):
                store.put(f"k/{number % 5}", number)
            while seen[-1] != 19_999:
                seen.append((await anext(watch)).decode())
        return seen

    with datastream.open("memory:") as store:
        assert len(run(follow(store))) < 100


def test_calls_of_a_store_in_memory_share_threads_while_there_are_several(monkeypatch):
    """A loop that starts a thread waits until that runs."""
    started = []
    start = threading.Thread.start

    def counted(thread):
        started.append(thread)
        start(thread)

    async def snapshots(store):
        going_on = threading.Event()
        first = asyncio.ensure_future(store.threads.run(going_on.wait))
        await asyncio.sleep(0)
        for _ in range(20):
            await store.threads.run(store.snapshot)
        going_on.set()
        await first

    with datastream.open("memory:") as store:
        monkeypatch.setattr(threading.Thread, "start", counted)
        run(snapshots(store))
        monkeypatch.undo()
        assert len(started) < 15
        # None is kept.
        for thread in started:
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def test_many_writes_do_not_hold_up_the_loop_of_a_source_that_never_blocks():
    class Traced(MemorySource):
        def write(self, writes):
            threads.append(threading.current_thread())
            return super().write(writes)

    async def main():
        async with Store(Traced(), name="traced") as store:
            await store.aput("k", 1)
            await store.aput_many({f"k{n}": n for n in range(1_000)})
            return len(store)

    threads = []
    assert asyncio.run(main()) == 1_001
    one, many = threads
    assert one is threading.current_thread()
    assert many is not one


def test_what_is_wrong_with_one_of_many_writes_is_raised():
    async def main():
        async with datastream.open("memory:") as store:
            with pytest.raises(InvalidKey):
                await store.aput_many({**{f"k{n}": n for n in range(100)}, "bad/": 1})
            return len(store)

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_loop_that_was_closed_with_a_watch_open_harms_no_writer(in_thread):
    loop = asyncio.new_event_loop()
    with datastream.open("memory:") as store:

        async def wait_for_news():
            watch = store.awatch("a", initial=False)
            inbox = await watch.inbox()
            inbox.take()
            waiter = inbox.poll()
            waiter.add_done_callback(lambda _: None)
            return watch, inbox

        watch, inbox = loop.run_until_complete(wait_for_news())
        loop.close()
        if in_thread:
            writer = threading.Thread(target=store.put, args=("a", 1))
            writer.start()
            writer.join(TIMEOUT)
        else:
            store["a"] = 1
        assert inbox.ended
        assert store["a"] == 1
        del watch


@pytest.fixture
def followed():
    """Runs a function with an inbox that is followed, and what it was notified of."""

    def run(use, buffer=None):
        async def made():
            inbox, notified = Inbox(buffer), []
            inbox.follow(lambda: notified.append(None))
            use(inbox, notified)

        asyncio.run(made())

    return run


def batch(revision):
    return Batch((Entry("k", b"v", "bytes", None, revision),), revision)


def taken(inbox):
    """The revisions of what waits, batch by batch."""
    found = []
    while (one := inbox.take()[0]) is not None:
        found.append([entry.revision for entry in one])
    return found


def test_who_follows_an_inbox_and_keeps_up_takes_each_batch(followed):
    def use(inbox, notified):
        for number in "123":
            inbox.offer(batch(number))
            assert inbox.take() == (batch(number), False)
            assert inbox.take() == (None, False)
        assert len(notified) == 3

    # Nothing of it passes through the buffer.
    followed(use, NewestBuffer())


def test_who_follows_an_inbox_and_falls_behind_takes_batches_in_their_order(followed):
    def use(inbox, notified):
        for number in "123":
            inbox.offer(batch(number))
        assert inbox.take() == (batch("1"), True)
        inbox.offer(batch("4"))
        assert taken(inbox) == [["2"], ["3"], ["4"]]
        inbox.offer(batch("5"))
        assert inbox.take() == (batch("5"), False)
        # Once, until it has taken all that there was.
        assert len(notified) == 2

    followed(use)


def test_a_burst_of_small_batches_waits_outside_of_a_buffer_that_lets_it(followed):
    class Ahead(NewestBuffer):
        AHEAD = 3

    def use(inbox, notified):
        for number in "12345":
            inbox.offer(batch(number), ("0",))
        assert inbox.take() == (batch("1"), True)
        # Behind what the buffer has, though there is room again.
        inbox.offer(batch("6"), ("0",))
        assert taken(inbox) == [["2"], ["3"], ["6"]]
        assert len(notified) == 1
        inbox.offer(batch("7"), ("0",))
        assert taken(inbox) == [["7"]]
        assert len(notified) == 2

    followed(use, Ahead())


@pytest.mark.parametrize(
    "large", [Batch((Entry("k", b"v" * 1000),)), Batch((Entry("k"), Entry("j")))]
)
def test_large_batches_wait_in_the_buffer_but_for_the_next(followed, large):
    class Ahead(ConflatingBuffer):
        AHEAD = 3

    buffer = Ahead()

    def use(inbox, notified):
        inbox.offer(large)
        assert not buffer
        inbox.offer(large)
        assert buffer
        inbox.offer(batch("1"))
        assert [inbox.take() for _ in range(3)] == [
            (large, True),
            (large, True),
            (batch("1"), False),
        ]

    followed(use, buffer)


def test_what_waits_beyond_the_next_batch_is_conflated(followed):
    def use(inbox, notified):
        for number in "123":
            inbox.offer(batch(number), ("0",))
        assert taken(inbox) == [["1"], ["3"]]

    followed(use, NewestBuffer())


class Follower:
    """Takes from an inbox, and looks again only if it knows of more, or was told."""

    def __init__(self, inbox):
        self.inbox = inbox
        self.found = []
        self.has_news = True
        inbox.follow(self.told)

    def told(self):
        self.has_news = True

    def step(self):
        if self.has_news:
            self.has_news = False
            batch, has_more = self.inbox.take()
            self.has_news |= has_more
            self.found += [] if batch is None else [batch.cursor]

    def finish(self):
        """Take all that it knows of."""
        while self.has_news:
            self.step()


def numbered(sizes):
    """Small and large batches, in order."""
    values = {"s": b"v", "l": b"v" * 1000}
    return [Batch((Entry("k", values[size]),), str(n)) for n, size in enumerate(sizes)]


def followed_ahead(ahead):
    """Who follows an inbox with so many places beside its buffer, and has looked at it once."""
    follower = Follower(Inbox(type("Kept", (ConflatingBuffer,), {"AHEAD": ahead})()))
    follower.step()
    return follower


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("waiting", ["", "s", "l", "ss", "sl", "sls"])
@pytest.mark.parametrize("last", ["s", "l"])
def test_what_is_taken_while_something_is_offered_hides_nothing(ahead, waiting, last):
    """At whichever instruction of the publisher's thread: small and large batches."""

    def check(at):
        follower = followed_ahead(ahead)
        inbox = follower.inbox

        def take():
            if inbox._few or not inbox._lock.locked():
                follower.step()

        *before, end = numbered(waiting + last)
        for batch in before:
            inbox.offer(batch)
        with (beside := Beside(aio, at, take)):
            inbox.offer(end)
        follower.finish()
        assert follower.found == [str(n) for n in range(len(waiting) + 1)]
        return beside.has_acted

    at_each_instruction(check)


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("waiting", ["", "s", "l", "ss", "sl", "sls"])
@pytest.mark.parametrize("more", ["s", "l", "ss", "sl", "ls", "ssl", "sss"])
def test_what_is_offered_while_something_is_taken_comes_in_order(ahead, waiting, more):
    """At whichever instruction of the loop's thread, which may wait there for a while."""

    def check(at):
        follower = followed_ahead(ahead)
        inbox = follower.inbox
        batches = numbered(waiting + more)
        later = iter(batches[len(waiting) :])

        def offer():
            if not inbox._lock.locked():
                for batch in later:
                    inbox.offer(batch)

        for batch in batches[: len(waiting)]:
            inbox.offer(batch)
        follower.has_news = True
        with (beside := Beside(aio, at, offer)):
            follower.step()
        offer()
        follower.finish()
        assert follower.found == [batch.cursor for batch in batches]
        return beside.has_acted

    at_each_instruction(check)


def test_who_follows_an_inbox_that_overflows_is_told_after_the_next_batch(followed):
    class Full(ConflatingBuffer):
        def put(self, batch, before=None, /):
            return Overflow("too far behind")

    def use(inbox, notified):
        for number in "123":
            inbox.offer(batch(number))
        assert inbox.ended
        assert inbox.take() == (batch("1"), True)
        with pytest.raises(Overflow):
            inbox.take()

    followed(use, Full())
