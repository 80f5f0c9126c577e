"""Nobody waits for anybody else's I/O, and what hangs for ever harms nobody else."""

import threading

import pytest

from datastream import Entry, SourceUnavailable, State, Store, StoreClosed
from datastream._watch import calls, feed
from datastream.sources.memory import MemorySource
from tests.integration._core_sources import Call, Gated, opened
from tests.integration._programs.tools import TIMEOUT, Follower, Statuses, eventually


@pytest.fixture
def source():
    source = Gated()
    yield source
    source.release_all()


@pytest.fixture
def store(source):
    with opened(source, Store(source)) as store:
        store["a"] = 1
        yield store


@pytest.fixture
def follower(store, source):
    """A watcher of ``a``, whose poller waits."""
    follower = Follower(store, "a")
    eventually(lambda: source.calls["wait"], "the poller waits")
    yield follower
    source.release_all()
    follower.dispose()


def hang_a_poll(store, source):
    source.hold("poll")
    store.refresh()
    source.await_held()


def test_calls_return_while_a_poll_hangs(store, source, follower):
    hang_a_poll(store, source)
    assert Call(store.__getitem__, "a").ends("get") == 1
    Call(store.put, "z", 1).ends("put of a key that nobody watches")
    Call(store.put, "a", 2).ends("put of a key that is watched")
    assert Call(store.snapshot).ends("snapshot").keys() == {"a", "z"}
    assert set(Call(list, store).ends("list")) == {"a", "z"}
    other = Call(Follower, store, "z").ends("subscribe")
    Call(other.dispose).ends("dispose")
    Call(follower.dispose).ends("dispose of what is polled for")


def test_watchers_are_told_of_own_writes_while_a_poll_hangs(store, source, follower):
    hang_a_poll(store, source)
    Call(store.put, "a", 2).ends("put")
    assert store.flush(TIMEOUT)
    assert follower.state == {"a": b"2"}
    newcomer = Call(Follower, store, "a").ends("subscribe")
    newcomer.wait_state({"a": b"2"})
    Call(store.put, "a", 3).ends("put")
    newcomer.wait_state({"a": b"3"})


def test_nothing_is_told_twice_after_a_poll_that_was_outrun(store, source, follower):
    hang_a_poll(store, source)
    Call(store.put, "a", 2).ends("put")
    source.release_all()
    Call(store.put, "a", 3).ends("put")
    follower.wait_state({"a": b"3"})
    assert [entry.value for entry in follower.entries] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("call", ["poll", "wait", "read", "write", "get"])
def test_close_returns_while_a_call_hangs_for_ever(call):
    source = Gated()
    store = Store(source)
    store["a"] = 1
    follower = Follower(store, "a")
    eventually(lambda: source.calls["wait"], "the poller waits")
    source.hold(call)
    hanging = {
        "poll": store.refresh,
        "wait": store.refresh,
        "read": store.snapshot,
        "write": lambda: store.put("a", 2),
        "get": lambda: store["a"],
    }[call]
    hung = Call(hanging)
    source.await_held()
    Call(store.close).ends("close")
    assert follower.completed.wait(TIMEOUT)
    with pytest.raises(StoreClosed):
        store["a"]
    assert store.status.current.state is State.CLOSED
    source.release_all()
    if call not in ("poll", "wait"):
        hung.thread.join(TIMEOUT)
        assert not hung.thread.is_alive()


class Lagging(Gated):
    """Its reads may show less than those before, so that they are made in turns."""

    eventually_consistent = True

    def release(self):
        self._pass("release")


def test_close_ends_the_wait_for_a_read_that_hangs_for_ever(monkeypatch):
    monkeypatch.setattr(feed, "TURN", 100 * TIMEOUT)
    source = Lagging()
    store = Store(source)
    store["a"] = 1
    Follower(store, "a")
    eventually(lambda: source.calls["wait"], "the poller waits")
    source.hold("read")
    hung = Call(store._core.catch_up)
    source.await_held()
    released = source.calls["release"]
    waiting = Call(store._core.catch_up)
    eventually(lambda: source.calls["release"] > released, "it begins to wait for its turn")
    Call(store.close).ends("close")
    with pytest.raises(StoreClosed):
        waiting.ends()
    source.release_all()
    hung.thread.join(TIMEOUT)
    assert not hung.thread.is_alive()


def test_a_late_subscription_completes_when_its_store_closes_while_it_joins():
    source = Gated()
    source.failures["read"] = SourceUnavailable("away")
    store = Store(source)
    completed, failed = threading.Event(), []
    watch = store.watch_batches("k", since="of another epoch:1")
    watch.subscribe(lambda batch: None, failed.append, completed.set)
    source.hold("read")
    source.failures.clear()
    store.refresh()
    source.await_held()
    closing = Call(store.close)
    eventually(lambda: store._core.closed, "it is closing")
    # The join goes on with another read, of a store that is closed.
    source.release_all()
    closing.ends("close")
    assert completed.wait(TIMEOUT)
    assert failed == []


