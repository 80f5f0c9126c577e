"""`GrpcSource` below any store: one stream, read, resumed and released by many threads at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import datastream_grpc
import grpc
import pytest
from datastream_grpc import GrpcSource

import datastream
from datastream import DatastreamError, Entry, Operation, SourceUnavailable, Store
from datastream.selection import Selection
from datastream.source import Write
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import TIMEOUT, Child, eventually
from tests.servers.grpc_double import Double, begins, message
from tests.servers.proxy import Proxy

EVERYTHING = Selection()


class Union:
    """What a store's poller asks for: a `Selects` that is no `Selection` and may grow."""

    def __init__(self, *keys):
        self.keys = frozenset(key for key in keys if not key.endswith("/"))
        self.prefixes = frozenset(key for key in keys if key.endswith("/"))
        self.patterns = frozenset()

    def matches(self, key):
        return True


@pytest.fixture
def served(stack):
    store = stack.enter_context(datastream.open("memory:"))
    store.server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    return store


@pytest.fixture
def source(stack, served):
    return opened(stack, served.server.address)


def opened(stack, address, **options):
    source = GrpcSource(address, **options)
    stack.callback(source.close)
    return source


def values(reading):
    return {e.key: e.value if e.operation is Operation.PUT else None for e in reading.entries}


def news(source, selection, since):
    """The first reading after `since` that has anything."""
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        reading = source.read(selection, since)
        if reading.entries:
            return reading
        source.wait(1)
    raise AssertionError("nothing arrived")


# --- the stream ---


def test_a_reading_that_was_dropped_is_given_again(served, source):
    union = Union()
    start = source.read(EVERYTHING, None).position
    source.read(union, start)
    served["a"] = 1
    first = news(source, union, start)
    served["b"] = 2
    eventually(lambda: len(source.read(union, start).entries) == 2, "both")
    again = source.read(union, start)
    assert values(again) == {"a": b"1", "b": b"2"}
    assert values(source.read(union, first.position)) == {"b": b"2"}
    assert not source.read(union, again.position).entries


def test_a_reset_that_was_dropped_is_given_again_as_one(served, source):
    union = Union()
    served["a"] = 1
    assert source.read(union, "other:5").complete
    served["a"] = 2
    eventually(lambda: values(source.read(union, "other:5")) == {"a": b"2"}, "the change")
    served.delete("a")
    eventually(lambda: not source.read(union, "other:5").entries, "the delete")
    assert source.read(union, "other:5").complete


def test_a_reader_that_was_outrun_neither_misses_anything_nor_replaces_the_stream():
    def gives(request, number):
        if request.once:
            yield message(2, initial=True)
            return
        yield begins(0)
        yield message(1)
        yield message(2)

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address)
        union = Union()
        source.read(union, "e:0")
        eventually(lambda: source.read(union, "e:0").position == "e:2", "both messages")
        assert source.read(union, "e:2").position == "e:2"
        assert values(source.read(union, "e:0")) == values(source.read(union, "e:1")) == {"k": b"2"}
        assert source.read(union, "e:2").position == "e:2"
        assert [request.once for request in server.streams] == [False, True, True]


def test_a_message_that_leaves_the_cursor_where_it_was_is_given():
    """A server that has published a part of what lies before its next position."""

    def gives(request, number):
        yield begins(1)
        part = message(2)
        part.cursor = "e:1"
        yield part
        yield message(3, key="later")

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address)
        both = {"k": b"2", "later": b"3"}
        eventually(lambda: values(source.read(Union(), "e:1")) == both, "both")
        assert values(source.read(Union(), "e:1")) == both
        assert not source.read(Union(), "e:3").entries
        assert len(server.streams) == 1


def test_a_stream_that_ended_where_it_began_is_opened_anew():
    def gives(request, number):
        yield begins(0)
        if number == 1:
            threading.Event().wait(0.3)
            return "end"
        yield message(1)

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address)
        assert values(news(source, Union(), "e:0")) == {"k": b"1"}
        assert len(server.streams) == 2


