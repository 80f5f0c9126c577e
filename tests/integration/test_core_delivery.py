"""One subscriber is called by one thread at a time, and no delivery is lost between two."""

import threading

import pytest

from datastream import Store
from datastream.sources.memory import MemorySource
from tests.integration._core_sources import together
from tests.integration._programs.tools import TIMEOUT

LONG = 500.0
"""Seconds for all rounds."""

pytestmark = pytest.mark.usefixtures("quick_switches")


@pytest.mark.parametrize(
    "rounds", [400, pytest.param(20_000, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])]
)
def test_subscribing_beside_writers_loses_no_delivery(rounds):
    """A worker takes over from the thread that subscribed at any moment."""
    stop = threading.Event()
    failed, acknowledged = [], [0]
    before = threading.excepthook
    threading.excepthook = lambda arguments: failed.append(arguments.exc_value)
    try:
        with Store(MemorySource()) as store:
            store["a"] = 0

            def write():
                number = 0
                while not stop.is_set():
                    number += 1
                    store["a"] = number
                    acknowledged[0] = number

            def watch():
                try:
                    for _ in range(rounds):
                        seen = []
                        inside = threading.Lock()

                        def take(entry, seen=seen, inside=inside):
                            assert inside.acquire(blocking=False), "called by two threads"
                            seen.append(entry.decode())
                            inside.release()

                        subscription = store.watch("a").subscribe(take)
                        target = acknowledged[0]
                        assert store.flush(TIMEOUT)
                        subscription.dispose()
                        assert seen[-1] >= target
                        assert seen == sorted(set(seen))
                finally:
                    stop.set()

            assert together(write, watch, within=LONG) == [None, None]
    finally:
        threading.excepthook = before
    assert failed == []
