"""S3 buckets as they are found: any names, any other program, what a look costs, the past."""

from __future__ import annotations

import http.client
import secrets
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

import datastream
from datastream import (
    DatastreamError,
    InvalidKey,
    InvalidValue,
    Operation,
    ReadOnly,
    State,
    Store,
    Unsupported,
)
from datastream.source import Feature
from datastream.sources.s3 import S3Source
from datastream.sources.s3 import bucket as _s3_bucket
from datastream.sources.s3.versions import note_order, versions_of
from datastream.testing import Recorder, Spy
from datastream.testing._tools import eventually
from tests.integration._programs.tools import Statuses
from tests.servers.s3 import CREDENTIALS, fill, spread


@pytest.fixture
def make(make_at, url):
    def make(prefix="", endpoint_url=url, **options):
        return make_at(endpoint_url, prefix, **options)

    return make


def versioned(s3, bucket, status="Enabled"):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


NAMES = (
    "plain",
    "with space",
    "a+b",
    "100%",
    "%2F%20+",
    "caf\u00e9",
    "cafe\u0301",
    "ключ/🔑",
    "/leading",
    "a//b",
    "q?x=1&y=2#z;:@=,$!*'()[]{}|^~`\"<>\\",
)


@pytest.mark.parametrize("prefix", [pytest.param("", marks=pytest.mark.chaos), "apps/one"])
def test_names_of_any_kind_from_both_sides(make, put, s3, bucket, prefix):
    store = make(prefix)
    start = f"{prefix}/" if prefix else ""
    recorder = Recorder(store)
    expected = {}
    for name in NAMES:
        put(f"{start}{name}", name.encode())
        expected[name] = name.encode()
    recorder.wait_state(expected)
    assert {key: entry.value for key, entry in store.snapshot().items()} == expected
    assert set(store) == set(NAMES)
    for name in NAMES:
        assert store.entry(name).value == name.encode()
        store.put(name, b"ours")
        answer = s3.get_object(Bucket=bucket, Key=f"{start}{name}")
        assert answer["Body"].read() == b"ours"
        assert answer["ETag"] == store.entry(name).revision
        store.delete(name, expect=store.entry(name).revision)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    recorder.wait_state({})


def test_names_with_control_characters_are_read_but_not_written(make, bucket):
    fill(bucket, {"tab\there": b"1"})
    store = make()
    assert store["tab\there"] == 1
    for key in ("tab\t", "del\x7f"):
        with pytest.raises(InvalidKey, match="control"):
            store[key] = 1


@pytest.mark.parametrize("key", ["a/../b", "./a", "..", "a/."])
def test_names_that_a_url_does_not_keep_are_refused(make, key):
    with pytest.raises(InvalidKey, match="'\\.\\.'"):
        make().put(key, 1)


def test_a_name_with_dots_is_never_read_as_another(make, url, bucket, put):
    """Somebody's client sent it as it is; ours must not tidy it up on the way."""
    put("b", b"another")
    server = http.client.HTTPConnection(urlsplit(url).netloc)
    server.request("PUT", f"/{bucket}/a/../b", b"dotted", {"Authorization": "AWS test:x"})
    assert server.getresponse().read() is not None
    server.close()
    for key, entry in make().snapshot().items():
        assert entry.value == (b"another" if key == "b" else b"dotted")


def test_a_key_that_is_a_prefix_and_markers_of_directories(make, put):
    put("apps/one", b"not ours"), put("apps/one/", b""), put("apps/one/a", b"1")
    put("apps/one/a/b", b"2"), put("apps/one/empty/", b""), put("apps/onetwo", b"not ours")
    put("apps/one/.datastream-0123", b"a probe")
    store = make("apps/one")
    assert {k: e.value for k, e in store.snapshot().items()} == {"a": b"1", "a/b": b"2"}
    assert set(store.snapshot("a")) == {"a"}
    assert set(store.snapshot("a/")) == {"a/b"}
    with pytest.raises(InvalidKey, match="reserved"):
        store.put("x/.datastream-x", 1)
    with pytest.raises(InvalidKey, match="1024 bytes"):
        store.put("ü" * 510, 1)
    store.put("ü" * 507, 1)


def test_what_is_excluded_is_not_there(make, put):
    put("a.tmp"), put("logs/1"), put("logs/deep/2"), put("a")
    store = make(exclude="*.tmp,logs/**")
    assert list(store) == ["a"]
    assert [c.key for c in store.capabilities()] == ["a"]
    with pytest.raises(InvalidKey, match="excluded"):
        store["b.tmp"] = 1
    with pytest.raises(datastream.KeyNotFound):
        store.entry("a.tmp")


