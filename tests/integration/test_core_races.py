"""Races forced open by switching threads every microsecond, and by collecting garbage anywhere."""

import asyncio
import gc
import itertools
import sys
import threading
import weakref

import pytest

import datastream
from datastream import SourceUnavailable, State, Store
from datastream.sources.memory import MemorySource
from tests.integration._core_sources import Call, Gated, together
from tests.integration._programs.tools import TIMEOUT, eventually

LONG = 500.0
"""Seconds for all rounds of one call."""

pytestmark = pytest.mark.usefixtures("quick_switches")


def rounds(short, long):
    return pytest.mark.parametrize(
        "count", [short, pytest.param(long, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])]
    )


class Counted(MemorySource):
    def __init__(self):
        super().__init__()
        self.closed = 0

    def close(self):
        self.closed += 1
        super().close()


@rounds(15, 1_000)
def test_close_beside_disposals_closes_the_source_once(count):
    for _ in range(count):
        source = Counted()
        store = Store(source)
        subscriptions = [store.watch(f"k{n}").subscribe(lambda _: None) for n in range(100)]

        def dispose(subscriptions=subscriptions):
            for subscription in subscriptions:
                subscription.dispose()

        results = together(dispose, store.close, store.close)
        assert results == [None] * 3
        assert source.closed == 1


@rounds(15, 1_000)
def test_a_subscriber_that_comes_while_a_store_closes_ends(count):
    for _ in range(count):
        store = Store(MemorySource())
        store["k"] = 1
        ended = [threading.Event() for _ in range(3)]

        def subscribe(event, store=store):
            try:
                store.watch("k").subscribe(lambda _: None, on_completed=event.set)
            except datastream.StoreClosed:
                event.set()

        calls = [lambda event=event: subscribe(event) for event in ended]
        assert together(store.close, *calls) == [None] * 4
        for event in ended:
            assert event.wait(TIMEOUT), "neither refused nor completed"


@rounds(60, 5_000)
def test_a_status_subscriber_ends_on_the_current_status(count):
    for _ in range(count):
        source = Gated()
        with Store(source) as store:
            seen = [[] for _ in range(4)]
            source.failures["read"] = SourceUnavailable("away")

            def fail(store=store):
                with pytest.raises(SourceUnavailable):
                    store.snapshot()

            def subscribe(states, store=store):
                store.status.subscribe(lambda status: states.append(status.state))

            calls = [lambda states=states: subscribe(states) for states in seen]
            assert together(fail, *calls) == [None] * 5
            assert store.flush(TIMEOUT)
            assert store.status.current.state is State.STALE
            for states in seen:
                eventually(lambda states=states: states[-1:] == [State.STALE], "the newest status")
                assert all(a is not b for a, b in itertools.pairwise(states)), states


@rounds(20, 1_000)
def test_status_subscribers_complete_on_closed(count):
    for _ in range(count):
        store = Store(MemorySource())
        states, completed = [], threading.Event()

        def subscribe(store=store, states=states, completed=completed):
            store.status.subscribe(lambda s: states.append(s.state), on_completed=completed.set)

        assert together(subscribe, store.close) == [None] * 2
        assert completed.wait(TIMEOUT)
        assert states[-1] is State.CLOSED


@rounds(40, 3_000)
def test_puts_by_many_are_all_told_in_their_order(count):
    with Store(MemorySource()) as store:
        seen = {}

        def take(entry):
            seen.setdefault(entry.key, []).append(entry.decode())

        store.watch().subscribe(take)

        def put(key):
            for number in range(count):
                store[key] = number

        calls = [lambda key=key: put(key) for key in "abcd"]
        assert together(*calls, within=LONG) == [None] * 4
        assert store.flush(TIMEOUT)
        for key in "abcd":
            told = seen[key]
            assert told == sorted(set(told))
            assert told[-1] == count - 1


class Profiled:
    """Runs a function, and the garbage collector at its `at`-th call of anything."""

    def __init__(self, function, at):
        self.function, self.at = function, at
        self.count = 0

    def __call__(self):
        sys.setprofile(self._event)
        try:
            self.function()
        finally:
            sys.setprofile(None)

    def _event(self, frame, event, argument):
        if event not in ("call", "c_call"):
            return
        self.count += 1
        if self.count == self.at:
            sys.setprofile(None)
            gc.collect()


class Loop:
    """An event loop in a thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(TIMEOUT)
        self.loop.close()


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


class Cycle:
    """Keeps what it is given until the collector comes."""

    def __init__(self, content):
        self.content = content
        self.me = self


async def first_of(watch):
    return await anext(watch)


def drop_watches(store, loop):
    """Two running async watches of `store` that only the collector ends."""
    for _ in range(2):
        watch = store.awatch("k")
        loop.run(first_of(watch))
        Cycle(watch)


def drop_a_store():
    """A watched store that only the collector ends."""
    store = Store(Gated())
    store["k"] = 1
    Cycle(store)


OPERATIONS = {
    "put": lambda store: store.put("k", 2),
    "subscribe and dispose": lambda store: store.watch("k").subscribe(lambda _: None).dispose(),
    "status": lambda store: store.status.subscribe(lambda _: None).dispose(),
    "flush": lambda store: store.flush(TIMEOUT),
    "snapshot": lambda store: store.snapshot(),
    "close": lambda store: store.close(),
    "open": lambda _: Store(MemorySource()).close(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.timeout(240)
def test_a_collection_in_any_lock_deadlocks_nobody(operation, loop):
    """Finalizers of watches of the same store, and of another store, run inside `operation`."""
    function = OPERATIONS[operation]
    at, done = 1, False
    gc.disable()
    # Only what is made from here on is looked through: a collection takes microseconds.
    gc.collect()
    gc.freeze()
    try:
        while not done and at < 400:
            store = Store(MemorySource())
            store["k"] = 1
            drop_watches(store, loop)
            drop_a_store()
            profiled = Profiled(lambda function=function, store=store: function(store), at)
            Call(profiled).ends(f"{operation}, collected at call {at},")
            done = profiled.count < at
            Call(store.close).ends("close")
            at += 1 + at // 20
        assert done or at >= 400
    finally:
        gc.unfreeze()
        gc.enable()
        gc.collect()


def test_a_store_in_a_cycle_is_closed_when_collected():
    source = Gated()
    store = Store(source)
    store.me = store
    alive = weakref.ref(store)
    del store
    gc.collect()
    assert alive() is None
    eventually(lambda: source.closed == 1, "the source is closed")


@pytest.mark.chaos
def test_threads_call_works_while_stores_are_collected(loop):
    """The executor of `aget` and its like is made while a finalizer wants to end one."""
    for _ in range(5):
        drop_a_store()
        store = Store(Gated())
        store["k"] = 1
        profiled = Profiled(lambda store=store: loop.run(store.aget("k")), 5)
        Call(profiled).ends("aget")
        store.close()
    gc.collect()
