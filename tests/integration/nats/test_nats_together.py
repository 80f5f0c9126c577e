"""Several keys together: batches of the server, stored and told of as a whole."""

import asyncio
import threading
from contextlib import ExitStack, suppress

import datastream_grpc
import pytest

import datastream
from datastream import Feature, RevisionConflict, SourceUnavailable, Write
from datastream.sources.nats.together import Together
from datastream.testing import Recorder
from datastream.testing._tools import eventually
from tests.integration.nats.test_nats import update
from tests.servers.nats import make_bucket, server, with_client


def last(running, bucket):
    async def ask(client):
        return (await client.jetstream().stream_info(f"KV_{bucket}")).state.last_seq

    return with_client(running.url, ask)


def test_several_keys_are_one_batch(store):
    assert Feature.ATOMIC in store.features
    recorders = [Recorder(store), Recorder(store, "a"), Recorder(store, "b/")]
    author = "Ann <a@example.org>"
    stored = store.put_many({"a": 1, "b/c": 2, "d": 3}, message="why", author=author)
    assert {entry.key: entry for entry in stored} == store.snapshot()
    for recorder, keys in zip(recorders, (["a", "b/c", "d"], ["a"], ["b/c"]), strict=True):
        recorder.wait(lambda r, keys=keys: [*r.state] == keys)
        batch = recorder.batches[-1]
        assert [entry.key for entry in batch] == keys
        assert (batch.message, batch.author) == ("why", author)


def test_a_part_of_a_batch_that_is_selected_is_told_at_once(running, bucket, url, store):
    """What follows in it is not sent to who selects only what comes first."""
    for keys in (("a",), ("c",), ("a", "b"), ("b/",)):
        with datastream.open(url) as other:
            recorder = Recorder(other, *keys)
            recorder.wait_ready()
            value = f"{keys}"
            store.put_many({"a": value, "b": value, "c": value, "b/x": value, "z": value})
            recorder.wait(lambda r: r.state)
            recorder.wait(lambda r, value=value: {*r.state.values()} == {value.encode()})
            assert len(recorder.batches) == 2


