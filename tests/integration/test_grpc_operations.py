"""What who runs a server needs: details of errors, reflection, refresh, deadlines, the end."""

from __future__ import annotations

import threading

import datastream_grpc
import grpc
import pytest
from datastream_grpc._pb import service_pb2 as pb
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

import datastream
from datastream import Denied, SourceUnavailable, Store
from datastream.sources.memory import MemorySource
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT, eventually

SERVICE = "/datastream.DataService"


@pytest.fixture
def channel(stack, server):
    options = [("grpc.use_local_subchannel_pool", 1)]
    return stack.enter_context(grpc.insecure_channel(server.address, options))


def error_of(call):
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value


def details_of(error):
    status = rpc_status.from_call(error)
    found = {}
    for kind in (ErrorInfo, BadRequest, RetryInfo):
        for packed in status.details:
            message = kind()
            if packed.Unpack(message):
                found[kind] = message
    return found


# --- details ---


def test_an_error_has_details_for_other_languages(channel):
    write = channel.unary_unary(f"{SERVICE}/Write")
    item = pb.WriteItem(data=pb.Data(key="k/", value=b"1"))
    request = pb.WriteRequest(writes=[item]).SerializeToString()
    details = details_of(error_of(lambda: write(request, timeout=TIMEOUT)))
    assert (details[ErrorInfo].reason, details[ErrorInfo].domain) == ("INVALID_KEY", "datastream")
    (violation,) = details[BadRequest].field_violations
    assert violation.field == "key"
    assert "prefix" in violation.description
    item = pb.WriteItem(data=pb.Data(key="k", value=b"1"), expect="x")
    request = pb.WriteRequest(writes=[item]).SerializeToString()
    details = details_of(error_of(lambda: write(request, timeout=TIMEOUT)))
    assert details[ErrorInfo].reason == "REVISION_CONFLICT"
    assert RetryInfo not in details


def test_a_server_that_stops_says_when_to_come_back(channel, server):
    stream = channel.unary_stream(f"{SERVICE}/Subscribe")(b"", timeout=TIMEOUT)
    next(stream)
    server.stop()
    error = error_of(lambda: next(stream))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details_of(error)[RetryInfo].retry_delay.nanos > 0


# --- beside the service ---


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_what_is_served(channel, version):
    info = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="datastream.DataService"),
    ]
    listed, described = info(iter(asked), timeout=TIMEOUT)
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {
        "datastream.DataService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert described.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("/grpc.health.v1.Health/Check", "unary_unary"),
        ("/grpc.health.v1.Health/Watch", "unary_stream"),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "stream_stream"),
        *((f"{SERVICE}/{name}", "unary_unary") for name in ("Sync", "Write", "Refresh")),
        (f"{SERVICE}/Subscribe", "unary_stream"),
        (f"{SERVICE}/Push", "stream_stream"),
    ],
)
def test_bytes_that_are_no_message(channel, method, kind, caplog):
    garbage = b"\xff\xff\xff\xff\x0f" * 3
    call = getattr(channel, kind)(method)

    def made():
        request = iter([garbage]) if kind == "stream_stream" else garbage
        answer = call(request, timeout=TIMEOUT)
        return answer if kind == "unary_unary" else list(answer)

    error = error_of(made)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


# --- refresh ---


class Quiet(MemorySource):
    """Nobody tells it of what others write."""

    def _wake_others(self):
        pass


def test_refresh_is_passed_on_to_the_backend(stack):
    quiet = stack.enter_context(Store(Quiet("quiet")))
    other = stack.enter_context(Store(Quiet("quiet")))
    server = stack.enter_context(datastream_grpc.serve(quiet, "127.0.0.1:0"))
    relay = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    relayed = stack.enter_context(datastream_grpc.serve(relay, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{relayed.address}"))
    recorder = Recorder(remote)
    recorder.wait_ready()
    other["k"] = 1
    remote.refresh()
    recorder.wait_state({"k": b"1"})


def test_who_may_do_nothing_may_not_refresh(stack, store):
    server = stack.enter_context(
        datastream_grpc.serve(
            store,
            "127.0.0.1:0",
            tokens=lambda token: token,
            authorize=lambda p, a, s: p.name == "a",
        )
    )
    url = f"grpc://{server.address}"
    datastream_grpc.refresh(url, token="a")
    with pytest.raises(Denied):
        datastream_grpc.refresh(url, token="b")


# --- ping ---


def test_ping(stack, store, server):
    found = datastream_grpc.ping(f"grpc://{server.address}")
    assert (found.serving, found.state, found.error) == (True, "READY", None)
    assert found.version
    assert 0 < found.seconds < TIMEOUT
    server.stop()
    with pytest.raises(SourceUnavailable):
        datastream_grpc.ping(f"grpc://{server.address}", timeout=5.0)


# --- deadlines ---


class Slow(MemorySource):
    instant = False

    def __init__(self):
        super().__init__()
        self.go_on = threading.Event()
        self.reads = threading.Event()

    def get(self, key):
        self.go_on.wait(TIMEOUT)
        return super().get(key)

    def read(self, selection, since):
        self.reads.set()
        self.go_on.wait(TIMEOUT)
        return super().read(selection, since)


def test_a_deadline_ends_a_call_and_is_logged_with_its_peer(stack, caplog):
    caplog.set_level("INFO", "datastream.grpc")
    source = Slow()
    store = stack.enter_context(Store(source))
    stack.callback(source.go_on.set)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    call = channel.unary_unary(f"{SERVICE}/Sync")
    request = pb.DataRequest(keys=["k"]).SerializeToString()
    error = error_of(lambda: call(request, timeout=0.2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: "Sync ipv4:127.0.0.1" in caplog.text, "the log line")
    assert "DEADLINE_EXCEEDED" in caplog.text
    # It is waited for no more, and nothing is left of it.
    source.go_on.set()
    assert call(request, timeout=TIMEOUT)


def test_a_read_of_many_keys_that_runs_has_the_grace_to_end(stack):
    source = Slow()
    source.go_on.set()
    store = stack.enter_context(Store(source))
    stack.callback(source.go_on.set)
    store["k"] = 1
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=TIMEOUT)
    next(watch)
    source.go_on.clear()
    source.reads.clear()
    reading = channel.unary_unary(f"{SERVICE}/Sync").future(b"", timeout=TIMEOUT)
    assert source.reads.wait(TIMEOUT)
    stopping = threading.Thread(target=server.stop, args=(TIMEOUT,))
    stopping.start()
    # Once its end is told, all streams have ended.
    with pytest.raises(grpc.RpcError):
        list(watch)
    source.go_on.set()
    assert list(pb.DataResponse.FromString(reading.result()).data) == ["k"]
    stopping.join()


def test_a_health_check_follows_the_store(stack):
    source = Slow()
    source.go_on.set()
    store = stack.enter_context(Store(source))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    server.stop(grace=0.1)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
