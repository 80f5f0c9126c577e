"""How soon a watcher on ``sqlite:`` sees another process's commit, and what watching costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, percentile

COMMITS = 400
PAUSE = 0.02
"""Seconds between commits."""
IDLE = 5.0
"""Seconds to watch a file that nobody writes."""
WANTED = {50: 10.0, 99: 30.0}
"""Milliseconds by percentile."""
WANTED_CPU = 1.0
"""Percent of a core."""


def watch_sqlite(effort: Effort) -> Iterator[Figure]:
    """A writer in one process, a watcher in another, their clock the machine's."""
    commits = effort.of(COMMITS)
    with TemporaryDirectory(prefix="datastream-bench-") as folder:
        path = str(Path(folder, "watched.db"))
        with Child("sqlite_watcher", path) as watcher:
            # An answer means that it watches; only then may the writer begin.
            watcher.ask("forget")
            with Child("sqlite_writer", path) as writer:
                newest, took = writer.ask("commit", commits, PAUSE)
            seen = watcher.ask("until", newest)
            cpu = _idle_cpu(watcher, IDLE * effort.share)
    for percent, wanted in WANTED.items():
        yield _latency(percent, seen, took, wanted)
    yield Figure(
        name="the same watcher when idle",
        unit="% core",
        ours=cpu,
        wanted=f"≤ {WANTED_CPU:g} %",
        ok=cpu <= WANTED_CPU,
    )


def _latency(percent: int, seen: list[float], took: list[float], wanted: float) -> Figure:
    ours = percentile(seen, percent) * 1000
    return Figure(
        name=f"other process's commit seen on sqlite:, p{percent}",
        unit="ms",
        ours=ours,
        floor=percentile(took, percent) * 1000,
        wanted=f"≤ {wanted:g} ms",
        ok=ours <= wanted,
        note=f"saw {len(seen)} of {len(took)}; the floor is the commit itself",
    )


def _idle_cpu(watcher: Child, seconds: float) -> float:
    before, start = float(watcher.ask("cpu")), time.perf_counter()
    time.sleep(seconds)
    used = float(watcher.ask("cpu")) - before
    return 100.0 * used / (time.perf_counter() - start)
