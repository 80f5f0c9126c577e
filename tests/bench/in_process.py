"""`put` on ``memory:`` with a watcher, beside a bare `Subject`."""

from __future__ import annotations

import time
from collections.abc import Iterator

from reactivex.subject import Subject

import datastream
from datastream import Entry, Store
from tests.bench.figures import Effort, Figure, noted, take_turns

PUTS = 20_000
BURST = 1_000
"""Puts after which the watcher is waited for: more than 4,096 waiting would be conflated."""
CROWD = 10_000


class _Counter:
    """A subscriber that only counts."""

    def __init__(self) -> None:
        self.got = 0

    def __call__(self, entry: Entry) -> None:
        self.got += 1


class _Watched:
    """A store, the one watcher of the key that is put, and `crowd` watchers of other keys."""

    def __init__(self, store: Store, crowd: int = 0) -> None:
        self._store = store
        self._counter = _Counter()
        self._puts = 0
        self._watches = [store.watch("key").subscribe(self._counter)]
        self._watches += [store.watch(f"other/{n}").subscribe(ignore) for n in range(crowd)]

    def puts_per_second(self, number: int) -> float:
        """Put `number` new values and wait until the watcher was called with all."""
        store = self._store
        values = [b"%064d" % (self._puts + n) for n in range(number)]
        self._puts += number
        start = time.perf_counter()
        for begin in range(0, number, BURST):
            for value in values[begin : begin + BURST]:
                store.put("key", value)
            store.flush()
        return number / (time.perf_counter() - start)

    @property
    def share(self) -> float:
        """Of the values put, how many the watcher got."""
        return self._counter.got / self._puts


def ignore(entry: Entry) -> None:
    """A subscriber that does nothing."""


def subject_per_second(number: int) -> float:
    """The floor: `on_next` of a `Subject` with one subscriber."""
    subject: Subject[Entry] = Subject()
    subject.subscribe(_Counter())
    entry = Entry("key", b"value")
    start = time.perf_counter()
    for _ in range(number):
        subject.on_next(entry)
    return number / (time.perf_counter() - start)


def put_memory(effort: Effort) -> Iterator[Figure]:
    """One watcher of the key; `flush` is part of the time."""
    puts = effort.of(PUTS)
    with datastream.open("memory:") as store:
        watched = _Watched(store)
        rounds = take_turns(
            effort, lambda: watched.puts_per_second(puts), lambda: subject_per_second(10 * puts)
        )
        figure = rounds.figure(
            "put on memory:, one watcher", "/s", "≥ 1/9 of Subject.on_next", lambda r: r >= 1 / 9
        )
        yield noted(figure, f"the watcher got {watched.share:.1%} of the values")


def put_memory_crowd(effort: Effort) -> Iterator[Figure]:
    """The same beside very many watchers of other keys."""
    puts = effort.of(PUTS)
    with datastream.open("memory:") as alone, datastream.open("memory:") as crowded:
        quiet, busy = _Watched(alone), _Watched(crowded, CROWD)
        rounds = take_turns(
            effort, lambda: busy.puts_per_second(puts), lambda: quiet.puts_per_second(puts)
        )
        yield rounds.figure(
            f"the same, {CROWD:,} watchers of other keys",
            "/s",
            "≥ 0.8 of without them",
            lambda r: r >= 0.8,
        )