@pytest.mark.chaos
def test_sizes_from_nothing_to_many_parts(make, s3, bucket, put):
    from boto3.s3.transfer import TransferConfig

    big = secrets.token_bytes(1 << 20) * 50
    put("empty", b"")
    s3.upload_fileobj(
        __import__("io").BytesIO(big),
        bucket,
        "big",
        Config=TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20),
    )
    store = make()
    entry = store.entry("big")
    assert entry.value == big
    assert entry.revision == s3.head_object(Bucket=bucket, Key="big")["ETag"]
    assert "-" in entry.revision
    assert store.entry("empty").value == b""
    assert {c.key: c.value_type for c in store.capabilities()} == {"big": "bytes", "empty": "str"}
    # Its ETag says nothing of the content, which is the same all the same.
    assert store.put("big", big, expect=entry.revision).revision == entry.revision


def test_revisions_are_etags_as_given(make, put):
    store = make()
    for key in ("a", "b.json"):
        assert put(key, b"1")["ETag"] == store.entry(key).revision
    assert store.entry("a").revision.startswith('"')


def test_types_are_the_same_in_list_and_data(make, put):
    put("n", b"5"), put("f", b"0.5"), put("t", b"true"), put("s", b"text"), put("j", b"[1]")
    put("b", b"\0\xff"), put("x.yaml", b"a: 1"), put("p.png", b"\x89PNG"), put("m.md", b"5")
    put("long", b"a" * 65_535 + "ü".encode() + b"\xff" * 9)
    store = make()
    listed = {c.key: c.value_type for c in store.capabilities()}
    assert listed == {key: entry.value_type for key, entry in store.snapshot().items()}
    assert listed["n"] == "int"
    assert listed["p.png"] == "image/png"
    put("n", b"no number any more")
    assert {c.key: c.value_type for c in store.capabilities()}["n"] == "str"


@pytest.mark.parametrize(
    ("key", "value", "content_type"),
    [
        ("a.json", {"a": 1}, "application/json"),
        ("a", {"a": 1}, "application/json"),
        ("n", 5, "text/plain; charset=utf-8"),
        ("b", b"\0", "application/octet-stream"),
        ("p.png", b"\x89PNG", "image/png"),
        ("m.md", "# hi", "text/markdown"),
    ],
)
def test_content_type_of_what_is_put(make, s3, bucket, key, value, content_type):
    make().put(key, value)
    assert s3.head_object(Bucket=bucket, Key=key)["ContentType"] == content_type


def test_a_value_that_would_read_back_as_another_is_refused(make, s3, bucket):
    store = make()
    with pytest.raises(InvalidValue, match="would read back as int"):
        store["a"] = "5"
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


# --- what it costs ---


def test_a_look_is_one_listing_and_what_is_watched_and_changed(make, proxy, put, bucket):
    fill(bucket, {f"k/{number:04d}": b"1" for number in range(300)})
    store = make(endpoint_url=proxy.url, interval=60)
    recorder = Recorder(store, match="k/00*")
    recorder.wait(lambda r: len(r.state) == 100)
    statuses = Statuses(store)
    proxy.forget()

    def look(lists):
        before = proxy.counts["list"]
        store.refresh()
        eventually(lambda: proxy.counts["list"] >= before + lists, "a look")

    look(1)
    # Others have listing alone to tell them apart from the watched.
    watched, unwatched = {f"k/00{n:02d}" for n in range(30)}, {f"k/01{n:02d}" for n in range(30)}
    for key in watched | unwatched:
        put(key, b"2")
    put("z", b"2")
    look(1)
    recorder.wait(lambda r: sum(value == b"2" for value in r.state.values()) == 30)
    got = [request.key for request in proxy.requests if request.kind == "get"]
    assert sorted(got) == sorted(watched)
    assert set(proxy.counts) == {"list", "get"}
    statuses.wait(State.READY)


def test_an_unchanged_look_is_as_many_requests_as_pages(proxy, bucket, stack):
    # The server gives a thousand at a time, and takes a second for that.
    fill(bucket, {f"k/{number:04d}.txt": b"1" for number in range(1001)})
    source = S3Source(bucket, endpoint_url=proxy.url, interval=60, **CREDENTIALS)
    spy = Spy(source)
    store = stack.enter_context(Store(spy))
    recorder = Recorder(store, match="**/0001.*")
    recorder.wait_ready()
    eventually(lambda: spy.reads > 1 and spy.waiting.is_set(), "it is at rest")
    proxy.forget()
    reads = spy.reads
    store.refresh()
    eventually(lambda: spy.reads > reads and spy.waiting.is_set(), "it is at rest again")
    assert spy.reads == reads + 1
    assert proxy.counts == {"list": 2}


