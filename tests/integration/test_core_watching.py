"""Watching without traps: what looks as if it worked either does, or says why not."""

import asyncio
import gc
import logging
import threading
import time
import warnings

import pytest

import datastream
from datastream import DatastreamError, InvalidKey, Operation
from datastream._watch import buffer
from tests.integration._programs.tools import TIMEOUT, eventually


@pytest.fixture
def store():
    with datastream.open("memory:") as store:
        yield store


# Other tasks run beside a long `async for` (core/d2).


async def spin(beats):
    while True:
        beats.append(None)
        await asyncio.sleep(0)


def busy(seconds):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.mark.parametrize("watch", ["awatch", "awatch_batches", "awatch_values"])
def test_other_tasks_run_beside_a_full_buffer(store, watch):
    """Steps of 50 µs without any `await`: the loop gets its turn all the same."""
    count = 10_000

    async def main():
        beats, seen = [], 0
        task = asyncio.create_task(spin(beats))
        await asyncio.sleep(0)
        store.put_many({f"k/{n}": n for n in range(count)})
        async with getattr(store, watch)("k/") as items:
            if watch == "awatch_batches":
                for n in range(count):
                    store[f"k/{n}"] = -1
            before = len(beats)
            async for item in items:
                seen += len(item) if watch == "awatch_batches" else 1
                busy(0.00005)
                if seen >= count:
                    break
        task.cancel()
        return len(beats) - before

    # 0.5 s in all, and a turn for others every 5 ms.
    beats = asyncio.run(main())
    if watch != "awatch_batches":
        assert beats >= 50


def test_a_timeout_ends_an_async_for_over_a_full_buffer(store):
    count = 20_000
    store.put_many({f"k/{n}": n for n in range(count)})

    async def main():
        seen = 0
        try:
            async with asyncio.timeout(0.1), store.awatch("k/") as entries:
                async for _ in entries:
                    seen += 1
                    busy(0.0001)
                    if seen == count:
                        return seen
        except TimeoutError:
            return seen

    assert asyncio.run(main()) < count


# A subscription keeps its store open (core/d5).


def test_a_subscription_alone_keeps_its_store_open(tmp_path):
    url = f"sqlite:{tmp_path / 'x.db'}"
    got = []

    def start():
        return datastream.open(url).watch("fx/").subscribe(lambda entry: got.append(entry.key))

    subscription = start()
    gc.collect()
    with datastream.open(url) as other:
        other["fx/USD"] = 1
        eventually(lambda: got == ["fx/USD"], "the watcher is told")
        subscription.dispose()
        del subscription
        gc.collect()
        other["fx/USD"] = 2
    assert got == ["fx/USD"]


def test_an_async_watch_alone_keeps_its_store_open(tmp_path):
    url = f"sqlite:{tmp_path / 'x.db'}"

    async def main():
        watch = datastream.open(url).awatch("k")
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0.05)
        gc.collect()
        with datastream.open(url) as other:
            await other.aput("k", 1)
            entry = await asyncio.wait_for(waiting, TIMEOUT)
        await watch.aclose()
        return entry.decode()

    assert asyncio.run(main()) == 1
    gc.collect()


# Globs and prefixes written as keys (core/d5, d6).


