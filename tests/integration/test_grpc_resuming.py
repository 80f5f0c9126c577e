"""Clients that resume: after restarts, at another server, after a long time."""

from __future__ import annotations

import json
import signal
import threading

import datastream_grpc
import pytest

import datastream
from datastream import DatastreamError, Operation, RevisionConflict, State
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT, Child, Follower, Statuses, eventually
from tests.repositories import Repository

CLIENTS, PROGRAMS = 200, 4
KEYS = 20


@pytest.fixture
def url(tmp_path):
    return f"sqlite:{tmp_path / 'store.db'}"


def serving(stack, url, address="127.0.0.1:0"):
    child = stack.enter_context(Child("server", url, address))
    return child, child.line()


def changes(follower, since):
    return sorted((e.key, e.operation is Operation.DELETE) for e in follower.entries[since:])


def test_the_next_server_of_the_list_takes_over(stack, url):
    """Another server of the same database, by a store of its own."""
    store, other = (stack.enter_context(datastream.open(url)) for _ in range(2))
    store.put_many({"kept": 1, "changed": 1, "deleted": 1})
    first = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    second = stack.enter_context(datastream_grpc.serve(other, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{first.address},{second.address}"))
    follower = Follower(remote)
    follower.wait(lambda state: len(state) == 3)
    first.stop(0)
    remote.put("changed", 2, wait=TIMEOUT)
    remote.delete("deleted", wait=TIMEOUT)
    follower.wait(lambda state: state == {"kept": b"1", "changed": b"2"})
    assert changes(follower, 3) == [("changed", False), ("deleted", True)]


@pytest.mark.parametrize(
    "places", ["127.0.0.1:1,localhost:2", "127.0.0.1:1,[::1]:2", "127.0.0.1:1,"]
)
def test_several_servers_are_named_by_addresses(places):
    with pytest.raises(DatastreamError, match=r"names (no|several) server"):
        datastream.open(f"grpc://{places}")


def test_another_history_is_told_as_differences_only(stack):
    """By a restarted server, to which the cursors of the one before are worth nothing."""
    first = stack.enter_context(datastream.open("memory:"))
    first.put_many({"kept": 1, "deleted": 1})
    server = stack.enter_context(datastream_grpc.serve(first, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    follower, statuses = Follower(remote), Statuses(remote)
    follower.wait(lambda state: len(state) == 2)
    server.stop(0)
    statuses.wait(State.STALE)
    second = stack.enter_context(datastream.open("memory:"))
    second.put_many({"kept": 1, "new": 1})
    stack.enter_context(datastream_grpc.serve(second, server.address))
    follower.wait(lambda state: state == {"kept": b"1", "new": b"1"})
    assert ("deleted", True) in changes(follower, 2)


@pytest.mark.chaos
def test_servers_of_one_git_commit_know_each_others_cursors(stack, tmp_path):
    """An hour's gap is like any other to a log that is kept."""
    repository = Repository.new(tmp_path / "config")
    repository.commit({"kept": "1", "changed": "1", "deleted": "1"})
    url = f"git:{repository.path}"
    first, address = serving(stack, url)
    with datastream.open(f"grpc://{address}") as remote:
        batches = []
        remote.watch_batches().subscribe(batches.append)
        eventually(lambda: batches, "the state")
        cursor = batches[-1].cursor
        revisions = {entry.key: entry.revision for entry in batches[-1].entries}
    first.close()
    repository.commit({"changed": "2", "deleted": None})
    _, address = serving(stack, url)
    with datastream.open(f"grpc://{address}") as remote:
        for since in (cursor, revisions):
            resumed = []
            remote.watch_batches(since=since).subscribe(resumed.append)
            eventually(lambda resumed=resumed: resumed, "the differences")
            assert not resumed[0].reset
            assert {e.key: e.operation for e in resumed[0].entries} == {
                "changed": Operation.PUT,
                "deleted": Operation.DELETE,
            }


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_rolling_restart_of_two_servers_under_load(stack, url):
    """None of 200 clients loses or repeats a state, while both servers are restarted in turn."""
    store = stack.enter_context(datastream.open(url))
    store.put_many({f"k{n}": 0 for n in range(KEYS)})
    servers = [serving(stack, url) for _ in range(2)]
    addresses = [address for _, address in servers]
    programs = [
        Child("many_clients", f"grpc://{','.join(order)}", CLIENTS // PROGRAMS)
        for order in (addresses, addresses[::-1]) * (PROGRAMS // 2)
    ]
    for program in programs:
        stack.enter_context(program)
    for program in programs:
        assert program.line(120) == "ready"
    writer = stack.enter_context(datastream.open(f"grpc://{','.join(addresses)}"))
    load = stack.enter_context(Load(writer))
    for restart in range(4):
        child, address = servers[restart % 2]
        load.await_more(20)
        child.kill() if restart < 2 else child.signal(signal.SIGTERM)
        load.await_more(20)
        servers[restart % 2] = serving(stack, url, address)
    load.stop()
    expected = dict(store)
    assert expected == load.state
    for program in programs:
        assert program.ask(json.dumps(expected)) == "ok"
    for program in programs:
        program.process.stdin.close()
        assert json.loads(program.line(60)) == []


class Load:
    """Writes numbers that only grow, and deletes, until told to stop."""

    def __init__(self, store):
        self._store = store
        self.state = {f"k{n}": 0 for n in range(KEYS)}
        self.count = 0
        self._failed = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def await_more(self, number):
        target = self.count + number
        eventually(lambda: self._failed or self.count >= target, "more writes", 120)
        assert self._failed is None

    def stop(self):
        self._stopping.set()
        self._thread.join()
        assert self._failed is None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()

    def _run(self):
        try:
            while not self._stopping.wait(0.002):
                self._write(f"k{self.count % KEYS}")
        except Exception as error:
            self._failed = error
            raise

    def _write(self, key):
        self.count += 1
        if self.count % 7 == 0:
            self._store.delete(key, missing_ok=True, wait=TIMEOUT)
            self.state.pop(key, None)
        else:
            self._store.put(key, self.count, wait=TIMEOUT)
            self.state[key] = self.count


def test_a_cursor_or_revision_that_no_wire_carries_is_none(stack):
    store = stack.enter_context(datastream.open("memory:"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    remote["k"] = 1
    recorder = Recorder(remote, since="\ud800")
    recorder.wait_state({"k": b"1"})
    assert recorder.batches[0].reset
    with pytest.raises(RevisionConflict):
        remote.put("k", 2, expect="\ud800")
    assert remote.status.current.state is State.READY
