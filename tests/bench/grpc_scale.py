"""Very many streams on one server: what each costs, how far behind they are, two workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import TypeAlias

from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, Rounds, noted, percentile, take_turns
from tests.bench.raw_client import Subscribers

STREAMS, CONNECTIONS = 5_000, 50
"""Most servers allow 100 streams of a connection."""
CROWD = 1_000
DEALT = 200
"""Connections that the kernel deals out to workers, by chance: of fewer, one gets many more."""
PUSHES, LONGER = 8, 24
"""In one round of the crowd, and in one that the clock of a process measures, by 10 ms."""
WINDOW = 4
LAST = "the value that comes last"
KEYS, RATE, SECONDS = 100, 1_000, 5.0


def grpc_streams(effort: Effort) -> Iterator[Figure]:
    """5,000 streams of one key: memory and CPU of each."""
    with Child("served") as server:
        before = server.ask("cost")
        with Subscribers(server.ask("address"), STREAMS, CONNECTIONS) as subscribers:
            begun = server.ask("cost")
            subscribers.deliveries_per_second(1, 2, 1)
            after = server.ask("cost")
    each = (begun["memory"] - before["memory"]) / STREAMS / 1000
    begin = (begun["cpu"] - before["cpu"]) / STREAMS * 1e3
    deliver = (after["cpu"] - begun["cpu"]) / STREAMS / 2 * 1e6
    figure = Figure(
        name=f"memory of a stream, of {STREAMS:,} on one server",
        unit="kB",
        ours=each,
        wanted="≤ 100 kB",
        ok=each <= 100,
    )
    yield noted(figure, f"CPU: {begin:.2f} ms to begin one, {deliver:.0f} µs for a delivery")


def grpc_crowd(effort: Effort) -> Iterator[Figure]:
    """Deliveries to 1,000 subscribers of one key, by one process and by two."""
    effort = effort._replace(rounds=min(effort.rounds, 9))
    with Child("store_server") as ours, Child("bare_server", "fast") as bare:
        rounds = _crowd(effort, ours, bare, WINDOW)
        yield rounds.figure(
            f"gRPC deliveries to {CROWD:,} subscribers",
            "/s",
            "≥ 0.9 of bare uvloop, serialised once",
            lambda ratio: ratio >= 0.9,
        )
    yield _workers(effort)


def _workers(effort: Effort) -> Figure:
    """By two workers and by one, per second that the busiest of them has worked.

    That is the rate of workers which have a core each; here the subscribers take as much.
    """
    rates: dict[Child, list[float]] = {}
    with Child("served", "sqlite:", "2") as two, Child("served", "sqlite:", "1") as one:

        def busily(server: Child, deliver: Callable[[], float]) -> Callable[[], float]:
            def measure() -> float:
                before = server.ask("busy")
                rates.setdefault(server, []).append(deliver())
                after = server.ask("busy")
                return LONGER * CROWD / max(after[pid] - before[pid] for pid in before)

            return measure

        # One at a time: another process than the one that wrote may see two as one.
        rounds = _crowd(effort, two, one, 1, connections=DEALT, pushes=LONGER, around=busily)
    figure = rounds.figure(
        f"gRPC deliveries to {CROWD:,} subscribers, workers=2",
        "/CPU s",
        "≥ 1.6 × workers=1",
        lambda ratio: ratio >= 1.6,
    )
    seen = [f"{median(rates[server]):,.0f}" for server in (two, one)]
    cores = f"on {os.cpu_count()} cores, which the subscribers use, too"
    return noted(figure, f"by the clock {seen[0]} /s and {seen[1]} /s, {cores}")


Around: TypeAlias = Callable[[Child, Callable[[], float]], Callable[[], float]]
"""Makes another measure of one server's deliveries per second."""


def _crowd(
    effort: Effort,
    ours: Child,
    floor: Child,
    window: int,
    *,
    connections: int = CONNECTIONS,
    pushes: int = PUSHES,
    around: Around = lambda server, measure: measure,
) -> Rounds:
    addresses = ours.ask("address"), floor.ask("address")
    with (
        Subscribers(addresses[0], CROWD, connections) as watchers,
        Subscribers(addresses[1], CROWD, connections) as readers,
    ):
        numbers = iter(range(1, 1 << 40, pushes))

        def deliver(subscribers: Subscribers) -> Callable[[], float]:
            return lambda: subscribers.deliveries_per_second(next(numbers), pushes, window)

        return take_turns(effort, around(ours, deliver(watchers)), around(floor, deliver(readers)))


def grpc_lag(effort: Effort) -> Iterator[Figure]:
    """1,000 subscribers of 100 keys that change 1,000 times a second."""
    seconds = max(1.0, SECONDS * effort.share)
    with Child("served") as server, Child("lagging") as clients:
        server.ask("fill", KEYS)
        begun = clients.ask("begin", server.ask("address"), CROWD, CONNECTIONS, LAST)
        before = server.ask("cost")
        server.ask("begin_changes", RATE, KEYS)
        time.sleep(seconds)
        cpu = server.ask("cost")["cpu"] - before["cpu"]
        changes = server.ask("end_changes", LAST)
        lags = clients.ask("end")
    figure = Figure(
        name=f"lag of {CROWD:,} subscribers of {KEYS} keys, p99",
        unit="ms",
        ours=percentile(lags["lags"], 99) * 1000,
        wanted="all converge",
        ok=bool(begun and lags["converged"]),
    )
    note = f"{changes / seconds:,.0f} changes/s, server's CPU {cpu / seconds:.0%}, p50 "
    yield noted(figure, f"{note}{percentile(lags['lags'], 50) * 1000:,.0f} ms")
