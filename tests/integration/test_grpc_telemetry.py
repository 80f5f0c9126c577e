"""Metrics and traces of a server, through OpenTelemetry."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import urllib.request
from contextlib import ExitStack

import datastream_grpc
import pytest
from datastream_grpc._client_metrics import INSTRUMENTS as CLIENT_INSTRUMENTS
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._telemetry import INSTRUMENTS
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import datastream
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT, eventually
from tests.integration.command_line import Program


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def observed(server):
    """What OpenTelemetry would read now."""
    metrics = server._inner._servicer.metrics
    return {
        one.name.removeprefix("datastream.server."): list(one.observe(metrics))
        for one in INSTRUMENTS
    }


def test_what_is_counted(stack):
    store = stack.enter_context(datastream.open("memory:"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    recorders = [Recorder(remote, "k"), Recorder(remote)]
    for recorder in recorders:
        recorder.wait_ready()
    # An older client's, which is sent no deletes.
    older = remote._source.stubs.subscribe(pb.DataRequest())
    next(older)
    for number in range(5):
        store["k"] = number
        for recorder in recorders:
            recorder.wait_state({"k": b"%d" % number})
        assert next(older).data["k"].value == b"%d" % number
    with pytest.raises(datastream.InvalidKey):
        remote.put("a\x00", 1)
    with pytest.raises(datastream.KeyNotFound):
        remote.entry("missing")
    found = observed(server)
    ((updates, named),) = found["updates"]
    assert updates == 5
    assert named == {"server": server.address, "source": "memory"}
    ((deliveries, _),) = found["deliveries"]
    assert deliveries >= 5
    ((streams, _),) = found["streams"]
    assert streams == 2
    ((lag, _),) = found["lag"]
    assert 0 <= lag < TIMEOUT
    calls = {(named["method"], named["code"]) for _, named in found["calls"]}
    assert ("Sync", "OK") in calls
    assert all(seconds > 0 for seconds, _ in found["call.time"])


def observed_by(remote):
    """The same of a client."""
    metrics = remote._source._calls.metrics
    return {
        one.name.removeprefix("datastream.client."): list(one.observe(metrics))
        for one in CLIENT_INSTRUMENTS
    }


def test_what_a_client_counts(stack):
    store = stack.enter_context(datastream.open("memory:"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    recorder = Recorder(remote, "k")
    recorder.wait_ready()
    # Once the watch has begun, what follows comes by it.
    eventually(lambda: server.clients, "the watch")
    eventually(lambda: remote._source._stream.is_running, "its beginning")
    store["k"] = 1
    recorder.wait_state({"k": b"1"})
    with pytest.raises(datastream.RevisionConflict):
        remote.put("k", 1, expect="")
    asyncio.run(remote.aput("other", 1))
    server.stop()
    with pytest.raises(datastream.SourceUnavailable):
        remote.get("k")
    store["k"] = 2
    stack.enter_context(datastream_grpc.serve(store, server.address))
    recorder.wait_state({"k": b"2"})
    found = observed_by(remote)
    calls = {(named["method"], named["code"]) for _, named in found["calls"]}
    assert {("Write", "ABORTED"), ("Push", "OK"), ("Sync", "UNAVAILABLE")} <= calls
    ((batches, named),) = found["batches"]
    assert batches >= 1
    assert named == {"server": server.address}
    ((reconnects, _),) = found["reconnects"]
    assert reconnects >= 1
    ((lag, _),) = found["lag"]
    assert 0 <= lag < TIMEOUT


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter, provider


def test_a_call_of_a_store_is_a_span_and_the_servers_is_its_child(stack, spans):
    exporter, provider = spans
    store = stack.enter_context(datastream.open("memory:"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    with provider.get_tracer("test").start_as_current_span("caller"):
        remote["k"] = 1
    eventually(lambda: len(exporter.get_finished_spans()) >= 3, "the spans")
    found = {(s.name.rpartition("/")[2], s.kind.name): s for s in exporter.get_finished_spans()}
    served, called = found["Write", "SERVER"], found["Write", "CLIENT"]
    assert served.parent.span_id == called.context.span_id
    assert called.parent.span_id == found["caller", "INTERNAL"].context.span_id


def test_a_call_is_a_span_of_its_caller(stack, spans):
    exporter, provider = spans
    store = stack.enter_context(datastream.open("memory:"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    carrier = {}
    with provider.get_tracer("test").start_as_current_span("caller") as caller:
        propagate.inject(carrier)
        import grpc

        with grpc.insecure_channel(server.address) as channel:
            channel.unary_unary("/datastream.DataService/Sync")(
                b"", metadata=tuple(carrier.items()), timeout=TIMEOUT
            )
    eventually(lambda: len(exporter.get_finished_spans()) == 2, "the spans")
    served = next(s for s in exporter.get_finished_spans() if s.name.endswith("Sync"))
    assert served.parent.span_id == caller.get_span_context().span_id
    assert served.attributes["rpc.method"] == "Sync"


def test_prometheus_is_served(stack, tmp_path):
    port = free_port()
    program = Program(
        "serve",
        f"sqlite:{tmp_path}/s.db?create=true",
        "--address",
        "127.0.0.1:0",
        "--metrics",
        str(port),
    )
    program.read_output()
    stack.callback(program.end)
    address = program.line().split()[-1]
    with datastream.open(f"grpc://{address}") as remote:
        remote["k"] = 1
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT) as page:
        text = page.read().decode()
    assert 'datastream_server_calls_total{code="OK",method="Write"' in text
    assert str(tmp_path) not in text


@pytest.mark.chaos
def test_each_worker_serves_what_it_counts(stack, tmp_path):
    first = free_ports(2)
    url = f"sqlite:{tmp_path}/s.db"
    server = stack.enter_context(
        datastream_grpc.serve(url, "127.0.0.1:0", workers=2, metrics=first)
    )
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    remote["k"] = 1
    texts = []
    for port in (first, first + 1):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT) as page:
            texts.append(page.read().decode())
    assert sum('code="OK",method="Write"' in text for text in texts) == 1


def free_ports(number):
    """The first of so many ports that nobody listens on."""
    while True:
        with ExitStack() as held:
            first = held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + number):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first


def test_without_opentelemetry_a_server_serves_and_metrics_name_the_extra():
    program = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'opentelemetry' else find(name, *a)\n"
        "import datastream, datastream_grpc\n"
        "store = datastream.open('memory:')\n"
        "with store, datastream_grpc.serve(store, '127.0.0.1:0') as s:\n"
        "    with datastream.open(f'grpc://{s.address}') as remote:\n"
        "        remote['k'] = 1; print(remote['k'])\n"
        "try: datastream_grpc.serve_metrics(0)\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.stdout.startswith("1\n"), done.stderr
    assert 'pip install "datastream-kv[telemetry]"' in done.stdout
