"""Deliveries to many subscribers of one key, beside the least a gRPC server can do for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import psutil

from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, noted, take_turns
from tests.bench.raw_client import Subscribers

SUBSCRIBERS = 100
CONNECTIONS = 10
PUSHES = 40
"""In one round, so that each round has 4,000 deliveries."""
MORE_ROUNDS = 3
"""Than the other figures have: with both cores busy, what else runs weighs most here."""
WINDOW = 4
"""Pushes under way at once: the next goes out when all have the one that many before it."""


def grpc_fanout(effort: Effort) -> Iterator[Figure]:
    """Nothing is conflated: in every round each subscriber gets each value."""
    effort = effort._replace(rounds=effort.rounds * MORE_ROUNDS)
    pushes = effort.of(PUSHES)
    with Child("store_server") as ours, Child("bare_server", "fast") as bare:
        with (
            Subscribers(ours.ask("address"), SUBSCRIBERS, CONNECTIONS) as watchers,
            Subscribers(bare.ask("address"), SUBSCRIBERS, CONNECTIONS) as readers,
        ):
            numbers = count(1, pushes)

            def deliver(subscribers: Subscribers) -> Callable[[], float]:
                return lambda: subscribers.deliveries_per_second(next(numbers), pushes, WINDOW)

            before = _cpu(ours), _cpu(bare)
            rounds = take_turns(effort, deliver(watchers), deliver(readers))
            used = _cpu(ours) - before[0], _cpu(bare) - before[1]
    figure = rounds.figure(
        f"gRPC deliveries to {SUBSCRIBERS} subscribers",
        "/s",
        "≥ 0.9 of bare uvloop, serialised once",
        lambda r: r >= 0.9,
    )
    each = 1e6 / (pushes * SUBSCRIBERS * (effort.rounds + 1))
    yield noted(
        figure, f"server's CPU per delivery {used[0] * each:.1f} µs, bare {used[1] * each:.1f} µs"
    )


def _cpu(child: Child) -> float:
    times = psutil.Process(child.pid).cpu_times()
    return float(times.user + times.system)
