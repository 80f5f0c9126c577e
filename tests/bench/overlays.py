"""A change seen through an overlay of three layers, beside the same change on one layer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import datastream
from datastream import Entry, Store, overlay
from tests.bench.figures import Effort, Figure, noted, take_turns

KEYS = 10_000
FEW_KEYS = 100
PUTS = 5_000
CHANGES = 1_000
BURST = 1_000
"""Puts after which the watcher is waited for: more than 4,096 waiting would be conflated."""
KEY = "fx/7"
TIMEOUT = 20.0
"""Seconds to wait for a change."""


class _Layers:
    """Three stores in memory that hold the same keys, laid over each other, and a fourth alone."""

    def __init__(self, keys: int) -> None:
        self.stores = [datastream.open("memory:") for _ in range(3)]
        self.alone = datastream.open("memory:")
        for number, store in enumerate((*self.stores, self.alone)):
            store.put_many({f"fx/{n}": f"{number} {n}" for n in range(keys)})
        # Of the top layer, so that a change at the bottom is visible.
        self.stores[0].delete(KEY)
        self.stores[1].delete(KEY)
        self.laid = overlay(*self.stores)

    def close(self) -> None:
        for store in (self.laid, *self.stores, self.alone):
            store.close()


class _Seen:
    """A watcher of all keys, which may be waited for."""

    def __init__(self, store: Store) -> None:
        self._changed = threading.Event()
        self._values = 0
        self._watch = store.watch("fx/").subscribe(self._take)

    def _take(self, entry: Entry) -> None:
        self._changed.set()

    def puts_per_second(self, store: Store, number: int) -> float:
        """Put new values and wait until the watcher was called with all."""
        values = [b"%032d" % (self._values + n) for n in range(number)]
        self._values += number
        start = time.perf_counter()
        for begin in range(0, number, BURST):
            for value in values[begin : begin + BURST]:
                store.put(KEY, value)
            store.flush()
        return number / (time.perf_counter() - start)

    def latency(self, store: Store, number: int) -> float:
        """Microseconds from a put until the watcher has been called, one put after the other."""
        start = time.perf_counter()
        for n in range(number):
            self._changed.clear()
            store.put(KEY, b"%016d %016d" % (self._values, n))
            if not self._changed.wait(TIMEOUT):
                raise TimeoutError("the change never arrived")
        self._values += 1
        return (time.perf_counter() - start) / number * 1e6


def overlay_changes(effort: Effort) -> Iterator[Figure]:
    """Writes through the overlay, changes of its lowest layer, and both with few keys."""
    many, few = _Layers(KEYS), _Layers(FEW_KEYS)
    try:
        yield from _changes(effort, many, few)
    finally:
        many.close()
        few.close()


def _changes(effort: Effort, many: _Layers, few: _Layers) -> Iterator[Figure]:
    puts, changes = effort.of(PUTS), effort.of(CHANGES)
    alone, laid, small = _Seen(many.alone), _Seen(many.laid), _Seen(few.laid)
    rounds = take_turns(
        effort,
        lambda: laid.latency(many.stores[2], changes),
        lambda: alone.latency(many.alone, changes),
    )
    yield rounds.figure(
        f"change below 2 layers, {KEYS:,} keys each", "µs", "≤ 3 × on one layer", lambda r: r <= 3
    )
    rounds = take_turns(
        effort,
        lambda: laid.latency(many.stores[2], changes),
        lambda: small.latency(few.stores[2], changes),
    )
    yield rounds.figure("the same", "µs", f"≤ 1.2 × with {FEW_KEYS} keys", lambda r: r <= 1.2)
    rounds = take_turns(
        effort,
        lambda: 1e6 / laid.puts_per_second(many.laid, puts),
        lambda: 1e6 / alone.puts_per_second(many.alone, puts),
    )
    figure = rounds.figure(
        "put through an overlay of 3 layers", "µs", "≤ 3 × on one layer", lambda r: r <= 3
    )
    yield noted(figure, "after the puts the top layer holds the key, and the others are hidden")
