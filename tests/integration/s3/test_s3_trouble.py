"""S3 behind a proxy that spoils what is asked and answered."""

from __future__ import annotations

import logging
import threading

import pytest

import datastream
from datastream import (
    DatastreamError,
    Denied,
    RevisionConflict,
    SourceUnavailable,
    State,
    Store,
    StoreClosed,
    Unreadable,
    Unsupported,
)
from datastream.source import Write
from datastream.sources.s3 import S3Source
from datastream.sources.s3 import bucket as _s3_bucket
from datastream.testing import Recorder
from tests.integration._programs.tools import Child, Statuses, eventually
from tests.servers import s3_proxy as spoilt
from tests.servers.s3 import CREDENTIALS, client, fill
from tests.servers.s3_proxy import Proxy

# The server takes some 15 ms for each request.
pytestmark = pytest.mark.chaos


@pytest.fixture
def raw(url, bucket):
    """boto3, past the proxy."""

    class Raw:
        s3 = client(url)

        def __init__(self):
            self.bucket = bucket

        def put(self, key, value=b"x"):
            return self.s3.put_object(Bucket=bucket, Key=key, Body=value)["ETag"]

        def delete(self, key):
            self.s3.delete_object(Bucket=bucket, Key=key)

        def keys(self):
            page = self.s3.list_objects_v2(Bucket=bucket)
            return [item["Key"] for item in page.get("Contents", ())]

    return Raw()


@pytest.fixture
def make(make_at, proxy):
    def make(prefix="", **options):
        return make_at(proxy.url, prefix, **options)

    return make


