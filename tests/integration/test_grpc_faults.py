"""A bad network between client and server: what it does, and that nothing is lost by it."""

from __future__ import annotations

import asyncio

import datastream_grpc
import pytest

import datastream
from datastream import State
from tests.integration._programs.tools import TIMEOUT, Follower, Statuses
from tests.servers.proxy import Proxy

HEARTBEAT = 1.0


@pytest.fixture
def store(stack):
    store = stack.enter_context(datastream.open("memory:"))
    store.put_many({f"k/{n}": n for n in range(50)})
    return store


@pytest.fixture
def proxy(stack, store):
    server = stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", heartbeat=2 * HEARTBEAT)
    )
    return stack.enter_context(Proxy(int(server.address.rpartition(":")[2])))


def opened(stack, proxy, **options):
    url = f"grpc://127.0.0.1:{proxy.port}"
    return stack.enter_context(datastream.open(url, heartbeat=HEARTBEAT, **options))


def works(store, remote, follower, number):
    """Everything that one does with a store."""
    remote.put("put", number, wait=TIMEOUT)
    asyncio.run(remote.aput("aput", number, wait=TIMEOUT))
    remote.put_many({"many/a": number, "many/b": number}, wait=TIMEOUT)
    store["local"] = number
    expected = {"put": number, "aput": number, "many/a": number, "many/b": number, "local": number}
    follower.wait(lambda state: all(state.get(k) == b"%d" % v for k, v in expected.items()))
    assert {key: remote[key] for key in expected} == expected


def slow(proxy):
    proxy.delay = 0.02


def crumbling(proxy):
    proxy.chunk = 1


@pytest.mark.parametrize("fault", [slow, crumbling])
def test_a_network_that_is_only_bad_is_only_slow(stack, store, proxy, fault):
    fault(proxy)
    remote = opened(stack, proxy)
    statuses, follower = Statuses(remote), Follower(remote)
    works(store, remote, follower, 1)
    assert len(follower.entries) == len(store)
    assert State.STALE not in statuses.states
    assert proxy.accepted <= 2


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.half_close])
def test_a_connection_that_ends_costs_nothing_but_another(stack, store, proxy, fault):
    remote = opened(stack, proxy)
    follower = Follower(remote)
    works(store, remote, follower, 1)
    for number in (2, 3):
        told = len(follower.entries)
        fault(proxy)
        works(store, remote, follower, number)
        # What had not changed is not told again.
        assert len(follower.entries) == told + 5


def test_a_black_hole_is_stale_in_time_and_then_left(stack, store, proxy):
    remote = opened(stack, proxy, timeout=3.0)
    statuses, follower = Statuses(remote), Follower(remote)
    works(store, remote, follower, 1)
    told = len(follower.entries)
    proxy.is_hole = True
    store["local"] = 2
    statuses.wait(State.STALE)
    assert follower.state["local"] == b"1"
    proxy.is_hole = False
    # No end is told that its connection is gone, so that only new ones help.
    follower.wait(lambda state: state["local"] == b"2")
    works(store, remote, follower, 3)
    assert len(follower.entries) == told + 6
    assert statuses.wait(State.READY)
