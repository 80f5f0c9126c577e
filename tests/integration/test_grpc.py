"""`serve` and ``grpc://``: starting, stopping, errors, sizes, odd keys, lost connections."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import datastream_grpc
import grpc
import psutil
import pytest
from datastream_grpc import _status
from datastream_grpc._pb import service_pb2 as pb
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import datastream
from datastream import (
    Batch,
    DatastreamError,
    Denied,
    Entry,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    Operation,
    ReadOnly,
    RevisionConflict,
    SourceUnavailable,
    State,
    Store,
    StoreClosed,
    Unreadable,
    Unsupported,
)
from datastream.selection import escape
from datastream.source import Reading
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import (
    TIMEOUT,
    Child,
    Follower,
    Statuses,
    database,
    eventually,
)


@pytest.fixture
def store():
    with datastream.open("memory:") as store:
        yield store


@pytest.fixture
def server(store):
    with datastream_grpc.serve(store, "127.0.0.1:0") as server:
        yield server


@pytest.fixture
def remote(server):
    with datastream.open(f"grpc://{server.address}") as remote:
        yield remote


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


def raw(channel, method, response=pb.DataResponse):
    return channel.unary_unary(
        f"/datastream.DataService/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )


def subscribe(channel, **request):
    return channel.unary_stream(
        "/datastream.DataService/Subscribe",
        request_serializer=pb.DataRequest.SerializeToString,
        response_deserializer=pb.DataResponse.FromString,
    )(pb.DataRequest(**request), timeout=60)


# --- starting and stopping ---


def test_serve_returns_at_once_in_a_script_and_stop_leaves_no_thread():
    with Child("serve_script") as child:
        address = child.line()
        with datastream.open(f"grpc://{address}") as remote:
            remote["k"] = 1
            follower = Follower(remote)
            assert follower.state == {"k": b"1"}
            left = child.ask("stop").split()
        # What a process has one of: gRPC's poller, and the thread that closes what was dropped.
        assert {name for name in left if "poll_wrapper" not in name} <= {
            "MainThread",
            "Thread-1",
            "datastream-reaper",
        }
        assert child.wait() == 0


def test_serve_works_inside_a_running_loop(store):
    async def run():
        server = datastream_grpc.serve(store, "127.0.0.1:0")
        remote = await asyncio.to_thread(datastream.open, f"grpc://{server.address}")
        await asyncio.to_thread(remote.put, "k", 1)
        async with remote.awatch() as watch:
            assert (await asyncio.wait_for(anext(watch), TIMEOUT)).value == b"1"
            store["k"] = 2
            assert (await asyncio.wait_for(anext(watch), TIMEOUT)).value == b"2"
        await asyncio.to_thread(remote.close)
        await asyncio.to_thread(server.stop)

    asyncio.run(run())


def test_two_servers_in_one_process(stack, store):
    other = stack.enter_context(datastream.open("memory:"))
    servers = [
        stack.enter_context(datastream_grpc.serve(which, "127.0.0.1:0"))
        for which in (store, other, store)
    ]
    remotes = [stack.enter_context(datastream.open(f"grpc://{s.address}")) for s in servers]
    followers = [Follower(remote) for remote in remotes]
    remotes[0]["k"], remotes[1]["k"] = "first", "second"
    for follower, expected in zip(followers, (b"first", b"second", b"first"), strict=True):
        follower.wait_state({"k": expected})
    servers[0].stop()
    remotes[2]["k"] = remotes[1]["k"] = "still there"
    for follower in followers[1:]:
        follower.wait_state({"k": b"still there"})


def test_a_server_may_be_started_again_on_its_port(store):
    server = datastream_grpc.serve(store, "127.0.0.1:0")
    for _ in range(3):
        server.stop()
        server = datastream_grpc.serve(store, server.address)
    with datastream.open(f"grpc://{server.address}") as remote:
        remote["k"] = 1
    server.stop()


def test_stop_ends_streams_with_unavailable_and_frees_all(store):
    server = datastream_grpc.serve(store, "127.0.0.1:0")
    with grpc.insecure_channel(server.address) as channel:
        streams = [subscribe(channel) for _ in range(5)]
        for stream in streams:
            next(stream)
        waiting = threading.Thread(target=server.wait)
        waiting.start()
        assert not server.wait(0)
        server.stop()
        for stream in streams:
            with pytest.raises(grpc.RpcError) as error:
                next(stream)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        waiting.join(TIMEOUT)
        assert server.wait(0)
        server.stop()
    assert not store._core._publisher.routes
    # The store is the user's, and open.
    store["k"] = 1
    assert "datastream-grpc" not in {thread.name for thread in threading.enumerate()}


def test_stop_does_not_wait_for_clients_that_read_nothing(store):
    server = datastream_grpc.serve(store, "127.0.0.1:0")
    with grpc.insecure_channel(server.address) as channel:
        streams = [subscribe(channel) for _ in range(3)]
        for stream in streams:
            next(stream)
        for number in range(20):
            store.put_many({f"k/{key}": b"%0100000d" % number for key in range(10)})
        stopping = threading.Thread(target=server.stop, args=(1.0,))
        stopping.start()
        stopping.join(30)
        assert not stopping.is_alive()
        for stream in streams:
            with pytest.raises(grpc.RpcError) as error:
                list(stream)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not store._core._publisher.routes


def test_closing_the_served_store_ends_its_streams_with_unavailable(store, server, channel):
    stream = subscribe(channel)
    next(stream)
    store.close()
    with pytest.raises(grpc.RpcError) as error:
        next(stream)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "closed" in error.value.details()


@pytest.mark.parametrize("kind", ["server", "plain"])
def test_a_port_in_use_is_an_oserror_that_names_it(store, server, kind):
    address = server.address
    with ExitStack() as stack:
        if kind == "plain":
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=re.escape(address)):
            datastream_grpc.serve(store, address)
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        datastream_grpc.serve(store, "192.0.2.1:0", insecure=True)


@pytest.mark.parametrize("prefix", ["unix:", "unix://", "unix:///"])
def test_a_unix_socket(store, tmp_path, prefix):
    place = f"{prefix}{tmp_path / 'socket'}"
    with (
        datastream_grpc.serve(store, place),
        datastream.open(f"grpc:{place}") as remote,
    ):
        remote["k"] = 1
        assert Follower(remote).state == {"k": b"1"}


@pytest.mark.skipif(sys.platform != "linux", reason="there are no abstract sockets")
def test_an_abstract_socket_has_its_own_name(store, tmp_path):
    address = f"unix-abstract:{tmp_path}"
    with datastream_grpc.serve(store, address) as server:
        assert server.address == address


def test_a_unix_socket_is_taken_from_nobody(store, stack, tmp_path):
    path = tmp_path / "socket"
    with datastream_grpc.serve(store, f"unix:{path}"):
        remote = stack.enter_context(datastream.open(f"grpc:unix:{path}"))
        remote["k"] = 1
        for address in (f"unix:{path}", f"unix://{path}"):
            with pytest.raises(OSError, match="in use"):
                datastream_grpc.serve(store, address)
        assert remote["k"] == 1
    path.write_text("somebody's")
    for address, reason in (
        (f"unix:{path}", "no socket"),
        (f"unix:{tmp_path}/nothing/socket", "no such directory"),
        (f"unix:{tmp_path / ('x' * 120)}", "107 bytes"),
        ("unix:", "no path"),
        # A client of gRPC's C core cannot connect to it.
        (f"unix:{tmp_path}/a,b", "comma"),
    ):
        with pytest.raises(OSError, match=reason):
            datastream_grpc.serve(store, address)
    assert path.read_text() == "somebody's"


def test_a_unix_socket_that_a_killed_server_left_is_taken(store, tmp_path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "socket"))
    with datastream_grpc.serve(store, f"unix:{tmp_path}/socket"):
        with datastream.open(f"grpc:unix:{tmp_path}/socket") as remote:
            remote["k"] = 1
    assert store["k"] == 1


@pytest.mark.parametrize(
    "url",
    [
        "grpc://", "grpc:", "grpc:///x", "grpc://host:1/path", "grpc://host", "grpc://a b:1",
        "grpc:unix:", f"grpc:unix:/{'x' * 120}", "grpc:unix:/run/a,b",
    ],
)  # fmt: skip
def test_urls_that_name_no_server(url):
    with pytest.raises(DatastreamError, match="names no server"):
        datastream.open(url)


# --- health, reflection, log ---


def test_health_follows_the_backend(tmp_path, stack):
    path, away = tmp_path / "store.db", tmp_path / "away"
    with database(path, "CREATE TABLE data (key TEXT PRIMARY KEY, value)"):
        pass
    store = stack.enter_context(datastream.open(f"sqlite:{path}"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    follower = Follower(store)
    store["k"] = 1
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse
    for service in ("", "datastream.DataService"):
        changes = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        assert next(changes).status == serving.SERVING
        path.replace(away)
        assert next(changes).status == serving.NOT_SERVING
        away.replace(path)
        assert next(changes).status == serving.SERVING
        changes.cancel()
    assert follower.state == {"k": b"1"}


def test_health_is_red_when_nobody_watches_too(tmp_path, stack):
    """A failing call is enough to know."""
    path = tmp_path / "store.db"
    with database(path, "CREATE TABLE data (key TEXT PRIMARY KEY, value)"):
        pass
    store = stack.enter_context(datastream.open(f"sqlite:{path}"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    request = health_pb2.HealthCheckRequest()
    changes = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=TIMEOUT)
    serving = health_pb2.HealthCheckResponse
    assert next(changes).status == serving.SERVING
    good = path.read_bytes()
    with path.open("r+b") as file:
        file.write(b"no database" * 100)
    with pytest.raises(grpc.RpcError):
        raw(channel, "Sync")(pb.DataRequest(), timeout=TIMEOUT)
    assert next(changes).status == serving.NOT_SERVING
    path.write_bytes(good)
    raw(channel, "Sync")(pb.DataRequest(), timeout=TIMEOUT)
    assert next(changes).status == serving.SERVING
    changes.cancel()


class Away(MemorySource):
    """Its backend is away until a test says otherwise."""

    instant = False

    def __init__(self):
        super().__init__()
        self.is_away = True

    def get(self, key):
        if self.is_away:
            raise SourceUnavailable("away")
        return super().get(key)


def test_a_server_finds_out_by_itself_whether_its_backend_answers(stack):
    """With nobody watching, and no call from a balancer that goes by the health."""
    source = Away()
    store = stack.enter_context(Store(source))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    changes = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), timeout=TIMEOUT
    )
    serving = health_pb2.HealthCheckResponse
    assert next(changes).status == serving.NOT_SERVING
    assert store.status.current.state is State.STALE
    source.is_away = False
    assert next(changes).status == serving.SERVING
    changes.cancel()


def test_a_backend_that_hangs_delays_serve_by_a_moment_only(stack):
    gate = threading.Event()
    source = Away()
    source.get = lambda key: gate.wait(TIMEOUT) and None
    store = stack.enter_context(Store(source))
    stack.callback(gate.set)
    begin = time.monotonic()
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    assert time.monotonic() - begin < TIMEOUT / 2
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    check = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(), timeout=TIMEOUT
    )
    assert check.status == health_pb2.HealthCheckResponse.NOT_SERVING
    gate.set()


def test_reflection_lists_the_service(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest
    listed, described = stub.ServerReflectionInfo(
        iter(
            [
                request(list_services=""),
                request(file_containing_symbol="datastream.DataService"),
            ]
        ),
        timeout=TIMEOUT,
    )
    names = {service.name for service in listed.list_services_response.service}
    assert {"datastream.DataService", "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


def test_every_call_is_logged_with_its_outcome(store, channel, caplog):
    with caplog.at_level(logging.INFO, logger="datastream.grpc"):
        raw(channel, "PushUpdate", Empty)(pb.Data(key="k", value=b"secret-value"), timeout=TIMEOUT)
        with pytest.raises(grpc.RpcError):
            raw(channel, "PushUpdate", Empty)(pb.Data(key="k/"), timeout=TIMEOUT)
        stream = subscribe(channel)
        next(stream)
        stream.cancel()
        eventually(lambda: "Subscribe" in caplog.text, "the line of the stream")
    lines = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"PushUpdate ipv4:127\.0\.0\.1:\d+ [\d.]+ ms OK", lines[0])
    assert re.fullmatch(r"PushUpdate ipv4:\S+ [\d.]+ ms INVALID_ARGUMENT", lines[1])
    assert re.fullmatch(r"Subscribe ipv4:\S+ [\d.]+ ms CANCELLED", lines[2])
    assert "secret-value" not in caplog.text


def test_clients_that_leave_in_the_middle_cost_a_line_for_debugging_only(store, server, caplog):
    store.put_many({f"k{number}": os.urandom(1_000_000) for number in range(10)})
    options = [("grpc.use_local_subchannel_pool", 1)]
    with caplog.at_level(logging.INFO):
        for _ in range(30):
            with grpc.insecure_channel(server.address, options) as channel:
                stream = subscribe(channel)
                next(stream)
                stream.cancel()
        eventually(lambda: not store._core._publisher.routes, "all are released")
        eventually(lambda: caplog.text.count(" CANCELLED") == 30, "their lines")
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("method", ["Sync", "PushUpdate", "Write", "ListCapabilities", "Subscribe"])
def test_bytes_that_are_no_message_are_an_invalid_argument_and_no_traceback(
    channel, caplog, method
):
    make = channel.unary_stream if method == "Subscribe" else channel.unary_unary
    with pytest.raises(grpc.RpcError) as error:
        list(make(f"/datastream.DataService/{method}")(b"\xff\xff", timeout=TIMEOUT))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "protobuf" not in error.value.details()
    assert "Traceback" not in caplog.text


# --- errors ---


class Failing(MemorySource):
    def __init__(self):
        super().__init__()
        self.error = None

    def read(self, selection, since):
        if self.error:
            raise self.error
        return super().read(selection, since)

    def write(self, writes):
        if self.error:
            raise self.error
        return super().write(writes)


class OwnError(DatastreamError):
    """A third party's."""


