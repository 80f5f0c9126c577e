"""One-key reads: from memory, and by several threads from a backend that takes its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import datastream
from datastream import Entry, Store
from datastream.sources.memory import MemorySource
from datastream.testing import Spy
from tests.bench.figures import Effort, Figure, take_turns
from tests.bench.in_process import subject_per_second

GETS = 50_000
THREADS = 8
TAKES = 0.02
"""Seconds that the slow backend needs for a key."""
SLOW_GETS = 20
"""Of each thread, in one round."""


class SlowGets(Spy):
    """Needs `TAKES` seconds for every key, as a server far away does."""

    def __init__(self) -> None:
        super().__init__(MemorySource())
        self.instant = False

    def get(self, key: str) -> Entry | None:
        time.sleep(TAKES)
        return super().get(key)


def get_memory(effort: Effort) -> Iterator[Figure]:
    """The decoded value of a key of type bytes."""
    gets = effort.of(GETS)
    with datastream.open("memory:") as store:
        store["key"] = b"value"
        rounds = take_turns(
            effort, lambda: _gets_per_second(store, gets), lambda: subject_per_second(4 * gets)
        )
    yield rounds.figure(
        "store[key] on memory:", "/s", "≥ 1/6 of Subject.on_next", lambda r: r >= 1 / 6
    )


def get_in_threads(effort: Effort) -> Iterator[Figure]:
    """None of them waits for another one's read."""
    gets = effort.of(SLOW_GETS)
    with Store(SlowGets()) as store, ThreadPoolExecutor(THREADS) as pool:
        store["key"] = b"value"

        def all_threads() -> float:
            start = time.perf_counter()
            done = [pool.submit(_gets_per_second, store, gets) for _ in range(THREADS)]
            for each in done:
                each.result()
            return THREADS * gets / (time.perf_counter() - start)

        rounds = take_turns(effort, all_threads, lambda: _gets_per_second(store, gets))
    yield rounds.figure(
        f"gets by {THREADS} threads on a backend that takes {TAKES * 1000:g} ms",
        "/s",
        "≥ 7 × one thread",
        lambda r: r >= 7,
    )


def _gets_per_second(store: Store, number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        store["key"]
    return number / (time.perf_counter() - start)
