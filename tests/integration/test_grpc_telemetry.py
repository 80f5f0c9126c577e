"""Metrics and traces of a server, through OpenTelemetry."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request

import datastream_grpc
import pytest
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
    metrics = server._inner._servicer._metrics
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
    for number in range(5):
        store["k"] = number
        for recorder in recorders:
            recorder.wait_state({"k": b"%d" % number})
    with pytest.raises(datastream.InvalidKey):
        remote.put("a\x00", 1)
    with pytest.raises(datastream.KeyNotFound):
        remote.entry("missing")
    found = observed(server)
    ((updates, named),) = found["updates"]
    assert updates == 5
    assert named["source"] == "memory"
    ((deliveries, _),) = found["deliveries"]
    assert deliveries >= 5
    ((streams, _),) = found["streams"]
    assert streams == 1
    ((lag, _),) = found["lag"]
    assert 0 <= lag < TIMEOUT
    calls = {(named["method"], named["code"]) for _, named in found["calls"]}
    assert ("Sync", "OK") in calls
    assert all(seconds > 0 for seconds, _ in found["call.time"])


def test_a_call_is_a_span_of_its_caller(stack, monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
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
