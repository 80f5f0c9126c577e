"""A bucket between other stores: mirrored to and from, its changes handled with the place in it."""

import asyncio

import datastream
from datastream import Operation, mirror, overlay
from datastream.sources.nats.consumer import Consumer
from datastream.testing import Recorder

LONG = 30


def held(store):
    """Without the places that are kept there."""
    return {key: store[key] for key in store if not key.startswith("_datastream/")}


def test_a_bucket_is_mirrored_and_a_mirror(store, tmp_path):
    with (
        datastream.open(f"sqlite:{tmp_path}/from.db", create=True) as source,
        datastream.open(f"sqlite:{tmp_path}/to.db", create=True) as target,
    ):
        source.put_many({"a": 1, "b/c": "x"})
        with mirror(source, store) as one, mirror(store, target) as two:
            assert one.ready(LONG)
            assert two.ready(LONG)
            source["a"] = 2
            del source["b/c"]
            for running in (one, two):
                assert running.flush(LONG)
            assert held(source) == held(store) == held(target) == {"a": 2}
        source["d"] = 3
        with mirror(source, store) as one, mirror(store, target) as two:
            assert one.flush(LONG)
            assert two.flush(LONG)
            assert held(store) == held(target) == {"a": 2, "d": 3}


def test_as_a_layer_it_shows_what_was_acknowledged_although_its_messages_are_late(
    monkeypatch, store, url
):
    take = Consumer._take
    monkeypatch.setattr(
        Consumer,
        "_take",
        lambda self, message: asyncio.get_running_loop().call_later(0.1, take, self, message),
    )
    with datastream.open(url) as other, overlay("memory:", store) as laid:
        recorder = Recorder(laid, "a")
        recorder.wait_ready()
        other["a"] = 1
        assert laid.snapshot("a")["a"].decode() == 1
        other["a"] = 2
        assert Recorder(laid, "a").state == {"a": b"2"}
        assert store["a"] == 2
        del other["a"]
        # What one read has shown, a look after it has published.
        assert "a" not in store
        assert laid.snapshot("a") == {}


def test_changes_are_handled_with_the_place_in_the_bucket(store, url):
    seen = []

    def handle(entry):
        gone = entry.operation is Operation.DELETE
        seen.append((entry.key, None if gone else entry.decode()))

    with store.consume(handle, "orders/", place=store, name="billing") as consumer:
        store["orders/1"] = "new"
        store["other"] = 1
        assert consumer.flush(LONG)
    store["orders/1"] = "paid"
    store["orders/2"] = "new"
    del store["orders/2"]
    store["orders/3"] = "new"
    # As another process would, which resumes from what is kept in the bucket.
    with datastream.open(url) as again:
        with again.consume(handle, "orders/", place=again, name="billing") as consumer:
            assert consumer.flush(LONG)
    assert seen[0] == ("orders/1", "new")
    after = seen[1:]
    assert ("orders/1", "paid") in after
    assert ("orders/3", "new") in after
    assert ("orders/2", "new") not in after, "what is over is a state no more"
    assert all(key.startswith("orders/") for key, _ in seen)


def test_every_value_that_the_bucket_keeps_is_handled(url, tmp_path, caplog):
    seen = []
    with datastream.open(url, create=True, history=5) as store:
        with store.consume(seen.append, place=tmp_path / "place") as consumer:
            for value in range(1, 5):
                store["a"] = value
            assert consumer.flush(LONG)
        for value in range(5, 8):
            store["a"] = value
        with store.consume(seen.append, place=tmp_path / "place") as consumer:
            assert consumer.flush(LONG)
    assert [entry.decode() for entry in seen] == list(range(1, 8))
    assert caplog.text == ""