ERRORS = [
    (KeyNotFound("what happened"), KeyNotFound, "NOT_FOUND"),
    (InvalidKey("what happened"), InvalidKey, "INVALID_ARGUMENT"),
    (InvalidValue("what happened"), InvalidValue, "INVALID_ARGUMENT"),
    (RevisionConflict("what happened"), RevisionConflict, "ABORTED"),
    (ReadOnly("what happened"), ReadOnly, "FAILED_PRECONDITION"),
    (Unsupported("what happened"), Unsupported, "UNIMPLEMENTED"),
    (SourceUnavailable("what happened"), SourceUnavailable, "UNAVAILABLE"),
    (StoreClosed("what happened"), SourceUnavailable, "UNAVAILABLE"),
    (Denied("what happened"), Denied, "PERMISSION_DENIED"),
    (Unreadable("what happened"), Unreadable, "PERMISSION_DENIED"),
    (DatastreamError("what happened"), DatastreamError, "INTERNAL"),
    (OwnError("what happened"), DatastreamError, "INTERNAL"),
]


def test_every_error_class_is_in_the_table():
    listed = {type(error) for error, _, _ in ERRORS} - {OwnError}
    public = {
        value
        for value in vars(datastream).values()
        if isinstance(value, type) and issubclass(value, DatastreamError)
    }
    assert listed == public == set(_status.CODES)