@pytest.mark.parametrize("call", ["read", "write", "get", "wait", "capabilities"])
def test_other_calls_go_on_while_one_hangs(call, store, source, follower):
    source.hold(call)
    hanging = {
        "read": store.snapshot,
        "write": lambda: store.put("h", 2),
        "get": lambda: store["a"],
        "wait": store.refresh,
        "capabilities": lambda: list(store),
    }[call]
    hung = Call(hanging)
    source.await_held()
    if call != "get":
        assert Call(store.__getitem__, "a").ends("get") == 1
    if call != "capabilities":
        Call(list, store).ends("list")
    if call != "read":
        Call(store.snapshot).ends("snapshot")
        Call(Call(Follower, store, "q").ends("subscribe").dispose).ends("dispose")
    if call != "write":
        Call(store.put, "a", 5).ends("put")
        follower.wait_state({"a": b"5"})
    source.release_all()
    hung.ends("what hung")


@pytest.mark.parametrize("call", ["poll", "read", "write", "get"])
def test_a_call_that_hangs_makes_the_status_stale(call, monkeypatch):
    monkeypatch.setattr(calls, "HANGS_AFTER", 0.2)
    source = Gated()
    with opened(source, Store(source)) as store:
        store["a"] = 1
        follower = Follower(store, "a")
        eventually(lambda: source.calls["wait"], "the poller waits")
        statuses = Statuses(store)
        source.hold(call)
        hanging = {
            "poll": store.refresh,
            "read": store.snapshot,
            "write": lambda: store.put("a", 2),
            "get": lambda: store["a"],
        }[call]
        hung = Call(hanging)
        source.await_held()
        status = statuses.wait(State.STALE)
        assert "not returned" in str(status.error)
        source.release_all()
        hung.ends("what hung")
        store.refresh()
        statuses.wait(State.READY)
        follower.dispose()


class Meeting(MemorySource):
    """Calls that return only once so many are inside at a time."""

    instant = False

    def __init__(self, count):
        super().__init__()
        self.barrier = threading.Barrier(count)

    def get(self, key):
        self.barrier.wait(TIMEOUT)
        return super().get(key)

    def write(self, writes):
        self.barrier.wait(TIMEOUT)
        return super().write(writes)


def test_eight_calls_run_at_a_time():
    with Store(Meeting(8)) as store:
        for put in [Call(store.put, f"k{n}", n) for n in range(8)]:
            put.ends("put")
        for get in [Call(store.__getitem__, "k1") for _ in range(8)]:
            assert get.ends("get") == 1


class Busy(MemorySource):
    """Always has news, and takes one call at a time; counts polls."""

    instant = False
    thread_safe = False

    def __init__(self):
        super().__init__()
        self.reads = 0
        self.inside = 0
        self.overlapped = False

    def read(self, selection, since):
        self.inside += 1
        self.overlapped |= self.inside > 1
        self.reads += 1
        threading.Event().wait(0.005)
        self.inside -= 1
        return super().read(selection, since)

    def get(self, key):
        self.inside += 1
        self.overlapped |= self.inside > 1
        entry = super().get(key)
        self.inside -= 1
        return entry

    def wait(self, timeout):
        pass


def test_a_get_waits_for_one_poll_at_most_where_calls_must_not_overlap():
    source = Busy()
    with Store(source) as store:
        store["a"] = 1
        follower = Follower(store, "a")
        for _ in range(50):
            before = source.reads
            assert isinstance(store.entry("a"), Entry)
            # One that ran already, and one that had begun to wait before this get did.
            assert source.reads - before <= 2
        assert not source.overlapped
        follower.dispose()


def test_a_source_of_one_call_at_a_time_that_hangs_fails_the_others_in_bounded_time(monkeypatch):
    monkeypatch.setattr(calls, "LOCK_TIMEOUT", 0.2)
    source = Gated()
    source.thread_safe = False
    with opened(source, Store(source)) as store:
        store["a"] = 1
        source.hold("get")
        hung = Call(store.__getitem__, "a")
        source.await_held()
        with pytest.raises(SourceUnavailable, match="earlier call"):
            Call(store.snapshot).ends("snapshot")
        source.release_all()
        assert hung.ends("what hung") == 1
        assert store.snapshot().keys() == {"a"}


def test_who_catches_up_at_the_same_time_shares_a_read():
    """Each has the stream begin anew; a read that began after all of that serves them all."""
    source, released = Gated(), threading.Semaphore(0)
    source.eventually_consistent = True
    source.release = released.release
    with opened(source, Store(source)) as store:
        follower = Follower(store)
        eventually(lambda: source.calls["wait"], "the poller waits")
        source.hold("read")
        first = Call(store._core.catch_up)
        source.await_held()
        before = source.calls["read"]
        others = [Call(store._core.catch_up) for _ in range(12)]
        for _ in range(1 + len(others)):
            assert released.acquire(timeout=TIMEOUT)
        source.release_all()
        for call in (first, *others):
            call.ends("catch-up")
        # One for all, and a few for who was not quite there yet.
        assert source.calls["read"] - before <= len(others) // 2
        follower.dispose()