TROUBLES = {
    "slow down": ("list", spoilt.error(503, "SlowDown")),
    "internal error": ("list", spoilt.error(500, "InternalError")),
    "denied": ("list", spoilt.error(403, "AccessDenied")),
    "expired token": ("list", spoilt.error(400, "ExpiredToken")),
    "clock skew": ("list", spoilt.error(403, "RequestTimeTooSkewed")),
    "bucket missing": ("list", spoilt.error(404, "NoSuchBucket")),
    "cut listing": ("list", spoilt.cut),
    "hung up": ("list", spoilt.refused),
    "a web page": ("list", spoilt.says(b"<html><body>Please log in</body></html>")),
    "nothing at all": ("list", spoilt.says(b"")),
    "another XML": ("list", spoilt.says(b"<a/>", content_type="application/xml")),
    "half of the XML": ("list", spoilt.changed(lambda body: body[: len(body) // 2])),
    "cut object": ("get", spoilt.cut),
    "expired token of a get": ("get", spoilt.error(400, "ExpiredToken")),
    "slow down of an object": ("get", spoilt.error(503, "SlowDown")),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_a_status_and_never_a_delete(make, proxy, raw, monkeypatch, trouble):
    monkeypatch.setattr(_s3_bucket, "RETRY_FIRST", 0.01)
    raw.put("a", b"1"), raw.put("b", b"2")
    store = make()
    recorder, statuses = Recorder(store), Statuses(store)
    recorder.wait_state({"a": b"1", "b": b"2"})
    kind, how = TROUBLES[trouble]
    rule = proxy.spoil(kind, how)
    if kind == "list":
        # One that was under way by then would be answered, and show what is put from now on.
        statuses.wait(State.STALE)
    raw.put("a", b"changed")
    assert statuses.wait(State.STALE).error is not None
    with pytest.raises(SourceUnavailable) as caught:
        store.snapshot()
    assert CREDENTIALS["secret"] not in str(caught.value).replace("under test", "")
    assert rule["hits"]
    assert recorder.state == {"a": b"1", "b": b"2"}
    proxy.heal()
    store.refresh()
    recorder.wait_state({"a": b"changed", "b": b"2"})
    statuses.wait(State.READY)
    assert [entry.key for entry in recorder.live] == ["a"]
    assert recorder.error is None


def test_trouble_in_the_past_is_trouble_too(make, proxy, raw, bucket):
    raw.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    raw.put("a", b"1")
    with make().at("2100-01-01T00:00:00+00:00") as then:
        assert dict(then) == {"a": 1}
        for kind, error in (("versions", SourceUnavailable), ("get", Unreadable)):
            proxy.spoil(kind, spoilt.error(403, "AccessDenied"))
            with pytest.raises(error):
                then.snapshot()
            proxy.heal()
        assert then["a"] == 1


def test_a_page_that_fails_in_the_middle_is_no_listing(make, proxy, raw, monkeypatch):
    """Page two of three is refused: what was on it has not been deleted."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "20")
    _fill(raw, 50)
    store = make()
    recorder, statuses = Recorder(store, match="**/*5"), Statuses(store)
    recorder.wait(lambda r: len(r.state) == 5)
    before = recorder.state
    rule = proxy.spoil(
        "list", spoilt.error(403, "AccessDenied"), when=lambda r: "continuation-token" in r.query
    )
    statuses.wait(State.STALE)
    assert rule["hits"]
    assert recorder.state == before
    proxy.heal()
    store.refresh()
    statuses.wait(State.READY)
    assert recorder.live == []


@pytest.mark.parametrize("server", ["forgets", "begins again"])
def test_a_server_that_does_not_say_how_to_go_on(make, proxy, raw, monkeypatch, server):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "20")
    _fill(raw, 30)
    store = make()
    pages = []

    def edit(body):
        pages.append(body)
        if server == "forgets":
            return body.replace(b"NextContinuationToken", b"NextMarker")
        return pages[0]

    proxy.spoil("list", spoilt.changed(edit))
    with pytest.raises(SourceUnavailable, match="how to go on"):
        store.snapshot("none/", "k/")


def test_throttling_that_passes_is_not_noticed(make, proxy, raw):
    raw.put("a", b"1")
    store = make()
    for kind in ("list", "get", "head", "put"):
        proxy.spoil(kind, spoilt.error(503, "SlowDown"), times=1)
    assert store["a"] == 1
    assert store.put("b", 2).decode() == 2
    assert store.entry("b").decode() == 2


def test_few_attempts_with_pauses(make, proxy, raw):
    """A throttled server is not hammered: four attempts for a question, then it is told."""
    store = make()
    proxy.forget()
    proxy.spoil("list", spoilt.error(503, "SlowDown"))
    with pytest.raises(SourceUnavailable, match="SlowDown"):
        store.snapshot()
    assert proxy.counts == {"list": _s3_bucket.ATTEMPTS}


def test_a_dead_endpoint_comes_back(url, bucket, raw, stack):
    raw.put("a", b"1")
    first = Proxy(url)
    store = stack.enter_context(
        Store(S3Source(bucket, endpoint_url=first.url, interval=0.05, **CREDENTIALS))
    )
    recorder, statuses = Recorder(store), Statuses(store)
    recorder.wait_state({"a": b"1"})
    first.close()
    statuses.wait(State.STALE)
    with pytest.raises(SourceUnavailable):
        store.put("b", 1)
    raw.put("a", b"2")
    with Proxy(url, first.port):
        recorder.wait_state({"a": b"2"})
        statuses.wait(State.READY)
        store.close()


def test_nobody_there_at_open(bucket):
    with pytest.raises(SourceUnavailable, match="s3://"):
        S3Source(bucket, endpoint_url="http://127.0.0.1:9", **CREDENTIALS)


def test_a_server_that_hangs_holds_nobody_for_long(make, proxy, raw):
    """Reads, writes and `close` end when the time for an answer is over."""
    raw.put("a", b"1")
    release = threading.Event()
    store = make(config_kwargs={"read_timeout": 0.5, "connect_timeout": 0.5})
    recorder, statuses = Recorder(store), Statuses(store)
    recorder.wait_state({"a": b"1"})
    try:
        proxy.spoil("*", spoilt.after(release))
        statuses.wait(State.STALE)
        for action in (store.snapshot, lambda: store.put("b", 1)):
            with pytest.raises(SourceUnavailable):
                action()
        store.close()
        recorder.wait(lambda r: r.completed)
    finally:
        release.set()
    assert recorder.state == {"a": b"1"}


def test_a_put_whose_answer_is_lost(make, proxy, raw):
    store = make()
    recorder = Recorder(store)
    recorder.wait_ready()
    # The client's own library asks again where a kept connection breaks, as HTTP has it.
    proxy.spoil("put", spoilt.lost)
    with pytest.raises(SourceUnavailable):
        store.put("a", 1)
    proxy.heal()
    recorder.wait_state({"a": b"1"})


def test_put_many_that_breaks_off_says_what_was_written(make, proxy, raw, monkeypatch):
    monkeypatch.setattr(_s3_bucket, "CONNECTIONS", 1)
    store = make()
    recorder = Recorder(store)
    recorder.wait_ready()
    proxy.spoil("put", spoilt.error(403, "AccessDenied"), when=lambda r: r.key == "c")
    with pytest.raises(Denied, match="2 of 4 writes were made: 'a', 'b'; look") as caught:
        store.put_many({"a": 1, "b": 2, "c": 3, "d": 4})
    assert "AccessDenied" in str(caught.value)
    assert raw.keys() == ["a", "b"]
    recorder.wait_state({"a": b"1", "b": b"2"})


# --- conditions ---


def test_put_many_with_a_conflict_writes_nothing(make, raw):
    store = make()
    stale = store.put("a", 1).revision
    raw.put("a", b"2")
    with pytest.raises(RevisionConflict):
        store.put_many({"new": 1, "a": 3}, expect={"a": stale})
    assert raw.keys() == ["a"]


@pytest.mark.parametrize("action", ["replace", "create", "delete"])
def test_what_comes_between_the_look_and_the_write_wins(make, proxy, raw, action):
    """The head said yes; the server's own condition has to say no."""
    store = make()
    revision = "" if action == "create" else store.put("a", "old").revision
    store.put("warm", 1, expect=""), store.put("warm", 2, expect=store.entry("warm").revision)
    store.delete("warm", expect=store.entry("warm").revision)

    def overtake(handler, ask):
        raw.put("a", b"theirs")
        handler.answer(ask())

    kind = "delete" if action == "delete" else "put"
    rule = proxy.spoil(kind, overtake, when=lambda r: r.key == "a")
    write = Write("a", None if action == "delete" else b"ours", "str", revision)
    with pytest.raises(RevisionConflict):
        store.write(Write("b", b"1", "int"), write)
    assert rule["hits"] == 1
    assert store["a"] == "theirs"
    assert raw.keys() == ["a"]


@pytest.mark.parametrize("value", [b"ours", None], ids=["replace", "delete"])
def test_what_is_deleted_between_the_look_and_the_write_is_a_conflict(make, proxy, raw, value):
    store = make()
    revision = store.put("a", "old").revision
    for number in range(3):
        store.put("warm", number, expect=store.entry("warm").revision if number else "")
    store.delete("warm", expect=store.entry("warm").revision)

    def overtake(handler, ask):
        raw.delete("a")
        handler.answer(ask())

    rule = proxy.spoil("put" if value else "delete", overtake, when=lambda r: r.key == "a")
    with pytest.raises(RevisionConflict):
        store.write(Write("a", value, "str", revision))
    assert rule["hits"] == 1
    assert raw.keys() == []


def test_a_conflict_of_two_at_once_is_a_conflict(make, proxy):
    """AWS answers so if another conditional write is under way."""
    store = make()
    store.put("a", 1, expect="")
    proxy.spoil("put", spoilt.error(409, "ConditionalRequestConflict"), when=lambda r: r.key == "a")
    with pytest.raises(RevisionConflict, match="ConditionalRequestConflict"):
        store.put("a", 2, expect=store.entry("a").revision)
    assert store["a"] == 1


IGNORANT = {
    "ignores them": spoilt.unconditionally,
    "says so": spoilt.error(501, "NotImplemented"),
    "takes it for an error": spoilt.error(400, "InvalidArgument"),
}


@pytest.mark.parametrize("server", IGNORANT)
def test_a_server_without_conditions(make, proxy, raw, server):
    conditional = {"If-Match", "If-None-Match"}
    for kind in ("put", "delete"):
        proxy.spoil(kind, IGNORANT[server], when=lambda r: conditional & set(r.headers))
    store = make()
    revision = store.put("a", 1).revision
    for _ in range(2):
        proxy.forget()
        for action in (
            lambda: store.put("a", 2, expect=revision),
            lambda: store.put("new", 2, expect=""),
            lambda: store.delete("a", expect=revision),
            lambda: store.put_many({"b": 1, "a": 2}, expect={"a": revision}),
        ):
            with pytest.raises(Unsupported, match="condition"):
                action()
    assert set(proxy.counts) == {"head"}, "it has been found out already"
    assert raw.keys() == ["a"]
    store.delete("a")
    store.put("a", 2)
    with pytest.raises(RevisionConflict):
        store.put("a", 3, expect=revision)
    assert store["a"] == 2


def test_conditions_are_tried_once(make, proxy):
    store = make()
    revision = store.put("a", 0, expect="").revision
    revision = store.put("a", 1, expect=revision).revision
    proxy.forget()
    for number in range(2, 5):
        revision = store.put("a", number, expect=revision).revision
    # What is there, the put, and the time that it got.
    assert proxy.counts == {"head": 6, "put": 3}
    assert all("If-Match" in r.headers for r in proxy.requests if r.kind == "put")


@pytest.mark.chaos
def test_two_processes_count_with_compare_and_set(url, bucket, raw, stack):
    raw.put("n", b"0")
    place = f"s3://{bucket}?endpoint_url={url}&key=test&secret=test&region=us-east-1"
    children = [stack.enter_context(Child("increment", place, "n", 10)) for _ in range(2)]
    for child in children:
        assert child.line() == "ready"
    for child in children:
        child.process.stdin.write("\n"), child.process.stdin.flush()
    assert all(int(child.line()) >= 0 for child in children)
    with datastream.open(place) as store:
        assert store["n"] == 20


# --- opening ---


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        (spoilt.error(404, "NoSuchBucket"), DatastreamError, "no such bucket"),
        (spoilt.error(403, "AccessDenied"), Denied, "AccessDenied.*credentials"),
        (spoilt.error(403, "InvalidAccessKeyId"), Denied, "InvalidAccessKeyId"),
        (spoilt.error(403, "SignatureDoesNotMatch"), Denied, "SignatureDoesNotMatch"),
        (spoilt.error(400, "ExpiredToken"), Denied, "ExpiredToken"),
        (spoilt.error(400, "AuthorizationHeaderMalformed"), DatastreamError, "region"),
        (spoilt.says(b"<html></html>"), SourceUnavailable, "no listing"),
        (spoilt.refused, SourceUnavailable, "s3://"),
    ],
)
def test_what_is_wrong_is_told_at_open(make, proxy, how, kind, text):
    proxy.spoil("list", how)
    with pytest.raises(DatastreamError, match=text) as caught:
        make()
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("no-such-bucket", {}),
        ("Bad Name!", {}),
        ("fine", {"endpoint_url": "no url"}),
        ("fine", {"endpoint_url": "ftp://127.0.0.1"}),
        ("fine", {"config_kwargs": {"no_such": 1}}),
        ("fine", {"client_kwargs": {"no_such": 1}}),
    ],
)
def test_names_addresses_and_options_that_cannot_be(proxy, name, options):
    with pytest.raises(DatastreamError) as caught:
        S3Source(name, **{"endpoint_url": proxy.url, **CREDENTIALS, **options})
    assert type(caught.value) is DatastreamError