@pytest.mark.parametrize(("error", "expected", "code"), ERRORS)
def test_every_error_makes_the_round_trip(stack, error, expected, code):
    source = Failing()
    store = stack.enter_context(Store(source))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    source.error = error
    for call in (lambda: remote.snapshot("k"), lambda: remote.put("k", 1)):
        with pytest.raises(DatastreamError) as caught:
            call()
        assert type(caught.value) is expected
        assert "what happened" in str(caught.value)
        assert server.address in str(caught.value)
    for method, request in (("Sync", pb.DataRequest()), ("PushUpdate", pb.Data(key="k"))):
        with pytest.raises(grpc.RpcError) as refused:
            raw(channel, method)(request, timeout=TIMEOUT)
        assert refused.value.code().name == code


def test_an_error_that_is_not_ours_tells_the_client_nothing(stack, caplog):
    source = Failing()
    store = stack.enter_context(Store(source))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    source.error = RuntimeError("password=hunter2 of rack7")
    with pytest.raises(DatastreamError) as error:
        remote["k"]
    assert "rack7" not in str(error.value)
    assert "rack7" in caplog.text
    assert "hunter2" not in str(error.value) + caplog.text


@pytest.mark.parametrize("key", ["k" * 10_000, "é" * 5_000, "☃" * 5_000, "\x01" * 10_000])
def test_errors_about_long_keys_keep_their_class(remote, key):
    """gRPC takes some kilobytes of status text."""
    remote[key] = 1
    with pytest.raises(RevisionConflict):
        remote.put(key, 2, expect="other")
    with pytest.raises(KeyNotFound):
        remote.delete(key + "2")
    with pytest.raises(RevisionConflict):
        remote.put(key, 2, expect="x" * 20_000)
    with pytest.raises(InvalidKey):
        raw_put(remote, key + "/")
    assert remote[key] == 1


