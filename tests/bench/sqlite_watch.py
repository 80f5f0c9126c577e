"""How soon a watcher on ``sqlite:`` sees another process's commit, and what watching costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.child import Child
from tests.bench.figures import Effort, Figure
from tests.bench.watching import idle_cpu, latencies

COMMITS = 400
PAUSE = 0.02
"""Seconds between commits."""
IDLE = 5.0
"""Seconds to watch a file that nobody writes."""
WANTED = {50: 10.0, 99: 30.0}
"""Milliseconds by percentile."""


def watch_sqlite(effort: Effort) -> Iterator[Figure]:
    """A writer in one process, a watcher in another, their clock the machine's."""
    commits = effort.of(COMMITS)
    with TemporaryDirectory(prefix="datastream-bench-") as folder:
        path = str(Path(folder, "watched.db"))
        with Child("watcher", f"sqlite:{path}", "key", "key") as watcher:
            # An answer means that it watches; only then may the writer begin.
            watcher.ask("forget")
            with Child("sqlite_writer", path) as writer:
                newest, took = writer.ask("write", commits, PAUSE)
            seen = watcher.ask("until", newest)
            idle = idle_cpu("the same watcher when idle", watcher, IDLE * effort.share)
    name = "other process's commit seen on sqlite:"
    yield from latencies(name, seen, took, WANTED, "the commit itself")
    yield idle