@pytest.mark.parametrize("keys", [(), ("a", "z")], ids=["all", "some"])
def test_no_reader_sees_a_part(url, store, keys):
    """Batches of more than is read from a socket at once, by two who write the same keys."""
    names = ["a", *(f"k{number}" for number in range(40)), "z"]
    with datastream.open(url) as other:
        recorder = Recorder(other, *keys)

        def write(one, start):
            for number in range(start, start + 10, 2):
                one.put_many(dict.fromkeys(names, f"{number}" * 5_000))
                one["alone"] = number

        threads = [
            threading.Thread(target=write, args=(one, start))
            for start, one in enumerate((store, other))
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            found = other.snapshot(*keys)
            assert len({found[key].value for key in names if key in found}) <= 1
        for thread in threads:
            thread.join()
        final = {key: entry.value for key, entry in store.snapshot(*keys).items()}
        recorder.wait_state(final)
        for state in recorder.states:
            assert state.get("a") == state.get("z"), "a batch was torn"


@pytest.mark.parametrize("there", [True, False], ids=["there", "missing"])
def test_keys_that_hold_already_what_they_shall_are_looked_at_once_more(url, store, there):
    """Another batch comes between the looks at two keys: one of them alone would be changed."""
    with datastream.open(url) as other:
        if there:
            store.put_many({"a": 0, "b": 0})
        bucket = store._source._writer._bucket
        last, is_between = bucket.last, asyncio.Event()

        async def looked(subject):
            if subject == "b":
                await is_between.wait()
                return await last(subject)
            found = await last(subject)
            if not is_between.is_set():
                change = other.snapshot() and [Write("a", None), Write("b", None)]
                change = change or [Write("a", b"1", "int"), Write("b", b"1", "int")]
                await asyncio.to_thread(other.write, *change)
                is_between.set()
            return found

        bucket.last = looked
        value = b"0" if there else None
        store.write(Write("a", value, "int"), Write("b", value, "int"))
        assert len(store.snapshot()) in (0, 2)


def test_one_that_does_not_hold_holds_up_all(store):
    store.put_many({"a": 1, "b": 1})
    stale = store.entry("b").revision
    store["b"] = 2
    with pytest.raises(RevisionConflict):
        store.put_many({"a": 3, "b": 3, "c": 3}, expect={"b": stale})
    with pytest.raises(RevisionConflict):
        store.put_many({"a": 3, "c": 3}, expect={"a": ""})
    assert dict(store) == {"a": 1, "b": 2}


def test_one_of_many_that_expect_the_same_wins(url, store):
    stores = [datastream.open(url) for _ in range(4)]
    store.put_many({"a": 0, "b": 0})
    expect = {key: entry.revision for key, entry in store.snapshot().items()}
    begin = threading.Barrier(len(stores))
    won = []

    def write(number, one):
        begin.wait()
        try:
            one.put_many({"a": number, "b": number, f"c{number}": 1}, expect=expect)
            won.append(number)
        except RevisionConflict:
            pass

    threads = [threading.Thread(target=write, args=args) for args in enumerate(stores, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in stores:
        one.close()
    assert len(won) == 1
    assert dict(store) == {"a": won[0], "b": won[0], f"c{won[0]}": 1}


def test_a_batch_gets_through_among_other_writes_of_its_keys(store, monkeypatch):
    """Of the same store: another one is quicker each time, as it may be on a busy machine."""
    others = []
    send = Together._send

    async def late(self, plans, *, asks):
        others.append(threading.Thread(target=store.put, args=("a", f"other {len(others)}")))
        others[-1].start()
        await asyncio.to_thread(others[-1].join, 0.5)
        return await send(self, plans, asks=asks)

    monkeypatch.setattr(Together, "_send", late)
    store.put_many({"a": 1, "b": 2, "c": 3})
    for other in others:
        other.join()
    assert (store["b"], store["c"]) == (2, 3)


def test_what_changes_nothing_is_not_written(running, bucket, store):
    store.put_many({"a": 1, "b": 1, "c": 1})
    before = last(running, bucket)
    store.put_many({"a": 1, "b": 1, "c": 1})
    assert last(running, bucket) == before
    stored = store.put_many({"a": 1, "b": 2, "c": 1})
    assert last(running, bucket) == before + 1
    assert {entry.key: entry for entry in stored} == store.snapshot()


def test_puts_and_deletes_together(store):
    store.put_many({"a": 1, "b": 1})
    recorder = Recorder(store)
    recorder.wait(lambda r: len(r.state) == 2)
    writes = [datastream.Write("a", None), datastream.Write("c", b"1", "int")]
    store.write(*writes, datastream.Write("missing", None))
    recorder.wait_state({"b": b"1", "c": b"1"})
    assert [(e.key, e.operation) for e in recorder.batches[-1]] == [("a", "DELETE"), ("c", "PUT")]


def test_more_than_servers_take_at_once(store):
    recorder = Recorder(store)
    values = {f"k/{number}": number for number in range(2_100)}
    stored = store.put_many(values, expect={"k/3": "", "k/2050": ""})
    assert [entry.key for entry in stored] == list(values)
    assert dict(store) == values
    recorder.wait(lambda r: len(r.state) == len(values))
    assert {entry.key: entry for entry in stored} == store.snapshot()


def test_many_long_keys(bucket):
    """What their names take together is more than one request holds."""
    values = {f"{'k' * 3_300}{number}": number for number in range(400)}
    with (
        server("max_payload: 1MB") as small,
        datastream.open(f"{small.url}/{bucket}", create=True) as store,
    ):
        store.put_many(values)
        assert dict(store) == values


def test_what_was_stored_together_is_one_point(url):
    with datastream.open(url, create=True, history=5) as store:
        store.put_many({"a": 1, "b": 1})
        store.put_many({"a": 2, "b": 2, "c": 2}, message="two")
        (revision, _) = store.history("a")
        for point in (revision.point, store.entry("a").revision):
            with store.at(point) as past:
                assert dict(past) == {"a": 2, "b": 2, "c": 2}
        batches = []
        with store.replay().subscribe(batches.append):
            eventually(lambda: len(batches) == 3, "all came")
        assert [{e.key for e in batch} for batch in batches] == [set(), {"a", "b"}, {"a", "b", "c"}]
        assert batches[2].message == "two"


def test_a_bucket_that_takes_no_batches(running, bucket, url):
    make_bucket(running.url, bucket)
    with datastream.open(url) as store:
        assert Feature.ATOMIC not in store.features
        store.put_many({"a": 1, "b": 2})
        update(running, bucket, allow_atomic=True)
        with datastream.open(url) as again:
            assert Feature.ATOMIC in again.features
            again.put_many({"a": 2, "b": 3})
        update(running, bucket, allow_atomic=False)
        assert dict(store) == {"a": 2, "b": 3}
        store.put_many({"a": 3, "b": 4})
        assert dict(store) == {"a": 3, "b": 4}


def test_batches_of_other_programs(running, bucket, store):
    async def publish(client):
        for number, key in enumerate("abc", 1):
            headers = {"Nats-Batch-Id": "theirs", "Nats-Batch-Sequence": f"{number}"}
            if key == "c":
                await asyncio.sleep(0)
                headers["Nats-Batch-Commit"] = "1"
            await client.request(f"$KV.{bucket}.{key}", b"1", headers=headers)

    recorders = [Recorder(store), Recorder(store, "a", "z")]
    for recorder in recorders:
        recorder.wait_ready()
    with_client(running.url, publish)
    recorders[0].wait_state(dict.fromkeys("abc", b"1"))
    recorders[1].wait_state({"a": b"1"})
    assert [len(recorder.batches) for recorder in recorders] == [2, 2]


def test_an_acknowledgement_that_is_lost(running, bucket):
    from tests.servers.proxy import Proxy

    with Proxy(running.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}/{bucket}"
        with datastream.open(url, create=True, history=10) as store:
            store.put_many({"a": 1, "b": 1})
            proxy.cut_after(b"Nats-Batch-Commit")
            stored = store.put_many({"a": 2, "b": 2})
            assert {entry.key: entry for entry in stored} == store.snapshot()
            assert [r.entry.value for r in store.history("a")] == [b"2", b"1"]


@pytest.mark.parametrize("keys", ["a", "ab"])
def test_a_write_that_comes_again_by_another_server_is_done_once(url, store, keys):
    """As a client sends it whose first answer was lost with its server."""
    writes = [datastream.Write(key, b"1", "int", expect="", id="once") for key in keys]
    with datastream.open(url) as other, ExitStack() as stack:
        clients = []
        for one in (store, other):
            serving = stack.enter_context(datastream_grpc.serve(one, "127.0.0.1:0"))
            clients.append(stack.enter_context(datastream.open(f"grpc://{serving.address}")))
        first, second = (client.write(*writes) for client in clients)
        assert first == second
        with pytest.raises(RevisionConflict):
            clients[1].write(*(write._replace(id="another") for write in writes))
        store["a"] = 2
        anew = [write._replace(expect=None) for write in writes]
        with suppress(SourceUnavailable):
            other.write(*anew)
        assert dict(store) == dict.fromkeys(keys, 1) | {"a": 2}, "what followed stays"


def test_clients_that_count_their_writes_lose_none(url, store):
    with datastream.open(url) as other:
        for number, one in enumerate((store, other)):
            for key in "ab":
                one.write(datastream.Write(f"{number}/{key}", b"1", "int", id=key))
            many = [datastream.Write(f"{number}/{key}", b"2", "int", id="3") for key in "cd"]
            one.write(*many)
        store.write(datastream.Write("0/a", None, id="a"))
    assert dict(store) == {"0/b": 1, "0/c": 2, "0/d": 2, "1/a": 1, "1/b": 1, "1/c": 2, "1/d": 2}