def raw_put(remote, key):
    from datastream.source import Write

    remote._core.write([Write(key, b"")])


# --- clients that go ---


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_client_is_released_promptly(store, server, number):
    with Child("client", server.address, "k") as child:
        store["k"] = 1
        assert child.line() == "k"
        eventually(lambda: store._core._publisher.routes, "its stream")
        child.signal(number)
        child.wait()
        eventually(lambda: not store._core._publisher.routes, "its watch is released")


def test_a_cancelled_stream_is_released_though_it_never_read(store, channel):
    for _ in range(20):
        stream = subscribe(channel)
        next(stream)
        store.put_many({f"k/{number}": os.urandom(50_000) for number in range(20)})
        stream.cancel()
    eventually(lambda: not store._core._publisher.routes, "all are released")


def test_one_stuck_store_does_not_hold_up_another_server(stack):
    """Blocking calls of one store must not use up the threads of all."""
    gate = threading.Event()
    stack.callback(gate.set)

    class Slow(MemorySource):
        instant = False

        def read(self, selection, since):
            gate.wait(TIMEOUT)
            return super().read(selection, since)

    class Quick(MemorySource):
        instant = False

    slow, quick = stack.enter_context(Store(Slow())), stack.enter_context(Store(Quick()))
    stack.callback(gate.set)
    servers = [
        stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0")) for store in (slow, quick)
    ]
    channel = stack.enter_context(grpc.insecure_channel(servers[0].address))
    stack.callback(gate.set)
    calls = [raw(channel, "Sync").future(pb.DataRequest(), timeout=TIMEOUT) for _ in range(40)]
    streams = [subscribe(channel) for _ in range(40)]
    remote = stack.enter_context(datastream.open(f"grpc://{servers[1].address}", timeout=5.0))
    stack.callback(gate.set)
    for number in range(20):
        remote["k"] = number
        assert remote["k"] == number
    gate.set()
    for call in calls:
        call.result(TIMEOUT)
    for stream in streams:
        next(stream)
        stream.cancel()


