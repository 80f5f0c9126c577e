"""Resident memory of what waits: a watcher in process, a stream of a gRPC server."""

from __future__ import annotations

from collections.abc import Iterator

import psutil

from tests.bench.child import Child
from tests.bench.figures import Effort, Figure
from tests.bench.raw_client import Subscribers

WATCHERS = 10_000
STREAMS, CONNECTIONS = 500, 4
WARM_UP = 100
"""Streams whose memory does not count: they pay for what is there once."""
WANTED_WATCHER, WANTED_STREAM = 4.0, 60.0
"""Kilobytes of 1000 bytes."""


def memory(effort: Effort) -> Iterator[Figure]:
    """Each in a process of its own; the bare server's stream is the floor of ours."""
    with Child("many_watchers") as child:
        watcher = float(child.ask("bytes_per_watcher", WATCHERS)) / 1000
    yield Figure(
        name="memory per idle watcher in process",
        unit="kB",
        ours=watcher,
        wanted=f"≤ {WANTED_WATCHER:g} kB",
        ok=watcher <= WANTED_WATCHER,
    )
    stream, bare = _per_stream("store_server"), _per_stream("bare_server", "plain")
    yield Figure(
        name="memory per idle gRPC stream",
        unit="kB",
        ours=stream,
        floor=bare,
        ratio=stream / bare,
        wanted=f"≤ {WANTED_STREAM:g} kB",
        ok=stream <= WANTED_STREAM,
        note="in the server",
    )


def _per_stream(server: str, *arguments: str) -> float:
    with Child(server, *arguments) as child:
        address = child.ask("address")
        process = psutil.Process(child.pid)
        with Subscribers(address, WARM_UP, CONNECTIONS):
            before = process.memory_info().rss
            with Subscribers(address, STREAMS, CONNECTIONS):
                return float(process.memory_info().rss - before) / STREAMS / 1000
