"""The public API as a user's type checker sees it; checked, never run."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import datastream_grpc
import pandas as pd
import polars as pl
from reactivex import Observable

import datastream
from datastream import (
    Batch,
    Capability,
    Change,
    ChangeBatch,
    Entry,
    Feature,
    Held,
    Operation,
    Overlay,
    Revision,
    Snapshot,
    State,
    Status,
    Store,
    View,
    ViewSnapshot,
    Write,
)
from datastream.binding import Binding, BindingChange, Explained
from datastream.consume import Consumer, ConsumerCounts, Lag, Retry
from datastream.entry import Rejected
from datastream.notebook import LivePlot, LiveTable, Recording, Timeline
from datastream.testing import overriding

store = datastream.open("sqlite:settings.db", table="settings", create=True)
assert_type(store, Store)
mapping: MutableMapping[str, Any] = store

entry = store.put("limits", {"rps": 9}, expect="", value_type="json")
assert_type(entry, Entry)
assert_type(entry.value, bytes)
assert_type(entry.operation, Operation)
assert_type(store.entry("limits"), Entry)
assert_type(store.snapshot("fx/", match=["fx/*"]), Snapshot)
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


def handle(entry: Entry) -> None: ...
async def handle_batch(batch: Batch) -> None: ...


consumer = store.consume(handle, "fx/", place="consumer.place", retry=Retry(3), on_failure=store)
assert_type(consumer, Consumer)
assert_type(consumer.counts, ConsumerCounts)
assert_type(consumer.lag, Lag)
assert_type(consumer.status.current, Status)
store.consume(handle_batch, place=None, batch=True, on_failure="skip")
store.consume(datastream.webhook("https://example.org", secret="x"), place=store, name="hook")

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


rates = store.view("fx/", as_=float, cache="fx.cache", wait=5.0)
assert_type(rates, View[float])
assert_type(store.view("fx/"), View[Any])
assert_type(rates["fx/USD"], float)
assert_type(rates.copy(), dict[str, float])
assert_type(rates.snapshot(), ViewSnapshot[float])
assert_type(rates.snapshot().cursor, str)
assert_type(rates.changes, Observable[Change])
assert_type(rates.change_batches, Observable[ChangeBatch])
assert_type(rates.rejected, Mapping[str, Rejected])
assert_type(rates.status.current, Status)
assert_type(rates.ready(1.0), bool)
rates.on("fx/USD", lambda change: print(change.new)).dispose()
read_only: Mapping[str, float] = rates


@dataclass
class Settings:
    pool: int = 5


settings = store.bind(Settings, "app/")
assert_type(settings, Binding[Settings])
assert_type(settings.current.pool, int)
assert_type(settings.changes, Observable[BindingChange[Settings]])
assert_type(settings.rejected, tuple[Rejected, ...])
assert_type(settings.explain(), dict[str, Explained])
settings.patch({"pool": 6}, message="more")
settings.put(pool=7)
with overriding(settings, pool=8) as current:
    assert_type(current, Settings)


async def hold() -> None:
    assert_type(await store.aview("fx/", as_=float), View[float])
    assert_type(await store.abind(Settings, "app/"), Binding[Settings])
    async for change in rates.achanges():
        assert_type(change, Change)
    async for swap in settings.achanges():
        assert_type(swap, BindingChange[Settings])
        assert_type(swap.new, Settings)
    assert_type(await rates.aready(), bool)
    await settings.apatch({"pool": 6})


async def ask() -> None:
    async with store as entered:
        assert_type(entered, Store)
        assert_type(await store.aentry("limits"), Entry)
        assert_type(await store.aput("limits", 1, expect=""), Entry)
        assert_type(await store.aput_many({"a": 1}), list[Entry])
        assert_type(await store.asnapshot("fx/"), Snapshot)
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


conf = datastream.overlay("env:APP_", store, write=store, optional=["env:APP_"])
assert_type(conf, Overlay)
layered: Store = conf
assert_type(conf.explain("db/url"), tuple[Held, ...])
assert_type(conf.explain("db/url")[0].store, Store)
assert_type(conf.layers, tuple[str, ...])
conf.delete("db/url", hide=True, message="not here")
assert_type(store.document("app.yaml", create=True), Store)


assert_type(store.live("fx/"), LiveTable)
assert_type(store.view("fx/", as_=float).live(), LiveTable)
assert_type(store.live_plot("fx/", window="5m"), LivePlot)
assert_type(store.timeline("app.yaml"), Timeline)
assert_type(store.to_pandas("fx/"), pd.DataFrame)
assert_type(store.to_polars("fx/"), pl.DataFrame)
assert_type(store.view().to_pandas(), pd.DataFrame)
assert_type(store.history("limits").to_pandas(), pd.DataFrame)
assert_type(store.window(["fx/USD"], timedelta(minutes=5)), Recording)
assert_type(store.record("fx/", seconds=1.0).to_polars(), pl.DataFrame)


async def ask_layers() -> None:
    assert_type(await conf.aexplain("db/url"), tuple[Held, ...])
    await conf.adelete("db/url", hide=True)


with datastream_grpc.serve(store, "127.0.0.1:8080") as server:
    assert_type(server.address, str)
    assert_type(server.wait(1.0), bool)
    assert_type(server.clients, tuple[str, ...])

with store as entered:
    assert_type(entered, Store)

found = datastream.diff("memory:", store, "fx/", compare="times")
assert_type(found, datastream.Diff)
assert_type(next(found), datastream.Difference)
with datastream.mirror(store, "memory:", on_conflict=lambda conflict: "source") as mirrored:
    assert_type(mirrored.counts, datastream.MirrorCounts)
    assert_type(mirrored.status.current, Status)
    assert_type(mirrored.planned, tuple[Write, ...])
assert_type(datastream.translated(store, key=str.upper, key_back=str.lower), Store)
assert_type(datastream.drift(store, store), Observable[Mapping[str, datastream.Difference]])
