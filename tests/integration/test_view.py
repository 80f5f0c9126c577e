"""Views: values in memory that follow a store, answer while it is away, and say how they stand."""

import asyncio
import gc
import logging
import sys
import threading
import weakref
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

import datastream
from datastream import (
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    SourceUnavailable,
    State,
    Store,
    StoreClosed,
)
from tests.integration._core_sources import Gated
from tests.integration._programs.tools import Collected, eventually

AWAY = SourceUnavailable("the server is away")
CALLS = ("poll", "read", "get", "wait")


@pytest.fixture
def source():
    return Gated()


@pytest.fixture
def store(source):
    with Store(source, name="rates") as store:
        yield store


@pytest.fixture
def filled(store):
    store.put_many({"fx/USD": 1.5, "fx/GBP": 2.0, "other": 1})
    return store


def go_away(source, store=None):
    for name in CALLS:
        source.failures[name] = AWAY
    if store is not None:
        store.refresh()


def come_back(source, store):
    source.failures.clear()
    store.refresh()


def test_it_is_there_on_return_and_reads_no_backend(filled, source):
    view = filled.view("fx/")
    source.calls.clear()
    assert view["fx/USD"] == 1.5
    assert dict(view) == {**view} == view.copy() == {"fx/USD": 1.5, "fx/GBP": 2.0}
    assert (len(view), "fx/USD" in view, "other" in view, view.get("x", 7)) == (2, True, False, 7)
    assert sorted(view) == sorted(view.keys()) == ["fx/GBP", "fx/USD"]
    assert sorted(view.values()) == [1.5, 2.0]
    assert not {"read", "get", "capabilities"} & source.calls.keys()
    assert view.status.current.state is State.READY
    assert view.ready(0)


def test_it_follows_every_change(filled):
    view = filled.view("fx/")
    filled["fx/USD"] = 1.6
    del filled["fx/GBP"]
    filled["fx/CHF"] = 0.9
    filled.flush()
    assert view.copy() == {"fx/USD": 1.6, "fx/CHF": 0.9}


def test_missing_keys_say_why(filled):
    view = filled.view("fx/", as_=float)
    with pytest.raises(KeyNotFound, match="holds nothing at 'fx/CHF'"):
        view["fx/CHF"]
    with pytest.raises(KeyNotFound, match="does not select 'other'"):
        view["other"]
    filled["fx/CHF"] = "n/a"
    filled.flush()
    with pytest.raises(KeyNotFound, match="was refused, ValueError: could not convert"):
        view["fx/CHF"]
    assert view.get("fx/CHF", 0) == 0


def test_what_is_refused_leaves_the_last_good_value_and_is_told(filled, caplog):
    view = filled.view("fx/", as_=float)
    filled["fx/USD"] = "n/a"
    filled["fx/GBP"] = 3.0
    filled.flush()
    assert view.copy() == {"fx/USD": 1.5, "fx/GBP": 3.0}
    revision = filled.entry("fx/USD").revision
    assert view.rejected["fx/USD"][:2] == ("fx/USD", revision)
    assert caplog.text.count("is refused") == 1
    filled["fx/USD"] = 1.7
    filled.flush()
    assert (view["fx/USD"], view.rejected) == (1.7, {})


def test_values_stand_while_the_backend_is_away(filled, source):
    view = filled.view("fx/")
    states = Collected(view.status)
    eventually(lambda: source.calls["wait"], "the poller waits")
    go_away(source, filled)
    states.wait(lambda got: [s for s in got if s.state is State.STALE], "STALE")
    assert view["fx/USD"] == 1.5
    assert view.status.current.error is AWAY
    assert not view.ready(0.01)
    come_back(source, filled)
    states.wait(lambda got: got[-1].state is State.READY and len(got) > 1, "READY again")
    assert [status.state for status in states.got] == [State.READY, State.STALE, State.READY]


