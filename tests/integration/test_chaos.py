"""Many writers, slow readers, killed processes: what must hold when nothing goes well."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import datastream_grpc
import grpc
import psutil
import pytest
from datastream_grpc._pb import service_pb2 as pb
from reactivex import operators as ops

import datastream
from datastream import Operation, SourceUnavailable, StoreClosed
from datastream.sources.memory import MemorySource
from tests.integration._programs import writers
from tests.integration._programs.tools import (
    TIMEOUT,
    Child,
    Follower,
    Statuses,
    database,
    eventually,
)


@pytest.fixture
def gate():
    """What blocking callbacks wait for; open at the end, whatever happens."""
    event = threading.Event()
    yield event
    event.set()


# --- many writers, ten watchers, a killed server ---


class Watcher:
    """Follows batches and notes every broken promise."""

    def __init__(self, name):
        self.name = name
        self.state = {}
        self.problems = []
        self._revisions = {}
        self._highest = Counter()
        self.changed = threading.Condition()

    def take(self, batch):
        with self.changed:
            for entry in batch.entries:
                self._take_entry(entry)
            if self.state.get("pair/a") != self.state.get("pair/b"):
                self._complain("a transaction arrived in part", batch.cursor)
            self.changed.notify_all()

    def _take_entry(self, entry):
        key = entry.key
        if entry.operation is Operation.DELETE:
            if self.state.pop(key, None) is None:
                self._complain("a delete of what was not there", key)
            self._revisions.pop(key, None)
            return
        number = entry.decode()
        if number < self._highest[key]:
            self._complain("went back", f"{key} from {self._highest[key]} to {number}")
        if self._revisions.get(key) == entry.revision:
            self._complain("repeated", f"{key} = {number}")
        self._highest[key] = number
        self._revisions[key] = entry.revision
        self.state[key] = number

    def _complain(self, what, details):
        self.problems.append(f"{self.name}: {what}: {details}")

    def wait_state(self, expected):
        with self.changed:
            if not self.changed.wait_for(lambda: self.state == expected, TIMEOUT):
                differs = set(self.state.items()) ^ set(expected.items())
                raise AssertionError(f"{self.name} never got the final state: {differs}")


async def _follow(store, watcher, stop):
    async with store.awatch_batches() as batches:
        ending = asyncio.ensure_future(stop.wait())
        while True:
            step = asyncio.ensure_future(anext(batches))
            done, _ = await asyncio.wait({step, ending}, return_when=asyncio.FIRST_COMPLETED)
            if step not in done:
                step.cancel()
                return
            watcher.take(step.result())


class AsyncFollowers:
    """Watchers in an event loop of their own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.stop = asyncio.Event()
        self.tasks = []

    def follow(self, store, watcher):
        coroutine = _follow(store, watcher, self.stop)
        self.tasks.append(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def close(self):
        self.loop.call_soon_threadsafe(self.stop.set)
        for task in self.tasks:
            task.result(TIMEOUT)
        asyncio.run_coroutine_threadsafe(self.loop.shutdown_default_executor(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(TIMEOUT)
        self.loop.close()


def _final_state(path):
    with database(path) as db:
        return {key: int(value) for key, value in db.execute("SELECT key, value FROM data")}


@pytest.mark.chaos
@pytest.mark.parametrize("count", [40, 4000])
@pytest.mark.timeout(300)
def test_ten_watchers_of_twelve_writers_end_exact_through_killed_servers(tmp_path, count):
    path = tmp_path / "store.db"
    writers.prepare(path)
    watchers = [Watcher(f"watcher {number}") for number in range(10)]
    with ExitStack() as stack:
        server = Child("server", f"sqlite:{path}", "127.0.0.1:0")
        stack.callback(lambda: server.close())
        address = server.line()
        local = [stack.enter_context(datastream.open(f"sqlite:{path}")) for _ in range(2)]
        remote = [stack.enter_context(datastream.open(f"grpc://{address}")) for _ in range(3)]
        stores = [local[0], local[0], local[1], *remote, remote[0], local[1], remote[1], remote[2]]
        for store, watcher in zip(stores[:8], watchers, strict=False):
            stack.callback(store.watch_batches().subscribe(watcher.take).dispose)
        awaited = AsyncFollowers()
        stack.callback(awaited.close)
        for store, watcher in zip(stores[8:], watchers[8:], strict=True):
            awaited.follow(store, watcher)

        threads = stack.enter_context(ThreadPoolExecutor(8))
        ways = ["library", "sqlite"]
        children = [
            stack.enter_context(Child("writers", path, ways[number % 2], count, number))
            for number in range(4)
        ]
        for child in children:
            assert child.line() == "ready"
            child.process.stdin.write("go\n")
            child.process.stdin.flush()
        running = [
            threads.submit(writers.HOW[ways[number % 2]], path, count, 100 + number)
            for number in range(8)
        ]
        for _ in range(2):
            # Half-way: somebody remote has seen something since the server came (back).
            seen = len(watchers[3].state), watchers[3].state.get("seq")
            eventually(
                lambda seen=seen: (
                    (len(watchers[3].state), watchers[3].state.get("seq")) != seen
                    or all(task.done() for task in running)
                ),
                "progress",
            )
            server.kill()
            server = Child("server", f"sqlite:{path}", address)
            assert server.line() == address
        for task in running:
            task.result(250)
        for child in children:
            assert child.line(250) == "done"
        final = _final_state(path)
        assert final["pair/a"] == final["pair/b"] > 0
        for watcher in watchers:
            watcher.wait_state(final)
        assert [problem for watcher in watchers for problem in watcher.problems] == []


# --- a writer killed on the way ---


@pytest.mark.parametrize("how", ["put", pytest.param("put_many", marks=pytest.mark.chaos)])
def test_what_a_killed_writer_was_told_is_written_is_there(tmp_path, how):
    path, size = tmp_path / "store.db", 40
    chooser = random.Random(7)
    for round_number in range(3):
        (tmp_path / f"round {round_number}").mkdir()
        path = tmp_path / f"round {round_number}" / "store.db"
        with (
            datastream.open(f"sqlite:{path}") as store,
            Child("hammer", f"sqlite:{path}", how, size) as child,
        ):
            follower = Follower(store)
            enough = chooser.randrange(300, 2_000) if how == "put" else chooser.randrange(20, 150)
            for _ in range(enough):
                child.line()
            child.process.kill()
            acknowledged = max([enough - 1, *map(int, child.rest())])
            with datastream.open(f"sqlite:{path}") as fresh:
                state = {key: entry.value for key, entry in fresh.snapshot().items()}
            _check_hammered(state, how, size, acknowledged)
            follower.wait_state(state)


def _check_hammered(state, how, size, acknowledged):
    if how == "put":
        found = {int(key.rpartition("/")[2]) for key in state}
        assert found in (set(range(acknowledged + 1)), set(range(acknowledged + 2)))
        return
    parts = Counter(int(key.split("/")[1]) for key in state)
    assert set(parts.values()) == {size}, "a batch is there in part"
    assert set(parts) in (set(range(acknowledged + 1)), set(range(acknowledged + 2)))


# --- subscribers that read nothing ---

KEYS = 1_000
UPDATES = [30, pytest.param(1_000, marks=pytest.mark.chaos)]
"""Times a thousand keys of a thousand bytes: 30 MB, or 1 GB, pass by."""
ONLY_LONG = UPDATES[1:]
TRACED_LIMIT, MEMORY_LIMIT = 15 << 20, 50 << 20


def _hammer(store, rounds):
    for number in range(1, rounds + 1):
        store.put_many(_state(number))


def _state(number):
    return {f"k/{key}": b"%0999d" % (number * KEYS + key) for key in range(KEYS)}


class Memory:
    """How much the block allocated at most: Python's own count, or the process's for long runs."""

    def __init__(self, rounds, traced_limit=TRACED_LIMIT):
        self.traced = rounds < 100
        self.traced_limit = traced_limit

    def __enter__(self):
        if self.traced:
            tracemalloc.start()
        self.before = psutil.Process().memory_info().rss
        return self

    def check(self):
        if self.traced:
            used, limit = tracemalloc.get_traced_memory()[1], self.traced_limit
            tracemalloc.stop()
        else:
            used, limit = psutil.Process().memory_info().rss - self.before, MEMORY_LIMIT
        assert used < limit, f"{used / 1e6:.0f} MB"

    def __exit__(self, *_):
        if tracemalloc.is_tracing():
            tracemalloc.stop()


@pytest.mark.parametrize("rounds", UPDATES)
@pytest.mark.timeout(300)
def test_a_blocked_callback_costs_bounded_memory_and_then_gets_the_final_state(rounds, gate):
    entered = threading.Event()
    calls, got = Counter(), {}

    def block(entry):
        if entry.key == "k/0" and not entered.is_set():
            entered.set()
            gate.wait(300)
        calls[entry.key] += 1
        got[entry.key] = entry.value

    with datastream.open("memory:") as store:
        store.watch().subscribe(block)
        store["k/0"] = b""
        assert entered.wait(TIMEOUT)
        with Memory(rounds) as memory:
            _hammer(store, rounds)
            memory.check()
        gate.set()
        assert store.flush(TIMEOUT)
        assert got == _state(rounds)
        assert max(calls.values()) <= 10


@pytest.mark.parametrize("rounds", ONLY_LONG)
@pytest.mark.timeout(300)
def test_an_awatch_never_advanced_costs_bounded_memory_and_then_gets_the_final_state(rounds):
    async def run():
        with datastream.open("memory:") as store:
            watch = store.awatch_batches()
            assert (await anext(watch)).initial
            with Memory(rounds) as memory:
                await asyncio.to_thread(_hammer, store, rounds)
                memory.check()
            got, batches = {}, 0
            while got != _state(rounds):
                batch = await asyncio.wait_for(anext(watch), TIMEOUT)
                got |= {entry.key: entry.value for entry in batch.entries}
                batches += 1
            assert batches <= 10
            await watch.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("rounds", ONLY_LONG)
@pytest.mark.timeout(300)
def test_a_stream_that_is_not_read_costs_bounded_memory_and_then_gets_the_final_state(rounds):
    with datastream.open("memory:") as store, datastream_grpc.serve(store, "127.0.0.1:0") as server:
        with grpc.insecure_channel(server.address) as channel:
            stream = channel.unary_stream(
                "/datastream.DataService/Subscribe",
                request_serializer=pb.DataRequest.SerializeToString,
                response_deserializer=pb.DataResponse.FromString,
            )(pb.DataRequest(deletes=True), timeout=300)
            assert next(stream).initial
            with Memory(rounds) as memory:
                _hammer(store, rounds)
                memory.check()
            got, received = {}, 0
            for message in stream:
                received += len(message.data)
                got |= {key: data.value for key, data in message.data.items()}
                if got == _state(rounds):
                    break
            # Most of it never crossed the wire.
            assert received < rounds * KEYS / 2
            stream.cancel()


@pytest.mark.chaos
def test_a_remote_store_whose_subscriber_blocks_costs_bounded_memory(gate):
    entered = threading.Event()
    got = {}

    def block(entry):
        entered.set()
        gate.wait(60)
        got[entry.key] = entry.value

    with (
        datastream.open("memory:") as store,
        datastream_grpc.serve(store, "127.0.0.1:0") as server,
        datastream.open(f"grpc://{server.address}") as remote,
    ):
        remote.watch().subscribe(block)
        store["k/0"] = b""
        assert entered.wait(TIMEOUT)
        # Both sides of the connection, and what is on its way.
        with Memory(70, MEMORY_LIMIT) as memory:
            _hammer(store, 70)
            memory.check()
        gate.set()
        eventually(lambda: got == _state(70), "the final state")


# --- bad callbacks ---


def test_a_callback_that_raises_is_disposed_and_harms_nobody(caplog):
    with datastream.open("memory:") as store:

        def fail(entry):
            raise ValueError("a subscriber's own bug")

        first, last = Follower(store), None
        store["k"] = 0
        store.watch("k").subscribe(fail)
        store.watch("other").subscribe(fail)
        last = Follower(store)
        for number in range(10):
            store["k"] = store["other"] = number
        assert store.flush(TIMEOUT)
        for follower in (first, last):
            follower.wait_state({"k": b"9", "other": b"9"})
        assert caplog.text.count("ValueError: a subscriber's own bug") == 2
        assert len(store._core._publisher.routes._routes) == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_calls_exit_is_disposed_and_harms_nobody(error):
    with datastream.open("memory:") as store:
        follower = Follower(store)

        def leave(entry):
            raise error

        store.watch("k").subscribe(leave)
        for number in range(10):
            store["k"] = number
        follower.wait_key("k", b"9")
        eventually(
            lambda: len(store._core._publisher.routes._routes) == 1, "the subscriber is disposed", 3
        )
        assert store.flush(TIMEOUT)


def test_an_on_completed_that_raises_does_not_keep_others_from_completing():
    completed = threading.Event()

    def fail():
        raise ValueError("a subscriber's own bug")

    store = datastream.open("memory:")
    store["k"] = 1
    store.watch("k").subscribe(on_completed=fail)
    store.watch("k").subscribe(on_completed=completed.set)
    store.close()
    assert completed.wait(TIMEOUT)


def test_a_callback_that_blocks_for_seconds_delays_neither_writer_nor_others(gate):
    with datastream.open("memory:") as store:
        store["slow"] = 0
        subscription = store.watch("slow").pipe(ops.skip(1)).subscribe(lambda _: gate.wait(60))
        follower = Follower(store, "quick")
        store["slow"] = 1
        for number in range(200):
            store["quick"] = number
            follower.wait_key("quick", b"%d" % number)
        gate.set()
        subscription.dispose()


def test_a_quick_subscriber_is_served_beside_a_hundred_that_block(gate):
    blocked = threading.Semaphore(0)

    def block(entry):
        if entry.decode():
            blocked.release()
            gate.wait(60)

    with datastream.open("memory:") as store:
        store["k"] = 0
        for _ in range(100):
            store.watch("k").subscribe(block)
        quick = Follower(store, "k")
        store["k"] = 1
        quick.wait_key("k", b"1")
        for _ in range(100):
            assert blocked.acquire(timeout=30)
        for number in range(2, 200):
            store["k"] = number
            quick.wait_key("k", b"%d" % number)
        gate.set()
        assert store.flush(TIMEOUT)


@pytest.mark.parametrize("url", ["memory:", "sqlite"])
def test_callbacks_may_write_to_the_store_they_watch(tmp_path, url):
    """Each answers the other, far deeper than the stack would allow."""
    rounds = 3_000
    done = threading.Event()
    with datastream.open(url if url == "memory:" else f"sqlite:{tmp_path / 'store.db'}") as store:

        def answer(entry, other):
            number = entry.decode()
            if number < rounds:
                store[other] = number + 1
            else:
                done.set()

        store.watch("ping").subscribe(lambda entry: answer(entry, "pong"))
        store.watch("pong").subscribe(lambda entry: answer(entry, "ping"))
        store["ping"] = 0
        assert done.wait(TIMEOUT)


def test_a_callback_may_write_during_its_own_subscription():
    with datastream.open("memory:") as store:
        store["k"] = 0
        seen = []

        def up_to_a_thousand(entry):
            seen.append(entry.decode())
            if entry.decode() < 1_000:
                store["k"] = entry.decode() + 1

        store.watch("k").subscribe(up_to_a_thousand)
        assert store.flush(TIMEOUT)
        assert seen == list(range(1_001))


def test_a_callback_may_dispose_its_own_subscription_and_others():
    with datastream.open("memory:") as store:
        store["k"] = 0
        seen = []
        other = store.watch("k").pipe(ops.skip(1)).subscribe(lambda entry: None)

        def dispose(entry):
            seen.append(entry.decode())
            if entry.decode() == 1:
                own.dispose()
                other.dispose()

        own = store.watch("k").subscribe(dispose)
        store["k"] = 1
        assert store.flush(TIMEOUT)
        store["k"] = 2
        assert store.flush(TIMEOUT)
        assert seen == [0, 1]
        eventually(lambda: not store._core._publisher.routes, "nobody is subscribed")


def test_a_callback_may_subscribe_and_dispose_during_its_own_subscription():
    with datastream.open("memory:") as store:
        store["k"] = 0
        inner = []
        store.watch("k").pipe(ops.take(1)).subscribe(
            lambda _: store.watch("k").pipe(ops.take(1)).subscribe(inner.append)
        )
        assert [entry.decode() for entry in inner] == [0]
        eventually(lambda: not store._core._publisher.routes, "nobody is subscribed")


@pytest.mark.parametrize("when", ["initial", "live"])
def test_a_callback_may_close_its_store(when):
    store = datastream.open("memory:")
    store["k"] = 0
    closed, completed = threading.Event(), threading.Event()

    def close(entry):
        if entry.decode() == 1 or when == "initial":
            store.close()
            closed.set()

    if when == "live":
        store.watch("k").subscribe(on_completed=completed.set)
    store.watch("k").subscribe(close)
    if when == "live":
        store["k"] = 1
        assert completed.wait(TIMEOUT)
    assert closed.wait(TIMEOUT)
    with pytest.raises(StoreClosed):
        store["k"] = 2


# --- close and release ---


@pytest.mark.parametrize("kind", ["memory", "sqlite", "grpc"])
def test_close_in_full_swing_ends_every_watch_and_every_thread(tmp_path, kind):
    """Writers get StoreClosed, subscribers on_completed; the conftest counts the threads."""
    with ExitStack() as stack:
        url = {"memory": "memory:", "sqlite": f"sqlite:{tmp_path / 'store.db'}"}.get(kind)
        if url is None:
            served = stack.enter_context(datastream.open("memory:"))
            server = stack.enter_context(datastream_grpc.serve(served, "127.0.0.1:0"))
            url = f"grpc://{server.address}"
        store = datastream.open(url)
        followers = [Follower(store, "k/") for _ in range(5)]
        errors, started = [], threading.Semaphore(0)

        def write(number):
            try:
                for value in range(1_000_000):
                    store[f"k/{number}"] = value
                    if value == 10:
                        started.release()
            except Exception as error:
                errors.append(error)

        def come_and_go():
            try:
                while True:
                    store.watch("k/").subscribe(lambda entry: None).dispose()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        threads.append(threading.Thread(target=come_and_go))
        for thread in threads:
            thread.start()
        for _ in range(4):
            assert started.acquire(timeout=TIMEOUT)
        store.close()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        assert [type(error) for error in errors] == [StoreClosed] * 5
        for follower in followers:
            assert follower.completed.wait(TIMEOUT)


def test_close_with_a_blocked_subscriber_returns_soon(gate):
    entered = threading.Event()

    def block(entry):
        entered.set()
        gate.wait(60)

    store = datastream.open("memory:")
    store.watch("k").subscribe(block)
    store["k"] = 1
    assert entered.wait(TIMEOUT)
    closing = threading.Thread(target=store.close)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    gate.set()


@pytest.mark.parametrize("kind", ["memory", "sqlite", "grpc"])
@pytest.mark.parametrize("count", [40, pytest.param(1_000, marks=pytest.mark.chaos)])
@pytest.mark.timeout(300)
def test_a_storm_of_subscriptions_leaves_nothing_behind(tmp_path, kind, count):
    with ExitStack() as stack:
        url = {"memory": "memory:", "sqlite": f"sqlite:{tmp_path / 'store.db'}"}.get(kind)
        if url is None:
            served = stack.enter_context(datastream.open("memory:"))
            server = stack.enter_context(datastream_grpc.serve(served, "127.0.0.1:0"))
            url, count = f"grpc://{server.address}", count // 4
        store = stack.enter_context(datastream.open(url))
        stop, broken = threading.Event(), []

        def write():
            number = 0
            while not stop.is_set():
                number += 1
                store.put_many({"a": number, "fx/a": number, "fx/b": number})

        def subscribe(seed):
            chooser = random.Random(seed)
            for _ in range(count):
                last = [-1]

                def take(entry, last=last):
                    if entry.decode() < last[0]:
                        broken.append((entry, last[0]))
                    last[0] = entry.decode()

                keys = chooser.choice([("a",), ("fx/",), (), ("fx/a", "a")])
                subscription = store.watch(*keys).subscribe(take)
                if chooser.random() < 0.3:
                    store.flush(0.01)
                subscription.dispose()

        writing = threading.Thread(target=write)
        writing.start()
        with ThreadPoolExecutor(6) as threads:
            for task in [threads.submit(subscribe, seed) for seed in range(6)]:
                task.result(280)
        stop.set()
        writing.join(TIMEOUT)
        assert broken == []
        publisher = store._core._publisher
        eventually(lambda: not publisher.routes, "nobody is subscribed")
        eventually(
            lambda: not publisher._known.revisions and publisher.position is None,
            "nothing is remembered",
        )
        assert not publisher.routes._by_key
        assert not publisher.routes._by_prefix
        eventually(lambda: not _is_polling(store), "the poller's thread is gone")
        if kind == "grpc":
            eventually(lambda: not served._core._publisher.routes, "the server's stream is gone")


def _is_polling(store):
    return store._core._poller._thread is not None


class Slow(MemorySource):
    """Its reads wait for a gate; on demand it is away."""

    def __init__(self):
        super().__init__()
        self.gate, self.reading = threading.Event(), threading.Event()
        self.waiting = threading.Event()
        self.gate.set()
        self.away = False

    def read(self, selection, since):
        self.reading.set()
        assert self.gate.wait(TIMEOUT)
        if self.away:
            raise SourceUnavailable("away")
        return super().read(selection, since)

    def wait(self, timeout):
        self.waiting.set()
        super().wait(timeout)


def test_disposing_the_last_subscription_during_a_snapshot_ends_the_reading():
    source = Slow()
    with datastream.Store(source) as store:
        subscription = store.watch().subscribe(lambda entry: None)
        assert source.waiting.wait(TIMEOUT)
        source.gate.clear()
        source.reading.clear()
        reader = threading.Thread(target=store.snapshot)
        reader.start()
        assert source.reading.wait(TIMEOUT)
        subscription.dispose()
        source.gate.set()
        reader.join(TIMEOUT)
        eventually(lambda: not _is_polling(store), "the poller's thread ends")


def test_disposing_the_last_subscription_while_the_backend_is_away_ends_the_retries():
    source = Slow()
    with datastream.Store(source) as store:
        subscription = store.watch().subscribe(lambda entry: None)
        statuses = Statuses(store)
        source.away = True
        store.refresh()
        statuses.wait(datastream.State.STALE)
        source.gate.clear()
        source.reading.clear()
        store.refresh()
        assert source.reading.wait(TIMEOUT)
        subscription.dispose()
        source.gate.set()
        eventually(lambda: not _is_polling(store), "the poller's thread ends")


def test_disposing_the_last_remote_subscription_ends_the_stream():
    with (
        datastream.open("memory:") as store,
        datastream_grpc.serve(store, "127.0.0.1:0") as server,
        datastream.open(f"grpc://{server.address}") as remote,
    ):
        follower = Follower(remote)
        store["k"] = 1
        follower.wait_key("k", b"1")
        assert store._core._publisher.routes
        follower.dispose()
        eventually(lambda: not store._core._publisher.routes, "the server's watch is released")
        again = Follower(remote)
        store["k"] = 2
        again.wait_key("k", b"2")


def test_a_store_that_is_dropped_unclosed_ends_its_threads_with_its_last_subscription(tmp_path):
    """The conftest waits for the threads; here for the file."""
    path = tmp_path / "store.db"
    store, arrived = datastream.open(f"sqlite:{path}"), threading.Semaphore(0)
    subscription = store.watch().subscribe(lambda entry: arrived.release())
    store["k"] = 1
    assert arrived.acquire(timeout=TIMEOUT)
    del store
    gc.collect()
    with datastream.open(f"sqlite:{path}") as other:
        # The subscription keeps it open.
        other["k"] = 2
        assert arrived.acquire(timeout=TIMEOUT)
    subscription.dispose()
    del subscription
    process = psutil.Process()
    eventually(
        lambda: (
            gc.collect() is None
            or not [f for f in process.open_files() if f.path.startswith(str(tmp_path))]
        ),
        "the file is closed",
    )


def test_flush_waits_for_what_was_offered_while_another_subscriber_blocks(gate):
    """A waiting flush must not swallow the wake-ups meant for the threads that deliver."""
    entered = threading.Event()

    def block(entry):
        entered.set()
        gate.wait(60)

    with datastream.open("memory:") as store:
        store.watch("slow").subscribe(block)
        quick = Follower(store, "quick")
        store["slow"] = 1
        assert entered.wait(TIMEOUT)
        with ThreadPoolExecutor(8) as threads:
            flushes = [threads.submit(store.flush, TIMEOUT) for _ in range(8)]
            for number in range(500):
                store["quick"] = number
                quick.wait_key("quick", b"%d" % number)
            gate.set()
            assert all(flush.result(TIMEOUT) for flush in flushes)


def test_a_locked_file_delays_nobody_but_its_own_store(tmp_path):
    """One store's writer waits for another program's lock; its readers and others go on."""
    path = tmp_path / "store.db"
    with datastream.open(f"sqlite:{path}") as store, datastream.open(f"sqlite:{path}") as other:
        follower = Follower(other)
        with database(path, "BEGIN IMMEDIATE") as db, ThreadPoolExecutor(1) as threads:
            put = threads.submit(store.put, "k", 1)
            assert other.snapshot() == {}
            db.execute("INSERT INTO data VALUES ('theirs', 1, 'int', NULL)")
            db.execute("COMMIT")
            put.result(TIMEOUT)
        follower.wait_state({"k": b"1", "theirs": b"1"})
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM data").fetchone() == (2,)
    db.close()
