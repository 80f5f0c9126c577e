"""What goes wrong is visible without asking, and what is well again is said at once."""

import asyncio
import logging

import pytest

import datastream
from datastream import DatastreamError, Denied, SourceUnavailable, State, Store
from tests.integration._core_sources import Gated
from tests.integration._programs.tools import Follower, Statuses, eventually

AWAY = SourceUnavailable("the server is away")


@pytest.fixture
def source():
    return Gated()


@pytest.fixture
def store(source):
    with Store(source, name="shop") as store:
        yield store


def lines(caplog, level):
    return [r for r in caplog.records if r.name.startswith("datastream") and r.levelno == level]


def fail_polls(source, error):
    for name in ("poll", "read", "get", "wait"):
        source.failures[name] = error


def watched(store, source):
    store["a"] = 1
    follower = Follower(store, "a")
    eventually(lambda: source.calls["wait"], "the poller waits")
    return follower


def test_a_store_is_connecting_before_the_first_contact(store):
    assert store.status.current.state is State.CONNECTING
    assert "CONNECTING" in repr(store)
    store["a"] = 1
    assert store.status.current.state is State.READY


@pytest.mark.parametrize("call", ["put", "get", "snapshot", "list", "subscribe"])
def test_any_success_is_the_first_contact(store, call):
    {
        "put": lambda: store.put("a", 1),
        "get": lambda: store.get("a"),
        "snapshot": store.snapshot,
        "list": lambda: list(store),
        "subscribe": lambda: Follower(store),
    }[call]()
    eventually(lambda: store.status.current.state is State.READY, "READY")


def test_an_outage_is_a_warning_with_its_reason_and_its_end_an_info(store, source, caplog):
    caplog.set_level(logging.DEBUG)
    statuses = Statuses(store)
    watched(store, source)
    fail_polls(source, AWAY)
    store.refresh()
    assert statuses.wait(State.STALE).error is AWAY
    source.failures.clear()
    store.refresh()
    statuses.wait(State.READY)
    warnings = [record.getMessage() for record in lines(caplog, logging.WARNING)]
    assert len(warnings) == 1
    for part in ("shop", "STALE", "the server is away"):
        assert part in warnings[0]
    assert any("READY" in record.getMessage() for record in lines(caplog, logging.INFO))


def test_a_bug_in_a_source_is_logged_once_with_its_traceback(store, source, caplog):
    statuses = Statuses(store)
    watched(store, source)
    fail_polls(source, TypeError("a bug of mine"))
    store.refresh()
    status = statuses.wait(State.STALE, State.FAILED)
    assert "a bug of mine" in str(status.error)
    for _ in range(3):
        polls = source.calls["poll"] + source.calls["read"]
        store.refresh()
        eventually(lambda n=polls: source.calls["poll"] + source.calls["read"] > n, "a retry")
    warned = [r for r in caplog.records if "a bug of mine" in r.getMessage()]
    assert len(warned) == 1
    assert warned[0].levelno >= logging.WARNING
    assert "TypeError: a bug of mine" in caplog.text
    assert "Traceback" in caplog.text
    source.failures.clear()
    store.refresh()
    statuses.wait(State.READY)


def test_a_failed_read_of_a_store_that_nobody_watches_is_said_too(store, source, caplog):
    source.failures["get"] = AWAY
    with pytest.raises(SourceUnavailable, match="the server is away"):
        store["a"]
    assert store.status.current.state is State.STALE
    assert "the server is away" in caplog.text


CALLS = {
    "get": lambda store: store["a"],
    "put": lambda store: store.put("b", 2),
    "snapshot": lambda store: store.snapshot(),
    "list": lambda store: list(store),
    "subscribe": lambda store: Follower(store, "b"),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_first_success_of_anything_makes_it_ready(store, source, call, monkeypatch):
    """The poller retries at the end of a long pause; the store is well at once."""
    monkeypatch.setattr("datastream._watch.poller.RETRY_FIRST", 1_000.0)
    monkeypatch.setattr("datastream._watch.poller.RETRY_MOST", 1_000.0)
    statuses = Statuses(store)
    follower = watched(store, source)
    fail_polls(source, AWAY)
    store.refresh()
    statuses.wait(State.STALE)
    source.failures.clear()
    CALLS[call](store)
    assert store.status.current.state is State.READY
    store["a"] = 3
    follower.wait_key("a", b"3")


def test_watchers_are_told_what_happened_meanwhile(store, source):
    statuses = Statuses(store)
    follower = watched(store, source)
    fail_polls(source, AWAY)
    store.refresh()
    statuses.wait(State.STALE)
    store["a"] = 2
    source.failures.clear()
    store.refresh()
    follower.wait_key("a", b"2")
    statuses.wait(State.READY)
    assert [entry.value for entry in follower.entries] == [b"1", b"2"]


def test_an_absent_server_is_connecting_then_stale_and_logged(caplog):
    with datastream.open("grpc://127.0.0.1:1") as store:
        assert store.status.current.state is State.CONNECTING
        statuses = Statuses(store)
        watch = store.watch("a").subscribe(lambda _: None)
        status = statuses.wait(State.STALE)
        assert status.error is not None
        assert State.READY not in statuses.states
        watch.dispose()
    assert any("STALE" in record.getMessage() for record in lines(caplog, logging.WARNING))


@pytest.mark.parametrize("address", ["localhost:abc", "localhost:", "localhost:99999", ":::"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(DatastreamError):
        datastream.open(f"grpc://{address}").close()


def test_a_closed_store_says_so(store):
    statuses = Statuses(store)
    store.close()
    assert store.status.current.state is State.CLOSED
    statuses.wait(State.CLOSED)
    assert "CLOSED" in repr(store)


# What a URL's options mean (core/d3).


@pytest.mark.parametrize("url", ["sqlite:{}/two.db?table=t&create=true", "file:{}/new?create=true"])
def test_create_in_a_url_is_what_it_is_in_code(tmp_path, url):
    with datastream.open(url.format(tmp_path)) as store:
        store["a"] = 1
        assert store["a"] == 1


@pytest.mark.parametrize("url", ["sqlite:{}/x.db?create=banana", "file:{}/x?create=banana"])
def test_an_option_that_is_no_bool_is_refused_and_makes_nothing(tmp_path, url):
    with pytest.raises(DatastreamError, match="banana"):
        datastream.open(url.format(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_awaited", [False, True], ids=["put", "aput"])
def test_a_refused_write_is_no_state_of_the_store(store, source, is_awaited):
    store["a"] = 1
    source.failures["write"] = Denied("not for you")
    with pytest.raises(Denied):
        asyncio.run(store.aput("a", 2)) if is_awaited else store.put("a", 2)
    assert store.status.current.state is State.READY
    assert store["a"] == 1