def test_a_client_that_reads_nothing_holds_up_no_other(store, channel, remote):
    stuck = subscribe(channel)
    next(stuck)
    follower = Follower(remote)
    for number in range(50):
        state = {f"k/{key}": b"%0100000d" % number for key in range(10)}
        store.put_many(state)
    follower.wait_state(state)
    stuck.cancel()


# --- sizes, keys, values ---


def test_large_values(remote, store):
    follower = Follower(remote, "big")
    value = os.urandom(3 << 20)
    remote["big"] = value
    assert store["big"] == value
    assert remote["big"] == value
    follower.wait_key("big", value)
    for write in (
        lambda: remote.put("big", b"x" * (5 << 20)),
        lambda: remote.put("other", b"x" * (4 << 20)),
        lambda: remote.put_many({"small": 1, "other": b"x" * (5 << 20)}),
    ):
        with pytest.raises(InvalidValue, match="max_message_size"):
            write()
    assert list(store) == ["big"]
    assert store["big"] == value


def test_the_limit_is_a_setting(store):
    with (
        datastream_grpc.serve(store, "127.0.0.1:0", max_message_size=20 << 20) as server,
        datastream.open(f"grpc://{server.address}", max_message_size=1 << 20) as small,
        datastream.open(f"grpc://{server.address}") as remote,
    ):
        remote["k"] = b"x" * (10 << 20)
        assert len(remote["k"]) == 10 << 20
        with pytest.raises(InvalidValue, match="max_message_size"):
            small["k"]
        small["other"] = 1
        assert small["other"] == 1


@pytest.mark.parametrize("since", [False, True])
def test_a_large_batch_arrives_split_and_becomes_one_again(store, server, channel, remote, since):
    before = store.snapshot_batch().cursor
    big = {f"k/{number}": b"%0100000d" % number for number in range(120)}
    store.put_many(big)
    stream = subscribe(channel, since=before if since else "")
    messages = [next(stream)]
    while messages[-1].partial:
        messages.append(next(stream))
    assert len(messages) > 5
    assert max(len(message.SerializeToString()) for message in messages) < 2 << 20
    # For clients that read part by part: only the last has the cursor, only the first the marks.
    assert [bool(message.cursor) for message in messages] == [False] * (len(messages) - 1) + [True]
    assert [message.initial for message in messages] == [True] + [False] * (len(messages) - 1)
    assert {key for message in messages for key in message.data} == set(big)
    stream.cancel()

    batches, arrived = [], threading.Semaphore(0)

    def take(batch):
        batches.append(batch)
        arrived.release()

    remote.watch_batches(since=before if since else None).subscribe(take)
    assert arrived.acquire(timeout=TIMEOUT)
    assert batches[0].initial
    assert {e.key: e.value for e in batches[0].entries} == big
    later = {key: b"new" + value for key, value in big.items()}
    store.put_many(later)
    assert arrived.acquire(timeout=TIMEOUT)
    assert {e.key: e.value for e in batches[1].entries} == later
    assert len(batches) == 2


KEYS = [
    "k" * 10_000,
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "\x01\x1f\x7f\n\r\t",
    "../x",
    "/absolute",
    " ",
    " leading and trailing ",
    "a//b",
    ".",
    "*",
    "a*/b",
    "😀" * 100,
    "\u202e",
    "key:with?all&sorts=of#signs%00",
]


def test_odd_keys_are_kept_apart(remote, store, channel):
    # A "*" in a key is said by a pattern, to tell it from a pattern given as a key.
    followers = [
        Follower(remote, match=escape(key)) if "*" in key else Follower(remote, key) for key in KEYS
    ]
    named = [key for key in KEYS if "*" not in key]
    everything = Follower(remote)
    expected = {}
    for number, key in enumerate(KEYS):
        remote[key] = number
        expected[key] = b"%d" % number
    assert {key: entry.value for key, entry in store.snapshot().items()} == expected
    found = remote.snapshot(*named, match=[escape(key) for key in KEYS if "*" in key])
    assert {key: entry.value for key, entry in found.items()} == expected
    assert {key: remote.entry(key).value for key in KEYS} == expected
    # On the wire it is a character like any other.
    answer = raw(channel, "Sync")(pb.DataRequest(keys=KEYS), timeout=TIMEOUT)
    assert {key: data.value for key, data in answer.data.items()} == expected
    everything.wait_state(expected)
    for follower, key in zip(followers, KEYS, strict=True):
        follower.wait_state({key: expected[key]})
    for key in KEYS:
        remote.delete(key)
    everything.wait_state({})
    for follower in followers:
        follower.wait_state({})


