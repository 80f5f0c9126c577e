"""One remote store used by many threads at once, over servers that lag, hang and die."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import datastream_grpc
import pytest
from datastream_grpc._pb import service_pb2 as pb

import datastream
from datastream import (
    KeyNotFound,
    Operation,
    RevisionConflict,
    SourceUnavailable,
    State,
    StoreClosed,
)
from tests.integration._programs.tools import TIMEOUT, Child, Follower, Statuses, eventually
from tests.servers.grpc_double import Double, begins, message
from tests.servers.proxy import Proxy

KEYS = 6


class Watch:
    """The state of one subscriber, and what went wrong on the way; numbers only grow."""

    def __init__(self, had=None):
        self.state = dict(had or {})
        self.highest = dict(self.state)
        self.problems = []
        self.cursor = None
        self.begun = threading.Event()

    def take(self, batch):
        if batch.reset:
            self.state.clear()
        for entry in batch.entries:
            if entry.operation is Operation.DELETE:
                if self.state.pop(entry.key, None) is None and not batch.initial:
                    self.problems.append(("a DELETE of what was not there", entry))
                continue
            number = entry.decode()
            if number < self.highest.get(entry.key, 0):
                self.problems.append(("went back", entry, self.highest[entry.key]))
            if self.state.get(entry.key) == number:
                self.problems.append(("repeated", entry))
            self.state[entry.key] = self.highest[entry.key] = number
        self.cursor = batch.cursor
        self.begun.set()


class Mix:
    """Threads that read, write, watch and resume, until told to stop."""

    def __init__(self, store):
        self.store = store
        self.stop = threading.Event()
        self.watches = []
        self.unexpected = []
        self.counts = dict.fromkeys(("get", "put", "delete", "watch", "resume"), 0)
        self._numbers = iter(range(1, 10**9))
        self._lock = threading.Lock()

    def jobs(self):
        return [self.puts, self.puts, self.gets, self.gets, self.watching, self.watching]

    def run(self, job):
        chooser = random.Random()
        while not self.stop.is_set():
            try:
                job(chooser)
            except (SourceUnavailable, RevisionConflict, KeyNotFound):
                self.stop.wait(0.01)
            except Exception as error:
                self.unexpected.append(error)
                raise

    def puts(self, chooser):
        # One writer a key at a time, so that the numbers of a key only grow.
        key = f"k/{chooser.randrange(KEYS)}"
        with self._lock:
            if chooser.random() < 0.1:
                self.store.delete(key, missing_ok=True)
                self.counts["delete"] += 1
            else:
                self.store[key] = next(self._numbers)
                self.counts["put"] += 1

    def gets(self, chooser):
        self.store.get(f"k/{chooser.randrange(KEYS)}")
        self.store.snapshot("k/")
        self.counts["get"] += 1

    def watching(self, chooser):
        keys = chooser.choice([(), ("k/",), (f"k/{chooser.randrange(KEYS)}",), ("k/0", "k/1")])
        first = Watch()
        subscription = self.store.watch_batches(*keys).subscribe(first.take)
        self.stop.wait(chooser.random() * 0.1)
        subscription.dispose()
        self._ended(first, "watch")
        if first.cursor is None:
            return
        again = Watch(first.state)
        again.highest = first.highest
        resumed = self.store.watch_batches(*keys, since=first.cursor).subscribe(again.take)
        self.stop.wait(chooser.random() * 0.1)
        resumed.dispose()
        self._ended(again, "resume")

    def _ended(self, watch, kind):
        self.store.flush(1)
        self.watches.append(watch)
        self.counts[kind] += 1

    def problems(self):
        return [problem for watch in self.watches for problem in watch.problems]


def _final(store):
    return {key: entry.decode() for key, entry in store.snapshot().items()}


def _final_unless_away(store):
    with suppress(SourceUnavailable):
        return _final(store)
    return None


@pytest.mark.parametrize("backend", ["memory:", pytest.param("sqlite", marks=pytest.mark.chaos)])
@pytest.mark.usefixtures("quick_switches")
@pytest.mark.timeout(240)
def test_threads_mixing_everything_on_one_remote_store(stack, tmp_path, backend):
    url = backend if backend == "memory:" else f"sqlite:{tmp_path / 'store.db'}"
    served = stack.enter_context(datastream.open(url))
    server = stack.enter_context(datastream_grpc.serve(served, "127.0.0.1:0"))
    store = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    _mix(store, served, lambda: time.sleep(4))


@pytest.mark.timeout(180)
@pytest.mark.chaos
def test_threads_mixing_everything_while_the_server_is_killed_and_restarted(stack, tmp_path):
    url = f"sqlite:{tmp_path / 'store.db'}"
    local = stack.enter_context(datastream.open(url))
    servers = [Child("server", url, "127.0.0.1:0")]
    stack.callback(lambda: servers[-1].close())
    address = servers[-1].line()
    store = stack.enter_context(datastream.open(f"grpc://{address}", timeout=5.0))

    def kill_and_restart():
        for _ in range(3):
            time.sleep(0.7)
            servers[-1].kill()
            time.sleep(0.2)
            servers.append(Child("server", url, address))
            servers[-1].line()
        time.sleep(0.5)

    _mix(store, local, kill_and_restart)


def _mix(store, truth, meanwhile):
    mix = Mix(store)
    lasting = Watch()
    subscription = store.watch_batches().subscribe(lasting.take)
    with ThreadPoolExecutor(len(mix.jobs())) as threads:
        running = [threads.submit(mix.run, job) for job in mix.jobs()]
        try:
            meanwhile()
            # A busy machine does few things in a second, and one in ten is a delete.
            eventually(lambda: mix.unexpected or min(mix.counts.values()) > 0, "all is done")
        finally:
            mix.stop.set()
        for job in running:
            job.result(60)
    final = _final(truth)
    eventually(lambda: lasting.state == final, "the final state")
    # A connection that was lost just now takes some time to be tried again.
    eventually(lambda: _final_unless_away(store) == final, "the same by a read")
    assert lasting.problems == []
    assert mix.problems() == []
    subscription.dispose()


# --- streams that lag ---


class Late(Double):
    """Its state is at `number`; its first stream is at 1 until `sent` is set."""

    def __init__(self, keys=("k",)):
        self.keys = keys
        self.number = 1
        self.sent = threading.Event()
        super().__init__(self.gives, self.state)

    def state(self):
        answer = pb.DataResponse(cursor=f"e:{self.number}", initial=True)
        for key in self.keys:
            answer.MergeFrom(message(self.number, key=key, initial=True))
        return answer

    def gives(self, request, number):
        if request.once or number > 1:
            yield self.state()
            return
        yield begins(1)
        self.sent.wait(TIMEOUT)
        for late in range(2, self.number + 1):
            for key in self.keys:
                yield message(late, key=key)

    def __exit__(self, *_):
        self.sent.set()
        super().__exit__()


@pytest.mark.parametrize("since", [None, "e:1"])
def test_a_newcomer_of_a_late_stream_never_goes_back(stack, since):
    server = stack.enter_context(Late())
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    first = Watch()
    stack.callback(remote.watch_batches().subscribe(first.take).dispose)
    eventually(lambda: server.streams, "the stream")
    server.number = 3
    second = Watch({"k": 1} if since else None)
    stack.callback(remote.watch_batches("k", since=since).subscribe(second.take).dispose)
    assert second.begun.wait(TIMEOUT)
    server.sent.set()
    for watch in (first, second):
        eventually(lambda watch=watch: watch.state == {"k": 3}, "the newest")
    threading.Event().wait(0.2)
    assert first.problems == second.problems == []
    remote.close()


def test_a_key_that_a_newcomer_saw_first_reaches_the_others(stack):
    """It is known to the newcomer before the stream shows it, and is news to the others still."""
    server = stack.enter_context(Late(()))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    everything = Follower(remote)
    eventually(lambda: server.streams, "the stream")
    server.number, server.keys = 2, ("fx/new",)
    newcomer = Follower(remote, "fx/")
    for follower in (everything, newcomer):
        follower.wait_state({"fx/new": b"2"})
        assert len(follower.entries) == 1
    remote.close()


# --- a server that does not answer ---


@pytest.fixture
def hole(stack):
    served = stack.enter_context(datastream.open("memory:"))
    server = stack.enter_context(datastream_grpc.serve(served, "127.0.0.1:0"))
    return stack.enter_context(Proxy(int(server.address.rpartition(":")[2])))


def test_close_while_black_holed_ends_every_call_and_watch(hole):
    store = datastream.open(f"grpc://127.0.0.1:{hole.port}", timeout=60.0)
    follower = Follower(store)
    store["k"] = 1
    follower.wait_key("k", b"1")
    hole.is_hole = True
    calls = [
        lambda: store["k"],
        lambda: store.put("k", 2),
        lambda: list(store),
        store.snapshot,
        lambda: store.watch("other").subscribe(lambda entry: None),
    ]
    with ThreadPoolExecutor(len(calls)) as threads:
        running = [threads.submit(call) for call in calls]
        threading.Event().wait(0.5)
        begin = time.monotonic()
        store.close()
        # The calls themselves would wait for a minute.
        assert time.monotonic() - begin < TIMEOUT
        for call in running:
            with suppress(StoreClosed):
                call.result(30)
        assert follower.completed.wait(30)


def test_calls_to_a_black_hole_fail_in_time_and_the_store_recovers(hole):
    with datastream.open(f"grpc://127.0.0.1:{hole.port}", timeout=1.0) as store:
        follower, statuses = Follower(store), Statuses(store)
        store["k"] = 1
        follower.wait_key("k", b"1")
        hole.is_hole = True
        with ThreadPoolExecutor(8) as threads:
            for call in [threads.submit(store.entry, "k") for _ in range(8)]:
                with pytest.raises(SourceUnavailable):
                    call.result(30)
        assert statuses.wait(State.STALE)
        hole.is_hole = False
        # What was swallowed is gone for good, so that only new connections help.
        hole.cut()
        statuses.wait(State.READY)
        store["k"] = 2
        follower.wait_key("k", b"2")
