"""What a client knows of its server: status, features, whether it is there at all."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import datastream_grpc
import grpc
import pytest
from datastream_grpc import GrpcSource
from datastream_grpc._connection import Stubs
from datastream_grpc._pb import service_pb2 as pb
from dulwich.repo import Repo

import datastream
from datastream import (
    DatastreamError,
    Denied,
    Feature,
    InvalidValue,
    ReadOnly,
    SourceUnavailable,
    State,
    Store,
    Unsupported,
)
from datastream.source import WELL, Health
from datastream.sources.memory import MemorySource
from tests.integration._programs import ancestor
from tests.integration._programs.tools import TIMEOUT, Statuses, eventually
from tests.servers.grpc_double import Double, begins
from tests.servers.proxy import Proxy


class Sick(MemorySource):
    """Reads succeed, and its health is what a test says; or nothing succeeds at all."""

    instant = False
    features = MemorySource.features | {Feature.MESSAGES}

    def __init__(self):
        super().__init__()
        self.is_away = False
        self.refusal = None

    def write(self, writes):
        if self.refusal is not None:
            raise self.refusal
        return super().write(writes)

    def be(self, health):
        self.health = health
        self.wake()

    def read(self, selection, since):
        if self.is_away:
            raise SourceUnavailable("the disk is gone")
        return super().read(selection, since)

    get = MemorySource.get


def served(stack, source, address="127.0.0.1:0", **options):
    store = stack.enter_context(Store(source, name="served"))
    return store, stack.enter_context(datastream_grpc.serve(store, address, **options))


def opened(stack, server, **options):
    return stack.enter_context(datastream.open(f"grpc://{server.address}", **options))


def described(**status):
    return pb.DataResponse(description=pb.DescribeResponse(status=pb.Status(**status)))


def until(store, wanted):
    """Wait for a status that `wanted` accepts; returns it."""
    found, arrived = [], threading.Event()

    def look(status):
        if wanted(status):
            found.append(status)
            arrived.set()

    with store.status.subscribe(look):
        assert arrived.wait(TIMEOUT), store.status.current
    return found[0]


# --- the status ---


@pytest.mark.parametrize(
    ("error", "state"),
    [(SourceUnavailable("the disk is gone"), State.STALE), (Denied("go away"), State.FAILED)],
)
def test_a_watcher_has_the_status_of_the_store_behind_its_server(stack, error, state):
    source = Sick()
    _, server = served(stack, source)
    remote = opened(stack, server)
    remote.watch().subscribe(lambda entry: None)
    until(remote, lambda s: s.state is State.READY)
    source.be(Health(error, "on one leg"))
    status = until(remote, lambda s: s.state is state)
    assert str(error) in str(status.error)
    assert isinstance(status.error, type(error))
    assert status.degraded == "on one leg"
    source.be(Health())
    assert until(remote, lambda s: s.state is State.READY).degraded == ""


def test_a_kind_of_error_that_only_a_source_has_is_the_one_that_clients_know(stack, tmp_path):
    """Here that of a repository which is not there."""
    repository = tmp_path / "repository"
    Repo.init(repository, mkdir=True).close()
    store = stack.enter_context(datastream.open(f"git:{repository}?author=A&email=a@example.org"))
    store["k"] = b"1"
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = opened(stack, server)
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    stubs = Stubs(channel)
    remote.watch().subscribe(lambda entry: None)
    until(remote, lambda s: s.state is State.READY)
    repository.rename(tmp_path / "away")
    calls = (
        lambda: remote.get("k"),
        remote.snapshot,
        remote.capabilities,
        lambda: remote.put("k", b"2"),
        lambda: asyncio.run(remote.aget("k")),
        lambda: remote.put_many({"k": b"2", "l": b"3"}),
    )
    for call in calls:
        with pytest.raises(SourceUnavailable, match="the repository is not there"):
            call()
    with pytest.raises(grpc.RpcError) as error:
        stubs.sync(pb.DataRequest(keys=["k"]))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(error.value.trailing_metadata())["datastream-error"] == "SourceUnavailable"
    until(store, lambda s: s.state is State.STALE)
    assert stubs.describe(pb.DescribeRequest()).status.error == "SourceUnavailable"
    (tmp_path / "away").rename(repository)
    until(remote, lambda s: s.state is State.READY)


@pytest.mark.parametrize("character", ["x", "%", "\u00e9", "\u6f22", "\U0001f600", "\n"])
@pytest.mark.parametrize("kind", [Denied, InvalidValue])
def test_an_error_of_very_many_characters_keeps_its_kind(stack, kind, character):
    """Of the text each byte counts up to five times, and gRPC has limits for that."""
    source = Sick()
    _, server = served(stack, source)
    remote = opened(stack, server)
    source.refusal = kind(f"refused: {character * 5000}")
    # Between two limits, gRPC lets some pass.
    for _ in range(20):
        with pytest.raises(kind, match="refused: "):
            remote.put("k", 1)


def test_a_status_has_been_so_since_the_server_found_it(stack):
    source = Sick()
    store, server = served(stack, source)
    remote = opened(stack, server)
    remote.watch().subscribe(lambda entry: None)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    source.be(Health(SourceUnavailable("gone"), "", long_ago))
    until(store, lambda s: s.state is State.STALE)
    assert until(remote, lambda s: s.state is State.STALE).since == long_ago


def test_a_store_that_was_cut_off_has_not_been_ready_all_the_while(stack):
    source = Sick()
    _, server = served(stack, source)
    proxy = stack.enter_context(Proxy(int(server.address.rpartition(":")[2])))
    remote = stack.enter_context(datastream.open(f"grpc://127.0.0.1:{proxy.port}"))
    remote.watch().subscribe(lambda entry: None)
    # From here on the server's own times are told.
    for health, state in ((Health(SourceUnavailable("gone")), State.STALE), (WELL, State.READY)):
        source.be(health)
        until(remote, lambda s, state=state: s.state is state)
    proxy.refuse()
    stale = until(remote, lambda s: s.state is State.STALE)
    proxy.accept()
    assert until(remote, lambda s: s.state is State.READY).since >= stale.since


def test_a_watcher_that_comes_while_the_backend_is_away_learns_why(stack):
    source = Sick()
    source.is_away = True
    _, server = served(stack, source)
    remote = opened(stack, server)
    entries, arrived = [], threading.Event()
    remote.watch("k").subscribe(lambda entry: (entries.append(entry), arrived.set()))
    assert "the disk is gone" in str(until(remote, lambda s: s.state is State.STALE).error)
    source.is_away = False
    source.wake()
    remote.refresh()
    remote["k"] = 1
    assert arrived.wait(TIMEOUT)
    until(remote, lambda s: s.state is State.READY)


def test_a_stream_that_cannot_begin_gives_the_reason_and_not_its_time_out(stack):
    def subscribe(request, number):
        yield described(state=pb.STATE_STALE, reason="no disk")

    server = stack.enter_context(Double(subscribe))
    remote = opened(stack, server, timeout=TIMEOUT)
    remote.watch().subscribe(lambda entry: None)
    assert "no disk" in str(until(remote, lambda s: s.state is State.STALE).error)


def test_a_stream_that_cannot_begin_yet_is_kept_and_tells_when_the_backend_is_back(stack):
    """Instead of being asked for again and again, with pauses that grow to ten seconds."""
    back = threading.Event()

    def subscribe(request, number):
        yield described(state=pb.STATE_STALE, reason="no disk")
        assert back.wait(TIMEOUT)
        yield described(state=pb.STATE_READY)
        yield begins(1)

    server = stack.enter_context(Double(subscribe))
    remote = opened(stack, server)
    remote.watch().subscribe(lambda entry: None)
    until(remote, lambda s: s.state is State.STALE)
    back.set()
    until(remote, lambda s: s.state is State.READY)
    assert len(server.streams) == 1


def test_trouble_that_a_stream_told_ends_with_a_call_once_nobody_watches(stack):
    source = Sick()
    _, server = served(stack, source)
    remote = opened(stack, server)
    watch = remote.watch().subscribe(lambda entry: None)
    source.be(Health(SourceUnavailable("gone")))
    until(remote, lambda s: s.state is State.STALE)
    watch.dispose()
    source.be(Health())

    def answers():
        remote.get("k")
        return remote.status.current.state is State.READY

    eventually(answers, "READY")


def test_a_status_is_sent_to_those_who_ask_only(stack):
    source = Sick()
    store, server = served(stack, source)
    client = stack.enter_context(ancestor.Client(server.address))
    stream = client.subscribe()
    assert dict(next(stream).data) == {}
    statuses = Statuses(store)
    source.be(Health(SourceUnavailable("gone")))
    statuses.wait(State.STALE)
    store["k"] = 1
    assert set(next(stream).data) == {"k"}
    stream.cancel()


def test_what_a_server_writes_reaches_no_terminal_as_it_is(stack):
    hostile = "\x1b]52;c;ZXZpbA==\x07\x1b[31mfake"

    def subscribe(request, number):
        yield described(state=pb.STATE_FAILED, reason=hostile, degraded=hostile)
        yield begins(1)

    server = stack.enter_context(Double(subscribe))
    remote = opened(stack, server)
    remote.watch().subscribe(lambda entry: None)
    status = until(remote, lambda s: s.state is State.FAILED)
    assert (str(status.error) + status.degraded).isprintable()
    assert "fake" in status.degraded


# --- features ---


class ReadOnlyMemory(MemorySource):
    features = frozenset({Feature.TYPES})


def test_what_the_served_store_cannot_do_is_refused_without_asking(stack):
    _, server = served(stack, ReadOnlyMemory())
    remote = opened(stack, server)
    assert remote.features == ReadOnlyMemory.features
    server.stop()
    with pytest.raises(ReadOnly):
        remote.put("k", 1)
    for call in (remote.history, remote.at):
        with pytest.raises(Unsupported):
            call("k")
    with pytest.raises(Unsupported):
        remote.replay()


def test_a_server_that_comes_later_tells_what_it_can_do(stack):
    _, server = served(stack, MemorySource())
    remote = opened(stack, server)
    remote.watch().subscribe(lambda entry: None)
    assert remote.features == MemorySource.features
    address = server.address
    server.stop()
    until(remote, lambda s: s.state is State.STALE)
    served(stack, ReadOnlyMemory(), address)
    eventually(lambda: remote.features == ReadOnlyMemory.features, "the features of the new one")


def test_a_server_of_the_older_protocol_is_noted(stack):
    old = stack.enter_context(ancestor.Server())
    remote = opened(stack, old)
    remote.watch().subscribe(lambda entry: None)
    assert "older protocol" in until(remote, lambda s: s.degraded).degraded


# --- whether it is there ---


@pytest.mark.parametrize("heartbeat", [0, -1, float("nan"), 0.01])
def test_a_heartbeat_that_is_none(stack, heartbeat):
    with pytest.raises(DatastreamError, match="heartbeat"):
        GrpcSource("127.0.0.1:1", heartbeat=heartbeat)
    store = stack.enter_context(datastream.open("memory:"))
    with pytest.raises(DatastreamError, match="heartbeat"):
        datastream_grpc.serve(store, "127.0.0.1:0", heartbeat=heartbeat)


def test_a_connection_that_died_silently_is_found_by_the_client(stack):
    store, server = served(stack, MemorySource())
    proxy = stack.enter_context(Proxy(int(server.address.rpartition(":")[2])))
    remote = stack.enter_context(datastream.open(f"grpc://127.0.0.1:{proxy.port}", heartbeat=0.5))
    entries, arrived = {}, threading.Semaphore(0)
    remote.watch().subscribe(lambda e: (entries.update({e.key: e.value}), arrived.release()))
    store["first"] = 0
    assert arrived.acquire(timeout=TIMEOUT)
    proxy.is_hole = True
    assert "no sign of life" in str(until(remote, lambda s: s.state is State.STALE).error)
    store["k"] = 1
    proxy.is_hole = False
    assert arrived.acquire(timeout=TIMEOUT)
    assert entries == {"first": b"0", "k": b"1"}
    until(remote, lambda s: s.state is State.READY)


def test_a_connection_that_died_silently_is_found_by_the_server(stack):
    _, server = served(stack, MemorySource(), heartbeat=0.5)
    proxy = stack.enter_context(Proxy(int(server.address.rpartition(":")[2])))
    remote = stack.enter_context(datastream.open(f"grpc://127.0.0.1:{proxy.port}"))
    remote.watch().subscribe(lambda entry: None)
    streams = server._inner._servicer.streams
    eventually(lambda: len(streams) == 1, "the stream")
    proxy.is_hole = True
    eventually(lambda: not streams, "the end of the stream")


def test_calls_without_a_watch_leave_a_dead_connection(stack):
    """Only those that were made then fail, though gRPC has the connection for alive."""
    store, server = served(stack, MemorySource())
    store["k"] = 1
    proxy = stack.enter_context(Proxy(int(server.address.rpartition(":")[2])))
    url = f"grpc://127.0.0.1:{proxy.port}"
    remote = stack.enter_context(datastream.open(url, heartbeat=1.0, timeout=2.0))
    assert remote["k"] == 1
    proxy.is_hole = True
    with pytest.raises(SourceUnavailable):
        remote["k"]
    connections = len(proxy._pairs)

    def answers():
        proxy.is_hole = len(proxy._pairs) == connections
        try:
            return remote["k"] == 1
        except SourceUnavailable:
            return False

    eventually(answers, "an answer through another connection")


class Counting(GrpcSource):
    """Counts the answers to whether the server is there."""

    def __init__(self, *args, **options):
        self.answers = threading.Semaphore(0)
        super().__init__(*args, **options)

    def _described(self, described):
        super()._described(described)
        self.answers.release()


def test_a_server_of_the_older_protocol_does_not_mind_being_asked(stack):
    """With gRPC's default policy, too many pings end the connection."""
    old = stack.enter_context(ancestor.Server())
    proxy = stack.enter_context(Proxy(int(old.address.rpartition(":")[2])))
    source = Counting(f"127.0.0.1:{proxy.port}", heartbeat=0.5)
    remote = stack.enter_context(Store(source))
    remote.watch().subscribe(lambda entry: None)
    until(remote, lambda s: s.state is State.READY)
    for _ in range(6):
        assert source.answers.acquire(timeout=TIMEOUT)
    assert len(proxy._pairs) == 1


def test_an_error_of_a_server_is_escaped(stack):
    class Hostile(grpc.GenericRpcHandler):
        def service(self, details):
            def fail(request, context):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "\x1b]52;c;ZXZpbA==\x07fake")

            return grpc.unary_unary_rpc_method_handler(fail)

    executor = stack.enter_context(ThreadPoolExecutor(4))
    server = grpc.server(executor)
    server.add_generic_rpc_handlers((Hostile(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0).wait(TIMEOUT))
    remote = stack.enter_context(datastream.open(f"grpc://127.0.0.1:{port}"))
    for call in (lambda: remote["k"], lambda: remote.put("k", 1), remote.capabilities):
        with pytest.raises(Denied) as error:
            call()
        assert str(error.value).isprintable()
        assert "fake" in str(error.value)