def test_types_are_known_by_their_etags(make, proxy, put):
    put("a", b"1"), put("b", b"2"), put("c.txt", b"3")
    store = make(endpoint_url=proxy.url)
    store.capabilities()
    put("b", b"text")
    proxy.forget()
    assert {c.key: c.value_type for c in store.capabilities()}["b"] == "str"
    assert proxy.counts == {"list": 1, "get": 1}


def test_many_are_read_at_a_time(make, proxy, bucket):
    fill(bucket, {f"k/{number:04d}": b"1" for number in range(200)})
    store = make(endpoint_url=proxy.url)
    at_once, most, lock = [], [], threading.Lock()
    together = threading.Barrier(8)

    def slow(handler, ask):
        with lock:
            at_once.append(1)
            most.append(len(at_once))
        if len(most) <= 8:
            together.wait(30)
        handler.answer(ask())
        with lock:
            at_once.pop()

    proxy.spoil("get", slow)
    assert len(store.snapshot()) == 200
    assert 8 <= max(most) <= _s3_bucket.CONNECTIONS


def test_interval_and_poke(make, proxy, put):
    put("a", b"1")
    store = make(endpoint_url=proxy.url, interval=3600)
    recorder = Recorder(store)
    recorder.wait_state({"a": b"1"})
    put("a", b"2")
    store.refresh()
    recorder.wait_state({"a": b"2"})


def test_nobody_watches_nothing_is_asked(make, proxy, put):
    put("a", b"1")
    store = make(endpoint_url=proxy.url, interval=0.01)
    recorder = Recorder(store)
    recorder.wait_ready()
    recorder.dispose()
    eventually(lambda: "datastream poll" not in str(threading.enumerate()), "it rests")
    proxy.forget()
    store.refresh()
    assert store["a"] == 1
    assert proxy.counts == {"get": 1}


def test_one_key_is_one_request_whether_it_is_there_or_not(make, proxy, put):
    put("p/a", b"1"), put("p/a/b", b"2"), put("p/x.tmp", b"3")
    store = make("p", endpoint_url=proxy.url, exclude="*.tmp")
    for key, value in {"a": 1, "a/b": 2, "no": None, "a/": None}.items():
        proxy.forget()
        if key.endswith("/"):
            with pytest.raises(InvalidKey):
                store.get(key)
            assert not proxy.counts
            continue
        assert store.get(key) == value
        assert (key in store) == (value is not None)
        assert proxy.counts == {"get": 2}
    proxy.forget()
    assert "x.tmp" not in store
    assert not proxy.counts


def test_many_threads_read_at_a_time(make, proxy, put):
    put("a", b"1")
    store = make(endpoint_url=proxy.url)
    together = threading.Barrier(8)

    def slow(handler, ask):
        # No answer before all eight have asked.
        together.wait(30)
        handler.answer(ask())

    proxy.spoil("get", slow)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(store["a"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [1] * 8


def test_reads_and_writes_go_on_while_a_look_takes_long(make, proxy, put):
    put("a", b"1")
    store = make(endpoint_url=proxy.url)
    recorder = Recorder(store)
    recorder.wait_state({"a": b"1"})
    looking, go = threading.Event(), threading.Event()

    def slow(handler, ask):
        looking.set()
        go.wait(30)
        handler.answer(ask())

    proxy.spoil("list", slow)
    assert looking.wait(30)
    assert store["a"] == 1
    assert "b" not in store
    store["b"] = 2
    recorder.wait_state({"a": b"1", "b": b"2"})
    del store["a"]
    recorder.wait_state({"b": b"2"})
    assert not go.is_set()
    put("c", b"3")
    go.set()
    recorder.wait_state({"b": b"2", "c": b"3"})
    assert [entry.key for entry in recorder.live] == ["b", "a", "c"]


# --- changes ---


def test_the_same_content_again_is_no_event(make, put):
    store = make()
    recorder = Recorder(store)
    put("a", b"1")
    recorder.wait_state({"a": b"1"})
    put("a", b"1"), store.put("a", 1), store.put("a", 1, expect=store.entry("a").revision)
    put("end", b"1")
    recorder.wait_state({"a": b"1", "end": b"1"})
    assert [entry.key for entry in recorder.entries] == ["a", "end"]


def test_an_own_put_is_not_read_again(make, proxy):
    store = make(endpoint_url=proxy.url, interval=3600)
    recorder = Recorder(store)
    recorder.wait_ready()
    proxy.forget()
    for number in range(5):
        store.put("a", number)
    recorder.wait_state({"a": b"4"})
    store.refresh()
    eventually(lambda: proxy.counts["list"], "a look")
    assert proxy.counts["get"] == 0
    assert proxy.counts["put"] == 5
    assert [entry.value for entry in recorder.entries][-1] == b"4"


def test_a_bucket_that_is_really_emptied(make, put, s3, bucket):
    put("a"), put("b")
    store = make()
    recorder, statuses = Recorder(store), Statuses(store)
    recorder.wait(lambda r: len(r.state) == 2)
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}, {"Key": "b"}]})
    recorder.wait_state({})
    assert State.STALE in statuses.states, "it is believed at the second look only"