def test_before_the_first_state_a_read_raises_or_waits(store, source):
    store["fx/USD"] = 1.5
    go_away(source)
    view, patient = store.view("fx/"), store.view("fx/", wait=30)
    for read in (lambda: view["fx/USD"], lambda: list(view), lambda: len(view), view.snapshot):
        with pytest.raises(SourceUnavailable, match="no state yet: the server is away"):
            read()
    assert view.status.current.state is State.CONNECTING
    got = []
    thread = threading.Thread(target=lambda: got.append(patient["fx/USD"]))
    thread.start()
    come_back(source, store)
    thread.join(30)
    assert got == [1.5]
    assert view.ready(30)


def test_who_waits_for_a_view_that_is_closed_is_told(store, source):
    go_away(source)
    view = store.view("fx/", wait=30)
    timer = threading.Timer(0.05, view.close)
    timer.start()
    with pytest.raises(StoreClosed):
        view["a"]
    timer.join()
    with pytest.raises(StoreClosed):
        view.ready()


def test_changes_tell_old_and_new(filled):
    view = filled.view("fx/")
    changes, batches, dollars = [], [], []
    view.changes.subscribe(changes.append)
    view.change_batches.subscribe(batches.append)
    on = view.on("fx/USD", dollars.append)
    filled.put_many({"fx/USD": 1.6, "fx/CHF": 0.9})
    filled.flush()
    del filled["fx/CHF"]
    filled.flush()
    seen = [(change.key, change.old, change.new) for change in changes]
    assert seen == [("fx/USD", 1.5, 1.6), ("fx/CHF", None, 0.9), ("fx/CHF", 0.9, None)]
    assert [len(batch) for batch in batches] == [2, 1]
    assert [change.new for change in dollars] == [1.6]
    on.dispose()
    filled["fx/USD"] = 1.7
    filled.flush()
    assert len(dollars) == 1
    with pytest.raises(InvalidKey, match="does not select"):
        view.on("other", dollars.append)


def test_a_subscriber_that_raises_or_hangs_harms_no_other(filled):
    view = filled.view("fx/")
    hang, got = threading.Event(), []
    view.changes.subscribe(lambda change: 1 / 0)
    view.on("fx/USD", lambda change: hang.wait(30))
    view.changes.subscribe(got.append)
    try:
        filled["fx/USD"] = 1.6
        filled["fx/USD"] = 1.7
        eventually(lambda: len(got) == 2, "both changes")
        assert view["fx/USD"] == 1.7
    finally:
        hang.set()


def test_a_slow_subscriber_gets_the_oldest_old_and_the_newest_new(filled):
    view = filled.view("fx/")
    hang, got = threading.Event(), []
    view.changes.subscribe(lambda change: (hang.wait(30), got.append(change)))
    for number in range(10_000):
        filled["fx/USD"] = float(number)
        if number % 500 == 0:
            eventually(lambda n=number: view["fx/USD"] == n, "the view has it")
    hang.set()
    eventually(lambda: got and got[-1].new == 9999.0, "the newest")
    assert len(got) < 10_000
    assert got[0].old == 1.5
    assert all(before.new == after.old for before, after in pairwise(got))


def test_async(filled):
    async def main():
        view = filled.view("fx/")
        assert await view.aready(30)
        async with view.achanges() as changes:
            await filled.aput("fx/USD", 10.0)
            assert (await anext(changes)).new == 10.0
        async with view:
            pass
        with pytest.raises(StoreClosed):
            await view.aready()

    asyncio.run(main())


def test_aready_gives_up_after_its_time(store, source):
    go_away(source)
    assert asyncio.run(store.view().aready(0.01)) is False


