"""A bucket beside NATS's own library: what plain tools write and remove, what expires."""

import json
import threading

import pytest

import datastream
from datastream import DatastreamError, InvalidKey, InvalidValue, ReadOnly, SourceUnavailable
from datastream.sources.nats import tail
from datastream.testing import Recorder
from datastream.testing._tools import eventually
from tests.servers.nats import make_bucket, remove_bucket, with_client


def plain(running, bucket, work):
    """What `work` does with a bucket by NATS's own library."""

    async def do(client):
        return await work(await client.jetstream().key_value(bucket))

    return with_client(running.url, do)


def api(running, subject, payload=None):
    async def ask(client):
        data = json.dumps(payload or {}).encode()
        answer = json.loads((await client.request(f"$JS.API.{subject}", data, 5)).data)
        assert "error" not in answer, answer
        return answer

    return with_client(running.url, ask)


def update(running, bucket, **changes):
    """Change the configuration of a bucket."""
    config = api(running, f"STREAM.INFO.KV_{bucket}")["config"]
    api(running, f"STREAM.UPDATE.KV_{bucket}", config | changes)


def test_keys_of_plain_tools_read_naturally(running, bucket, store):
    async def put(kv):
        await kv.put("fx.USD", b"1.09")
        await kv.put("a=b", b'{"x": 1}')
        await kv.put("odd/one", b"\xff")

    recorder = Recorder(store, "fx/")
    plain(running, bucket, put)
    recorder.wait_state({"fx/USD": b"1.09"})
    assert dict(store) == {"fx/USD": 1.09, "a=b": {"x": 1}, "odd.one": b"\xff"}
    store["fx/GBP"] = 0.8

    async def get(kv):
        return (await kv.get("fx.GBP")).value, sorted(await kv.keys())

    assert plain(running, bucket, get) == (b"0.8", ["a=b", "fx.GBP", "fx.USD", "odd/one"])


def test_subjects_that_are_no_keys_are_left_out(running, bucket, store, caplog):
    """No tool writes them by default; a key is that of its own subject only."""

    async def publish(client):
        for name in ("caf\u00e9", "~", "a.{}", "fine"):
            await client.jetstream().publish(f"$KV.{bucket}.{name}", b"1")

    recorder = Recorder(store)
    recorder.wait_ready()
    with_client(running.url, publish)
    recorder.wait_state({"fine": b"1"})
    assert dict(store) == {"fine": 1}
    store["caf\u00e9"] = 2
    recorder.wait_state({"fine": b"1", "caf\u00e9": b"2"})
    assert dict(store) == {"fine": 1, "caf\u00e9": 2}
    assert [record.args[1] for record in caplog.records] == [f"'$KV.{bucket}.caf\u00e9'"]


def test_an_operation_that_removes_nothing_is_of_a_value(running, bucket, store):
    async def publish(client):
        for name in ("PUT", "LATER", "DEL", "PURGE"):
            headers = {"KV-Operation": name}
            await client.jetstream().publish(f"$KV.{bucket}.{name}", b"1", headers=headers)

    recorder = Recorder(store)
    recorder.wait_ready()
    with_client(running.url, publish)
    recorder.wait_state({"PUT": b"1", "LATER": b"1"})
    assert dict(store) == {"PUT": 1, "LATER": 1}
    assert store.get("PURGE") is store.get("DEL") is None


def test_what_plain_tools_remove_is_told(running, bucket, store):
    store.put_many({"a": 1, "b": 2, "c": 3})
    recorder = Recorder(store)
    recorder.wait(lambda r: len(r.state) == 3)

    async def remove(kv):
        await kv.delete("a")
        await kv.purge("b")

    plain(running, bucket, remove)
    recorder.wait_state({"c": b"3"})
    assert dict(store) == {"c": 3}
    assert [e.operation for e in recorder.live] == ["DELETE", "DELETE"]


@pytest.mark.chaos
def test_what_expires_is_told(running, bucket):
    with datastream.open(f"{running.url}/{bucket}", create=True, ttl=1) as store:
        recorder = Recorder(store, "a")
        store["a"] = 1
        recorder.wait_state({"a": b"1"})
        recorder.wait_state({})
        assert recorder.live[-1].operation == "DELETE"
        assert "a" not in store


