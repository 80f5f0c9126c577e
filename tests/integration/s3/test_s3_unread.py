"""One object that cannot be read: archived, denied, sealed with a lost key. All others go on."""

import pytest

from datastream import Denied, KeyNotFound, SourceUnavailable, State, Store, overlay
from datastream.sources._common import unread as _unread
from datastream.sources.memory import MemorySource
from datastream.testing import Recorder
from datastream.testing._tools import eventually
from tests.integration._programs.tools import Statuses
from tests.servers import s3_proxy as spoilt

REASONS = {
    "denied": spoilt.error(403, "AccessDenied"),
    "archived later": spoilt.error(403, "InvalidObjectState"),
    "its key is disabled": spoilt.error(400, "KMS.DisabledException"),
    "its key is the writer's": spoilt.error(400, "InvalidRequest"),
}


def is_bad(request):
    return request.key.endswith("bad")


@pytest.fixture
def make(make_at, proxy):
    def make(prefix="", **options):
        return make_at(proxy.url, prefix, **options)

    return make


def archive(put, key, value=b"old"):
    put(key, value, StorageClass="GLACIER")


def test_an_archived_object_is_left_out_and_named_once(make, put, caplog):
    put("rate", b"1")
    store = make()
    recorder, statuses = Recorder(store), Statuses(store)
    recorder.wait_state({"rate": b"1"})
    archive(put, "old/2019")
    archive(put, "old/2020.txt")
    put("rate", b"2")
    recorder.wait_state({"rate": b"2"})
    statuses.wait_degraded("'old/2019' (InvalidObjectState")
    assert list(store) == list(dict(store)) == list(store.snapshot()) == ["rate"]
    Recorder(store).wait_state({"rate": b"2"})
    with pytest.raises(Denied, match=r"'old/2019'.*archived; restore it"):
        store.entry("old/2019")
    put("rate", b"3")
    recorder.wait_state({"rate": b"3"})
    assert caplog.text.count("'old/2019' cannot be read") == 1
    assert store.status.current.state is State.READY


def test_at_the_first_look_it_is_left_out_of_lists(make, put):
    archive(put, "old/a.txt")
    archive(put, "old/b")
    put("rate", b"1")
    assert list(make()) == ["rate"]
    assert dict(make()) == {"rate": 1}
    assert list(make().snapshot()) == ["rate"]


def test_it_is_not_tried_at_every_look(make, put, proxy):
    archive(put, "old")
    put("rate", b"1")
    store = make()
    recorder = Recorder(store)
    recorder.wait_state({"rate": b"1"})
    proxy.forget()
    for number in range(5):
        put("rate", b"%d" % number)
        recorder.wait_state({"rate": b"%d" % number})
    assert {request.key for request in proxy.requests if request.kind == "get"} == {"rate"}


def test_a_restored_object_is_read(make, put, s3, bucket, monkeypatch):
    monkeypatch.setattr(_unread, "RETRY_FIRST", 0.1)
    archive(put, "old")
    put("rate", b"1")
    store = make()
    recorder, statuses = Recorder(store), Statuses(store)
    recorder.wait_state({"rate": b"1"})
    s3.restore_object(Bucket=bucket, Key="old", RestoreRequest={"Days": 1})
    recorder.wait_state({"rate": b"1", "old": b"old"})
    statuses.wait_degraded("")
    assert set(store) == {"rate", "old"}


def test_a_list_alone_finds_out_what_can_be_read_again(make, put, s3, bucket, monkeypatch):
    monkeypatch.setattr(_unread, "RETRY_FIRST", 2.0)
    archive(put, "old"), archive(put, "old.txt"), put("rate", b"1")
    store = make()
    assert list(store) == ["rate"]
    for key in ("old", "old.txt"):
        s3.restore_object(Bucket=bucket, Key=key, RestoreRequest={"Days": 1})
    eventually(lambda: set(store) == {"old", "old.txt", "rate"}, "it is tried again")
    assert store.status.current.degraded == ""


def test_an_archived_object_is_deleted_and_replaced(make, put):
    archive(put, "a"), archive(put, "b"), put("rate", b"1")
    store = make()
    recorder, statuses = Recorder(store), Statuses(store)
    recorder.wait_state({"rate": b"1"})
    store.delete("a")
    store["b"] = 2
    recorder.wait_state({"rate": b"1", "b": b"2"})
    assert store["b"] == 2
    with pytest.raises(KeyNotFound):
        store.entry("a")
    statuses.wait_degraded("")