def test_views_of_the_same_share_one_subscription_and_their_values(filled, source):
    made = []

    def convert(value):
        made.append(value)
        return [value]

    views = [filled.view("fx/", as_=convert) for _ in range(100)]
    assert len(made) == 2
    assert all(view["fx/USD"] is views[0]["fx/USD"] for view in views)
    assert len(filled._keepers._keepers) == 1
    other = filled.view("fx/", as_=float)
    assert other["fx/USD"] == 1.5
    for view in views[1:]:
        view.close()
    filled["fx/USD"] = 1.6
    filled.flush()
    assert views[0]["fx/USD"] == [1.6]
    assert views[1]["fx/USD"] == [1.6]  # it is in memory, but nothing is promised of it
    assert views[1].status.current.state is State.CLOSED
    assert views[0].status.current.state is State.READY


def test_closing_ends_what_was_subscribed_through_it_and_frees_the_backend(filled):
    view, other = filled.view("fx/"), filled.view("fx/")
    ended = threading.Event()
    view.changes.subscribe(on_completed=ended.set)
    view.close()
    view.close()
    assert ended.wait(30)
    with pytest.raises(StoreClosed):
        view.changes.subscribe(print)
    other.close()
    assert not filled._core._publisher.routes
    again = filled.view("fx/")
    assert again["fx/USD"] == 1.5


def test_the_store_that_closes_ends_its_views_whose_values_stay(filled):
    view = filled.view("fx/")
    ended = threading.Event()
    view.changes.subscribe(on_completed=ended.set)
    filled.close()
    assert ended.wait(30)
    assert view.status.current.state is State.CLOSED
    assert view["fx/USD"] == 1.5
    with pytest.raises(StoreClosed):
        view.ready()
    with pytest.raises(StoreClosed):
        view.changes.subscribe(print)
    with pytest.raises(StoreClosed):
        filled.view("fx/")


def test_a_view_that_is_dropped_is_closed_and_one_that_is_subscribed_is_kept(filled):
    kept, got = weakref.ref(filled.view("fx/")), []
    gc.collect()
    eventually(lambda: not filled._core._publisher.routes, "unsubscribed")
    assert kept() is None
    subscription = filled.view("fx/").changes.subscribe(got.append)
    gc.collect()
    filled["fx/USD"] = 1.6
    eventually(lambda: got, "the change")
    subscription.dispose()
    gc.collect()
    eventually(lambda: not filled._core._publisher.routes, "unsubscribed")


def test_a_view_keeps_its_store_open():
    store = datastream.open("memory:")
    store["a"] = 1
    view = store.view()
    del store
    gc.collect()
    assert view.ready(30)
    view.close()


def test_a_snapshot_is_of_one_moment_with_its_cursor(filled):
    view = filled.view("fx/")
    snapshot = view.snapshot()
    filled["fx/USD"] = 1.6
    filled.flush()
    assert dict(snapshot) == {"fx/USD": 1.5, "fx/GBP": 2.0}
    later = []
    filled.watch_batches("fx/", since=snapshot.cursor).subscribe(later.append)
    assert [entry.key for entry in later[0]] == ["fx/USD"]
    assert view.snapshot()["fx/USD"] == 1.6


