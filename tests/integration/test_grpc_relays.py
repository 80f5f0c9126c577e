"""Relays: servers of remote stores, also in a tree."""

from __future__ import annotations

import datastream_grpc
import pytest

import datastream
from datastream import Operation, RevisionConflict
from tests.integration._programs.tools import TIMEOUT, Child, Follower, eventually

CLIENTS = 12


class Batches:
    """The batches that a watch is given."""

    def __init__(self, stack, store, **options):
        self.seen = []
        stack.callback(store.watch_batches(**options).subscribe(self.seen.append).dispose)

    def entries(self):
        return [entry for batch in self.seen for entry in batch.entries]

    def wait(self, key, value):
        eventually(
            lambda: any((e.key, e.value) == (key, value) for e in self.entries()), f"{key}: {value}"
        )
        return self.seen[-1]


@pytest.fixture
def store(stack, tmp_path):
    store = stack.enter_context(datastream.open(f"sqlite:{tmp_path / 'root.db'}"))
    store.put_many({f"k/{n}": n for n in range(10)})
    return store


@pytest.fixture
def root(stack, store):
    return stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))


def opened(stack, server):
    return stack.enter_context(datastream.open(f"grpc://{server.address}"))


def relay(stack, server):
    return stack.enter_context(datastream_grpc.serve(opened(stack, server), "127.0.0.1:0"))


def streams(server):
    return len(server._inner._servicer.streams)


def test_a_tree_of_three_levels(stack, store, root):
    middle = [relay(stack, root) for _ in range(2)]
    leaves = [relay(stack, server) for server in middle]
    clients = [opened(stack, leaves[n % 2]) for n in range(CLIENTS)]
    direct = Batches(stack, store)
    watches = [Batches(stack, client) for client in clients]
    written = clients[0].put("k/1", 100)
    assert store.entry("k/1") == written
    last = direct.wait("k/1", b"100")
    for watch in watches:
        assert watch.wait("k/1", b"100") == last
    # One stream upstream for each relay, however many clients it has.
    assert [*map(streams, middle), streams(root)] == [1, 1, 2]
    assert [*map(streams, leaves)] == [CLIENTS // 2] * 2
    # Whoever leaves one leaf goes on at the other, and at the root.
    store["k/2"] = 200
    store.delete("k/3")
    for server in (*leaves, *middle, root):
        resumed = Batches(stack, opened(stack, server), since=last.cursor)
        resumed.wait("k/2", b"200")
        (first,) = resumed.seen
        changes = {entry.key: entry.operation for entry in first.entries}
        assert changes == {"k/2": Operation.PUT, "k/3": Operation.DELETE}
        assert (first.initial, first.reset) == (True, False)


def test_a_write_that_comes_again_by_another_relay_is_done_once(stack, store, root):
    relays = [opened(stack, relay(stack, root)) for _ in range(2)]
    write = datastream.Write("k/new", b"1", "int", expect="", id="once")
    first, second = (remote.write(write) for remote in relays)
    assert first == second


def test_an_id_is_its_clients_own_also_beyond_a_relay(stack, root):
    """Upstream, all clients of a relay are one."""
    server = stack.enter_context(
        datastream_grpc.serve(
            opened(stack, root),
            "127.0.0.1:0",
            tokens=lambda token: token,
            authorize=lambda *asked: True,
        )
    )
    url = f"grpc://{server.address}"
    ann, bob = (stack.enter_context(datastream.open(url, token=name)) for name in ("ann", "bob"))
    write = datastream.Write("k/new", b"1", "int", expect="", id="once")
    assert ann.write(write) == ann.write(write)
    with pytest.raises(RevisionConflict):
        bob.write(write)


@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_the_clients_of_a_relay_that_is_killed_resume_at_its_successor(stack, store, root):
    first = Child("server", f"grpc://{root.address}", "127.0.0.1:0")
    address = first.line()
    clients = [stack.enter_context(datastream.open(f"grpc://{address}")) for _ in range(CLIENTS)]
    followers = [Follower(client) for client in clients]
    store["k/1"] = 100
    for follower in followers:
        follower.wait_key("k/1", b"100")
    told = len(followers[0].entries)
    first.kill()
    store["k/2"] = 200
    store.delete("k/3")
    stack.enter_context(Child("server", f"grpc://{root.address}", address)).line()
    for follower in followers:
        follower.wait(lambda state: state["k/2"] == b"200" and "k/3" not in state, TIMEOUT)
        assert [entry.key for entry in follower.entries[told:]] in (["k/2", "k/3"], ["k/3", "k/2"])
