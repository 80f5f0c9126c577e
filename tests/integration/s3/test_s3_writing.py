"""What a put leaves as it was, what a try leaves behind, and names that are deleted only."""

from datetime import timedelta

import pytest

import datastream
from datastream import Denied, InvalidKey, SourceUnavailable
from datastream.sources.s3 import write as _write
from datastream.sources.s3.source import _parted
from datastream.testing import Recorder
from tests.servers import s3_proxy as spoilt
from tests.servers.s3 import CREDENTIALS, fill

ARN = "arn:aws:s3:us-east-1:123456789012:accesspoint"
OUTPOST = "arn:aws:s3-outposts:us-east-1:123456789012:outpost"


@pytest.fixture
def make(make_at, proxy):
    def make(prefix="", **options):
        return make_at(proxy.url, prefix, **options)

    return make


def test_a_put_keeps_what_the_object_has_besides_its_content(make, put, s3, bucket):
    kept = {
        "Metadata": {"owner": "team-a", "x": "ü".encode().hex()},
        "CacheControl": "max-age=60",
        "ContentDisposition": 'attachment; filename="a"',
        "ContentLanguage": "de",
        "StorageClass": "STANDARD_IA",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "key-1",
    }
    put("a", b"1", Tagging="project=x&a%3Db=c+d", **kept)
    store = make()
    tags = s3.get_object_tagging(Bucket=bucket, Key="a")["TagSet"]
    assert len(tags) == 2
    revision = store.put("a", 2).revision
    store.put("a", 3, expect=revision)
    answer = s3.get_object(Bucket=bucket, Key="a")
    assert answer["Body"].read() == b"3"
    assert {name: answer.get(name) for name in kept} == kept
    assert s3.get_object_tagging(Bucket=bucket, Key="a")["TagSet"] == tags


def test_an_object_without_more_costs_no_more_requests(make, put, proxy):
    put("a", b"1")
    store = make()
    proxy.forget()
    store.put("a", 2)
    assert proxy.counts == {"head": 2, "put": 1}


def test_what_is_put_in_place_of_an_archived_object_can_be_read(make, put, s3, bucket):
    put("a", b"1", StorageClass="GLACIER", Metadata={"x": "y"})
    store = make()
    store["a"] = 2
    assert store["a"] == 2
    assert s3.head_object(Bucket=bucket, Key="a")["Metadata"] == {"x": "y"}


def test_names_that_cannot_be_put_are_read_watched_and_deleted(make, bucket, s3):
    keys = ("tab\there", "nul\x01", "return\r", "a/../b", "./a", "a/.", "..")
    fill(bucket, dict.fromkeys((*keys, "b", "a"), b"1"))
    store = make()
    recorder = Recorder(store)
    recorder.wait_state(dict.fromkeys((*keys, "b", "a"), b"1"))
    for key in keys:
        assert store[key] == 1
        with pytest.raises(InvalidKey):
            store[key] = 2
        del store[key]
    recorder.wait_state({"b": b"1", "a": b"1"})
    assert {item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]} == {"a", "b"}


# --- trying what the server can do ---


def names_of(s3, bucket):
    """Objects, versions and marks of deletes."""
    found = s3.list_object_versions(Bucket=bucket)
    return [item["Key"] for kind in ("Versions", "DeleteMarkers") for item in found.get(kind, ())]


def try_all(store):
    revision = store.put("a", 1, expect="").revision
    revision = store.put("a", 2, expect=revision).revision
    store.delete("a", expect=revision)


@pytest.mark.parametrize("versions", ["", "Enabled", "Suspended"])
def test_nothing_stays_of_a_try(make, s3, bucket, versions):
    if versions:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": versions})
    try_all(make("p"))
    assert set(names_of(s3, bucket)) <= {"p/a"}


def test_nothing_stays_where_versions_may_not_be_listed(make, s3, bucket, proxy):
    proxy.spoil("versions", spoilt.error(403, "AccessDenied"))
    try_all(make())
    assert names_of(s3, bucket) == []


@pytest.mark.parametrize("how", [spoilt.refused, spoilt.lost], ids=["not done", "done"])
@pytest.mark.parametrize("number", range(2))
def test_nothing_stays_of_a_try_that_breaks_off(make, s3, bucket, proxy, how, number):
    store = make()
    proxy.spoil("put", how, skip=number, when=lambda r: ".datastream-" in r.key)
    with pytest.raises(SourceUnavailable):
        store.put("a", 1, expect="")
    assert names_of(s3, bucket) == []


def test_nothing_is_tried_where_it_could_not_be_removed(make, s3, bucket, proxy):
    store = make()
    proxy.spoil("delete", spoilt.error(403, "AccessDenied"))
    with pytest.raises(Denied):
        store.put("a", 1, expect="")
    assert names_of(s3, bucket) == []


def test_what_a_dead_process_left_is_removed_and_what_is_young_stays(
    make, put, s3, bucket, monkeypatch
):
    for name in ("p/.datastream-0", ".datastream-1", "p/a/.datastream-2"):
        put(name, b"")
    try_all(make("p"))
    assert len(names_of(s3, bucket)) == 3
    monkeypatch.setattr(_write, "LEFT_AFTER", timedelta(seconds=-5))
    try_all(make("p"))
    assert set(names_of(s3, bucket)) == {".datastream-1", "p/a/.datastream-2"}


# --- access points ---


@pytest.mark.parametrize(
    ("path", "bucket", "prefix"),
    [
        ("bucket", "bucket", ""),
        ("bucket/a/b/", "bucket", "a/b/"),
        ("arn/aws", "arn", "aws"),
        (f"{ARN}/one", f"{ARN}/one", ""),
        (f"{ARN}:one/a/b", f"{ARN}:one", "a/b"),
        (f"{ARN}/one/a/b", f"{ARN}/one", "a/b"),
        (f"{OUTPOST}/op-1/accesspoint/one/a", f"{OUTPOST}/op-1/accesspoint/one", "a"),
        (f"{OUTPOST}:op-1:accesspoint:one", f"{OUTPOST}:op-1:accesspoint:one", ""),
        ("arn:aws:s3::1:accesspoint/x.mrap/a", "arn:aws:s3::1:accesspoint/x.mrap", "a"),
    ],
)
def test_an_access_point_stands_for_a_bucket(path, bucket, prefix):
    assert _parted(path) == (bucket, prefix)


def test_an_access_point_is_asked_under_its_own_name():
    url = f"s3://{ARN}/one/conf"
    with pytest.raises(SourceUnavailable, match=r"one-123456789012\.nowhere\.invalid"):
        datastream.open(url, endpoint_url="http://nowhere.invalid:1", **CREDENTIALS)
