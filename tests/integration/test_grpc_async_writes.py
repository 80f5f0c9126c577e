"""Writes that coroutines await over gRPC: one stream, no thread for each, and none done twice."""

from __future__ import annotations

import asyncio
import time

import datastream_grpc
import pytest
from datastream_grpc import _async_pusher

import datastream
from datastream import (
    Denied,
    KeyNotFound,
    ReadOnly,
    RevisionConflict,
    SourceUnavailable,
    State,
    Store,
    StoreClosed,
)
from tests.integration._programs.tools import TIMEOUT, Follower, eventually
from tests.integration.test_grpc_writes import Counting
from tests.servers.proxy import Proxy


@pytest.fixture
def source():
    return Counting()


@pytest.fixture
def store(stack, source):
    return stack.enter_context(Store(source, name="served"))


@pytest.fixture
def proxy(stack, server):
    return stack.enter_context(Proxy(int(server.address.rpartition(":")[2])))


@pytest.fixture
def remote(stack, proxy):
    return stack.enter_context(datastream.open(f"grpc://127.0.0.1:{proxy.port}", timeout=TIMEOUT))


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT))


async def outcomes(*coroutines):
    return await asyncio.gather(*coroutines, return_exceptions=True)


async def arrived(source, number):
    """Until so many writes have come to the backend."""
    await asyncio.to_thread(eventually, lambda: len(source.writes) >= number, "the writes")


def test_writes_in_flight_share_a_stream_and_each_has_its_own_answer(store, remote):
    store.put_many({"taken": 0, "gone": 0})

    async def many():
        puts = [remote.aput(f"k{n}", n) for n in range(200)]
        others = [
            remote.aput("taken", 1, expect=""),
            remote.adelete("missing"),
            remote.adelete("gone"),
            remote.aput_many({"a": 1, "b": 2}, expect={"a": ""}),
        ]
        return await outcomes(*puts, *others)

    results = run(many())
    conflict, missing, gone, pair = results[200:]
    assert [entry.decode() for entry in results[:200]] == list(range(200))
    assert isinstance(conflict, RevisionConflict)
    assert "taken" in str(conflict)
    assert isinstance(missing, KeyNotFound)
    assert gone is None
    assert [entry.key for entry in pair] == ["a", "b"]
    assert dict(store) == {f"k{n}": n for n in range(200)} | {"taken": 0, "a": 1, "b": 2}
    assert remote.threads._executor is None


def test_a_coroutine_finds_its_own_write_offered_to_watchers_here(remote):
    follower = Follower(remote, "k/")

    async def puts():
        for number in range(20):
            await remote.aput(f"k/{number}", number)
            assert remote.flush(TIMEOUT)
            assert follower.state[f"k/{number}"] == b"%d" % number

    run(puts())


def test_writes_go_on_while_one_is_held_up(source, store, remote):
    async def both():
        source.gate.clear()
        slow = asyncio.create_task(remote.aput("slow", 1))
        await arrived(source, 1)
        quick = [asyncio.create_task(remote.aput(f"k{n}", n)) for n in range(5)]
        await arrived(source, 6)
        source.gate.set()
        await asyncio.gather(slow, *quick)

    run(both())


def test_writes_in_flight_when_the_connection_breaks_are_done_once(source, store, proxy, remote):
    async def puts():
        source.gate.clear()
        running = asyncio.gather(*(remote.aput(f"k{n}", n, expect="") for n in range(20)))
        await arrived(source, 20)
        proxy.cut()
        source.gate.set()
        await running

    run(puts())
    assert sorted(source.writes) == sorted(f"k{n}" for n in range(20))


def test_writes_in_flight_are_not_compared_when_the_connection_breaks(
    source, proxy, remote, monkeypatch
):
    """Of 16,000, each with each, that held up gRPC's event loop for 25 s."""
    compared = []
    monkeypatch.setattr(
        _async_pusher._Waiting, "__eq__", lambda *both: compared.append(both) or both[0] is both[1]
    )

    async def puts():
        source.gate.clear()
        running = asyncio.gather(*(remote.aput(f"k{n}", n) for n in range(20)))
        await arrived(source, 20)
        proxy.cut()
        source.gate.set()
        await running

    run(puts())
    assert not compared


def test_a_write_into_a_black_hole_fails_in_time_and_the_next_works(stack, proxy, store):
    remote = stack.enter_context(datastream.open(f"grpc://127.0.0.1:{proxy.port}", timeout=0.4))
    run(remote.aput("k", 1))
    proxy.is_hole = True
    for result in run(outcomes(*(remote.aput(f"k{n}", 2) for n in range(10)))):
        assert isinstance(result, SourceUnavailable)
    proxy.is_hole = False
    proxy.cut()
    run(remote.aput("k", 3, wait=TIMEOUT))
    assert store["k"] == 3


def test_a_value_too_large_for_the_server_harms_no_other(stack, source, store):
    server = stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", max_message_size=1 << 20)
    )
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))

    async def puts():
        source.gate.clear()
        others = [asyncio.create_task(remote.aput(f"k{n}", n)) for n in range(10)]
        await arrived(source, 10)
        with pytest.raises(datastream.InvalidValue):
            await remote.aput_many({"large": b"x" * (2 << 20)})
        source.gate.set()
        await asyncio.gather(*others)

    run(puts())
    assert len(store) == 10


def test_event_loops_come_and_go(source, store, remote):
    run(remote.aput("a", 1))
    source.gate.clear()

    async def abandon():
        task = asyncio.create_task(remote.aput("b", 2))
        await arrived(source, 2)
        task.cancel()

    run(abandon())
    source.gate.set()
    run(remote.aput("c", 3))
    eventually(lambda: dict(store) == {"a": 1, "b": 2, "c": 3}, "what was given up is done")


def test_closing_the_store_ends_what_is_in_flight(source, remote):
    source.gate.clear()

    async def put():
        task = asyncio.create_task(remote.aput("k", 1))
        await arrived(source, 1)
        await asyncio.to_thread(remote.close)
        with pytest.raises(StoreClosed):
            await task
        with pytest.raises(StoreClosed):
            await remote.aput("k", 2)

    try:
        run(put())
    finally:
        source.gate.set()


def test_a_refusal_of_all_reaches_each(stack, store, tmp_path):
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", read_only=True))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    with pytest.raises(ReadOnly):
        run(remote.aput("k", 1))
    (tmp_path / "tokens").write_text("secret\n")
    server = stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", tokens=tmp_path / "tokens")
    )
    known = stack.enter_context(datastream.open(f"grpc://{server.address}", token="secret"))
    assert run(known.aput("k", 1)).value == b"1"
    unknown = stack.enter_context(datastream.open(f"grpc://{server.address}", token="other"))
    unknown._source._calls.pushes = True
    for result in run(outcomes(*(unknown.aput(f"k{n}", 1) for n in range(3)))):
        assert isinstance(result, Denied)
    # That a write is refused is no state of the store.
    assert unknown.status.current.state is State.CONNECTING


def test_a_server_that_is_away_is_said_at_once(stack, store, server, remote):
    run(remote.aput("k", 1))
    server.stop()
    begin = time.monotonic()
    with pytest.raises(SourceUnavailable):
        run(remote.aput("k", 2))
    assert time.monotonic() - begin < TIMEOUT
