"""Many writes at once, and what a store remembers of its own."""

import asyncio
from contextlib import ExitStack

import datastream_grpc
import pytest

import datastream
from datastream import RevisionConflict
from datastream.testing import Recorder
from datastream.testing._tools import eventually
from tests.integration.nats.test_nats import update
from tests.servers.nats import make_bucket, remove_bucket, with_client


@pytest.mark.parametrize("direct", [True, pytest.param(False, marks=pytest.mark.chaos)])
def test_many_values_at_once(running, bucket, store, direct):
    update(running, bucket, allow_direct=direct)
    recorder = Recorder(store)
    values = {f"k/{number}": number for number in range(1_500)}
    for _ in range(2):
        stored = store.put_many(values)
        assert [entry.key for entry in stored] == list(values)
    assert dict(store) == values
    recorder.wait(lambda r: len(r.state) == len(values))
    assert len(recorder.entries) == len(values), "nothing was written twice"


def test_what_is_remembered_of_own_writes_may_be_wrong(url):
    with datastream.open(url, create=True) as one, datastream.open(url) as other:
        one.put_many({"a": 1, "b": 1, "c": 1, "d": 1})
        other.put_many({"a": 2, "b": 2})
        del other["c"]
        one.put_many({"a": 1, "b": 3, "c": 1, "d": 1})
        assert dict(one) == dict(other) == {"a": 1, "b": 3, "c": 1, "d": 1}
        revisions = {key: entry.revision for key, entry in one.snapshot().items()}
        one.put_many({"a": 1, "b": 3, "c": 1, "d": 1})
        assert {key: entry.revision for key, entry in one.snapshot().items()} == revisions


def test_memory_of_a_bucket_that_was_made_anew(running, bucket, url):
    with datastream.open(url, create=True) as store:
        store.put_many({"a": 1, "b": 1})
        store.put_many({"a": 2, "b": 2})
        remove_bucket(running.url, bucket)
        with datastream.open(url, create=True):
            stored = store.put_many({"a": 3, "b": 3})
            assert {entry.key: entry for entry in stored} == store.snapshot()


def test_a_write_that_is_refused_stops_the_rest(store):
    store["count"] = 1
    stale = store.entry("count").revision
    store["count"] = 2
    with pytest.raises(RevisionConflict):
        store.put_many({"new": 1, "count": 3}, expect={"count": stale})
    assert dict(store) == {"count": 2}


@pytest.mark.chaos
@pytest.mark.parametrize("behind", ["", "grpc"])
def test_keys_that_are_removed_by_themselves(store, behind):
    with ExitStack() as stack:
        one = store
        if behind:
            server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
            one = stack.enter_context(datastream.open(f"grpc://{server.address}"))
            eventually(lambda: datastream.Feature.TTL in one.features, "the server said so")
        recorder = Recorder(one)
        one.put("a", 1, ttl=1)
        one["kept"] = 1
        recorder.wait_state({"a": b"1", "kept": b"1"})
        recorder.wait_state({"kept": b"1"})
        assert recorder.live[-1].operation == "DELETE"
        one.put("b", 1, ttl=1)
        one.put("b", 1)
        recorder.wait(lambda r: "b" in r.state)
        one.put("c", 1, ttl=1)
        recorder.wait(lambda r: "c" in r.state)
        recorder.wait_state({"b": b"1", "kept": b"1"})


def test_a_ttl_that_cannot_be(running, bucket, store):
    for ttl, says in ((0.5, "at least 1 s"), (0, "ttl"), (float("nan"), "ttl")):
        with pytest.raises(datastream.DatastreamError, match=says):
            store.put("a", 1, ttl=ttl)
    make_bucket(running.url, f"{bucket}-plain")
    with datastream.open(f"{running.url}/{bucket}-plain") as plain:
        with pytest.raises(datastream.Unsupported, match="without ttl"):
            plain.put("a", 1, ttl=5)
    with datastream.open("memory:") as memory, pytest.raises(datastream.Unsupported):
        memory.put("a", 1, ttl=5)
    assert dict(store) == {}


def test_what_arrives_late_replaces_nothing(running, bucket, store):
    """A message that was sent to a node which hung, and is stored when that goes on."""

    async def send_again(client):
        sent = await client.subscribe(f"$KV.{bucket}.a")
        await client.flush()
        await asyncio.to_thread(store.put, "a", "first")
        message = await sent.next_msg(5)
        await asyncio.to_thread(store.put, "a", "second")
        late = {**message.headers, "Nats-Msg-Id": "another"}
        return await client.request(message.subject, message.data, headers=late)

    answer = with_client(running.url, send_again)
    assert b"wrong last sequence" in answer.data
    assert store["a"] == "second"


def test_servers_send_only_what_is_watched(running, bucket, store):
    watches = [Recorder(store, "fx/"), Recorder(store, "a.b", match="x/*/y")]
    for watch in watches:
        watch.wait_ready()
    wanted = {f"$KV.{bucket}.{subject}" for subject in ("fx.>", "a/b", "x.*.y")}

    async def filters(client):
        found = await client.jsm().consumers_info(f"KV_{bucket}")
        return [set(info.config.filter_subjects or ()) for info in found]

    eventually(lambda: with_client(running.url, filters) == [wanted], "one consumer, for those")