@pytest.mark.parametrize("key", ["", "a/", "a\0b", "\ud800", "k" * 20_000])
def test_bad_keys_are_refused_with_nothing_written(remote, store, key):
    with pytest.raises(InvalidKey):
        remote[key] = 1
    with pytest.raises(InvalidKey):
        remote.put_many({"good": 1, key: 1})
    assert len(store) == 0


@pytest.mark.parametrize(
    ("value", "value_type"),
    [(b"", "int"), (b"", "json"), (b"\xff\xfe", "str"), (b"{", "application/json"), (b"x", "bool")],
)
def test_a_value_that_is_not_what_its_type_says_fails_its_reader_only(
    remote, store, value, value_type
):
    follower = Follower(remote)
    remote.put("bad", value, value_type=value_type)
    remote["good"] = 1
    follower.wait_state({"bad": value, "good": b"1"})
    with pytest.raises(InvalidValue, match="'bad'"):
        remote["bad"]
    assert remote.entry("bad").value == value
    assert remote["good"] == 1


def test_empty_values(remote):
    follower = Follower(remote)
    remote["bytes"], remote["str"] = b"", ""
    assert dict(remote) == {"bytes": b"", "str": ""}
    follower.wait_state({"bytes": b"", "str": b""})
    remote["bytes"] = b"x"
    remote["bytes"] = b""
    follower.wait(lambda state: state["bytes"] == b"")


class Odd(MemorySource):
    """A backend whose other programs write what no library would."""

    def __init__(self):
        super().__init__()
        self.odd = None

    def read(self, selection, since):
        reading = super().read(selection, since)
        if self.odd is None or (since is not None and not reading.entries):
            return reading
        return Reading([*reading.entries, self.odd], reading.position, reading.complete)


@pytest.mark.parametrize(
    "odd",
    [
        Entry("odd", b"1", "\udcff", None, "1"),
        Entry("odd", b"1", "int", datastream.entry.datetime.max.replace(
            tzinfo=datastream.entry.datetime.strptime("-1400", "%z").tzinfo), "1"),
    ],
    ids=["type", "time"],
)  # fmt: skip
def test_an_entry_that_the_wire_cannot_carry_as_it_is_ends_no_stream(stack, odd):
    source = Odd()
    store = stack.enter_context(Store(source))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    follower = Follower(remote)
    source.odd = odd
    store["good"] = 1
    follower.wait(lambda state: state.get("good") == b"1")
    assert remote["good"] == 1


# --- lost and found ---


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_down_at_first_is_waited_for(store):
    port = free_port()
    with datastream.open(f"grpc://127.0.0.1:{port}") as remote:
        statuses = Statuses(remote)
        follower, batches = Follower(remote), []
        remote.watch_batches("k").subscribe(batches.append)
        assert follower.entries == []
        error = statuses.wait(State.STALE).error
        assert isinstance(error, SourceUnavailable)
        assert str(port) in str(error)
        for call in (lambda: remote["k"], lambda: remote.put("k", 1), lambda: list(remote)):
            with pytest.raises(SourceUnavailable, match=str(port)):
                call()
        store["k"] = 1
        with datastream_grpc.serve(store, f"127.0.0.1:{port}"):
            follower.wait_state({"k": b"1"})
            statuses.wait(State.READY)
            store["k"] = 2
            follower.wait_state({"k": b"2"})
            eventually(lambda: len(batches) == 2, "two batches")
            assert [batch.initial for batch in batches] == [True, False]
            remote.close()


def test_a_subscription_disposed_while_the_server_is_down_stays_away(store):
    port = free_port()
    with datastream.open(f"grpc://127.0.0.1:{port}") as remote:
        statuses = Statuses(remote)
        follower = Follower(remote)
        kept = Follower(remote, "k")
        follower.dispose()
        statuses.wait(State.STALE)
        store["k"] = 1
        with datastream_grpc.serve(store, f"127.0.0.1:{port}"):
            kept.wait_state({"k": b"1"})
            assert follower.entries == []
            remote.close()


