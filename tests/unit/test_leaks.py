"""What a dropped or closed store takes with it."""

import gc
import threading

import datastream
from datastream.testing._tools import eventually


def test_a_dropped_store_ends_the_timers_of_its_operators():
    before = threading.active_count()
    for _ in range(3):
        store = datastream.open("memory:")
        store.watch().sample(0.01).subscribe(lambda entry: None)
    del store
    gc.collect()
    eventually(lambda: threading.active_count() <= before, "all threads ended")


def test_one_raising_on_completed_keeps_no_other_from_completing(caplog):
    completed = threading.Event()
    with datastream.open("memory:") as store:
        store.watch().subscribe(lambda e: None, on_completed=lambda: 1 / 0)
        store.watch().subscribe(lambda e: None, on_completed=completed.set)
    assert completed.wait(10)
    assert "ZeroDivisionError" in caplog.text


def test_repr_of_an_entry_is_bounded():
    with datastream.open("memory:") as store:
        assert len(repr(store.put("k", b"\xff" * 3_000_000))) < 1000