def test_a_bucket_deleted_and_made_again(make, put, s3, bucket):
    put("a", b"1")
    store = make()
    recorder, statuses = Recorder(store), Statuses(store)
    recorder.wait_state({"a": b"1"})
    s3.delete_object(Bucket=bucket, Key="a")
    s3.delete_bucket(Bucket=bucket)
    statuses.wait(State.STALE)
    s3.create_bucket(Bucket=bucket)
    put("b", b"2")
    recorder.wait_state({"b": b"2"})
    statuses.wait(State.READY)


def test_two_stores_and_another_program(make, put, s3, bucket):
    one, two = make("x"), make("x")
    recorders = [Recorder(one), Recorder(two, match="*")]
    one["a"] = 1
    two["b"] = 2
    put("x/c", b"3")
    for recorder in recorders:
        recorder.wait_state({"a": b"1", "b": b"2", "c": b"3"})
    del two["a"]
    s3.delete_object(Bucket=bucket, Key="x/c")
    for recorder in recorders:
        recorder.wait_state({"b": b"2"})


# --- opening ---


def test_urls(url, bucket, put):
    put("apps/one/a", b"1")
    query = f"endpoint_url={url}&key=test&secret=test&region=us-east-1&interval=0.5"
    for prefix in ("apps/one", "apps/one/"):
        with datastream.open(f"s3://{bucket}/{prefix}?{query}") as store:
            assert dict(store) == {"a": 1}
    with datastream.open(f"s3://{bucket}?{query}&readonly=true") as store:
        assert store["apps/one/a"] == 1
        with pytest.raises(ReadOnly):
            store["a"] = 1
    for bad in ("s3:bucket", "s3://", "s3:///a", f"s3://{bucket}?nonsense=1"):
        with pytest.raises(DatastreamError):
            datastream.open(bad)


def test_anonymous_reads(make, put, s3, bucket, proxy):
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    put("a", b"1", ACL="public-read")
    store = make(endpoint_url=proxy.url, key="", secret="", anon=True)
    assert store["a"] == 1
    assert not any("Authorization" in request.headers for request in proxy.requests)
    with pytest.raises(ReadOnly):
        store["a"] = 2


def test_options_of_the_client_library(make, put, proxy):
    put("a", b"1")
    store = make(
        endpoint_url=proxy.url,
        token="session",
        region="eu-west-1",
        config_kwargs={"user_agent_extra": "mine"},
    )
    assert store["a"] == 1
    headers = proxy.requests[-1].headers
    assert headers["X-Amz-Security-Token"] == "session"
    assert "/eu-west-1/s3/" in headers["Authorization"]
    assert "mine" in headers["User-Agent"]


