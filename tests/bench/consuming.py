"""A consumer with its place on disk, beside the fsync that keeps it there."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import datastream
from datastream import Entry
from tests.bench.figures import Effort, Figure, take_turns

BATCHES = 300
KEYS = 50
WANTED = 1.5


def consume(effort: Effort) -> Iterator[Figure]:
    """Batches that are handled and kept, one after the other."""
    number = effort.of(BATCHES)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        store = stack.enter_context(datastream.open("memory:"))
        consumer = stack.enter_context(store.consume(_ignore, place=folder / "place"))
        file = stack.enter_context((folder / "floor").open("ab", buffering=0))

        def ours() -> float:
            start = time.perf_counter()
            for value in range(number):
                store.put(f"key{value % KEYS}", value + start)
            consumer.flush()
            return (time.perf_counter() - start) / number * 1000

        def floor() -> float:
            start = time.perf_counter()
            for value in range(number):
                file.write(b'%08d {"cursor":"%d","revisions":{"key":"%d"}}\n' % ((value,) * 3))
                os.fsync(file.fileno())
            return (time.perf_counter() - start) / number * 1000

        rounds = take_turns(effort, ours, floor)
    yield rounds.figure(
        "consume, memory, no-op handler, place on disk",
        "ms a batch",
        f"≤ {WANTED:g} × fsync",
        lambda ratio: ratio <= WANTED,
    )


def _ignore(entry: Entry) -> None:
    """A handler that does nothing."""