def test_a_stream_that_is_not_read_keeps_the_newest_of_each_key():
    def gives(request, number):
        yield begins(0)
        for number in range(1, 2_501):
            yield message(number, key=f"k{number % 3}")

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address)
        union, newest = Union(), {"k0": b"2499", "k1": b"2500", "k2": b"2498"}
        source.read(union, "e:0")
        eventually(lambda: values(source.read(union, "e:0")) == newest, "the newest")
        assert len(source._stream._stream._messages) <= 1_000
        assert source.read(union, "e:0").position == "e:2500"
        assert not source.read(union, "e:2500").entries


def test_a_resume_leaves_the_stream_alone(served, source):
    union = Union()
    start = source.read(EVERYTHING, None).position
    source.read(union, start)
    served["a"] = 1
    assert values(source.read(Selection.of("a"), start)) == {"a": b"1"}
    assert values(news(source, union, start)) == {"a": b"1"}
    # Of a cursor that nobody knows it is told so, and the stream goes on all the same.
    assert source.read(EVERYTHING, "other:1").complete
    served["b"] = 2
    assert values(news(source, union, source.read(union, start).position)) == {"b": b"2"}


def test_the_stream_tells_the_end_of_all_that_a_state_beside_it_has_shown(stack):
    """Even of a key that came and went between two looks of the server's store."""
    backend = MemorySource()
    store = stack.enter_context(Store(backend))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    source, union = opened(stack, server.address), Union()
    start = source.read(EVERYTHING, None).position
    source.read(union, start)
    unnoticed(backend, Write("k", b"1"))
    assert values(source.read(EVERYTHING, None)) == {"k": b"1"}
    unnoticed(backend, Write("k", None))
    store.refresh()
    eventually(lambda: values(source.read(union, start)) == {"k": None}, "its end is told")


def unnoticed(backend, write):
    """Another program writes, and the store has not looked yet."""
    with backend._table.lock:
        backend._table.apply([write])


def test_what_arrived_before_the_end_of_a_stream_is_given():
    def gives(request, number):
        yield begins(0)
        if number == 1:
            yield message(1)
            return "end"

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address)
        source.read(Union(), "e:0")
        eventually(lambda: source._stream._stream.error, "the end")
        assert values(source.read(Union(), "e:0")) == {"k": b"1"}


def test_threads_that_want_more_and_more_open_few_streams():
    """Newcomers: each asks for the union as it was when it came, and waits for its turn."""
    gate = threading.Event()

    def gives(request, number):
        gate.wait(TIMEOUT)
        yield message(1, initial=True)

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address)
        threads = stack.enter_context(ThreadPoolExecutor(21))
        stack.callback(gate.set)
        first = threads.submit(source.read, Union("other"), "e:0")
        eventually(lambda: server.streams, "the first stream")
        sizes = [20, *range(1, 20)]
        waiting = []
        for size in sizes:
            waiting.append(threads.submit(source.read, Union(*map(str, range(size))), "e:0"))
            threading.Event().wait(0.01)
        gate.set()
        for reading in (first, *waiting):
            assert values(reading.result(TIMEOUT)) == {"k": b"1"}
        assert len(server.streams) < 12


def test_a_union_too_large_to_send_is_asked_for_as_everything(served, source):
    union = Union(*(f"k/{number}" for number in range(10_001)))
    served["k/1"] = 1
    position = source.read(union, None).position
    source.read(union, position)
    served["k/2"] = 2
    assert values(news(source, union, position)) == {"k/2": b"2"}


def test_after_release_a_stream_that_was_opened_before_does_not_count():
    """Two readers at once: the stream of the first may show less than was acknowledged since."""
    answer = threading.Event()

    def gives(request, number):
        if number == 1:
            answer.wait(TIMEOUT)
            yield begins(0)
        else:
            yield message(1, initial=True)

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address)
        threads = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(answer.set)
        first = threads.submit(source.read, Union(), "e:0")
        eventually(lambda: server.streams, "the first stream")
        source.release()
        second = threads.submit(source.read, Union(), "e:0")
        answer.set()
        assert not first.result(TIMEOUT).entries
        assert values(second.result(TIMEOUT)) == {"k": b"1"}


def test_threads_that_want_the_same_stream_open_one():
    def gives(request, number):
        threading.Event().wait(0.2)
        yield message(1, initial=True)

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address)
        threads = stack.enter_context(ThreadPoolExecutor(10))
        readings = [threads.submit(source.read, Union(), "e:0") for _ in range(10)]
        assert all(values(reading.result(TIMEOUT)) == {"k": b"1"} for reading in readings)
        assert len(server.streams) == 1