def test_a_profile_of_the_users_configuration(bucket, put, proxy, tmp_path, monkeypatch):
    put("a", b"1")
    file = tmp_path / "credentials"
    file.write_text("[mine]\naws_access_key_id = of-mine\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    given = {"endpoint_url": proxy.url, "region": "eu-west-1"}
    with Store(S3Source(bucket, profile="mine", **given)) as store:
        assert store["a"] == 1
    assert "Credential=of-mine/" in proxy.requests[-1].headers["Authorization"]
    with pytest.raises(DatastreamError, match="nobodys"):
        S3Source(bucket, profile="nobodys", **given)


def test_what_describes_the_service_is_in_memory_once(make, put):
    put("a", b"1")
    loaders = [
        store._core._source._bucket._system.session.get_component("data_loader")
        for store in (make(), make())
    ]
    assert loaders[0] is loaders[1]
    assert any("service-2" in str(name) for name in loaders[0]._cache)


# --- the past ---


def test_a_bucket_without_versions_has_no_past(make):
    store = make()
    assert not {Feature.HISTORY, Feature.AT} & store.features
    for action in (lambda: store.history("a"), lambda: store.at("2020-01-01T00:00:00Z")):
        with pytest.raises(Unsupported):
            action()


def test_history_newest_first_with_deletes(make, s3, bucket, put):
    versioned(s3, bucket)
    store = make("p")
    store.put("a", 1), store.delete("a"), store.put("a", 2), put("p/a", b"3"), store.put("a/b", 9)
    store.put("ab", 9)
    spread(bucket)
    changes = list(store.history("a"))
    assert [(c.entry.operation, c.entry.value) for c in changes] == [
        (Operation.PUT, b"3"),
        (Operation.PUT, b"2"),
        (Operation.DELETE, b""),
        (Operation.PUT, b"1"),
    ]
    assert changes[0].entry == store.entry("a")
    store.delete("a")
    assert next(store.history("a")).entry.operation is Operation.DELETE
    assert list(store.history("never")) == []


def test_at_a_time(make, s3, bucket, put):
    versioned(s3, bucket)
    store = make("p")
    store.put("a", 1), store.put("gone", 1), store.put("x.bin", b"\0")
    store.put("a", 2), store.delete("gone"), store.put("new", 1)
    spread(bucket)
    points = sorted(c.point for key in ("a", "gone", "x.bin") for c in store.history(key))
    before = points[2]
    with store.at(before) as then:
        assert dict(then) == {"a": 1, "gone": 1, "x.bin": b"\0"}
        assert {c.key for c in then.capabilities()} == {"a", "gone", "x.bin"}
        recorder = Recorder(then)
        recorder.wait_state({"a": b"1", "gone": b"1", "x.bin": b"\0"})
        with pytest.raises(ReadOnly):
            then["a"] = 3
        with pytest.raises(Unsupported):
            then.history("a")
    with store.at(datetime.now(UTC) + timedelta(hours=1)) as now:
        assert dict(now) == dict(store)
    with store.at("1999-01-01T00:00:00Z") as nothing:
        assert dict(nothing) == {}
    assert dict(store) == {"a": 2, "x.bin": b"\0", "new": 1}


@pytest.mark.parametrize("point", ["yesterday", "", "2020-01-01T00:00:00", "v1"])
def test_points_that_are_none(make, s3, bucket, point):
    versioned(s3, bucket)
    with pytest.raises(DatastreamError):
        make().at(point)


@pytest.mark.chaos
def test_more_versions_than_a_page(make, s3, bucket, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "20")
    versioned(s3, bucket)
    for number in range(50):
        fill(bucket, {"a": str(number).encode()})
    fill(bucket, {"b": b"1"})
    spread(bucket)
    store = make()
    changes = store.history("a")
    assert [next(changes).entry.value for _ in range(3)] == [b"49", b"48", b"47"]
    changes.close()
    ids = [version.id for version in store._source._bucket.versions("a")]
    assert len(ids) == len(set(ids)) == 50
    with store.at(datetime.now(UTC)) as then:
        assert dict(then) == {"a": 49, "b": 1}


def test_suspended_versions(make, s3, bucket, put):
    versioned(s3, bucket)
    put("a", b"1")
    versioned(s3, bucket, "Suspended")
    put("a", b"2"), put("a", b"3"), put("b", b"4")
    spread(bucket)
    store = make()
    assert Feature.HISTORY in store.features
    assert next(store.history("a")).entry.value == b"3"
    with store.at(datetime.now(UTC) + timedelta(seconds=1)) as then:
        assert dict(then) == {"a": 3, "b": 4}


def test_versions_of_one_second_keep_the_order_of_the_listing():
    """Times are of whole seconds, and the id of what was stored without versions is always null."""
    second = datetime(2026, 1, 1, tzinfo=UTC)

    def item(key, id_, latest=False):
        return {"Key": key, "VersionId": id_, "LastModified": second, "IsLatest": latest}

    page = {
        "Versions": [item("a", "null", True), item("a", "1"), item("b", "4"), item("b", "null")],
        "DeleteMarkers": [item("a", "2"), item("b", "5", True)],
    }
    body = (
        b"<R><Version><Key>a</Key></Version><DeleteMarker></DeleteMarker><Version></Version>"
        b"<DeleteMarker/>".replace(b"/>", b" />")
        + b"<Version></Version><Version></Version></R>"
    )
    note_order({"body": body}, page)
    assert [(v.name, v.id) for v in versions_of(page)] == [
        *(("a", "null"), ("a", "2"), ("a", "1")),
        *(("b", "5"), ("b", "4"), ("b", "null")),
    ]
