"""Data frames: of many keys beside one built by hand, and of a rolling window."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from itertools import count

import pandas as pd

import datastream
from datastream import Store
from tests.bench.figures import Effort, Figure, noted, take_turns

KEYS = 100_000
ROWS = 3_000
"""Five minutes of a window, ten rows a second."""


def frames(effort: Effort) -> Iterator[Figure]:
    """`Store.to_pandas` of 100,000 floats; a window asked for when something came."""
    keys = effort.of(KEYS)
    with datastream.open("memory:") as store:
        store.put_many({f"k/{n}": float(n) for n in range(keys)})
        rounds = take_turns(
            effort,
            lambda: _seconds(lambda: store.to_pandas("k/")),
            lambda: _seconds(lambda: _by_hand(store)),
        )
        figure = rounds.figure(f"to_pandas, {keys:,} keys", "s", "≤ 2 × by hand", lambda r: r <= 2)
        yield noted(figure, "by hand: snapshot, decode, DataFrame")
    yield from _window(effort)


def _window(effort: Effort) -> Iterator[Figure]:
    rows = effort.of(ROWS)
    keys = [f"k/{n}" for n in range(10)]
    numbers = count(1.0)

    def change(store: Store) -> None:
        store.put_many(dict.fromkeys(keys, next(numbers)))
        store.flush()

    with datastream.open("memory:") as store, store.window("k/", "1h", every=0) as window:
        for _ in range(rows):
            change(store)
        columns = {key: [float(number) for number in range(rows)] for key in keys}

        def ask() -> float:
            change(store)
            return 1_000 * _seconds(window.to_pandas)

        rounds = take_turns(effort, ask, lambda: 1_000 * _seconds(lambda: pd.DataFrame(columns)))
    figure = rounds.figure(f"window of {rows:,} rows", "ms", "≤ 10 × a frame of lists", _within_ten)
    yield noted(figure, "10 keys, asked for after a change")


def _within_ten(ratio: float) -> bool:
    return ratio <= 10


def _by_hand(store: Store) -> pd.DataFrame:
    entries = store.snapshot("k/").values()
    return pd.DataFrame(
        {
            "value": [entry.decode() for entry in entries],
            "value_type": [entry.value_type for entry in entries],
            "updated_at": [entry.updated_at for entry in entries],
            "revision": [entry.revision for entry in entries],
        },
        index=pd.Index([entry.key for entry in entries], name="key"),
    )


def _seconds(call: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
