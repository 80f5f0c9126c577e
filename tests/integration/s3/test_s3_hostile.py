"""Answers that no S3 server should give: only errors of ours come out, and nothing is deleted."""

from contextlib import suppress

import pytest

from datastream import DatastreamError
from datastream.sources.s3 import bucket as _bucket
from datastream.testing import Recorder
from tests.servers import s3_proxy as spoilt

LISTING = (
    b'<?xml version="1.0"?><ListBucketResult><IsTruncated>%s</IsTruncated>%s</ListBucketResult>'
)
ITEM = (
    b"<Contents><Key>a</Key><ETag>%s</ETag><Size>%s</Size>"
    b"<LastModified>%s</LastModified></Contents>"
)
TIME = b"2026-01-01T00:00:00.000Z"
BODIES = (
    b"",
    b"not XML \xff\xfe\x00",
    b"<html><body>Log in</body></html>",
    b"<a/>",
    b"<Error/>",
    b"<Error><Code></Code></Error>",
    b"<Error><Code>\xc3\x28</Code><Message>\x1b[31m</Message></Error>",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    LISTING % (b"true", b""),
    LISTING % (b"false", b"<Contents/>"),
    LISTING % (b"false", b"<Contents><Key>a</Key></Contents>"),
    LISTING % (b"false", ITEM % (b"x", b"many", TIME)),
    LISTING % (b"false", ITEM % (b"", b"1", b"yesterday")),
    LISTING % (b"false", ITEM % (b"x", b"-1", b"0001-01-01T00:00:00Z")),
    LISTING % (b"false", ITEM % (b"x", b"1", b"9999-12-31T23:59:60Z")),
)
STATUSES = (200, 204, 206, 301, 400, 401, 403, 404, 405, 409, 412, 416, 418, 500, 501)
CALLS = {
    "list": lambda store: store.snapshot(),
    "get": lambda store: store.entry("a"),
    "head": lambda store: store.put("a", 2),
    "put": lambda store: store.put("a", 2),
    "delete": lambda store: store.delete("a", missing_ok=True),
    "versions": lambda store: list(store.history("a")),
}


@pytest.fixture
def store(make_at, proxy, s3, bucket, put, monkeypatch):
    monkeypatch.setattr(_bucket, "ATTEMPTS", 1)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    put("a", b"1")
    return make_at(proxy.url, "", interval=60)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", CALLS)
def test_answers_of_no_s3_server(store, proxy, put, kind):
    watcher = Recorder(store)
    watcher.wait_state({"a": b"1"})
    problems = []
    for status in STATUSES:
        for body in BODIES:
            proxy.heal()
            proxy.spoil(kind, spoilt.says(body, status, "application/xml"))
            try:
                CALLS[kind](store)
            except DatastreamError as error:
                if "this is a bug" in str(error):
                    problems.append((status, body, str(error)))
            except Exception as error:
                problems.append((status, body, repr(error)))
    proxy.heal()
    assert not problems
    assert "DELETE" not in {entry.operation for entry in watcher.entries} or kind == "delete"
    put("end", b"1")
    with suppress(DatastreamError):
        store.put("a", b"1")
    store.refresh()
    watcher.wait(lambda watcher: "end" in watcher.state, "it goes on")
