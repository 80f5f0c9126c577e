"""What a dropped or closed store takes with it."""

import gc
import threading
import weakref

import datastream
from datastream.testing._tools import eventually


def stores_threads():
    """Threads, without the one of the process that closes what was dropped."""
    return [thread for thread in threading.enumerate() if thread.name != "datastream-reaper"]


def test_a_dropped_store_ends_its_threads():
    before = len(stores_threads())
    for _ in range(3):
        store = datastream.open("memory:")
        store.watch().subscribe(lambda entry: None).dispose()
    del store
    gc.collect()
    eventually(lambda: len(stores_threads()) <= before, "all threads ended")


def test_a_disposed_subscription_lets_its_store_and_operators_go():
    before = len(stores_threads())
    for _ in range(3):
        store = datastream.open("memory:")
        subscription = store.watch().sample(0.01).subscribe(lambda entry: None)
        subscription.dispose()
    del store, subscription
    gc.collect()
    eventually(lambda: len(stores_threads()) <= before, "all threads ended")


def test_a_subscription_keeps_its_store_open():
    table = datastream.open("memory:kept-by-its-subscription")
    seen = threading.Event()
    subscription = (
        datastream.open("memory:kept-by-its-subscription")
        .watch("a")
        .subscribe(lambda entry: seen.set())
    )
    gc.collect()
    table["a"] = 1
    assert seen.wait(30)
    subscription.dispose()
    table.close()


def test_entries_that_are_read_keep_their_store_open():
    with datastream.open("memory:kept-by-its-entries") as table:
        table.put_many({"a": 1, "b": 2})
        store = datastream.open("memory:kept-by-its-entries")
        entries, held = store.entries(), weakref.ref(store)
        del store
        gc.collect()
        assert [entry.key for entry in entries] == ["a", "b"]
        assert held() is None


def test_one_raising_on_completed_keeps_no_other_from_completing(caplog):
    completed = threading.Event()
    with datastream.open("memory:") as store:
        store.watch().subscribe(lambda e: None, on_completed=lambda: 1 / 0)
        store.watch().subscribe(lambda e: None, on_completed=completed.set)
    assert completed.wait(30)
    assert "ZeroDivisionError" in caplog.text


def test_repr_of_an_entry_is_bounded():
    with datastream.open("memory:") as store:
        assert len(repr(store.put("k", b"\xff" * 3_000_000))) < 1000
