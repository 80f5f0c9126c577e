"""Hostile requests: malformed, huge, half-open; a server answers each, and goes on serving others.

What a search has found is kept in ``corpus/grpc_requests.txt``: a method and a request in hex.
"""

from __future__ import annotations

import fcntl
import random
import resource
import socket
import termios
import threading
from array import array
from contextlib import closing, suppress
from pathlib import Path
from time import perf_counter

import datastream_grpc
import grpc
import pytest
from datastream_grpc import _open_files, _open_streams, _revoking
from datastream_grpc._pb import service_pb2 as pb
from grpc_health.v1 import health_pb2, health_pb2_grpc

import datastream
from datastream import SourceUnavailable, Store
from datastream.sources.memory import MemorySource
from tests.bench.raw_client import Connection
from tests.integration._programs.tools import TIMEOUT, Child, eventually

CORPUS = Path(__file__).parent / "corpus" / "grpc_requests.txt"
SEARCH = 4_000
"""Requests that a search makes."""
HALF_OPEN = 10_000
UNARY = ("ListCapabilities", "Sync", "PushUpdate", "Write", "Describe", "Refresh")
STREAMS = ("Snapshot", "Subscribe", "History", "Replay")
FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)
HOSTILE_KEYS = [
    "",
    "/",
    "a/",
    "*",
    "**/*",
    "a\0",
    "k" * 20_000,
    "../x",
    "\u202e",
    "[",
    "{a}",
    "\ud7ff",
]
PATTERNS = [
    "**a**a**b",
    "*" * 65,
    "[",
    "{a,b}",
    "**/" * 60 + "x",
    "?" * 1000,
    "",
    "a" * 16_000 + "*",
]


@pytest.fixture
def store(stack):
    store = stack.enter_context(datastream.open("memory:"))
    store.put_many({"a": 1, "fx/USD": 2, "a" * 10_000: 3})
    return store


@pytest.fixture
def connect(stack, server):
    options = [("grpc.use_local_subchannel_pool", 1)]
    return lambda: stack.enter_context(grpc.insecure_channel(server.address, options))


