"""Pushes over gRPC, until answered and until delivered, beside a server that stores nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, take_turns

PACED = 150
"""Pushes timed in one round, one after the other."""
PAUSE = 0.003
"""Seconds between them, so that each travels alone."""
RUSHED = {1: 500, 8: 1500}
"""Pushes in one round, by the number of callers."""


def grpc_latency(effort: Effort) -> Iterator[Figure]:
    """Pusher, server and subscriber in three processes; the latency of each push alone."""
    pushes = effort.of(PACED)
    with Child("store_server") as ours, Child("bare_server", "plain") as bare:
        store_address, bare_address = ours.ask("address"), bare.ask("address")
        with (
            Child("pusher") as pusher,
            Child("subscriber", "store", store_address) as watcher,
            Child("subscriber", "bare", bare_address) as reader,
        ):

            def through(subscriber: Child, address: str) -> Callable[[], float]:
                return lambda: _median_ms(pusher, subscriber, address, pushes)

            rounds = take_turns(
                effort, through(watcher, store_address), through(reader, bare_address)
            )
    yield rounds.figure(
        "gRPC push until delivered, p50", "ms", "≤ 1.5 × bare grpc.aio", lambda r: r <= 1.5
    )


def _median_ms(pusher: Child, subscriber: Child, address: str, pushes: int) -> float:
    subscriber.ask("forget")
    newest = pusher.ask("pace", address, pushes, PAUSE)
    return float(median(subscriber.ask("until", newest))) * 1000


def grpc_pushes(effort: Effort) -> Iterator[Figure]:
    """As many pushes as callers can make who wait for each answer."""
    with (
        Child("store_server") as ours,
        Child("bare_server", "plain") as bare,
        Child("pusher") as pusher,
    ):
        store_address, bare_address = ours.ask("address"), bare.ask("address")
        for callers, number in RUSHED.items():
            pushes = effort.of(number)

            def per_second(address: str, callers: int = callers, pushes: int = pushes) -> float:
                return float(pusher.ask("rush", address, pushes, callers))

            rounds = take_turns(
                effort, lambda: per_second(store_address), lambda: per_second(bare_address)
            )
            name = f"gRPC pushes, {callers} caller{'s' if callers > 1 else ''}"
            yield rounds.figure(name, "/s", "≥ 0.7 of bare grpc.aio", lambda r: r >= 0.7)