def test_a_first_message_takes_as_long_as_its_parts_do():
    def gives(request, number):
        for part in range(8):
            threading.Event().wait(0.2)
            yield message(part, initial=True, key=f"k{part}", partial=part < 7)

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address, timeout=1.0)
        assert len(source.read(Union(), "e:0").entries) == 8


def test_a_server_that_ends_every_stream_at_once_is_not_asked_without_pause():
    def gives(request, number):
        yield begins(0)
        return "end"

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
        stack.callback(remote.watch().subscribe(lambda entry: None).dispose)
        eventually(lambda: remote.status.current.state is datastream.State.STALE, "STALE")
        threading.Event().wait(1)
        # One after the other for longer: 0, 0.2, 0.6, 1.4 seconds, and what the store waits.
        assert len(server.streams) < 8
        remote.close()


def test_wait_returns_soon_when_there_is_no_stream(source):
    begin = time.monotonic()
    source.wait(60)
    source.read(Union(), source.read(EVERYTHING, None).position)
    source.release()
    for _ in range(3):
        source.wait(60)
    assert time.monotonic() - begin < TIMEOUT


def test_release_ends_a_wait_that_runs(served, source):
    union = Union()
    position = source.read(union, source.read(EVERYTHING, None).position).position
    source.wait(0)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(source.wait, 60)
        eventually(lambda: source._stream.is_running, "the stream")
        source.release()
        waiting.result(30)
    served["k"] = 1
    assert values(news(source, union, position)) == {"k": b"1"}


# --- a server that does not answer ---


@pytest.fixture
def hole(stack, served):
    """A way to the server, and a source that takes it; `is_hole` makes it a black hole."""
    proxy = stack.enter_context(Proxy(int(served.server.address.rpartition(":")[2])))
    proxy.source = opened(stack, f"127.0.0.1:{proxy.port}", timeout=60.0)
    proxy.source.get("k")
    return proxy


def test_close_is_bounded_and_ends_every_call_while_the_server_is_black_holed(hole):
    source = hole.source
    position = source.read(EVERYTHING, None).position
    source.read(Union(), position)
    hole.is_hole = True
    calls = [
        lambda: source.get("k"),
        lambda: source.read(EVERYTHING, None),
        lambda: source.read(EVERYTHING, position),
        lambda: source.read(Union("other"), position),
        lambda: source.read(Union("another"), position),
        lambda: source.write([Write("k", b"1", "int")]),
        source.capabilities,
    ]
    with ThreadPoolExecutor(len(calls)) as threads:
        running = [threads.submit(call) for call in calls]
        threading.Event().wait(0.5)
        assert not any(call.done() for call in running)
        source.close()
        for call in running:
            with pytest.raises((grpc.RpcError, DatastreamError, ValueError)):
                call.result(30)


def test_a_stream_that_hangs_while_it_is_opened_holds_up_no_other_call():
    gate = threading.Event()

    def gives(request, number):
        if not request.once:
            gate.wait(TIMEOUT)
        yield message(1, initial=True)

    with ExitStack() as stack:
        server = stack.enter_context(Double(gives))
        source = opened(stack, server.address)
        threads = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(gate.set)
        opening = threads.submit(source.read, Union(), "e:0")
        eventually(lambda: server.streams, "the stream")
        source.get("k")
        source.read(EVERYTHING, None)
        source.read(EVERYTHING, "e:0")
        source.wait(60)
        source.release()
        assert not opening.done(), "they waited for the stream"
        gate.set()
        opening.result(TIMEOUT)


def test_a_stream_that_does_not_begin_is_unavailable_within_the_timeout(stack, hole, served):
    source = opened(stack, f"127.0.0.1:{hole.port}", timeout=0.5)
    source.get("k")
    hole.is_hole = True
    with ThreadPoolExecutor(3) as threads:
        readings = [threads.submit(source.read, Union(), "e:0") for _ in range(3)]
        for reading in readings:
            with pytest.raises(SourceUnavailable, match="no answer"):
                reading.result(TIMEOUT)
    assert source._stream._opening is None


# --- errors ---


