"""What one of the two stores holds and cannot read: archived objects of a bucket."""

import pytest

import datastream
from datastream import State, Store, mirror
from datastream.sources.s3 import S3Source
from tests.integration._programs.tools import Statuses
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
