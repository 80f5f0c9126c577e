"""Requests that ask for much, and clients that take nothing: what they cost the others."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import datastream_grpc
import grpc
import pytest
from datastream_grpc import _convert, _outgoing
from datastream_grpc._outgoing import FEW_ENTRIES, _State
from datastream_grpc._pb import service_pb2 as pb
from google.protobuf.empty_pb2 import Empty

import datastream
from datastream import Batch, DatastreamError, Entry, Feature, SourceUnavailable, State, Store
from datastream.aio import AsyncWatch
from datastream.selection import MAX_KEYS, MAX_PATTERNS
from datastream.sources.memory import MemorySource
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT, Statuses, eventually

LOOP = "datastream-grpc"


class Spied(MemorySource):
    """Notes which threads read and write."""

    def __init__(self):
        super().__init__()
        self.threads = []

    def read(self, selection, since):
        self.threads.append(threading.current_thread().name)
        return super().read(selection, since)

    def write(self, writes):
        self.threads.append(threading.current_thread().name)
        return super().write(writes)


@pytest.fixture
def source():
    return Spied()


@pytest.fixture
def store(stack, source):
    return stack.enter_context(Store(source))


@pytest.fixture
def call(stack, store):
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    channel = stack.enter_context(
        grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
    )

    def call(method, request, response=pb.DataResponse):
        unary = channel.unary_unary(
            f"/datastream.DataService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return unary(request, timeout=TIMEOUT)

    call.channel = channel
    return call


def subscribe(channel, **request):
    return channel.unary_stream(
        "/datastream.DataService/Subscribe",
        request_serializer=pb.DataRequest.SerializeToString,
        response_deserializer=pb.DataResponse.FromString,
    )(pb.DataRequest(**request), timeout=TIMEOUT)


@pytest.mark.parametrize(
    "request_",
    [
        pb.DataRequest(match=[f"a{n}*b" for n in range(100_000)]),
        pb.DataRequest(keys=[f"k{n}" for n in range(100_000)]),
        pb.DataRequest(keys=[f"k*{n}" for n in range(MAX_PATTERNS + 1)]),
        pb.DataRequest(keys=["k"] * (MAX_KEYS + 1)),
    ],
    ids=["patterns", "keys", "stars", "repeated"],
)
def test_too_much_is_refused_before_it_is_looked_at(call, source, request_):
    with pytest.raises(grpc.RpcError) as error:
        call("Sync", request_)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "broader" in error.value.details()
    with pytest.raises(grpc.RpcError) as error:
        next(subscribe(call.channel, keys=request_.keys, match=request_.match))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert source.threads == []


@pytest.mark.parametrize("request_", [{}, {"keys": ["k/"]}, {"match": ["**/x"]}])
def test_a_read_that_may_take_long_is_none_of_the_loop(call, store, source, request_):
    """Also of a store that does no I/O: it takes a second for 100,000 keys."""
    store.put_many({f"k/{n}": n for n in range(10)})
    source.threads.clear()
    call("Sync", pb.DataRequest(**request_))
    call("ListCapabilities", pb.ListCapabilitiesRequest(), pb.ListCapabilitiesResponse)
    stream = subscribe(call.channel, **request_)
    next(stream)
    stream.cancel()
    assert source.threads
    assert LOOP not in source.threads


def test_a_write_of_many_is_none_of_the_loop(call, source):
    items = [pb.WriteItem(data=pb.Data(key=f"k/{n}", value=b"1")) for n in range(1000)]
    stored = call("Write", pb.WriteRequest(writes=items), pb.WriteResponse)
    assert [data.key for data in stored.entries] == [item.data.key for item in items]
    assert source.threads
    assert LOOP not in source.threads


def test_a_large_change_is_serialised_once_for_all_streams_and_not_on_the_loop(
    call, store, monkeypatch
):
    serialised = []
    to_data = _convert.to_data

    def spy(entry):
        serialised.append(threading.current_thread().name)
        return to_data(entry)

    streams = [subscribe(call.channel) for _ in range(20)]
    for stream in streams:
        next(stream)
    monkeypatch.setattr(_convert, "to_data", spy)
    store.put_many({f"k/{n}": n for n in range(2 * FEW_ENTRIES)})
    for stream in streams:
        assert len(next(stream).data) == 2 * FEW_ENTRIES
        stream.cancel()
    assert len(serialised) == 2 * FEW_ENTRIES
    assert LOOP not in serialised


def test_an_entry_is_serialised_once_for_streams_of_all_selections(call, store, monkeypatch):
    serialised = []
    to_data = _convert.to_data
    streams = [subscribe(call.channel, keys=["k", f"other/{number}"]) for number in range(20)]
    for stream in streams:
        next(stream)
    monkeypatch.setattr(_convert, "to_data", lambda e: serialised.append(e.key) or to_data(e))
    changes = {"k": 1} | {f"other/{number}": number for number in range(20)}
    store.put_many(changes)
    for number, stream in enumerate(streams):
        assert set(next(stream).data) == {"k", f"other/{number}"}
        stream.cancel()
    assert sorted(serialised) == sorted(changes)


def test_streams_that_begin_together_hold_one_state():
    """Each has read its own; what a client that does not read keeps is shared."""
    state = _State()

    def read(*revisions):
        entries = (Entry(f"k{n}", b"x" * 10, "bytes", None, r) for n, r in enumerate(revisions))
        return state.shared(Batch(tuple(entries), "cursor", initial=True)).entries

    one, two, three = read("1", "1"), read("1", "1"), read("1", "2")
    assert all(a is b for a, b in zip(one, two, strict=True))
    assert three[0] is one[0]
    assert three[1].revision == "2"


def test_what_no_stream_is_sent_any_more_is_not_held(monkeypatch):
    monkeypatch.setattr(_outgoing, "LEAST_HELD", 10)
    state = _State()

    def read(name):
        entries = (Entry(f"{name}/{n}", b"x", "bytes", None, "1") for n in range(10))
        return state.shared(Batch(tuple(entries), "cursor", initial=True))

    deaf = read("deaf")
    for number in range(100):
        read(str(number))
    assert len(state._entries) <= 50
    again = read("deaf")
    assert all(a is b for a, b in zip(deaf.entries, again.entries, strict=True))


@pytest.mark.usefixtures("quick_switches")
def test_several_threads_share_a_state_while_it_is_looked_through(monkeypatch):
    monkeypatch.setattr(_outgoing, "LEAST_HELD", 1)
    state, number = _State(), 10_000

    def read(name):
        held = deque(maxlen=200)
        for n in range(number):
            entries = tuple(Entry(f"{name}/{n % m}", b"", "bytes", None, str(n)) for m in (5, 7))
            held.append(state.shared(Batch(entries, "cursor", initial=True)))
        return len(held)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, "abcdef")) == [200] * 6


def test_many_watches_that_end_keep_nobody_from_having_a_token_checked(stack, store, monkeypatch):
    server = stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", tokens=lambda token: token)
    )
    go_on, ending = threading.Event(), threading.Event()
    leave, number = AsyncWatch.leave, 40

    def slowly(watch):
        ending.set()
        assert go_on.wait(TIMEOUT)
        leave(watch)

    channel = stack.enter_context(grpc.insecure_channel(server.address))
    stack.callback(go_on.set)
    subscribe = channel.unary_stream("/datastream.DataService/Subscribe")
    metadata = (("authorization", "Bearer one"),)
    streams = [subscribe(b"", metadata=metadata, timeout=TIMEOUT) for _ in range(number)]
    for stream in streams:
        next(stream)
    monkeypatch.setattr(AsyncWatch, "leave", slowly)
    for stream in streams:
        stream.cancel()
    assert ending.wait(TIMEOUT)
    sync = channel.unary_unary("/datastream.DataService/Sync")
    request = pb.DataRequest(keys=["k"]).SerializeToString()
    sync(request, metadata=(("authorization", "Bearer other"),), timeout=TIMEOUT / 2)
    go_on.set()
    eventually(lambda: not server.clients, "the end of all")


def test_messages_are_small_so_that_few_bytes_wait_for_a_client():
    entries = tuple(Entry(f"k{n}", b"x" * 50_000, "bytes", None, "1") for n in range(100))
    messages = list(_convert.to_messages(Batch(entries, "c", initial=True), deletes=True))
    assert max(map(len, messages)) < 400_000
    (whole,) = _convert.from_messages(map(pb.DataResponse.FromString, messages))
    assert (len(whole.data), whole.cursor, whole.initial) == (100, "c", True)


def test_an_unknown_operation_is_an_invalid_argument(call, store):
    store["k"] = 1
    for key in ("k", "new"):
        item = pb.WriteItem(data=pb.Data(key=key, value=b"2", operation=7))
        with pytest.raises(grpc.RpcError) as error:
            call("Write", pb.WriteRequest(writes=[item]), pb.WriteResponse)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(store) == {"k": 1}


@pytest.mark.parametrize("operation", [0, 1, 2, 7])
def test_push_update_stores_one_value_whatever_the_operation(call, store, operation):
    store["k"] = 1
    call("PushUpdate", pb.Data(key="k", value=b"2", value_type="int", operation=operation), Empty)
    assert store["k"] == 2


# --- what a server grants ---


@pytest.fixture
def limited(stack, store):
    def limited(**limits):
        server = stack.enter_context(
            datastream_grpc.serve(store, "127.0.0.1:0", limits=datastream_grpc.Limits(**limits))
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        return lambda: stack.enter_context(grpc.insecure_channel(server.address, options))

    return limited


def refused(call):
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value


@pytest.mark.parametrize("limits", [{"keys": 0}, {"keys": MAX_KEYS + 1}, {"streams": "many"}])
def test_limits_that_are_none(store, limits):
    with pytest.raises(DatastreamError, match="limit"):
        datastream_grpc.serve(store, "127.0.0.1:0", limits=datastream_grpc.Limits(**limits))


def test_keys_and_patterns_of_a_request(limited, source):
    channel = limited(keys=2, patterns=2, pattern_chars=10)()
    for request in (
        {"keys": ["a", "b", "c"]},
        {"match": ["a*", "b*", "c*"]},
        {"match": ["aaaaaaaaa*b"]},
    ):
        error = refused(lambda r=request: next(subscribe(channel, **r)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "broader" in error.details()
    assert source.threads == []


def test_streams_of_a_connection_and_of_a_principal(limited):
    connect = limited(streams=2, principal_streams=3)
    one, two = connect(), connect()
    streams = [subscribe(one) for _ in range(2)]
    [next(stream) for stream in streams]
    error = refused(lambda: next(subscribe(one)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 streams of this connection" in error.details()
    streams.append(subscribe(two))
    next(streams[-1])
    assert "3 streams are open" in refused(lambda: next(subscribe(two))).details()
    streams[0].cancel()
    eventually(lambda: _begins(two), "room for another")


def _begins(channel):
    stream = subscribe(channel)
    try:
        next(stream)
    except grpc.RpcError:
        return False
    stream.cancel()
    return True


def test_connections_with_streams(limited):
    connect = limited(principal_connections=2)
    channels = [connect() for _ in range(3)]
    streams = [subscribe(channel) for channel in channels[:2]]
    [next(stream) for stream in streams]
    error = refused(lambda: next(subscribe(channels[2])))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 connections" in error.details()
    next(subscribe(channels[0]))
    streams[1].cancel()
    eventually(lambda: _begins(channels[2]), "room for another connection")


def test_more_connections_than_all_may_have_are_closed(stack, limited, store):
    store["k"] = 1
    connect = limited(connections=1)
    sync = "/datastream.DataService/Sync"
    first, second = connect(), connect()
    first.unary_unary(sync)(b"", timeout=TIMEOUT)
    error = refused(lambda: second.unary_unary(sync)(b"", timeout=TIMEOUT))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    first.close()
    second.unary_unary(sync)(b"", timeout=TIMEOUT, wait_for_ready=True)


def test_more_calls_than_all_may_make_are_refused_with_a_reason(stack, store):
    limits = datastream_grpc.Limits(calls=2)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", limits=limits))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    streams = [subscribe(channel) for _ in range(2)]
    [next(stream) for stream in streams]
    with pytest.raises(SourceUnavailable, match="2 calls run already"):
        remote.get("k")
    # Beyond twice as many, gRPC refuses by itself.
    server._inner._servicer._answering._running = -10
    streams += [subscribe(channel) for _ in range(2)]
    [next(stream) for stream in streams[2:]]
    with pytest.raises(SourceUnavailable, match="oncurrent"):
        remote.get("k")
    server._inner._servicer._answering._running = 4


def test_a_store_whose_stream_is_refused_comes_back(stack, store):
    limits = datastream_grpc.Limits(principal_streams=1)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", limits=limits))
    one = Recorder(stack.enter_context(datastream.open(f"grpc://{server.address}")))
    store["k"] = 1
    # Through its stream: what it was given first came by a call.
    one.wait_state({"k": b"1"})
    other = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    statuses = Statuses(other)
    recorder = Recorder(other)
    statuses.wait(State.STALE)
    assert any("streams are open" in str(status.error) for status in statuses.seen)
    one.dispose()
    store["k"] = 2
    recorder.wait_state({"k": b"2"})


def test_writes_a_second(limited, store):
    channel = limited(pushes=5)()
    call = channel.unary_unary("/datastream.DataService/PushUpdate")
    codes = []
    for number in range(30):
        try:
            call(pb.Data(key="k", value=b"%d" % number).SerializeToString(), timeout=TIMEOUT)
        except grpc.RpcError as error:
            codes.append(error.code())
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    push = channel.stream_stream(
        "/datastream.DataService/Push",
        request_serializer=pb.PushRequest.SerializeToString,
        response_deserializer=pb.PushResponse.FromString,
    )
    item = pb.WriteItem(data=pb.Data(key="k", value=b"last"))
    request = pb.PushRequest(writes=[pb.WriteRequest(writes=[item], id="1")])
    (answer,) = push(iter([request]), timeout=TIMEOUT)
    assert answer.answers[0].HasField("response")
    assert store.entry("k").value == b"last"


@pytest.mark.parametrize("of", ["stream_bytes", "principal_bytes"])
def test_what_waits_for_a_slow_reader_is_bounded_and_it_misses_nothing(limited, store, caplog, of):
    caplog.set_level("INFO", "datastream.grpc")
    channel = limited(**{of: 300_000})()
    store.put_many({f"k{n}": b"first" for n in range(200)})
    stream = subscribe(channel, deletes=True)
    state = {key: data.value for key, data in next(stream).data.items()}
    big = b"x" * 10_000
    for n in range(200):
        store.put(f"k{n}", big)
    store.delete("k7")
    store["last"] = b"last"
    eventually(lambda: "too far behind" in caplog.text, "the log line")
    message = pb.DataResponse()
    while "last" not in state or message.partial:
        message = next(stream)
        assert not message.initial
        assert not message.reset
        for key, data in message.data.items():
            if data.operation == pb.OPERATION_DELETE:
                state.pop(key, None)
            else:
                state[key] = data.value
    assert state == {key: entry.value for key, entry in store.snapshot().items()}
    stream.cancel()


def test_a_slow_reader_of_a_store_without_a_log_is_given_the_state(stack, caplog):
    caplog.set_level("INFO", "datastream.grpc")

    class Listed(MemorySource):
        features = MemorySource.features - {Feature.LOG}

        def read(self, selection, since):
            return super().read(selection, None)

    store = stack.enter_context(Store(Listed()))
    limits = datastream_grpc.Limits(stream_bytes=100_000)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", limits=limits))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    stream = subscribe(channel, deletes=True)
    next(stream)
    for n in range(200):
        store.put(f"k{n}", b"x" * 10_000)
    eventually(lambda: "too far behind" in caplog.text, "the log line")
    state = {}
    while len(state) < 200:
        message = next(stream)
        state = ({} if message.reset else state) | dict(message.data)
    stream.cancel()


def test_a_client_asks_for_all_where_it_wants_more_than_it_may_ask_for(stack, store):
    store.put_many({f"{n}/k": n for n in range(5)})
    limits = datastream_grpc.Limits(keys=2, patterns=2, pattern_chars=6)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", limits=limits))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    for selected in (
        {"match": ["1/*", "2/*", "3/*"]},
        {"match": "*/k*k*k"},
    ):
        assert remote.snapshot(**selected) == store.snapshot(**selected)
    recorder = Recorder(remote, "1/k", "2/k", "3/k")
    recorder.wait_state({"1/k": b"1", "2/k": b"2", "3/k": b"3"})
    store["3/k"] = 4
    recorder.wait_state({"1/k": b"1", "2/k": b"2", "3/k": b"4"})


@pytest.mark.parametrize("method", ["Push", "Subscribe"])
def test_every_kind_of_stream_counts(limited, method):
    connect = limited(streams=1)
    one = connect()
    held = subscribe(one)
    next(held)
    path = f"/datastream.DataService/{method}"
    if method == "Push":
        error = refused(lambda: list(one.stream_stream(path)(iter(()), timeout=TIMEOUT)))
    else:
        error = refused(lambda: list(one.unary_stream(path)(b"", timeout=TIMEOUT)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    held.cancel()


def test_what_requests_of_a_principal_take_is_limited(stack, store):
    limits = datastream_grpc.Limits(request_bytes=1 << 20)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", limits=limits))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    counted = server._inner._servicer.meter._asked
    large = {"keys": ["k"], "revisions": {"k": "x" * 300_000}}
    held = subscribe(channel, **large)
    next(held)
    many = [f"key {number}" for number in range(1_000)]
    for method in ("Subscribe", "Snapshot", "Sync", "Replay"):
        request = pb.DataRequest(keys=many)
        if method == "Replay":
            request = pb.ReplayRequest(keys=many)
        call = channel.unary_stream(f"/datastream.DataService/{method}")
        with pytest.raises(grpc.RpcError) as error:
            next(call(request.SerializeToString(), timeout=TIMEOUT))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, method
        assert "ask for less" in str(error.value.details())
    follow = channel.stream_stream(
        "/datastream.DataService/Follow",
        request_serializer=pb.FollowRequest.SerializeToString,
        response_deserializer=pb.FollowResponse.FromString,
    )
    adds = [pb.FollowRequest(watch=1, add=pb.DataRequest(**large))]
    (ended,) = follow(iter(adds), timeout=TIMEOUT)
    assert (ended.ended, ended.error) == (True, "SourceUnavailable")
    # Small ones do not count.
    few = subscribe(channel, keys=["k"])
    next(few)
    held.cancel()
    eventually(lambda: not counted, "the end of the large one")
    next(subscribe(channel, keys=many))
    eventually(lambda: len(counted) == 1, "the other one")
