"""What a bucket held before, as far as its history goes."""

from datetime import timedelta

import pytest

import datastream
from datastream import DatastreamError, Feature
from datastream.testing import Recorder
from datastream.testing._tools import eventually
from tests.integration.nats.test_nats import plain


@pytest.fixture
def store(url):
    with datastream.open(url, create=True, history=5) as store:
        yield store


def test_history_newest_first(running, bucket, store):
    store.put("a/b", 1, author="Ann <a@example.org>", message="first")
    store.put("a/c", 0)
    store.put("a/b", 2)
    del store["a/b"]
    store["a/b"] = "three"
    found = list(store.history("a/b"))
    assert [(r.entry.operation, r.entry.value) for r in found] == [
        ("PUT", b"three"),
        ("DELETE", b""),
        ("PUT", b"2"),
        ("PUT", b"1"),
    ]
    assert (found[-1].author, found[-1].message, found[-1].point) == (
        "Ann <a@example.org>",
        "first",
        "1",
    )
    assert found[0].entry == store.entry("a/b")
    assert list(store.history("never")) == []

    async def purge(kv):
        await kv.purge("a.b")

    plain(running, bucket, purge)
    assert [r.entry.operation for r in store.history("a/b")] == ["DELETE"]


def test_at_a_sequence_number_a_revision_or_a_time(store):
    store.put("a", 1)
    store.put("b", 1)
    second = store.put("a", 2)
    del store["b"]
    points = {"2": {"a": 1, "b": 1}, second.revision: {"a": 2, "b": 1}, "4": {"a": 2}}
    for point, expected in points.items():
        with store.at(point) as past:
            assert dict(past) == expected
            assert past["a"] == expected["a"]
            with pytest.raises(datastream.ReadOnly):
                past["a"] = 3
            watched = Recorder(past, "b")
            watched.wait_ready()
    with store.at("0") as past:
        assert dict(past) == {}
    with store.at(second.updated_at + timedelta(hours=1)) as past:
        assert dict(past) == {"a": 2}


@pytest.mark.parametrize("point", ["99", "main", "1:1", "1999-01-01T00:00:00Z"])
def test_points_that_there_are_not(store, point):
    store["a"] = 1
    with pytest.raises(DatastreamError, match=r"no point|not as old"):
        store.at(point)


def test_what_is_no_longer_kept_is_said(store):
    store["b"] = 0
    for number in range(6):
        store["a"] = number
    with pytest.raises(DatastreamError, match=r"keeps 5 values of each key.*'a' held at 2"):
        store.at("2")
    with store.at("3") as past:
        assert dict(past) == {"a": 1, "b": 0}


def test_replay_goes_over_into_the_present(store):
    store["a"] = 1
    store["other"] = 1
    store.put("b/c", 2, message="why")
    del store["a"]
    batches = []
    done = store.replay("a", "b/").subscribe(batches.append)
    Recorder(store).wait_ready()
    store["a"] = 5

    def told():
        return [[(e.key, e.value) for e in batch] for batch in batches]

    expected = [[], [("a", b"1")], [("b/c", b"2")], [("a", b"")], [("a", b"5")]]
    eventually(lambda: told() == expected, f"{expected}")
    assert batches[2].message == "why"
    done.dispose()
    since = []
    with store.replay(since="2").subscribe(since.append):
        eventually(lambda: len(since) == 4, "the rest")
    assert {e.key for e in since[0]} == {"a", "other"}


def test_a_bucket_without_history_says_so(running, bucket):
    with datastream.open(f"{running.url}/{bucket}-plain", create=True) as store:
        assert Feature.HISTORY not in store.features
        with pytest.raises(datastream.Unsupported, match="history="):
            store.history("a")


def test_a_cursor_is_a_point(store):
    store["a"] = 1
    cursor = store.snapshot_batch().cursor
    store["a"] = 2
    store["b"] = 3
    initial, *later = store.replayed(since=cursor)
    assert [entry.decode() for entry in initial] == [1]
    assert [(e.key, e.decode()) for batch in later for e in batch] == [("a", 2), ("b", 3)]