def complaint(caplog, action):
    """What is said about `action`: an error, a warning, or the log."""
    caplog.clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            action()
    except InvalidKey as error:
        return str(error)
    said = [str(warning.message) for warning in caught]
    said += [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return "\n".join(said)


@pytest.fixture
def rates(store):
    store.put_many({"fx/USD": 1.1, "fx/GBP": 0.9})
    return store


@pytest.mark.parametrize("key", ["fx/*", "**", "fx/U?D", "*/USD"])
def test_a_bare_glob_says_what_was_meant(rates, caplog, key):
    said = complaint(caplog, lambda: rates.watch(key).subscribe(lambda _: None))
    assert "match=" in said
    assert key in said


def test_a_missing_slash_says_what_was_meant(rates, caplog):
    said = complaint(caplog, lambda: rates.watch("fx").subscribe(lambda _: None))
    assert "'fx/'" in said


@pytest.mark.parametrize("key", ["fx/USD", "nothing/there", "fy"])
def test_a_key_that_is_one_is_not_complained_of(rates, caplog, key):
    assert complaint(caplog, lambda: rates.watch(key).subscribe(lambda _: None)) == ""


@pytest.mark.parametrize("match", ["fx/{A,B}", "fx/U[S]D", "fx/"])
def test_a_pattern_of_another_dialect_says_so(rates, caplog, match):
    assert complaint(caplog, lambda: rates.watch(match=match).subscribe(lambda _: None)) != ""


def test_keys_that_hold_such_characters_are_found(store, caplog):
    store["a[0]"] = 1
    seen = []
    said = complaint(caplog, lambda: store.watch("a[0]").subscribe(seen.append))
    assert said == ""
    assert len(seen) == 1


# A value that does not decode (core/d9).


def test_a_watch_of_values_survives_one_that_does_not_decode(store, caplog):
    seen = []
    store.put("a", b"1", value_type="json")
    store.watch_values("a", "b").subscribe(lambda c: seen.append((c.key, c.old, c.new)))
    revision = store.put("a", b"{", value_type="json").revision
    store["b"] = 5
    store.put("a", b"2", value_type="json")
    del store["a"]
    assert store.flush(TIMEOUT)
    assert seen == [("a", None, 1), ("b", None, 5), ("a", 1, 2), ("a", 2, None)]
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    for part in ("'a'", "watch", revision):
        assert part in record.getMessage()


def test_a_value_that_as_refuses_leaves_the_last_good_one(store, caplog):
    seen = []
    store["fx/USD"] = "1.5"
    store.watch_values("fx/", as_=float).subscribe(lambda c: seen.append((c.old, c.new)))
    store["fx/USD"] = "banana"
    store["fx/USD"] = "2.5"
    assert store.flush(TIMEOUT)
    assert seen == [(None, 1.5), (1.5, 2.5)]
    assert "left out, its last good value stands: ValueError: could not convert" in caplog.text
    assert "banana" not in caplog.text, "it may be a secret"


def test_a_bad_file_is_survived_and_its_repair_told(tmp_path, caplog):
    place = tmp_path / "a.json"
    place.write_text("1")
    with datastream.open(f"file:{tmp_path}") as store:
        seen, changed = [], threading.Event()

        def take(change):
            seen.append(change.new)
            changed.set()

        store.watch_values().subscribe(take)
        place.write_text("{")
        eventually(lambda: "a.json" in caplog.text, "the fault is reported")
        changed.clear()
        place.write_text("2")
        assert changed.wait(TIMEOUT)
    assert seen == [1, 2]


def test_a_subscriber_that_raises_is_logged_with_watch_key_and_revision(store, caplog):
    def fail(entry):
        if entry.operation is Operation.PUT and entry.decode() == 2:
            raise ValueError("a subscriber's own bug")

    store["k"] = 1
    store.watch("k").subscribe(fail)
    revision = store.put("k", 2).revision
    assert store.flush(TIMEOUT)
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert "'k'" in record.getMessage()
    assert "watch" in record.getMessage()
    assert revision in record.getMessage()
    assert "a subscriber's own bug" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_the_first_batch_is_given_reaches_the_caller(store, error):
    store.put_many({f"k{n}": n for n in range(100)})

    def interrupted(entry):
        raise error

    with pytest.raises(error):
        store.watch().subscribe(interrupted)
    seen = []
    store.watch("k1").subscribe(seen.append)
    store["k1"] = "on"
    assert store.flush(TIMEOUT)
    assert len(seen) == 2


# Other paces.


def test_initial_false_gives_changes_only(store):
    store["a"] = 1
    seen = []
    store.watch(initial=False).subscribe(lambda entry: seen.append(entry.decode()))
    store["a"] = 2
    assert store.flush(TIMEOUT)
    assert seen == [2]


def test_conflate_never_gives_everything_or_ends_with_an_error(store, monkeypatch):
    monkeypatch.setattr(buffer, "BOUND", 1_000)
    go, entered, seen, ended = threading.Event(), threading.Event(), [], []

    def slow(entry):
        seen.append(entry.decode())
        entered.set()
        go.wait(TIMEOUT)

    store["a"] = -1
    store.watch("a", conflate="never", initial=False).subscribe(slow, on_error=ended.append)
    for number in range(500):
        store["a"] = number
    assert entered.wait(TIMEOUT)
    go.set()
    assert store.flush(TIMEOUT)
    assert seen == list(range(500))
    go.clear()
    entered.clear()
    store["a"] = 0
    assert entered.wait(TIMEOUT)
    for number in range(1, 2_000):
        store["a"] = number
    go.set()
    eventually(lambda: ended, "the watch ends")
    assert isinstance(ended[0], DatastreamError)
    assert "conflate" in str(ended[0]) or "behind" in str(ended[0])


def test_conflate_always_gives_the_newest(store):
    seen = []
    store["a"] = 0
    store.watch("a", conflate="always", every=0.05).subscribe(lambda e: seen.append(e.decode()))
    for number in range(1, 2_000):
        store["a"] = number
    eventually(lambda: seen[-1] == 1_999, "the newest is given")
    assert seen == sorted(set(seen))
    assert len(seen) < 1_000


@pytest.mark.parametrize("conflate", ["slow", "always"])
def test_conflation_leaves_nothing_out_while_others_watch_the_same_keys(
    store, conflate, monkeypatch
):
    monkeypatch.setattr(buffer, "KEPT_ENTRIES", 10)
    go, entered, seen = threading.Event(), threading.Event(), {}
    go.set()

    def slow(entry):
        seen[entry.key] = None if entry.operation is Operation.DELETE else entry.decode()
        entered.set()
        go.wait(TIMEOUT)

    store.put_many({"a": 0, "b": 0, "c": 0})
    for keys in (("a",), (), ("a", "b")):
        store.watch(*keys).subscribe(lambda entry: None)
    store.watch("a", "b", "c", conflate=conflate).subscribe(slow)
    go.clear()
    entered.clear()
    store.put_many({"a": -1, "b": -1})
    assert entered.wait(TIMEOUT)
    for number in range(50):
        store.put_many({"a": number, "b": number})
    del store["b"]
    go.set()
    assert store.flush(TIMEOUT)
    assert seen == {"a": 49, "b": None, "c": 0}


# What a batch created.


def test_a_batch_says_which_of_its_keys_held_nothing_before(store):
    store["old"] = 1
    cursor = store.snapshot_batch().cursor
    batches = []
    store.watch_batches().subscribe(batches.append)
    store.put_many({"old": 2, "new": 1})
    store.delete("new")
    store["new"] = 3
    store["new"] = 4
    store.flush(TIMEOUT)
    assert [batch.created for batch in batches] == [set(), {"new"}, set(), {"new"}, set()]
    resumed = []
    store.watch_batches(since=cursor).subscribe(resumed.append)
    store.flush(TIMEOUT)
    assert resumed[0].created == {"new"}
