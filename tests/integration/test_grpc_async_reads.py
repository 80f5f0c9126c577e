"""Reads that coroutines await over gRPC, without a thread for each."""

from __future__ import annotations

import asyncio
import threading
from itertools import islice

import datastream_grpc
import pytest
from datastream_grpc import _convert

import datastream
from datastream import Denied, InvalidKey, KeyNotFound, SourceUnavailable, Store, StoreClosed
from datastream.sources.memory import MemorySource
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT, eventually
from tests.servers.proxy import Proxy


class Slow(MemorySource):
    """Holds up its reads of one key while a test wants it."""

    instant = False

    def __init__(self):
        super().__init__()
        self.reading = 0
        self.gate = threading.Event()
        self.gate.set()

    def get(self, key):
        self.reading += 1
        assert self.gate.wait(TIMEOUT)
        return super().get(key)

    def read(self, selection, since):
        self.reading += 1
        assert self.gate.wait(TIMEOUT)
        return super().read(selection, since)


@pytest.fixture
def source():
    return Slow()


@pytest.fixture
def store(stack, source):
    store = stack.enter_context(Store(source, name="served"))
    store.put_many({f"k{n}": n for n in range(100)})
    return store


@pytest.fixture
def proxy(stack, store):
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    return stack.enter_context(Proxy(int(server.address.rpartition(":")[2])))


def opened(stack, proxy, **options):
    return stack.enter_context(datastream.open(f"grpc://127.0.0.1:{proxy.port}", **options))


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT))


def test_reads_in_flight_take_no_threads(stack, store, proxy):
    remote = opened(stack, proxy)

    async def reads():
        values = await asyncio.gather(*(remote.aget(f"k{n}") for n in range(100)))
        assert values == list(range(100))
        assert await remote.aget("missing", "default") == "default"
        assert await remote.aentry("k7") == store.entry("k7")
        with pytest.raises(KeyNotFound, match="missing"):
            await remote.aentry("missing")
        with pytest.raises(InvalidKey):
            await remote.aget("")

    run(reads())
    assert remote.threads._executor is None


def test_reads_into_a_black_hole_fail_in_time_and_the_next_works(stack, proxy):
    remote = opened(stack, proxy, timeout=2.0)
    assert run(remote.aget("k1")) == 1
    proxy.is_hole = True

    async def reads():
        return await asyncio.gather(
            *(remote.aget(f"k{n}") for n in range(50)), return_exceptions=True
        )

    assert {type(result) for result in run(reads())} == {SourceUnavailable}
    proxy.is_hole = False
    # The old connection stays in its hole; what is asked next has another.
    eventually(lambda: _value(remote) == 1, "a read that works")


def _value(remote):
    try:
        return run(remote.aget("k1"))
    except SourceUnavailable:
        return None


def test_one_who_gives_up_ends_no_other(stack, source, proxy):
    remote = opened(stack, proxy)

    async def reads():
        source.gate.clear()
        before = source.reading
        first, second = (asyncio.create_task(remote.aget("k1")) for _ in range(2))
        await asyncio.to_thread(eventually, lambda: source.reading >= before + 2, "both reads")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert first.cancelled()
        source.gate.set()
        return await second

    assert run(reads()) == 1


def test_closing_the_store_ends_what_is_in_flight(stack, source, proxy):
    remote = opened(stack, proxy)

    async def read():
        before = source.reading
        source.gate.clear()
        task = asyncio.create_task(remote.aget("k1"))
        await asyncio.to_thread(eventually, lambda: source.reading > before, "the read")
        await asyncio.to_thread(remote.close)
        with pytest.raises(StoreClosed):
            await task
        with pytest.raises(StoreClosed):
            await remote.aget("k1")

    try:
        run(read())
    finally:
        source.gate.set()


def test_a_token_goes_with_each_read(stack, store, tmp_path):
    (tmp_path / "tokens").write_text("secret\n")
    server = stack.enter_context(
        datastream_grpc.serve(store, "127.0.0.1:0", tokens=tmp_path / "tokens")
    )
    url = f"grpc://{server.address}"
    known = stack.enter_context(datastream.open(url, token=lambda: "secret"))
    assert run(known.aget("k1")) == 1
    assert list(run(known.asnapshot("k1"))) == ["k1"]
    unknown = stack.enter_context(datastream.open(url, token="other"))
    with pytest.raises(Denied):
        run(unknown.aget("k1"))


def test_snapshots_in_flight_take_no_threads(stack, store, proxy):
    remote = opened(stack, proxy)

    async def reads():
        some = await asyncio.gather(*(remote.asnapshot(f"k{n}") for n in range(20)))
        assert [list(one) for one in some] == [[f"k{n}"] for n in range(20)]
        batch = await remote.asnapshot_batch(match="k?", exclude="k7")
        assert {entry.key for entry in batch} == {f"k{n}" for n in range(10) if n != 7}
        assert remote.threads._executor is None
        assert await remote.asnapshot() == store.snapshot()
        assert await remote.asnapshot("missing") == {}
        with pytest.raises(InvalidKey):
            await remote.asnapshot("a*")
        return batch.cursor

    cursor = run(reads())
    store["k1"] = "new"
    recorder = Recorder(remote, since=cursor)
    recorder.wait_state({"k1": b"new"})


def test_a_snapshot_in_parts_is_whole_or_an_error(stack, store, proxy, monkeypatch):
    remote = opened(stack, proxy)
    store.put_many({f"k{n}": "x" * 1000 for n in range(2000)})
    assert run(remote.asnapshot()) == store.snapshot()
    whole = _convert.to_columned
    monkeypatch.setattr(_convert, "to_columned", lambda batch: islice(whole(batch), 2))
    with pytest.raises(SourceUnavailable):
        run(remote.asnapshot())


def test_an_older_server_is_asked_in_a_thread(stack, store, proxy, monkeypatch):
    remote = opened(stack, proxy)
    monkeypatch.setattr(remote._source._calls, "snapshots", False)
    assert run(remote.asnapshot("k1")) == store.snapshot("k1")
