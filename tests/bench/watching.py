"""Watching another process's writes: how soon they are seen, and what it costs when idle."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from tests.bench.child import Child
from tests.bench.figures import Figure, percentile

WANTED_CPU = 1.0
"""Percent of a core."""


def latencies(
    name: str,
    seen: Sequence[float],
    took: Sequence[float],
    wanted: Mapping[int, float],
    floor: str,
) -> Iterator[Figure]:
    """One figure for each percentile of `wanted`.

    Args:
        name: what is seen.
        seen: seconds from the start of each write until the watcher was called.
        took: seconds that each write took by itself.
        wanted: milliseconds by percentile.
        floor: what `took` measured, for the note.
    """
    for percent, most in wanted.items():
        ours = percentile(seen, percent) * 1000
        yield Figure(
            name=f"{name}, p{percent}",
            unit="ms",
            ours=ours,
            floor=percentile(took, percent) * 1000,
            wanted=f"≤ {most:g} ms",
            ok=ours <= most,
            note=f"saw {len(seen)} of {len(took)}; the floor is {floor}",
        )


def idle_cpu(name: str, watcher: Child, seconds: float) -> Figure:
    """CPU that a watcher uses while nothing is written."""
    before, start = float(watcher.ask("cpu")), time.perf_counter()
    time.sleep(seconds)
    used = float(watcher.ask("cpu")) - before
    cpu = 100 * used / (time.perf_counter() - start)
    return Figure(
        name=name,
        unit="% core",
        ours=cpu,
        wanted=f"≤ {WANTED_CPU:g} %",
        ok=cpu <= WANTED_CPU,
    )
