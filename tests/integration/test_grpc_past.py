"""The past of a served store, at its clients."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from dataclasses import replace

import datastream_grpc
import grpc
import pytest
from datastream_grpc import _pieces
from datastream_grpc._connection import Stubs
from datastream_grpc._pb import service_pb2 as pb
from dulwich import porcelain

import datastream
from datastream import (
    DatastreamError,
    Feature,
    InvalidValue,
    KeyNotFound,
    Operation,
    ReadOnly,
    SourceUnavailable,
    Unsupported,
)
from tests.integration._programs.tools import TIMEOUT, eventually


@pytest.fixture
def local(stack, tmp_path):
    porcelain.init(tmp_path / "repository").close()
    store = stack.enter_context(datastream.open(f"git:{tmp_path}/repository"))
    store["start"] = 0
    return store


@pytest.fixture
def server(stack, local):
    return stack.enter_context(datastream_grpc.serve(local, "127.0.0.1:0"))


@pytest.fixture
def remote(stack, server):
    return stack.enter_context(datastream.open(f"grpc://{server.address}"))


def test_history_is_that_of_the_served_store(local, remote):
    for number in range(100):
        remote.put("k", number, message=f"number {number}", author="A <a@example.org>")
    remote.delete("k", message="gone")
    assert list(remote.history("k")) == list(local.history("k"))
    newest, before = list(remote.history("k"))[:2]
    assert (newest.entry.operation, newest.message) == (Operation.DELETE, "gone\n")
    assert (before.entry.value, before.author) == (b"99", "A <a@example.org>")
    assert list(remote.history("never")) == []


def test_a_history_that_is_not_read_to_its_end_ends_its_call(local, server, remote):
    for number in range(100):
        local["k"] = number
    revisions = remote.history("k")
    assert next(revisions).entry.value == b"99"
    revisions.close()
    eventually(lambda: not server._inner._servicer.streams, "the end of the call")
    assert not [t for t in threading.enumerate() if t.name == "datastream-grpc-watch"]


def test_a_history_of_large_values_comes_in_messages_that_any_client_takes(
    local, server, stack, monkeypatch
):
    monkeypatch.setattr(_pieces, "SECONDS", TIMEOUT)
    values = [bytes([number]) * 300_000 for number in range(20)]
    for value in values:
        local.put("k", value)
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    call = channel.unary_stream("/datastream.DataService/History")
    raw = [*call(pb.HistoryRequest(key="k").SerializeToString(), timeout=TIMEOUT)]
    told = [one for part in raw for one in pb.HistoryResponse.FromString(part).revisions]
    assert [one.data.value for one in told] == values[::-1]
    assert max(map(len, raw)) < 1_000_000


def test_the_store_as_it_was(local, remote):
    local.put_many({"a": 1, "fx/b": 2})
    first = next(local.history("a"))
    local.put("a", 3)
    local.delete("fx/b")
    for point in (first.point, first.entry.updated_at, first.entry.updated_at.isoformat()):
        with remote.at(point) as past, local.at(point) as same:
            assert past.snapshot() == same.snapshot()
            assert past.snapshot("fx/") == same.snapshot("fx/")
            assert list(past.capabilities()) == list(same.capabilities())
            assert past["a"] == same["a"]
            assert list(past.history("a")) == list(same.history("a"))
            assert past.features == same.features
            with pytest.raises(KeyNotFound):
                past["missing"]
            with pytest.raises(ReadOnly):
                past["a"] = 4
    with pytest.raises(DatastreamError, match="nowhere"):
        remote.at("nowhere")
    # Whoever has closed the past has the present.
    assert remote["a"] == 3


def in_order(batch):
    return replace(batch, entries=tuple(sorted(batch.entries, key=lambda entry: entry.key)))


def test_a_replay_goes_live(local, remote):
    local.put_many({"a": 1, "b": 1}, message="both")
    local["other"] = 0
    local["a"] = 2
    batches, arrived = [], threading.Semaphore(0)
    remote.replay("a", "b").subscribe(lambda b: (batches.append(b), arrived.release()))
    expected = []
    local.replay("a", "b").subscribe(lambda b: (expected.append(b), arrived.release()))
    for _ in range(6):
        assert arrived.acquire(timeout=TIMEOUT)
    eventually(lambda: len(batches) == len(expected) == 3, "three batches each")
    # A message of the wire does not keep the order within a batch.
    assert list(map(in_order, batches)) == list(map(in_order, expected))
    assert batches[1].message == "both\n"
    local["a"] = 3
    assert arrived.acquire(timeout=TIMEOUT)
    assert arrived.acquire(timeout=TIMEOUT)
    assert [entry.value for entry in batches[-1].entries] == [b"3"]


def test_a_batch_says_who_and_why(local, remote):
    batches, arrived = [], threading.Semaphore(0)
    remote.watch_batches("a").subscribe(lambda b: (batches.append(b), arrived.release()))
    assert arrived.acquire(timeout=TIMEOUT)
    # Then the stream is there: its own first batch is the net effect of what went before.
    local.put("a", 0)
    assert arrived.acquire(timeout=TIMEOUT)
    local.put("a", 1, message="because", author="A <a@example.org>")
    assert arrived.acquire(timeout=TIMEOUT)
    assert (batches[-1].message, batches[-1].author) == ("because\n", "A <a@example.org>")
    assert batches[-1].point == next(local.history("a")).point


def test_a_replay_ends_with_the_connection(stack, local, server):
    # Where the server's last word is lost, silence tells.
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}", heartbeat=1.0))
    for number in range(20):
        # More than is under way before anybody reads it.
        local["k"] = b"%d" % number * 400_000
    gate, errors, ended = threading.Event(), [], threading.Event()
    remote.replay().subscribe(
        lambda batch: gate.wait(TIMEOUT), lambda error: (errors.append(error), ended.set())
    )
    server.stop(0)
    gate.set()
    assert ended.wait(TIMEOUT)
    assert isinstance(errors[0], DatastreamError)


def test_a_served_store_without_a_past_refuses(stack):
    with (
        datastream.open("memory:") as store,
        datastream_grpc.serve(store, "127.0.0.1:0") as server,
        datastream.open(f"grpc://{server.address}") as remote,
    ):
        assert not remote.features & {Feature.HISTORY, Feature.AT, Feature.REPLAY}
        for call in (lambda: remote.history("k"), lambda: remote.at("x"), remote.replay):
            with pytest.raises(Unsupported, match="git"):
                call()
        with pytest.raises(Unsupported, match="message"):
            remote.put("k", 1, message="why")


# --- what was created ---


def test_a_resume_is_told_of_no_key_that_came_and_went(stack, local, remote):
    local["k"] = 1
    cursor = local.snapshot_batch().cursor
    local["transient"] = 1
    local.delete("transient")
    local["new"] = 1
    batches, arrived = [], threading.Semaphore(0)
    remote.watch_batches(since=cursor).subscribe(lambda b: (batches.append(b), arrived.release()))
    assert arrived.acquire(timeout=TIMEOUT)
    assert [entry.key for entry in batches[0].entries] == ["new"]
    assert batches[0].created == {"new"}
    local.put_many({"k": 2, "newer": 1})
    assert arrived.acquire(timeout=TIMEOUT)
    assert batches[1].created == {"newer"}


def test_a_point_that_is_none_is_the_clients_fault(stack, local):
    server = stack.enter_context(datastream_grpc.serve(local, "127.0.0.1:0"))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    calls = {
        "Sync": (channel.unary_unary, pb.DataRequest(at="nowhere")),
        "Describe": (channel.unary_unary, pb.DescribeRequest(at="nowhere")),
        "ListCapabilities": (channel.unary_unary, pb.ListCapabilitiesRequest(at="nowhere")),
        "Snapshot": (channel.unary_stream, pb.DataRequest(at="nowhere")),
        "History": (channel.unary_stream, pb.HistoryRequest(key="a", at="nowhere")),
        "Replay": (channel.unary_stream, pb.ReplayRequest(since="nowhere")),
    }
    for method, (kind, request) in calls.items():
        call = kind(f"/datastream.DataService/{method}")
        with pytest.raises(grpc.RpcError, match="nowhere") as error:
            list(call(request.SerializeToString(), timeout=TIMEOUT))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    for ask in (lambda: remote.at("nowhere"), lambda: list(remote.replayed(since="nowhere"))):
        with pytest.raises(DatastreamError, match="nowhere"):
            ask()


def test_no_text_at_all_is_no_point(remote):
    """On the wire it is the present."""
    with pytest.raises(InvalidValue, match="''"):
        remote.at("")
    for replay in (remote.replay, remote.replayed):
        with pytest.raises(InvalidValue, match="''"):
            replay(since="")


def test_a_store_in_the_past_keeps_the_connection_that_it_reads_over(local, server):
    local["k"] = 1
    point = next(local.history("k")).point
    present = datastream.open(f"grpc://{server.address}")
    past, held = present.at(point), weakref.ref(present)
    del present
    gc.collect()
    assert past["k"] == 1
    past.close()
    del past
    gc.collect()
    assert held() is None


def test_a_message_that_is_no_text_is_refused(remote):
    for name in ("message", "author"):
        with pytest.raises(InvalidValue, match=name):
            remote.put("k", 1, **{name: "\ud800 <a@example.org>"})
    assert "k" not in remote


RETRIED = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@pytest.mark.parametrize(
    ("method", "request_", "reads"),
    [
        ("snapshot", pb.DataRequest(), "snapshot_batch"),
        ("history", pb.HistoryRequest(key="start"), "history"),
        ("replay", pb.ReplayRequest(), "replayed"),
    ],
)
def test_what_fails_before_it_begins_is_retried_by_clients_of_grpc(
    stack, local, server, monkeypatch, method, request_, reads
):
    """They do so by themselves, but not once a call has begun to be answered."""
    read, failures = getattr(local, reads), [SourceUnavailable("away")]

    def fails_once(*args, **options):
        if failures:
            raise failures.pop()
        return read(*args, **options)

    monkeypatch.setattr(local, reads, fails_once)
    options = [("grpc.service_config", json.dumps(RETRIED))]
    channel = stack.enter_context(grpc.insecure_channel(server.address, options))
    assert list(getattr(Stubs(channel), method)(request_, timeout=TIMEOUT))
    assert not failures
