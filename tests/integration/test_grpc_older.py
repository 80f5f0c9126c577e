"""Our client and the ancestor's real servers, with all their habits."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import datastream_grpc
import pytest
from datastream_grpc import _calls, _older

import datastream
from datastream import DatastreamError, KeyNotFound, SourceUnavailable, Unsupported
from tests.integration._programs.tools import TIMEOUT, Follower, Statuses, eventually
from tests.servers import old_servers


@pytest.fixture(params=old_servers.STORAGES)
def old(request, stack, monkeypatch):
    monkeypatch.setattr(_calls, "POLL", 0.3)
    server = stack.enter_context(request.param())
    for key in ("a", "fx/b", "fx/c", "other"):
        server.put(key, b"1", "int")
    return server


@pytest.fixture
def remote(old):
    with datastream.open(f"grpc://{old.address}", timeout=5.0) as store:
        yield store


def test_what_is_there_is_found(old, remote):
    everything = {"a": 1, "fx/b": 1, "fx/c": 1, "other": 1}
    assert dict(remote) == remote.copy() == everything
    assert sorted(one.key for one in remote.capabilities()) == sorted(everything)
    assert sorted(remote.snapshot("fx/")) == ["fx/b", "fx/c"]
    assert sorted(remote.snapshot(match="*/b")) == ["fx/b"]
    assert sorted(remote.snapshot("a", "fx/", "missing")) == ["a", "fx/b", "fx/c"]
    assert sorted(remote.snapshot("a", "missing")) == ["a"]
    assert remote.snapshot("missing") == {}
    for key in ("missing", "fx"):
        assert key not in remote
        with pytest.raises(KeyNotFound):
            remote.entry(key)


def test_it_says_what_it_cannot(old):
    url = f"grpc://{old.address}"
    assert "older protocol" in datastream_grpc.ping(url).degraded
    with pytest.raises(Unsupported, match="older protocol"):
        datastream_grpc.refresh(url)


def test_coroutines_find_the_same(old, remote):
    async def run():
        assert await remote.aget("a") == 1
        assert await remote.aget("missing", "none") == "none"
        with pytest.raises(KeyNotFound):
            await remote.aentry("missing")
        assert sorted(await remote.asnapshot("fx/", "missing")) == ["fx/b", "fx/c"]
        old.unreadable.add("a")
        if old.fails_missing:
            with pytest.raises(SourceUnavailable, match="file not found"):
                await remote.aget("a")

    asyncio.run(run())


@pytest.mark.parametrize("selected", [(), ("fx/", "a", "new"), ("a", "fx/b", "new")])
def test_what_happens_is_followed(old, remote, selected):
    follower, status = Follower(remote, *selected), Statuses(remote)
    keys = [k for k in old.data if not selected or k in selected or (k[:3] in selected)]
    follower.wait_state(dict.fromkeys(keys, b"1"))
    for number in range(2, 6):
        old.put("a", b"%d" % number, "int")
        old.put("fx/b", b"%d" % number, "int")
        follower.wait(lambda s, n=number: s["a"] == s["fx/b"] == b"%d" % n)
    old.put("new", b"1", "int")
    follower.wait_key("new", b"1")
    # It is never told of a delete; but what is not there is seen.
    old.remove("fx/b")
    follower.wait_key("fx/b", None)
    assert len(follower.entries) == len({(e.key, e.value, e.operation) for e in follower.entries})
    status.wait_degraded("older protocol")
    assert old.leaked == 0


def test_own_puts_end_no_stream(old, remote):
    follower = Follower(remote)
    follower.wait(lambda state: len(state) == 4)
    eventually(lambda: old.streams == 4, "a stream for each key")
    for number in range(20):
        remote["a"] = number
        remote["own"] = number
        assert remote.flush(TIMEOUT)
        assert (follower.state["a"], follower.state["own"]) == (b"%d" % number,) * 2
    newcomer = Follower(remote, "a")
    newcomer.wait_state({"a": b"19"})
    newcomer.dispose()
    assert (old.leaked, old.streams) == (0, 5)


def test_streams_end_when_nobody_watches_any_more(old, remote, monkeypatch):
    monkeypatch.setattr(_older, "LINGER", 0.2)
    follower = Follower(remote)
    eventually(lambda: old.streams == 4, "a stream for each key")
    follower.dispose()
    eventually(lambda: old.leaked == 4, "the streams end")


def test_many_keys_have_few_streams(old, remote, monkeypatch):
    monkeypatch.setattr(_older, "STREAMS", 2)
    follower = Follower(remote)
    follower.wait(lambda state: len(state) == 4)
    for key in sorted(old.data):
        old.put(key, b"2", "int")
    follower.wait(lambda state: set(state.values()) == {b"2"})
    eventually(lambda: old.streams == 2, "a stream for some")


def test_one_key_that_cannot_be_read_concerns_no_other(old, remote):
    follower = Follower(remote)
    follower.wait(lambda state: len(state) == 4)
    old.unreadable.add("a")
    old.put("other", b"2", "int")
    follower.wait_key("other", b"2")
    if old.fails_missing:
        assert follower.state["a"] == b"1"
        assert sorted(remote.snapshot()) == ["fx/b", "fx/c", "other"]
    old.unreadable.clear()
    old.put("a", b"3", "int")
    follower.wait_key("a", b"3")


def test_the_example_server_lists_and_takes_pushes(stack):
    old = stack.enter_context(old_servers.Example())
    remote = stack.enter_context(datastream.open(f"grpc://{old.address}", timeout=5.0))
    remote["k"] = 1
    assert [one.key for one in remote.capabilities()] == ["k"]
    for read in (lambda: remote["k"], remote.snapshot):
        with pytest.raises(DatastreamError):
            read()
    with pytest.raises(DatastreamError):
        Follower(remote)
    # It works once the server does.
    old.reads_fail = False
    Follower(remote).wait_state({"k": b"1"})


def test_nothing_is_written_to_the_terminal(stack):
    """A server with the default policy sends GOAWAY to those that ping, which gRPC logs."""
    old = stack.enter_context(old_servers.Git())
    old.put("k", b"1", "int")
    program = (
        "import datastream\n"
        f"with datastream.open('grpc://{old.address}', heartbeat=0.3, timeout=10.0) as store:\n"
        "    with store.watch().subscribe(lambda entry: None):\n"
        "        __import__('time').sleep(2.0)\n"
        "        print(store['k'], flush=True)\n"
        "        input()\n"
        "        try: store['k']\n"
        "        except datastream.SourceUnavailable: print('away')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"1\n"
    old.stop()
    out, err = process.communicate(b"\n", timeout=TIMEOUT)
    assert out == b"away\n"
    lines = [line for line in err.decode().splitlines() if line]
    # The library's own line, which says that it is STALE.
    assert all("STALE" in line or "FAILED" in line for line in lines), lines
