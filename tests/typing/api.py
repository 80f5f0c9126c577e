"""The public API as a user's type checker sees it; checked, never run."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, assert_type

import datastream_grpc
from reactivex import Observable

import datastream
from datastream import (
    Batch,
    Capability,
    Change,
    Entry,
    Feature,
    Operation,
    Revision,
    State,
    Status,
    Store,
    Write,
)

store = datastream.open("sqlite:settings.db", table="settings", create=True)
assert_type(store, Store)
mapping: MutableMapping[str, Any] = store

entry = store.put("limits", {"rps": 9}, expect="", value_type="json")
assert_type(entry, Entry)
assert_type(entry.value, bytes)
assert_type(entry.operation, Operation)
assert_type(store.entry("limits"), Entry)
assert_type(store.snapshot("fx/", match=["fx/*"]), dict[str, Entry])
assert_type(store.snapshot_batch(), Batch)
assert_type(store.put_many({"a": 1}, expect={"a": ""}), list[Entry])
capabilities: Sequence[Capability] = store.capabilities()
store.delete("limits", missing_ok=True)
store.put("limits", 1, message="load test", author="Ann <ann@example.org>")
assert_type(store.write(Write("a", b"1", "int"), Write("b", None)), Sequence[Entry])
assert_type(Feature.MESSAGES in store.features, bool)
assert_type(next(store.history("limits")), Revision)
assert_type(store.copy(), dict[str, Any])
assert_type(store | {"a": 1}, dict[str, Any])
store.refresh()

assert_type(store.watch("fx/", match="fx/**"), Observable[Entry])
assert_type(store.replay("fx/", since="v1.0", speed=60.0), Observable[Batch])
assert_type(store.at("v1.0"), Store)
assert_type(store.watch_batches(since="cursor"), Observable[Batch])
since: Mapping[str, str] = {entry.key: entry.revision}
store.watch_batches("limits", since=since).subscribe(lambda batch: print(batch.cursor))
assert_type(store.watch().map(lambda found: found.key), Observable[str])
changes: Observable[Change] = store.watch_values("fx/", as_=float, conflate="always", every=0.5)
assert_type(store.watch_values("fx/", exclude="fx/old/**", initial=False), Observable[Change])
status: Observable[Status] = store.status
assert_type(store.status.current, Status)
assert_type(store.status.current.degraded, str)
store.status.filter(lambda status: status.state is State.STALE).subscribe(print)


async def ask() -> None:
    async with store as entered:
        assert_type(entered, Store)
        assert_type(await store.aentry("limits"), Entry)
        assert_type(await store.aput("limits", 1, expect=""), Entry)
        assert_type(await store.aput_many({"a": 1}), list[Entry])
        assert_type(await store.asnapshot("fx/"), dict[str, Entry])
        assert_type(await store.aget("limits", 0), Any)
        assert_type(await store.aflush(1.0), bool)
        assert_type(await store.aat("v1.0"), Store)
        await store.adelete("limits", missing_ok=True)
        async for revision in store.ahistory("limits"):
            assert_type(revision, Revision)


async def follow() -> None:
    async for change in store.awatch_values("fx/", as_=float):
        assert_type(change, Change)
    async for found in store.awatch("fx/"):
        assert_type(found, Entry)
    async with store.awatch_batches(since="cursor") as batches:
        async for batch in batches:
            assert_type(batch, Batch)


with datastream_grpc.serve(store, "127.0.0.1:8080") as server:
    assert_type(server.address, str)
    assert_type(server.wait(1.0), bool)

with store as entered:
    assert_type(entered, Store)