def test_a_commit_of_a_thousand_keys_is_seen_whole(store):
    keys = [f"k{n}" for n in range(1000)]
    store.put_many(dict.fromkeys(keys, 0))
    view = store.view()
    stop, torn = threading.Event(), []

    def read():
        while not stop.is_set():
            pictures = dict(view), {**view}, dict(view.items()), dict(view.snapshot())
            torn.extend(set(p.values()) for p in pictures if len(set(p.values())) != 1)
            if len(list(view.values())) != 1000:
                torn.append("a key too many or too few")

    threads = [threading.Thread(target=read) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for number in range(1, 40):
            store.put_many(dict.fromkeys(keys, number))
            store.flush()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not torn
    assert set(view.values()) == {39}


def test_two_loops_follow_one_view(filled):
    view, got = filled.view("fx/"), []
    began = threading.Barrier(3)

    async def follow():
        async with view.achanges() as changes:
            began.wait(30)
            got.append((await anext(changes)).new)

    threads = [threading.Thread(target=lambda: asyncio.run(follow())) for _ in range(2)]
    for thread in threads:
        thread.start()
    began.wait(30)
    filled["fx/USD"] = 1.6
    for thread in threads:
        thread.join(30)
    assert got == [1.6, 1.6]


def test_a_late_view_becomes_ready_without_being_asked(store, source):
    store["fx/USD"] = 1.5
    go_away(source)
    view = store.view("fx/")
    changes = Collected(view.changes)
    come_back(source, store)
    changes.wait(lambda got: [c for c in got if c.new == 1.5], "the first state")
    assert view.status.current.state is State.READY


def test_a_thousand_views(filled, caplog):
    caplog.set_level(logging.WARNING)
    filled.put_many({f"k/{n}": n for n in range(500)})
    views = [filled.view(f"k/{n % 500}") for n in range(1000)]
    filled.put_many({f"k/{n}": n + 1 for n in range(500)})
    filled.flush()
    assert all(view[f"k/{n % 500}"] == n % 500 + 1 for n, view in enumerate(views))
    for view in views:
        view.close()
    assert not caplog.records


def test_a_view_of_another_process_s_store(filled):
    from datastream_grpc import serve

    with serve(filled, "127.0.0.1:0") as server:
        with datastream.open(f"grpc://{server.address}") as remote:
            view = remote.view("fx/", as_=float)
            assert view.ready(30)
            changes = Collected(view.change_batches)
            filled.put_many({"fx/USD": 1.6, "fx/GBP": 2.1})
            changes.wait(lambda got: got, "the batch")
            assert [len(batch) for batch in changes.got] == [2]
            assert view.copy() == {"fx/USD": 1.6, "fx/GBP": 2.1}


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_million_changes(store):
    keys = [f"k{n}" for n in range(1000)]
    view, told = store.view(), {}
    view.changes.subscribe(lambda change: told.__setitem__(change.key, change.new))
    for number in range(1000):
        store.put_many(dict.fromkeys(keys, number))
        if number % 100 == 0:
            assert len(set(view.values())) <= 1
    assert store.flush(200)
    assert set(view.values()) == set(told.values()) == {999}


def test_values_that_end_the_thread_end_the_view_and_it_says_so():
    def make(value):
        if value == "exit":
            raise SystemExit(1)
        return value

    with datastream.open("memory:") as store:
        store["k"] = 1
        view = store.view(as_=make)
        store["k"] = "exit"
        assert view.status.wait(lambda status: status.state is State.CLOSED, 30)
        assert "SystemExit" in str(view.status.current.error)
        assert view["k"] == 1
        store["k"] = 2
        assert store.view(as_=make)["k"] == 2


class Rate(BaseModel):
    value: float


class Row(TypedDict):
    value: float


@dataclass
class Price:
    value: float
    currency: str = "USD"


class Pair(NamedTuple):
    value: float
    currency: str = "USD"


@pytest.mark.parametrize(
    ("as_", "good", "made", "bad"),
    [
        (Rate, {"value": 1}, Rate(value=1), {"value": "x"}),
        (Row, {"value": "1"}, {"value": 1.0}, {}),
        (Price, {"value": "1"}, Price(1.0), "x"),
        (Pair, {"value": "1"}, Pair(1.0), {"currency": "USD"}),
        (list[int], ["1"], [1], ["x"]),
        (int | None, "1", 1, "x"),
    ],
)
def test_what_pydantic_takes_for_a_type_is_validated(store, as_, good, made, bad):
    store.put_many({"good": good, "bad": bad})
    view = store.view(as_=as_)
    assert (dict(view), list(view.rejected)) == ({"good": made}, ["bad"])
    news = []
    store.watch_values("good", as_=as_).subscribe(lambda change: news.append(change.new))
    store.flush()
    assert news == [made]


def test_what_is_no_type_is_refused_at_once(store):
    for wrong in (5, "int", list[threading.Lock]):
        with pytest.raises(InvalidValue):
            store.view(as_=wrong)
