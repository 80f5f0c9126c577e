"""What writes may cost while the backend takes long, whether their clients wait or leave."""

from __future__ import annotations

import gc
import logging
import threading

import datastream_grpc
import grpc
import pytest
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._writes import FEW_WRITES
from google.protobuf.empty_pb2 import Empty

from datastream import Store
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import TIMEOUT, eventually

LIMIT, LARGE, MOST = 1_000_000, b"x" * 300_000, 3


class Slow(MemorySource):
    """Writes wait, and are counted."""

    instant = False

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.begun = self.most = 0
        self._lock = threading.Lock()

    def write(self, writes):
        with self._lock:
            self.begun += 1
            self.most = max(self.most, self.begun)
        assert self.go.wait(2 * TIMEOUT)
        with self._lock:
            self.begun -= 1
        return super().write(writes)


@pytest.fixture
def source():
    source = Slow()
    yield source
    source.go.set()


class Looking:
    """Who may write what is looked up, which waits and is counted."""

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.begun = 0

    def __call__(self, principal, action, selection):
        if action == "write" and selection.keys:
            self.begun += 1
            assert self.go.wait(2 * TIMEOUT)
        return True


@pytest.fixture
def looking():
    looking = Looking()
    yield looking
    looking.go.set()


@pytest.fixture
def channel(stack, source, looking):
    # Closed last, when its writes go on.
    store = stack.enter_context(Store(source))
    limits = datastream_grpc.Limits(write_bytes=LIMIT)
    server = stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", limits=limits, authorize=looking)
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = stack.enter_context(grpc.insecure_channel(server.address, options))
    yield channel
    looking.go.set()
    source.go.set()


def write_of(number, value=LARGE):
    item = pb.WriteItem(data=pb.Data(key=f"k{number}", value=value))
    return pb.WriteRequest(id=f"{number}", writes=[item])


def write(channel, number):
    method = channel.unary_unary(
        "/datastream.DataService/Write",
        request_serializer=pb.WriteRequest.SerializeToString,
        response_deserializer=pb.WriteResponse.FromString,
    )
    return method.future(write_of(number), timeout=TIMEOUT)


def push_update(channel, number):
    method = channel.unary_unary(
        "/datastream.DataService/PushUpdate",
        request_serializer=pb.Data.SerializeToString,
        response_deserializer=Empty.FromString,
    )
    return method.future(pb.Data(key=f"k{number}", value=LARGE), timeout=TIMEOUT)


def begin_and_leave(channel, call, gate):
    """As many clients as there is room for; how one more is refused."""
    for number in range(MOST):
        gone = call(channel, number)
        eventually(lambda count=number + 1: gate.begun == count, "it has begun")
        gone.cancel()
    refused = call(channel, MOST).exception(TIMEOUT)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "under way" in refused.details()


@pytest.mark.parametrize("call", [write, push_update])
def test_writes_of_clients_that_leave_are_bounded(source, channel, call):
    """What has begun is done all the same, and counts until then."""
    begin_and_leave(channel, call, source)
    source.go.set()
    eventually(lambda: source.begun == 0, "all are done")
    eventually(lambda: call(channel, MOST).exception(TIMEOUT) is None, "there is room again")


def write_many(channel, number):
    items = [pb.WriteItem(data=pb.Data(key=f"{number}/{n}")) for n in range(FEW_WRITES)]
    request = write_of(number)
    request.writes.extend(items)
    method = channel.unary_unary("/datastream.DataService/Write")
    return method.future(request.SerializeToString(), timeout=TIMEOUT)


def test_requests_of_many_writes_count_while_they_are_looked_at(source, channel, looking):
    looking.go.clear()
    begin_and_leave(channel, write_many, looking)
    looking.go.set()
    eventually(lambda: source.begun == MOST, "they have begun")
    refused = write_many(channel, MOST).exception(TIMEOUT)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    source.go.set()
    eventually(lambda: write_many(channel, MOST).exception(TIMEOUT) is None, "there is room again")


def test_a_push_waits_for_room(source, channel):
    count = 20
    method = channel.stream_stream(
        "/datastream.DataService/Push",
        request_serializer=pb.PushRequest.SerializeToString,
        response_deserializer=pb.PushResponse.FromString,
    )
    requests = (pb.PushRequest(writes=[write_of(number)]) for number in range(count))
    responses = method(requests, timeout=TIMEOUT)
    eventually(lambda: source.begun == MOST, "they have begun")
    # Small ones, of another call, are not kept from being written.
    small = channel.unary_unary("/datastream.DataService/Write").future(
        write_of(count, b"small").SerializeToString(), timeout=TIMEOUT
    )
    eventually(lambda: source.begun == MOST + 1, "the small one, too")
    source.go.set()
    answers = [answer for response in responses for answer in response.answers]
    assert sorted(answer.id for answer in answers) == sorted(map(str, range(count)))
    assert all(answer.HasField("response") for answer in answers)
    assert small.result(TIMEOUT)
    assert source.most == MOST + 1


def test_a_write_that_fails_once_its_client_has_left_is_not_printed(channel, source, caplog):
    caplog.set_level(logging.INFO, "datastream.grpc")
    item = pb.WriteItem(data=pb.Data(key="k", value=b"1"), expect="x")
    call = channel.unary_unary("/datastream.DataService/Write").future
    left = call(pb.WriteRequest(writes=[item]).SerializeToString(), timeout=TIMEOUT)
    eventually(lambda: source.begun, "the write")
    left.cancel()
    eventually(lambda: any("CANCELLED" in r.getMessage() for r in caplog.records), "its end")
    source.go.set()
    eventually(lambda: not source.begun, "the end of the write")
    # Behind it on the loop.
    assert write(channel, 1).result(TIMEOUT).entries
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
