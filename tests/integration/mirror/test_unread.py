"""What one of the two stores holds and cannot read: archived objects, odd rows of a view."""

import sqlite3
from contextlib import closing

import pytest

import datastream
from datastream import State, Store, diff, drift, mirror
from datastream.sources.s3 import S3Source
from tests.integration._programs.tools import Statuses, eventually
from tests.integration.mirror.test_drift import Drifts
from tests.servers.s3 import CREDENTIALS, client, new_bucket

LONG = 30


class Bucket:
    """A bucket, and a store over it."""

    def __init__(self, url, stack):
        self._name = new_bucket(url)
        self._client = client(url)
        stack.callback(self._client.close)
        source = S3Source(self._name, endpoint_url=url, interval=0.1, **CREDENTIALS)
        self.store = stack.enter_context(Store(source, name=f"s3://{self._name}"))

    def remove(self, key):
        self._client.delete_object(Bucket=self._name, Key=key)

    def archive(self, key, value):
        self._client.put_object(Bucket=self._name, Key=key, Body=value, StorageClass="GLACIER")


def held(store):
    """Without the place of the mirror."""
    return {key: store[key] for key in store if not key.startswith("_datastream/")}


@pytest.fixture
def bucket(s3_url, stack):
    return Bucket(s3_url, stack)


@pytest.fixture
def other(stack):
    return stack.enter_context(datastream.open("memory:"))


def test_what_the_source_cannot_read_stays_in_the_target(bucket, other):
    bucket.store.put_many({"rate.txt": "1", "old.txt": "1"})
    with mirror(bucket.store, other, delete_limit=1.0) as running:
        assert running.ready(LONG)
    bucket.archive("old.txt", b"1")
    bucket.store["rate.txt"] = "2"
    with mirror(bucket.store, other, delete_limit=1.0) as running:
        assert running.ready(LONG)
        assert running.flush(LONG)
        assert held(other) == {"rate.txt": "2", "old.txt": "1"}
        assert running.counts.deletes == 0


def test_what_the_target_cannot_read_is_not_written_over(bucket, other):
    bucket.archive("old.txt", b"1")
    other["rate.txt"] = "1"
    with mirror(other, bucket.store) as running:
        statuses = Statuses(running)
        assert running.ready(LONG)
        other["old.txt"] = "2"
        assert "'old.txt', which cannot be read" in str(statuses.wait(State.FAILED).error)
        bucket.remove("old.txt")
        statuses.wait(State.READY)
        assert running.flush(LONG)
        assert held(bucket.store) == {"rate.txt": "1", "old.txt": "2"}


class View:
    """A view over a table of JSON: a row of which it can make nothing cannot be read."""

    def __init__(self, path, stack):
        self._db = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
        self._db.execute("CREATE TABLE raw (key TEXT PRIMARY KEY, json)")
        self._db.execute("CREATE VIEW v AS SELECT key, json_extract(json, '$.x') AS value FROM raw")
        self.store = stack.enter_context(datastream.open(f"sqlite:{path}?table=v"))

    def put(self, key, json):
        self._db.execute("INSERT OR REPLACE INTO raw VALUES (?, ?)", (key, json))

    def remove(self, key):
        self._db.execute("DELETE FROM raw WHERE key = ?", (key,))


@pytest.fixture
def view(tmp_path, stack):
    return View(tmp_path / "view.db", stack)


def test_a_drift_says_nothing_of_what_one_side_cannot_read(view, other):
    view.put("bad", "{odd")
    view.put("a", '{"x": 1}')
    other.put_many({"bad": 5, "a": 2})
    found = Drifts(drift(view.store, other))
    found.wait({"a": "changed"})
    assert [key for key, *_ in diff(view.store, other)] == ["a"]
    view.put("bad", '{"x": 4}')
    found.wait({"a": "changed", "bad": "changed"})
    view.put("bad", "{odd")
    view.put("a", '{"x": 2}')
    # It goes on from what it knows.
    found.wait({"bad": "changed"})
    assert {"bad": "only_b"} not in found.seen
    found.subscription.dispose()


def test_a_drift_learns_that_what_could_not_be_read_has_gone(view, other):
    view.put("bad", "{odd")
    other["bad"] = 5
    found = Drifts(drift(view.store, other))
    found.wait({})
    view.remove("bad")
    found.wait({"bad": "only_b"})
    found.subscription.dispose()


def test_what_the_source_could_not_read_and_lacks_now_is_removed(view, other):
    view.put("bad", '{"x": 1}')
    view.put("a", '{"x": 1}')
    with mirror(view.store, other) as running:
        assert running.ready(LONG)
    view.put("bad", "{odd")
    with mirror(view.store, other) as running:
        assert running.ready(LONG)
        assert held(other) == {"bad": 1, "a": 1}
        view.remove("bad")
        eventually(lambda: running.flush(LONG) and held(other) == {"a": 1}, "removed")


def test_what_was_there_before_the_first_mirror_is_not_removed_with_it(view, other):
    view.put("bad", "{odd")
    other["bad"] = 5
    with mirror(view.store, other) as running:
        statuses = Statuses(running)
        assert running.ready(LONG)
        view.remove("bad")
        assert "'bad', which others wrote" in str(statuses.wait(State.FAILED).error)
        assert held(other) == {"bad": 5}


def test_what_the_target_could_not_read_and_lacks_now_is_written(bucket, other):
    bucket.archive("old.txt", b"1")
    other.put_many({"rate.txt": "1", "old.txt": "2"})
    with mirror(other, bucket.store) as running:
        assert running.ready(LONG)
        assert held(bucket.store) == {"rate.txt": "1"}
        bucket.remove("old.txt")
        expected = {"rate.txt": "1", "old.txt": "2"}
        eventually(lambda: held(bucket.store) == expected, "written")