@pytest.mark.chaos
def test_what_expires_without_a_marker_is_noticed(running, bucket):
    make_bucket(running.url, bucket, ttl=1)
    with datastream.open(f"{running.url}/{bucket}", interval=0.1) as store:
        recorder = Recorder(store, "a", "kept")
        store["a"] = 1
        recorder.wait_state({"a": b"1"})
        cursor = recorder.cursor
        recorder.wait_state({})
        assert "limit markers" in store.status.current.degraded
        resumed = Recorder(store, since=cursor)
        resumed.wait_ready()
        assert resumed.batches[0].reset


def test_a_bucket_made_anew_is_a_reset(running, bucket, url):
    with datastream.open(url, create=True) as store:
        recorder = Recorder(store)
        first = store.put("a", "old")
        recorder.wait_state({"a": b"old"})
    remove_bucket(running.url, bucket)
    with datastream.open(url, create=True) as store:
        again = store.put("a", "new")
        assert again.revision != first.revision
        for since in (recorder.cursor, {"a": first.revision}):
            resumed = Recorder(store, since=since)
            resumed.wait_state({"a": b"new"})
        with pytest.raises(datastream.RevisionConflict):
            store.put("a", "x", expect=first.revision)


def test_a_bucket_made_anew_is_told_to_those_who_watch(running, bucket, url):
    with datastream.open(url, create=True, interval=0.1) as store:
        store.put_many({"a": "old", "gone": 1})
        recorder = Recorder(store)
        recorder.wait(lambda r: len(r.state) == 2)
        remove_bucket(running.url, bucket)
        eventually(lambda: store.status.current.state == "STALE", "its loss was told")
        assert recorder.state == {"a": b"old", "gone": b"1"}
        with datastream.open(url, create=True) as other:
            other["a"] = "new"
            store.refresh()
            recorder.wait_state({"a": b"new"})
        eventually(lambda: store.status.current.state == "READY", "its return was told")


@pytest.mark.parametrize("keys", [(), ("a", "b/")])
def test_a_purged_bucket_is_a_reset(running, bucket, store, keys):
    store.put_many({"a": 1, "b/c": 2})
    recorder = Recorder(store, *keys)
    recorder.wait(lambda r: len(r.state) == 2)
    recorder.dispose()
    api(running, f"STREAM.PURGE.KV_{bucket}")
    store["a"] = 3
    resumed = Recorder(store, *keys, since=recorder.cursor)
    resumed.wait_state({"a": b"3"})
    assert resumed.batches[0].reset


@pytest.mark.parametrize("markers", [0, 3600])
def test_what_a_purge_removes_is_noticed_by_those_who_watch(running, bucket, markers, monkeypatch):
    """Also where fewer keys may be there because markers have expired: then it is looked seldom."""
    monkeypatch.setattr(tail, "SELDOM", 1.0)
    make_bucket(running.url, bucket, limit_marker_ttl=markers or None)
    with datastream.open(f"{running.url}/{bucket}", interval=0.1) as store:
        store.put_many({"a": 1, "b": 2, "c": 3})
        recorder = Recorder(store)
        recorder.wait(lambda r: len(r.state) == 3)
        for key, left in (("b", {"a": b"1", "c": b"3"}), ("c", {"a": b"1"})):
            api(running, f"STREAM.PURGE.KV_{bucket}", {"filter": f"$KV.{bucket}.{key}"})
            recorder.wait_state(left)


@pytest.mark.chaos
def test_a_bucket_that_is_emptied_before_anybody_looked(running, bucket):
    with datastream.open(f"{running.url}/{bucket}", create=True, interval=0.1) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        store.put_many({"a": 1, "b": 2})
        cursor = recorder.cursor
        api(running, f"STREAM.PURGE.KV_{bucket}")
        recorder.wait_state({})
        resumed = Recorder(store, since=cursor)
        resumed.wait_ready()
        assert resumed.batches[0].reset
        store["c"] = 3
        recorder.wait_state({"c": b"3"})


def test_a_bucket_that_mirrors_another_can_be_read(running, bucket, store):
    store.put_many({"a/b": 1, "c": 2})
    name = f"{bucket}-mirror"
    config = {"name": f"KV_{name}", "max_msgs_per_subject": 1, "mirror": {"name": f"KV_{bucket}"}}
    api(running, f"STREAM.CREATE.KV_{name}", config)
    with datastream.open(f"{running.url}/{name}") as mirrored:
        recorder = Recorder(mirrored)
        recorder.wait_state({"a/b": b"1", "c": b"2"})
        store["a/b"] = 3
        del store["c"]
        recorder.wait_state({"a/b": b"3"})
        assert mirrored.entry("a/b").decode() == 3
        with pytest.raises(ReadOnly):
            mirrored["a/b"] = 4