@pytest.mark.parametrize("reason", REASONS)
def test_one_that_cannot_be_read_is_no_trouble_of_the_others(make, put, proxy, monkeypatch, reason):
    monkeypatch.setattr(_unread, "RETRY_FIRST", 0.1)
    put("bad", b"1"), put("good", b"1"), put("bad.txt", b"1")
    store = make()
    recorder, statuses = Recorder(store), Statuses(store)
    recorder.wait_state({"bad": b"1", "good": b"1", "bad.txt": b"1"})
    proxy.spoil("get", REASONS[reason], when=is_bad)
    put("bad", b"2"), put("good", b"2")
    recorder.wait_state({"bad": b"1", "good": b"2", "bad.txt": b"1"})
    statuses.wait_degraded("'bad' (")
    assert set(store.snapshot()) == set(store) == {"good", "bad.txt"}
    newcomer = Recorder(store)
    newcomer.wait_state({"good": b"2", "bad.txt": b"1"})
    resumed = Recorder(store, since={"bad": "one", "good": "one"})
    resumed.wait_state({"good": b"2", "bad.txt": b"1"})
    with pytest.raises(Denied, match="'bad'"):
        store.entry("bad")
    assert store.status.current.state is State.READY
    proxy.heal()
    for one in (recorder, newcomer, resumed):
        one.wait_state({"bad": b"2", "good": b"2", "bad.txt": b"1"})
        assert "DELETE" not in {entry.operation for entry in one.entries}


def test_nothing_that_is_selected_can_be_read(make, put, proxy):
    """It must not pass for an empty store."""
    put("bad", b"1"), put("x/bad", b"1")
    store = make()
    rule = proxy.spoil("get", REASONS["denied"])
    for keys in ((), ("x/",), ("bad",)):
        with pytest.raises(Denied, match="nothing of what is selected"):
            store.snapshot(*keys)
    assert rule["hits"]
    assert store.snapshot("y/") == {}


def test_an_expired_token_is_trouble_of_all(make, put, proxy):
    put("bad", b"1"), put("good", b"1")
    proxy.spoil("get", spoilt.error(400, "ExpiredToken"), when=is_bad)
    with pytest.raises(SourceUnavailable):
        make().snapshot()


def test_a_version_that_cannot_be_read_is_left_out_of_the_past(make, put, s3, bucket, caplog):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    put("a", b"1"), put("good", b"1")
    archive(put, "a", b"2")
    put("a", b"3")
    store = make()
    assert [revision.entry.value for revision in store.history("a")] == [b"3", b"1"]
    assert "cannot be read" in caplog.text


def test_a_range_that_is_refused_for_ever_ends(make, put, proxy):
    put("nameless", b"1")
    store = make()
    rule = proxy.spoil("get", spoilt.error(416, "InvalidRange"))
    with pytest.raises(SourceUnavailable, match="InvalidRange"):
        store.capabilities()
    assert rule["hits"] == 2


def test_in_an_overlay_it_hides_what_is_below(make, put, stack):
    """Nobody knows what it says; the layer below would be a wrong answer."""
    archive(put, "old")
    put("rate", b"1")
    bottom = stack.enter_context(Store(MemorySource(), name="bottom"))
    bottom.put_many({"old": b"below", "new": b"below", "rate": b"below"})
    laid = stack.enter_context(overlay(make(), bottom))
    assert dict(laid) == {"rate": 1, "new": b"below"}
    recorder, statuses = Recorder(laid), Statuses(laid)
    recorder.wait_state({"rate": b"1", "new": b"below"})
    with pytest.raises(Denied, match="archived; restore it"):
        laid.entry("old")
    archive(put, "new")
    put("rate", b"2")
    statuses.wait_degraded("'new' (InvalidObjectState")
    recorder.wait_state({"rate": b"2", "new": b"below"})
    assert list(laid.snapshot()) == list(laid) == ["rate"]
    put("new", b"3")
    recorder.wait_state({"rate": b"2", "new": b"3"})
    put("old", b"4")
    recorder.wait_state({"rate": b"2", "new": b"3", "old": b"4"})
    Recorder(laid).wait_state({"rate": b"2", "new": b"3", "old": b"4"})
