"""Several processes that serve one URL on one port."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import datastream_grpc
import psutil
import pytest
from datastream_grpc._pb import service_pb2 as pb

import datastream
from datastream import DatastreamError, SourceUnavailable
from tests.integration._programs.tools import TIMEOUT, Child, Follower, eventually


@pytest.fixture
def url(tmp_path):
    return f"sqlite:{tmp_path / 'store.db'}"


def opened(stack, server):
    return stack.enter_context(datastream.open(f"grpc://{server.address}"))


@pytest.mark.chaos
def test_workers_share_a_port_and_one_that_dies_is_started_again(stack, url, caplog):
    server = stack.enter_context(datastream_grpc.serve(url, "127.0.0.1:0", workers=2))
    first, second = server.pids
    clients = [opened(stack, server) for _ in range(8)]
    followers = [Follower(client, "k") for client in clients]
    clients[0]["k"] = 1
    for follower in followers:
        follower.wait_key("k", b"1")
    assert all(psutil.Process(pid).net_connections() for pid in (first, second))
    os.kill(first, signal.SIGKILL)
    clients[0].put("k", 2, wait=TIMEOUT)
    for follower in followers:
        follower.wait_key("k", b"2")
        assert [entry.value for entry in follower.entries] == [b"1", b"2"]
    eventually(lambda: len(server.pids) == 2, "another worker")
    assert second in server.pids
    assert first not in server.pids
    assert "signal 9" in caplog.text
    server.stop()
    assert server.wait(0)
    assert server.pids == []


@pytest.mark.chaos
def test_a_write_that_comes_again_to_another_worker_is_done_once(stack, url):
    server = stack.enter_context(datastream_grpc.serve(url, "127.0.0.1:0", workers=2))
    first = pb.WriteRequest(id="mine")
    first.writes.add(data=pb.Data(key="k", value=b"1", value_type="int"))
    clients = [opened(stack, server) for _ in range(8)]
    writes = [client._source.stubs.write for client in clients]
    stored = writes[0](first)
    assert {write(first).entries[0].revision for write in writes} == {stored.entries[0].revision}
    clients[0]["k"] = 2
    for pid in server.pids:
        os.kill(pid, signal.SIGKILL)
    for client in clients:
        eventually(lambda client=client: reads(client, "k") == 2, "another worker")
        client._source.stubs.write(first, wait_for_ready=True)
        assert client["k"] == 2


def reads(client, key):
    with suppress(SourceUnavailable):
        return client[key]
    return None


@pytest.mark.parametrize(
    ("url", "options", "error", "text"),
    [
        ("memory:", {}, DatastreamError, "memory of one process"),
        ("memory:name", {}, DatastreamError, "memory of one process"),
        ("sqlite:x", {"workers": 0}, DatastreamError, "number from 1"),
        ("sqlite:x", {"address": "unix:socket"}, DatastreamError, "host:port"),
        ("sqlite:x", {"address": "127.0.0.1:x"}, OSError, "cannot listen"),
        ("sqlite:x", {"address": "0.0.0.0:0"}, DatastreamError, "other machines"),
        ("sqlite:x", {"tokens": lambda token: True}, DatastreamError, "give files"),
        ("nothing", {}, DatastreamError, "no store URL"),
        ("sqlite:x", {"metrics": 0, "workers": 2}, DatastreamError, "from 1 to 65534"),
        ("sqlite:x", {"metrics": 65_535, "workers": 2}, DatastreamError, "from 1 to 65534"),
    ],
)
def test_what_processes_cannot_serve_is_refused(url, options, error, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=text):
        datastream_grpc.serve(url, **{"address": "127.0.0.1:0"} | options)


def test_a_store_takes_no_workers(stack):
    store = stack.enter_context(datastream.open("memory:"))
    with pytest.raises(DatastreamError, match="give serve its URL"):
        datastream_grpc.serve(store, "127.0.0.1:0", workers=2)


def test_a_port_that_others_listen_on_is_said(stack, url):
    store = stack.enter_context(datastream.open("memory:"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    with pytest.raises(OSError, match="in use"):
        datastream_grpc.serve(url, server.address)


def test_what_a_worker_cannot_open_is_said_by_serve(tmp_path):
    with pytest.raises(SourceUnavailable, match="unable to open"):
        datastream_grpc.serve(f"sqlite:{tmp_path}/missing/x.db", "127.0.0.1:0")


@pytest.mark.chaos
def test_workers_end_with_their_parent_however_it_ends(url):
    with Child("workers", url, 2) as parent:
        parent.line()
        pids = list(map(int, parent.line().split()))
        parent.signal(signal.SIGKILL)
        eventually(lambda: not any(map(psutil.pid_exists, pids)), "the workers' end")


@pytest.mark.chaos
def test_dropped_workers_stop(url):
    server = datastream_grpc.serve(url, "127.0.0.1:0", workers=2)
    pids = server.pids
    del server
    eventually(lambda: not any(map(psutil.pid_exists, pids)), "the workers' end")


@pytest.mark.chaos
def test_a_worker_told_to_end_tells_its_clients(stack, url):
    server = stack.enter_context(datastream_grpc.serve(url, "127.0.0.1:0"))
    client = opened(stack, server)
    follower = Follower(client)
    client["k"] = 1
    (pid,) = server.pids
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: server.pids not in ([pid], []), "another worker")
    client.put("k", 2, wait=TIMEOUT)
    follower.wait_key("k", b"2")