def test_a_server_restarted_with_another_epoch_emits_only_differences():
    """A memory store behind it is a new one: nothing of the old cursor is known there."""
    with datastream.open("memory:") as first, datastream.open("memory:") as second:
        first.put_many({"same": 1, "changed": 1, "gone": 1})
        server = datastream_grpc.serve(first, "127.0.0.1:0")
        with datastream.open(f"grpc://{server.address}") as remote:
            follower, statuses, batches = Follower(remote), Statuses(remote), []
            remote.watch_batches().subscribe(batches.append)
            first["warm"] = 1
            follower.wait_state({"same": b"1", "changed": b"1", "gone": b"1", "warm": b"1"})
            server.stop()
            statuses.wait(State.STALE)
            for key, value in (("same", 1), ("changed", 2), ("new", 1), ("warm", 1)):
                # As often as before, so that numbers alone would tell no difference.
                second[key] = value
            server = datastream_grpc.serve(second, server.address)
            follower.wait_state({"same": b"1", "changed": b"2", "new": b"1", "warm": b"1"})
            statuses.wait(State.READY)
            assert not any(batch.reset for batch in batches)
            operations = {e.key: e.operation for e in batches[-1].entries}
            assert operations["gone"] is Operation.DELETE
            remote.close()
        server.stop()


def test_a_restarted_server_over_the_same_file_repeats_nothing(tmp_path):
    url = f"sqlite:{tmp_path / 'store.db'}"
    with datastream.open(url) as writer:
        server = Child("server", url, "127.0.0.1:0")
        address = server.line()
        with datastream.open(f"grpc://{address}") as remote:
            follower, statuses = Follower(remote), Statuses(remote)
            writer.put_many({"same": 1, "changed": 1, "gone": 1})
            follower.wait_state({"same": b"1", "changed": b"1", "gone": b"1"})
            server.kill()
            statuses.wait(State.STALE)
            writer["changed"] = 2
            writer.delete("gone")
            with Child("server", url, address) as server:
                assert server.line() == address
                follower.wait_state({"same": b"1", "changed": b"2"})
                last = [(e.key, e.operation.value) for e in follower.entries[3:]]
                assert sorted(last) == [("changed", "PUT"), ("gone", "DELETE")]
                remote.close()


def resumed(remote, since):
    batches = []
    remote.watch_batches(since=since).subscribe(batches.append).dispose()
    return batches[0]


def test_resuming_with_a_cursor_over_the_wire(store, remote):
    store.put_many({"same": 1, "changed": 1, "gone": 1})
    batches = []
    remote.watch_batches().subscribe(batches.append).dispose()
    cursor = batches[0].cursor
    assert cursor == remote.snapshot_batch().cursor
    assert resumed(remote, cursor) == Batch((), cursor, initial=True, reset=False)
    store["changed"] = 2
    store.delete("gone")
    batch = resumed(remote, cursor)
    assert batch.initial
    assert not batch.reset
    found = {entry.key: entry.operation for entry in batch.entries}
    assert found == {"changed": Operation.PUT, "gone": Operation.DELETE}


@pytest.mark.parametrize("cursor", ["other:5", "nonsense", "☃", "x" * 5_000])
def test_a_cursor_of_another_epoch_gives_a_reset_over_the_wire(store, remote, cursor):
    store.put_many({"a": 1, "b": 1})
    batch = resumed(remote, cursor)
    assert batch.reset
    assert batch.initial
    assert {entry.key: entry.value for entry in batch.entries} == {"a": b"1", "b": b"1"}


def test_resuming_with_revisions_over_the_wire(store, remote):
    store.put_many({"same": 1, "changed": 1, "gone": 1})
    revisions = {key: entry.revision for key, entry in remote.snapshot().items()}
    store.put_many({"changed": 2, "new": 1})
    store.delete("gone")
    batch = resumed(remote, {**revisions, "never": "1"})
    found = {entry.key: entry.operation for entry in batch.entries}
    assert found == {
        "changed": Operation.PUT,
        "new": Operation.PUT,
        "gone": Operation.DELETE,
        "never": Operation.DELETE,
    }
    assert not batch.reset


def test_the_raw_stream_resumes_with_deletes_only_for_who_asks(store, channel):
    store.put_many({"a": 1, "b": 1})
    stream = subscribe(channel, once=True)
    cursor = next(stream).cursor
    assert list(stream) == []
    store.delete("a")
    asked = next(subscribe(channel, since=cursor, deletes=True, once=True))
    assert {k: d.operation for k, d in asked.data.items()} == {"a": pb.OPERATION_DELETE}
    plain = next(subscribe(channel, since=cursor, once=True))
    assert plain.initial
    assert not plain.data


def test_a_resumed_reader_of_some_keys_does_not_cut_off_the_others(store, remote):
    """All share one stream, which must go on for everybody's keys."""
    everything, other = Follower(remote), Follower(remote, "other")
    store.put_many({"k": 1, "other": 1})
    everything.wait_state({"k": b"1", "other": b"1"})
    other.wait_state({"other": b"1"})
    batches = []
    for number in range(10):
        cursor = remote.snapshot_batch().cursor
        remote.watch_batches("k", since=cursor).subscribe(batches.append)
        # Whatever is still on its way has arrived: nothing else wakes the reader by chance.
        threading.Event().wait(0.1)
        store["other"] = number
        everything.wait_key("other", b"%d" % number)
        other.wait_key("other", b"%d" % number)


