"""Heartbeats: a quiet watch is told how far its store is, so that a resume stays cheap."""

from __future__ import annotations

from contextlib import closing

import datastream_grpc
import grpc
import pytest
from datastream_grpc._connection import Stubs
from datastream_grpc._pb import service_pb2 as pb

import datastream
from datastream.selection import Selection
from tests.integration._programs.tools import eventually

KEPT = 10
"""Lines of the log, here."""
SOON = 0.1
"""Seconds between two heartbeats, here."""


@pytest.fixture
def store(stack, monkeypatch, tmp_path):
    monkeypatch.setattr("datastream_grpc._heartbeats.LEAST", SOON)
    monkeypatch.setattr("datastream.sources.sqlite.log.KEPT", KEPT)
    monkeypatch.setattr("datastream.sources.sqlite.source.KEPT", KEPT)
    monkeypatch.setattr("datastream.sources.sqlite.source.PRUNE_EVERY", KEPT)
    store = stack.enter_context(datastream.open(f"sqlite:{tmp_path / 'store.db'}"))
    store["quiet"] = 1
    return store


@pytest.fixture
def stubs(stack, server):
    channel = stack.enter_context(closing(grpc.insecure_channel(server.address)))
    return Stubs(channel)


def subscribed(stack, stubs, *keys, **fields):
    call = stubs.subscribe(pb.DataRequest(keys=keys or ("quiet",), deletes=True, **fields))
    stack.callback(call.cancel)
    return call


def followed(stack, stubs, *keys, **fields):
    add = pb.DataRequest(keys=keys or ("quiet",), deletes=True, **fields)
    call = stubs.follow(iter([pb.FollowRequest(watch=1, add=add)]))
    stack.callback(call.cancel)
    return (message.response for message in call)


def outgrow(store):
    """Change other keys so often that the log forgets all that was before."""
    for number in range(KEPT):
        store.put_many({f"busy/{n}": number for n in range(KEPT)})


def is_heartbeat(message):
    return message == pb.DataResponse(cursor=message.cursor)


def await_cursor(call, cursor):
    """Receive heartbeats until one has a cursor; no two are the same."""
    seen = []
    while cursor not in seen:
        message = next(call)
        assert is_heartbeat(message)
        assert message.cursor not in seen
        seen.append(message.cursor)


@pytest.mark.parametrize("begin", [subscribed, followed])
def test_a_quiet_watch_resumes_from_its_last_heartbeat(stack, store, stubs, begin):
    call = begin(stack, stubs, heartbeat=SOON)
    first = next(call)
    outgrow(store)
    now = store.snapshot_batch().cursor
    await_cursor(call, now)
    store["quiet"] = 2
    assert next(call).data["quiet"].value == b"2"
    for since, is_reset in ((first.cursor, True), (now, False)):
        again = next(begin(stack, stubs, since=since))
        assert (again.initial, again.reset) == (True, is_reset)
        assert again.data["quiet"].value == b"2"


def test_who_does_not_ask_is_sent_none(stack, store, stubs):
    asking, plain = subscribed(stack, stubs, heartbeat=SOON), subscribed(stack, stubs)
    assert next(asking).initial
    assert next(plain).initial
    outgrow(store)
    await_cursor(asking, store.snapshot_batch().cursor)
    store["quiet"] = 2
    assert next(plain).data


def test_changes_keep_their_order_among_heartbeats(stack, store, stubs):
    """Whatever a heartbeat says, all that happened before its cursor was sent before it."""
    call = subscribed(stack, stubs, heartbeat=SOON)
    values, cursors = [next(call).data["quiet"].value], []
    for number in range(2, 50):
        store.put("quiet" if number % 8 == 0 else "busy", number)
    while values[-1] != b"48":
        message = next(call)
        if is_heartbeat(message):
            cursors.append((message.cursor, values[-1]))
        else:
            values.append(message.data["quiet"].value)
    assert values == [b"1", *(b"%d" % number for number in range(8, 50, 8))]
    for cursor, value in cursors:
        again = next(subscribed(stack, stubs, since=cursor))
        assert again.reset or bool(again.data) == (value != b"48")


def test_our_client_goes_on_from_a_heartbeat_as_relays_do(stack, store, server):
    """The heartbeats of a relay are those of its server."""
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}", heartbeat=SOON))
    relay = stack.enter_context(datastream_grpc.serve(remote, "127.0.0.1:0"))
    channel = stack.enter_context(closing(grpc.insecure_channel(relay.address)))
    call = subscribed(stack, Stubs(channel), heartbeat=SOON)
    first = next(call)
    outgrow(store)
    now = store.snapshot_batch().cursor
    await_cursor(call, now)
    assert remote.reached() == now != first.cursor
    # The stream is begun anew, for one key more, and goes on from there.
    batches = []
    stack.callback(remote.watch_batches("other").subscribe(batches.append).dispose)
    store["quiet"] = 2
    message = next(call)
    while is_heartbeat(message):
        message = next(call)
    assert not message.reset
    assert message.data["quiet"].value == b"2"


def test_a_restricted_client_resumes_from_its_heartbeats(stack, store):
    server = stack.enter_context(
        datastream_grpc.serve(
            store,
            "127.0.0.1:0",
            tokens=lambda token: token,
            authorize=lambda *asked: Selection.of("quiet", "own/"),
        )
    )
    url = f"grpc://{server.address}"
    remote = stack.enter_context(datastream.open(url, token="ann", heartbeat=SOON))
    batches = []
    stack.callback(remote.watch_batches().subscribe(batches.append).dispose)
    outgrow(store)
    now = store.snapshot_batch().cursor
    eventually(lambda: remote.reached().startswith(f"{now}~"), "the heartbeat")
    assert [sorted(entry.key for entry in batch.entries) for batch in batches] == [["quiet"]]
    resumed = []
    again = remote.watch_batches(since=remote.reached())
    stack.callback(again.subscribe(resumed.append).dispose)
    eventually(lambda: resumed, "the difference")
    assert (resumed[0].reset, resumed[0].entries) == (False, ())


class Rules:
    """What everybody may read, until that changes."""

    def __init__(self, *keys):
        self.right = Selection.of(*keys)

    def __call__(self, principal, action, selection):
        return self.right

    def subscribe(self, changed):
        self._changed = changed
        return lambda: None

    def change(self, *keys):
        self.right = Selection.of(*keys)
        self._changed()


def test_heartbeats_go_on_after_the_rules_have_changed(stack, store):
    rules = Rules("quiet", "old/")
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", authorize=rules))
    stubs = Stubs(stack.enter_context(closing(grpc.insecure_channel(server.address))))
    call = subscribed(stack, stubs, "quiet", "old/", "new/", heartbeat=SOON)
    before = next(call).cursor.rpartition("~")[2]
    rules.change("quiet", "new/")
    after = next(call)
    assert after.reset
    mark = after.cursor.rpartition("~")[2]
    assert mark != before
    outgrow(store)
    await_cursor(call, now := f"{store.snapshot_batch().cursor}~{mark}")
    store["new/1"] = 1
    assert [*next(call).data] == ["new/1"]
    again = next(subscribed(stack, stubs, "quiet", "old/", "new/", since=now))
    assert (again.reset, [*again.data]) == (False, ["new/1"])


@pytest.mark.parametrize("heartbeat", [float("nan"), -1.0])
def test_a_heartbeat_is_a_time(stack, stubs, heartbeat):
    with pytest.raises(grpc.RpcError, match="give seconds") as caught:
        next(subscribed(stack, stubs, heartbeat=heartbeat))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