def outcome(channel, method, request):
    """How one call ends, as far as it does within some messages."""
    path = f"/datastream.DataService/{method}"
    try:
        if method in UNARY:
            channel.unary_unary(path)(request, timeout=TIMEOUT)
        elif method == "Push":
            list(channel.stream_stream(path)(iter([request, request]), timeout=TIMEOUT))
        else:
            if method == "Follow":
                call = channel.stream_stream(path)(iter([request]), timeout=TIMEOUT)
            else:
                call = channel.unary_stream(path)(request, timeout=TIMEOUT)
            next(call, None)
            call.cancel()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def check(channel, method, request, caplog):
    code = outcome(channel, method, request)
    faults = [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
    assert code not in FAULTS, f"{code}; keep it: {method} {request.hex()}"
    assert not faults, f"{faults[0].getMessage()}; keep it: {method} {request.hex()}"


def test_what_was_found_before(connect, store, caplog):
    channel = connect()
    for line in CORPUS.read_text().splitlines():
        method, _, request = line.partition(" ")
        check(channel, method, bytes.fromhex(request), caplog)
    assert store["a"] == 1


def seeds():
    data = pb.Data(key="fx/USD", value=b"1", value_type="int", revision="1", operation=2)
    data.updated_at.seconds = 1 << 40
    yield from (("Write", pb.WriteRequest(writes=[pb.WriteItem(data=data, expect="*")], id="x")),)
    yield "PushUpdate", data
    yield "Follow", pb.FollowRequest(watch=1, add=pb.DataRequest(keys=["a"], deletes=True))
    yield "Follow", pb.FollowRequest(watch=1 << 63, remove=True)
    yield "Push", pb.PushRequest(writes=[pb.WriteRequest(writes=[pb.WriteItem(data=data)], id="1")])
    for key in HOSTILE_KEYS:
        yield "PushUpdate", pb.Data(key=key, value=b"1", value_type="t" * len(key))
        yield "History", pb.HistoryRequest(key=key, at=key)
        for method in ("Sync", "Snapshot", "Subscribe"):
            revisions = {key: "\U0010ffff"}
            yield method, pb.DataRequest(keys=[key], since=key, revisions=revisions, at=key[:9])
    for pattern in PATTERNS:
        for method in ("Sync", "Snapshot", "Subscribe"):
            yield (
                method,
                pb.DataRequest(match=[pattern, *PATTERNS], lacking=[pattern], deletes=True),
            )
        yield "Replay", pb.ReplayRequest(match=[pattern], since=pattern)


def mutated(random_, raw):
    raw = bytearray(raw)
    for _ in range(random_.randrange(1, 6)):
        at = random_.randrange(len(raw) + 1)
        kind = random_.randrange(4)
        if kind == 0:
            raw[at:at] = random_.randbytes(random_.randrange(1, 9))
        elif kind == 1:
            del raw[at : at + random_.randrange(1, 9)]
        elif kind == 2 and at < len(raw):
            raw[at] ^= 1 << random_.randrange(8)
        else:
            raw[at:at] = raw[: random_.randrange(len(raw) + 1)]
    return bytes(raw[:100_000])


class Others:
    """Somebody else's calls meanwhile, and how long they took."""

    def __init__(self, channel):
        self.seconds = []
        self._stop = threading.Event()
        self._call = channel.unary_unary("/datastream.DataService/Sync")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        request = pb.DataRequest(keys=["fx/USD"]).SerializeToString()
        while not self._stop.wait(0.005):
            start = perf_counter()
            self._call(request, timeout=TIMEOUT)
            self.seconds.append(perf_counter() - start)

    def p99(self):
        """Milliseconds."""
        self._stop.set()
        self._thread.join(TIMEOUT)
        ordered = sorted(self.seconds)
        return ordered[int(len(ordered) * 0.99)] * 1000


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_search(connect, caplog):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    channel, others = connect(), Others(connect())
    known = [(method, message.SerializeToString()) for method, message in seeds()]
    for method, raw in known:
        check(channel, method, raw, caplog)
    methods = [*UNARY, *STREAMS, "Push", "Follow"]
    for _ in range(SEARCH):
        method, raw = random_.choice(known)
        if random_.random() < 0.2:
            method = random_.choice(methods)
        check(channel, method, mutated(random_, raw), caplog)
    print(f"others' p99 {others.p99():.1f} ms")


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_streams_that_never_send_their_request_and_some_that_are_never_read(connect, store, server):
    """The limits of a connection and of a host hold for them."""
    idle = Others(connect())
    eventually(lambda: len(idle.seconds) > 200, "calls while all is quiet")
    before = idle.p99()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Child("half_open", server.address, HALF_OPEN) as hostile:
        assert hostile.line(120) == "open"
        others = Others(connect())
        for number in range(200):
            store["fx/USD"] = number
        eventually(lambda: len(others.seconds) > 200, "calls of others")
        print(f"p99 {before:.1f} ms before, {others.p99():.1f} ms meanwhile")
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        print(f"{len(server._inner._servicer.streams)} streams, {more >> 10} MiB more")
    eventually(lambda: not server._inner._servicer.streams, "all streams end")


def test_metadata_beyond_the_limit_ends_the_call_alone(connect):
    channel = connect()
    call = channel.unary_unary("/datastream.DataService/Sync")
    with pytest.raises(grpc.RpcError) as error:
        call(b"", metadata=(("x-large", "x" * 100_000),), timeout=TIMEOUT)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(pb.DataRequest(keys=["a"]).SerializeToString(), timeout=TIMEOUT)


def test_who_connects_and_says_nothing_leaves_files_to_the_backend(stack, store, monkeypatch):
    monkeypatch.setattr(_open_files, "_open_files", lambda: 20)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    host, _, port = server.address.rpartition(":")

    def connected():
        return stack.enter_context(closing(socket.create_connection((host, int(port)), TIMEOUT)))

    def is_open(one):
        # A server that takes a connection begins with its settings.
        with suppress(ConnectionError):
            return bool(one.recv(1))
        return False

    assert [is_open(connected()) for _ in range(13)] == [True] * 10 + [False] * 3


def test_who_reads_no_health_keeps_it_from_nobody(stack, tmp_path):
    """Health needs no token, so that anybody may ask."""
    source = Away()
    store = stack.enter_context(Store(source, name="away"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", tokens=bool))
    deaf = stack.enter_context(closing(Connection(server.address, window=0)))
    for _ in range(3):
        deaf.call("/grpc.health.v1.Health/Watch", b"")
    eventually(lambda: len(server._inner._health._news) == 3, "the streams")
    with grpc.insecure_channel(server.address) as channel:
        changes = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=TIMEOUT
        )
        states = health_pb2.HealthCheckResponse
        assert next(changes).status == states.SERVING
        source.away = True
        with suppress(SourceUnavailable):
            store.get("k")
        assert next(changes).status == states.NOT_SERVING
        source.away = False
        assert next(changes).status == states.SERVING
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert next(changes).status == states.NOT_SERVING
        with pytest.raises(grpc.RpcError) as error:
            next(changes)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    stopping.join(TIMEOUT)
    assert not stopping.is_alive()


def test_streams_of_health_are_limited_and_so_are_their_names(stack, store):
    limits = datastream_grpc.Limits(streams=2)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", limits=limits))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    watch = health_pb2_grpc.HealthStub(channel).Watch
    held = [watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT) for _ in range(2)]
    assert [next(one).status for one in held] == [health_pb2.HealthCheckResponse.SERVING] * 2
    for service, code in (
        ("", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("x" * 100_000, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.RpcError) as error:
            next(watch(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT))
        assert error.value.code() is code
    for one in held:
        one.cancel()


class Away(MemorySource):
    """A backend that may be away."""

    away = False
    instant = False

    def get(self, key):
        if self.away:
            raise SourceUnavailable("away")
        return super().get(key)


class Deaf(Connection):
    """One of which nothing is read: once enough is asked for, its server can send no more."""

    _arrived = -1

    def _fields(self, path):
        yield from super()._fields(path)
        yield "authorization", "Bearer secret"

    def is_full(self):
        """Whether nothing has arrived for a while."""
        size = array("i", [0])
        fcntl.ioctl(self.fileno(), termios.FIONREAD, size)
        before, self._arrived = self._arrived, size[0]
        return 0 < before == self._arrived


@pytest.mark.parametrize("method", ["Subscribe", "Snapshot"])
def test_who_reads_nothing_of_a_stream_does_not_keep_a_server_from_stopping(
    stack, store, monkeypatch, method
):
    """Its client is told the end after what it has not read."""
    server = datastream_grpc.serve(store, "127.0.0.1:0", heartbeat=10 * TIMEOUT)
    monkeypatch.setattr(_open_streams, "END_WITHIN", 0.1)
    connection = stack.enter_context(closing(Connection(server.address, window=1)))
    stream = connection.call(f"/datastream.DataService/{method}", b"")
    while stream not in connection._unread:
        assert list(connection.messages()) == []
    stopping = threading.Thread(target=server.stop, args=(0,))
    stopping.start()
    stopping.join(TIMEOUT)
    assert not stopping.is_alive()


@pytest.mark.parametrize("is_revoked", [True, False])
def test_who_takes_not_even_the_begin_of_a_stream_has_nothing_printed(
    stack, tmp_path, monkeypatch, caplog, is_revoked
):
    """gRPC can tell such a client nothing more."""
    monkeypatch.setattr(_open_streams, "BEGIN_WITHIN", 0.01)
    monkeypatch.setattr(_revoking, "LOOK", 0.01)
    store = stack.enter_context(datastream.open("memory:"))
    store.put_many({str(number): b"x" * 1_000_000 for number in range(40)})
    (tokens := tmp_path / "tokens").write_text("ada secret\n")
    server = datastream_grpc.serve(store, "127.0.0.1:0", tokens=tokens)
    stack.callback(server.stop, 0)
    deaf = stack.enter_context(closing(Deaf(server.address)))
    path = "/datastream.DataService/"
    deaf.call(path + "Subscribe", b"")
    pause = threading.Event()
    eventually(lambda: pause.wait(0.2) or deaf.is_full(), "what it does not read is full")
    streams = server._inner._servicer.streams
    for number, method in enumerate(("Snapshot", "Subscribe", "Push"), 2):
        deaf.call(path + method, b"")
        eventually(lambda at=number: len(streams) == at, method)
    stopping = threading.Thread(target=server.stop, args=(0,))
    if is_revoked:
        tokens.write_text("# none\n")
    else:
        stopping.start()
    eventually(lambda: not len(streams), "all have ended")
    # gRPC itself waits for seconds for a connection that takes nothing.
    deaf.close()
    if not is_revoked:
        stopping.join()
    assert [record for record in caplog.records if record.name.startswith("grpc")] == []