def test_a_restored_bucket_is_a_reset(running, bucket, store):
    """Other messages than those that a reader knows have the same numbers."""
    store.put_many({"a": 1, "b": 2})
    recorder = Recorder(store)
    recorder.wait(lambda r: len(r.state) == 2)
    epoch, sequence, at, subjects = recorder.cursor.split(":")
    store["c"] = 3
    store["d"] = 4
    earlier = f"{int(at, 16) - 1_000_000_000:x}"
    resumed = Recorder(store, since=f"{epoch}:{int(sequence) + 1}:{earlier}:{subjects}")
    resumed.wait(lambda r: len(r.state) == 4)
    assert resumed.batches[0].reset


def test_a_cursor_older_than_the_markers_is_a_reset(running, bucket, url):
    make_bucket(running.url, bucket, limit_marker_ttl=1)
    with datastream.open(url) as store:
        store["a"] = 1
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1"})
        past = recorder.cursor.split(":")
        past[2] = f"{int(past[2], 16) - 2_000_000_000:x}"
        store["b"] = 2
        resumed = Recorder(store, since=":".join(past))
        resumed.wait(lambda r: len(r.state) == 2)
        assert resumed.batches[0].reset


def test_values_that_are_too_large(running, store):
    with pytest.raises(InvalidValue, match="max_payload of the server"):
        store["k"] = b"x" * (9 << 20)
    assert dict(store) == {}
    store["k"] = b"x" * (7 << 20)


def test_values_that_the_bucket_does_not_take(running, bucket, url):
    make_bucket(running.url, bucket, max_value_size=1000)
    with datastream.open(url) as store:
        with pytest.raises(InvalidValue, match="max_value_size of the bucket"):
            store.put_many({"a": 1, "b": "x" * 2000})
        assert dict(store) == {}


def test_the_largest_value_there_may_be(running, bucket, url):
    make_bucket(running.url, bucket, max_value_size=300)
    update(running, bucket, allow_atomic=True)
    with datastream.open(url) as store:
        sizes = [size for size in range(300) if _is_taken(store, {"a": b"x" * size})]
        assert sizes[-1] > 60, "headers leave room"
        assert sizes == list(range(sizes[-1] + 1)), "what is more is refused, nothing before"
        update(running, bucket, max_msg_size=400)
        assert _is_taken(store, dict.fromkeys("abc", b"x" * 20))


def _is_taken(store, values):
    try:
        store.put_many(values)
    except InvalidValue:
        return False
    return True


def test_keys_that_are_too_long(store):
    with pytest.raises(InvalidKey, match="as a subject"):
        store["k" * 4000] = 1
    assert store.get("k" * 4000) is None
    assert store.snapshot("k" * 4000) == {}
    recorder = Recorder(store, "k" * 4000)
    recorder.wait_ready()


def test_a_full_bucket(running, bucket):
    with datastream.open(f"{running.url}/{bucket}", create=True, max_bytes=5000) as store:
        store["a"] = b"x" * 3000
        with pytest.raises(SourceUnavailable, match=r"maximum bytes exceeded.*remove keys"):
            store["b"] = b"x" * 3000
        assert list(store) == ["a"]
        store["a"] = b"y" * 3000


def test_a_bucket_that_allows_one_consumer(running, bucket, url):
    with datastream.open(url, create=True):
        config = api(running, f"STREAM.INFO.KV_{bucket}")["config"] | {"max_consumers": 1}
    remove_bucket(running.url, bucket)
    api(running, f"STREAM.CREATE.KV_{bucket}", config)
    with datastream.open(url) as store, datastream.open(url) as other:
        first = Recorder(store)
        store["a"] = 1
        first.wait_state({"a": b"1"})
        with pytest.raises(SourceUnavailable, match=r"maximum consumers.*raise max_consumers"):
            other.snapshot()
        second = Recorder(other)
        first.dispose()
        second.wait_state({"a": b"1"})


