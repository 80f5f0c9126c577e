"""Many writes at once, and what a store remembers of its own."""

import pytest

import datastream
from datastream import RevisionConflict
from datastream.testing import Recorder
from tests.integration.nats.test_nats import update
from tests.servers.nats import remove_bucket


@pytest.mark.parametrize("direct", [True, False])
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