def test_a_store_opens_where_only_its_prefix_may_be_listed(make, proxy, raw):
    raw.put("mine/a", b"1")
    proxy.spoil(
        "list",
        spoilt.error(403, "AccessDenied"),
        when=lambda r: not r.query["prefix"][0].startswith("mine/"),
    )
    proxy.spoil("versioning", spoilt.error(403, "AccessDenied"))
    store = make("mine")
    assert dict(store) == {"a": 1}
    assert datastream.source.Feature.HISTORY not in store.features


def test_a_busy_server_is_not_taken_for_one_without_versions(make, proxy, url, bucket):
    client(url).put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    proxy.spoil("versioning", spoilt.error(503, "SlowDown"), times=5)
    with pytest.raises(SourceUnavailable, match="SlowDown"):
        make()
    assert datastream.source.Feature.HISTORY in make().features


def test_secrets_are_told_to_nobody(proxy, bucket, caplog):
    secrets = {"secret": "hush-hush", "token": "hush-too"}
    query = "&".join(f"{name}={value}" for name, value in secrets.items())
    place = f"s3://{bucket}/x?endpoint_url={proxy.url}&key=me&{query}"
    caplog.set_level(logging.DEBUG, "datastream")
    with datastream.open(place, interval=0.05) as store:
        statuses, recorder = Statuses(store), Recorder(store)
        proxy.spoil("*", spoilt.error(403, "SignatureDoesNotMatch"))
        told = [repr(store), store.name, str(statuses.wait(State.STALE))]
        for action in (store.snapshot, lambda: store.put("a", 1), lambda: next(iter(store))):
            with pytest.raises(DatastreamError) as caught:
                action()
            told += [str(caught.value), repr(caught.value)]
        with pytest.raises(DatastreamError) as caught:
            datastream.open(place)
        told += [str(caught.value), caplog.text]
        recorder.dispose()
    assert "hush" not in "".join(told)
    assert "***" in told[0]