def test_a_bucket_that_drops_old_keys_for_new_ones(running, bucket, url):
    make_bucket(running.url, bucket)
    update(running, bucket, discard="old", max_msgs=3)
    with datastream.open(url, interval=0.1) as store:
        recorder = Recorder(store)
        for number, key in enumerate("abcd"):
            store[key] = number
        recorder.wait_state({"b": b"1", "c": b"2", "d": b"3"})
        assert dict(store) == {"b": 1, "c": 2, "d": 3}
        eventually(lambda: "make room" in store.status.current.degraded, "that is told")


def test_a_sealed_bucket(running, bucket, store):
    store["a"] = 1
    update(running, bucket, sealed=True)
    with pytest.raises(ReadOnly, match="sealed"):
        store["a"] = 2
    assert store["a"] == 1
    with datastream.open(f"{running.url}/{bucket}") as again:
        assert datastream.Feature.WRITE not in again.features
        with pytest.raises(ReadOnly):
            again["a"] = 2


def test_who_and_why_are_kept(store):
    recorder = Recorder(store)
    recorder.wait_ready()
    store.put("a", 1, message="load test, ünïcode\nand a line", author="Ann <a@example.org>")
    recorder.wait_state({"a": b"1"})
    batch = recorder.batches[-1]
    assert (batch.message, batch.author) == (
        "load test, ünïcode\nand a line",
        "Ann <a@example.org>",
    )


def test_who_resumes_from_an_empty_bucket_is_told_what_came(store):
    """Nothing is missed of what is forgotten by one who knew nothing."""
    cursor = store.snapshot_batch().cursor
    store["a"] = 1
    assert not Recorder(store, since=cursor).batches[0].reset


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nats:", "names no server"),
        ("nats://127.0.0.1:4222", "names no bucket"),
        ("nats://127.0.0.1:4222/a/b", "names no bucket"),
        ("nats://127.0.0.1:x/b", "no port"),
        ("nats:///b", "names no server"),
        ("nats://h/b?storage=disk", "file or memory"),
        ("nats://h/b?replicas=9", "1 to 5"),
        ("nats://h/b?token=x&nkey=y", "exclude each other"),
        ("nats://h/b?credentials=/no/such/file", "cannot be read"),
        ("nats://h/b?key=/no/such/file&tls=true", "belongs to certificate"),
        ("nats://h/b?bucket=c", "has no option"),
    ],
)
def test_what_cannot_be_opened(url, says):
    with pytest.raises(DatastreamError, match=says):
        datastream.open(url)


def test_a_bucket_that_is_not_there(running):
    with pytest.raises(DatastreamError, match=r"no such bucket.*create=true"):
        datastream.open(f"{running.url}/nothing")


def test_a_server_that_is_not_there(bucket):
    with pytest.raises(SourceUnavailable, match="check host and port"):
        datastream.open(f"nats://127.0.0.1:1/{bucket}", timeout=0.5)


def test_closing_leaves_nothing_at_the_server(running, bucket, url):
    eventually(lambda: running.connections() == 0, "those of other tests have ended")
    with datastream.open(url, create=True) as store:
        recorders = [Recorder(store), Recorder(store, "a"), Recorder(store, "b/")]
        store.put_many({"a": 1, "b/c": 2})
        for recorder in recorders:
            recorder.wait(lambda r: r.state)
        assert len(store.snapshot()) == 2
        assert running.connections() == 1
        eventually(lambda: running.consumers(bucket) == 1, "one consumer for all who watch")
        for recorder in recorders:
            recorder.dispose()
        eventually(lambda: running.consumers(bucket) == 0, "none without a watch")
        Recorder(store).wait_ready()
    eventually(lambda: running.connections() == 0, "the connection ended")
    assert running.consumers(bucket) == 0


def test_two_stores_see_each_other(url):
    with datastream.open(url, create=True) as one, datastream.open(url) as other:
        recorders = [Recorder(one), Recorder(other, match="k/*")]
        one["k/a"] = 1
        other["k/b"] = 2
        for recorder in recorders:
            recorder.wait_state({"k/a": b"1", "k/b": b"2"})


def test_a_key_changed_by_many_at_once(url):
    with datastream.open(url, create=True) as store, datastream.open(url) as other:
        store["n"] = 0

        def count(one):
            for _ in range(20):
                while True:
                    entry = one.entry("n")
                    try:
                        one.put("n", entry.decode() + 1, expect=entry.revision)
                        break
                    except datastream.RevisionConflict:
                        continue

        threads = [threading.Thread(target=count, args=(one,)) for one in (store, other) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store["n"] == 80