@pytest.mark.chaos
def test_a_late_subscriber_never_goes_back(stack, store, server):
    """A fresh answer must not be followed by what is still under way in the shared stream."""
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    store.put_many({"k": 0, "gone": 0})
    stop, problems = threading.Event(), []

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            store.put_many({"k": number, "other": number})

    def watcher():
        last = [-1]

        def take(entry):
            if entry.decode() < last[0]:
                problems.append((last[0], entry.decode()))
            last[0] = entry.decode()

        return take

    first = remote.watch("k").subscribe(watcher())
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        try:
            for _ in range(40):
                subscription = remote.watch("k").subscribe(watcher())
                remote.flush(0.01)
                subscription.dispose()
        finally:
            stop.set()
        writing.result(TIMEOUT)
    first.dispose()
    assert problems == []


class Lagging:
    """A server whose first stream is late: it answers questions with what it has not sent yet."""

    def __init__(self):
        self.current, self.sent = 1, threading.Event()
        self.executor = ThreadPoolExecutor(8)
        self.server = grpc.server(self.executor)
        self.streams = 0
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers = {
            "Sync": unary(lambda request, _: self.state(), pb.DataRequest.FromString, _bytes),
            "Subscribe": stream(self.subscribe, pb.DataRequest.FromString, _bytes),
        }
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("datastream.DataService", handlers),)
        )
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def state(self, number=None, initial=True):
        number = number or self.current
        data = pb.Data(key="k", value=b"%d" % number, value_type="int", revision=f"r{number}")
        return pb.DataResponse(data={"k": data}, cursor=f"e:{number}", initial=initial)

    def subscribe(self, request, context):
        self.streams += 1
        first = self.streams == 1
        yield self.state()
        if first:
            self.sent.wait(TIMEOUT)
            yield self.state(2, initial=False)
            yield self.state(3, initial=False)
        while context.is_active():
            threading.Event().wait(0.05)

    def close(self):
        self.sent.set()
        self.server.stop(0).wait(TIMEOUT)
        self.executor.shutdown()


def _bytes(message):
    return message.SerializeToString()


@pytest.mark.chaos
def test_a_late_subscriber_of_a_late_stream_never_goes_back(stack):
    server = Lagging()
    stack.callback(server.close)
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    first = Follower(remote, "k")
    eventually(lambda: server.streams == 1, "the stream")
    server.current = 3
    second = Follower(remote, "k")
    assert [entry.decode() for entry in second.entries] == [3]
    server.sent.set()
    first.wait_key("k", b"3")
    threading.Event().wait(0.2)
    assert [entry.decode() for entry in second.entries] == [3]
    numbers = [entry.decode() for entry in first.entries]
    assert numbers == sorted(set(numbers))


def test_an_own_put_is_offered_before_it_returns_though_others_write_the_same_key(stack, store):
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    store["k"] = 0
    follower = Follower(remote, "k")
    stop = threading.Event()

    def write():
        while not stop.is_set():
            entry = store.entry("k")
            try:
                store.put("k", entry.decode() + 1, expect=entry.revision)
            except RevisionConflict:
                continue
            stop.wait(0.001)

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        try:
            won = 0
            for _ in range(300):
                entry = remote.entry("k")
                number = entry.decode() + 1
                try:
                    remote.put("k", number, expect=entry.revision)
                except RevisionConflict:
                    continue
                won += 1
                assert remote.flush(TIMEOUT)
                assert int(follower.state["k"]) >= number
                if won == 30:
                    break
        finally:
            stop.set()
        writing.result(TIMEOUT)
    assert won


def test_a_remote_store_leaves_no_socket_behind(store, server):
    process = psutil.Process()
    port = int(server.address.rpartition(":")[2])

    def connections():
        return [c for c in process.net_connections("tcp") if c.raddr and c.raddr.port == port]

    for _ in range(5):
        with datastream.open(f"grpc://{server.address}") as remote:
            Follower(remote)
            remote["k"] = 1
            assert connections()
    eventually(lambda: not connections(), "the sockets are closed")


def test_a_chain_of_servers(stack, store, server):
    """A store of a store of a store, all in one process."""
    address = server.address
    for _ in range(2):
        middle = stack.enter_context(datastream.open(f"grpc://{address}"))
        address = stack.enter_context(datastream_grpc.serve(middle, "127.0.0.1:0")).address
    last = stack.enter_context(datastream.open(f"grpc://{address}"))
    follower = Follower(last)
    for number in range(20):
        last["k"] = number
        follower.wait_key("k", b"%d" % number)
    assert store["k"] == 19
    store.delete("k")
    follower.wait_state({})
    with pytest.raises(RevisionConflict):
        last.put("k", 1, expect="other")