def test_errors_are_translated_in_one_place(source):
    with pytest.raises(grpc.RpcError) as error:
        source.write([Write("k/", b"")])
    translated = source.translate(error.value, "k/")
    assert isinstance(translated, datastream.InvalidKey)
    assert isinstance(source.translate(EOFError("the end"), None), SourceUnavailable)
    other = RuntimeError("own")
    assert source.translate(other, None) is other


# --- many threads ---


class Follower:
    """The least a store's core does with the source: publish by position, from any thread."""

    def __init__(self, source, union):
        self.source, self.union = source, union
        self.problems = []
        self.stop = False
        self._lock = threading.Lock()
        reading = source.read(EVERYTHING, None)
        self.state = values(reading)
        self.position = reading.position

    def catch_up(self):
        position = self.position
        try:
            reading = self.source.read(self.union, position)
        except (grpc.RpcError, EOFError, SourceUnavailable):
            time.sleep(0.01)
            return
        with self._lock:
            if position == self.position:
                self.position = reading.position
                self._take(reading)

    def _take(self, reading):
        if reading.complete:
            self.state = values(reading)
            return
        for entry in reading.entries:
            self._take_entry(entry)

    def _take_entry(self, entry: Entry):
        if entry.operation is Operation.DELETE:
            self.state.pop(entry.key, None)
            return
        if int(self.state.get(entry.key) or 0) > int(entry.value):
            self.problems.append((entry, self.state[entry.key]))
        self.state[entry.key] = entry.value

    def poll(self):
        while not self.stop:
            self.catch_up()
            self.source.wait(1)

    def catch_up_beside(self):
        while not self.stop:
            self.catch_up()
            time.sleep(0.002)

    def resume(self):
        while not self.stop:
            try:
                self.source.read(EVERYTHING, self.position)
            except (grpc.RpcError, EOFError):
                time.sleep(0.01)

    def release(self):
        while not self.stop:
            time.sleep(0.05)
            self.source.release()


@pytest.mark.parametrize("releasing", [False, True])
@pytest.mark.usefixtures("quick_switches")
@pytest.mark.timeout(240)
def test_many_readers_of_one_stream_miss_nothing_and_never_go_back(served, source, releasing):
    union = Union("k/", "other")
    follower = Follower(source, union)
    jobs = [follower.poll, follower.catch_up_beside, follower.catch_up_beside, follower.resume]
    jobs += [follower.release] if releasing else []
    with ThreadPoolExecutor(len(jobs)) as threads:
        running = [threads.submit(job) for job in jobs]
        try:
            for number in range(1, 400):
                served[f"k/{number % 7}"] = number
                if number % 50 == 0:
                    union.keys ^= {"grows"}
            final = {key: entry.value for key, entry in served.snapshot().items()}
            eventually(lambda: follower.state == final, "the final state")
        finally:
            follower.stop = True
            source.wake()
        for job in running:
            job.result(TIMEOUT)
    assert follower.problems == []


@pytest.mark.timeout(240)
@pytest.mark.chaos
def test_a_server_killed_and_restarted_under_load_is_followed_to_the_end(tmp_path):
    url = f"sqlite:{tmp_path / 'store.db'}"
    with ExitStack() as stack:
        writer = stack.enter_context(datastream.open(url))
        server = Child("server", url, "127.0.0.1:0")
        stack.callback(lambda: server.close())
        address = server.line()
        source = opened(stack, address, timeout=5.0)
        follower = Follower(source, Union())
        jobs = [follower.poll, follower.catch_up_beside, follower.resume]
        threads = stack.enter_context(ThreadPoolExecutor(len(jobs)))
        running = [threads.submit(job) for job in jobs]
        try:
            for round_number in range(3):
                for number in range(100):
                    writer[f"k/{number % 7}"] = 100 * round_number + number + 1
                    threading.Event().wait(0.002)
                server.kill()
                writer[f"k/{round_number}"] = 100 * round_number + 100
                server = Child("server", url, address)
                server.line()
            final = {key: entry.value for key, entry in writer.snapshot().items()}
            eventually(lambda: follower.state == final, "the final state")
        finally:
            follower.stop = True
            source.wake()
        for job in running:
            job.result(TIMEOUT)
        assert follower.problems == []