def test_a_password_in_the_endpoint_is_not_told(bucket):
    with pytest.raises(SourceUnavailable) as caught:
        S3Source(bucket, endpoint_url="http://me:hush@127.0.0.1:9", **CREDENTIALS)
    assert "hush" not in str(caught.value)


# --- the end ---


def test_a_history_goes_no_further_after_close(make, url, bucket, raw):
    client(url).put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    raw.put("a", b"1"), raw.put("a", b"2")
    store = make()
    changes = store.history("a")
    assert next(changes).entry.value == b"2"
    store.close()
    with pytest.raises(StoreClosed):
        next(changes)


def test_close_while_a_request_runs(make, proxy, raw):
    raw.put("a", b"1")
    store = make()
    release, asked = threading.Event(), threading.Event()

    def slow(handler, ask):
        asked.set()
        release.wait(30)
        handler.answer(ask())

    recorder = Recorder(store)
    recorder.wait_ready()
    proxy.spoil("list", slow)
    assert asked.wait(30)
    closing = threading.Thread(target=store.close)
    closing.start()
    release.set()
    closing.join(30)
    assert not closing.is_alive()
    recorder.wait(lambda r: r.completed)


def test_a_fork_is_told_to_open_again(url, bucket, raw, stack):
    raw.put("a", b"1")
    place = f"s3://{bucket}?endpoint_url={url}&key=test&secret=test&region=us-east-1"
    child = stack.enter_context(Child("s3_fork", place))
    assert "opened before fork; open it anew" in child.line()
    assert child.line() == "opened again: 1"
    assert child.line() == "parent: 1"


def test_connections_end_with_the_store(make, proxy, raw):
    store = make()
    store["a"] = 1
    assert proxy._open
    store.close()
    # Left alone they would end too, but much later.
    eventually(lambda: not proxy._open, "all connections are closed")


def _fill(raw, count):
    fill(raw.bucket, {f"k/{number:05d}": b"1" for number in range(count)})


def test_ctrl_c_while_a_bucket_is_opened_is_no_outage(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(_s3_bucket.Bucket, "page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        S3Source("bucket", endpoint_url="http://127.0.0.1:1", key="k", secret="s")
