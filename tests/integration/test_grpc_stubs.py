"""Clients that somebody makes from the proto alone: in another language, and in Python."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datastream_grpc
import pytest

import datastream
from tests.integration._programs.tools import TIMEOUT

PROTO = Path("proto/datastream_kv/service.proto")
CLIENT = Path("tests/node/client.js")
in_a_tree = pytest.mark.skipif(not PROTO.exists(), reason="not in a source tree")


def _has_grpc_js():
    node = shutil.which("node")
    return (
        node
        and not subprocess.run(
            [node, "-e", "require('@grpc/grpc-js'); require('@grpc/proto-loader')"],
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
    )


class Node:
    def __init__(self, address, *arguments):
        self.process = subprocess.Popen(
            ["node", str(CLIENT), address, str(PROTO), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self):
        return json.loads(self.process.stdout.readline())

    def state(self, expected):
        while (found := self.line()).get("state") is None or _values(found) != expected:
            pass
        return found["state"]

    def put(self, **write):
        self.process.stdin.write(json.dumps(write) + "\n")
        self.process.stdin.flush()
        while "state" in (found := self.line()):
            pass
        return found

    def close(self):
        self.process.stdin.close()
        self.process.wait(TIMEOUT)
        self.process.stdout.close()


def _values(found):
    return {key: entry["value"] for key, entry in found["state"].items()}


@in_a_tree
def test_a_client_in_node(stack, tmp_path):
    """grpc-js and proto-loader, which `.ci/run` installs; elsewhere NODE_PATH names them."""
    if not _has_grpc_js():
        pytest.skip("needs node, and @grpc/grpc-js and @grpc/proto-loader in NODE_PATH")
    store = stack.enter_context(datastream.open(f"sqlite:{tmp_path}/s.db"))
    big = {f"fx/{n:03}": "x" * 20_000 for n in range(100)}
    store.put_many({"fx/USD": "1", "other": "1", **big})
    options = {"tokens": {"s3cret": "web"}.get}
    server = datastream_grpc.serve(store, "127.0.0.1:0", **options)
    node = Node(server.address, "s3cret")
    stack.callback(node.close)
    node.state({"fx/USD": "1", **big})
    stored = node.put(key="fx/USD", value="2")
    assert store.entry("fx/USD").revision == stored["revision"]
    lost = node.put(key="fx/USD", value="3", expect="another")
    assert lost == {"error": "RevisionConflict", "code": "ABORTED"}
    assert "stored" in node.put(key="fx/USD", value="3", expect=stored["revision"])
    server.stop()
    store.put_many({"fx/EUR": "1"})
    store.delete("fx/000")
    server = datastream_grpc.serve(store, server.address, **options)
    stack.callback(server.stop)
    del big["fx/000"]
    state = node.state({"fx/USD": "3", "fx/EUR": "1", **big})
    assert state["fx/EUR"]["type"] == "str"


@in_a_tree
def test_stubs_in_python_live_beside_the_package(tmp_path):
    """Also those of another version: names in protobuf's own pool are there once."""
    proto = tmp_path / "datastream_kv" / "service.proto"
    proto.parent.mkdir()
    proto.write_text(PROTO.read_text().replace("string cursor = 2;", "string cursor_of_old = 2;"))
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", *outs, str(proto)]
    subprocess.run(command, check=True)
    program = (
        "import datastream, datastream_grpc, grpc\n"
        "from datastream_kv import service_pb2, service_pb2_grpc\n"
        "store = datastream.open('memory:'); store['k'] = 1\n"
        "with store, datastream_grpc.serve(store, '127.0.0.1:0') as server:\n"
        "    with grpc.insecure_channel(server.address) as channel:\n"
        "        stub = service_pb2_grpc.DataServiceStub(channel)\n"
        "        print(stub.Sync(service_pb2.DataRequest(keys=['k'])).data['k'].value)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("b'1'\n", "")


@in_a_tree
def test_each_field_and_method_says_what_it_is():
    """A line of the ancestor's, or a comment on the lines before."""
    lines = [line.strip() for line in PROTO.read_text().splitlines()]
    lacking = [
        line
        for before, line in itertools.pairwise(lines)
        if line.endswith(";")
        and (" = " in line or line.startswith("rpc"))
        and not line.startswith(("option", "syntax", "package", "import"))
        and not (before.startswith("//") or "//" in line)
    ]
    assert lacking == []
