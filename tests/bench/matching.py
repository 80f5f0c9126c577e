"""Patterns: one made to be slow, and very many of them watched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import datastream
from datastream.selection import Selection
from tests.bench.figures import Effort, Figure, take_turns
from tests.bench.in_process import ignore

PATTERN = "**a**a**a**b"
LENGTH = 16_000
KEYS = ("a" * LENGTH, "a/" * (LENGTH // 2), "ab" * (LENGTH // 2 - 1) + "aa", "ba" * (LENGTH // 2))
"""The pattern matches none of them, and nearly does."""
WANTED_MS = 20.0
WATCHERS = 5_000
MATCHING = 17
"""The number in the one pattern that matches."""
PUTS = 3_000


def hostile_pattern(effort: Effort) -> Iterator[Figure]:
    """The slowest of several keys; compiling is part of the time."""
    slowest = median(max(map(_match_ms, KEYS)) for _ in range(effort.rounds))
    yield Figure(
        name=f"{PATTERN} on a key of {LENGTH:,} characters",
        unit="ms",
        ours=slowest,
        wanted=f"≤ {WANTED_MS:g} ms",
        ok=slowest <= WANTED_MS,
    )


def _match_ms(key: str) -> float:
    start = time.perf_counter()
    assert not Selection.of(match=PATTERN).matches(key)
    return (time.perf_counter() - start) * 1000


def put_patterns(effort: Effort) -> Iterator[Figure]:
    """The time of a put; `flush` is part of it."""
    puts = effort.of(PUTS)
    with datastream.open("memory:") as alone, datastream.open("memory:") as crowded:
        alone.watch(match=_pattern(MATCHING)).subscribe(ignore)
        for number in range(WATCHERS):
            crowded.watch(match=_pattern(number)).subscribe(ignore)
        rounds = take_turns(
            effort, lambda: _microseconds(crowded, puts), lambda: _microseconds(alone, puts)
        )
    yield rounds.figure(
        f"put on memory:, {WATCHERS:,} watchers of patterns, one matches",
        "µs",
        "≤ 5 × with that one alone",
        lambda ratio: ratio <= 5,
    )


def _pattern(number: int) -> str:
    return f"a/*/{number}"


def _microseconds(store: datastream.Store, puts: int) -> float:
    key, begin = f"a/b/{MATCHING}", time.perf_counter_ns()
    values = [b"%d" % (begin + n) for n in range(puts)]
    start = time.perf_counter()
    for value in values:
        store.put(key, value)
    store.flush()
    return (time.perf_counter() - start) * 1e6 / puts
