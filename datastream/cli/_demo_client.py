"""The demo's other process: watches the rates over gRPC and draws them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

import datastream
from datastream import Batch, SourceUnavailable, State, Status
from datastream.cli._demo_view import View, view
from datastream.cli._exit import TERMINATED, exit_code, exit_on_sigterm, say
from datastream.cli._log import logged


class _Arrival(NamedTuple):
    at: float
    batch: Batch


class _Tally:
    """What came, and how long it took."""

    def __init__(self) -> None:
        self.delivered = 0
        self.latencies: list[float] = []

    def count(self, arrival: _Arrival, written_at: float) -> float:
        """Seconds that this batch took."""
        self.delivered += sum(e.key.startswith("fx/") for e in arrival.batch.entries)
        self.latencies.append(arrival.at - written_at)
        return self.latencies[-1]

    def report(self) -> dict[str, Any]:
        milliseconds = sorted(seconds * 1000 for seconds in self.latencies)
        return {
            "delivered": self.delivered,
            "p50_ms": percentile(milliseconds, 0.50),
            "p99_ms": percentile(milliseconds, 0.99),
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    return ordered[math.ceil(len(ordered) * share) - 1]


def _run(url: str) -> None:
    # A queue of one's own keeps drawing out of the callback, and so out of the measurement.
    arrivals: SimpleQueue[_Arrival | Status] = SimpleQueue()
    with (
        datastream.open(url) as store,
        store.status.subscribe(arrivals.put),
        store.watch_batches("fx/", "demo/day", "demo/done").subscribe(
            lambda batch: arrivals.put(_Arrival(time.time(), batch))
        ),
    ):
        store["demo/ready"] = True
        with view() as show:
            tally = _follow(arrivals, show)
        store["demo/report"] = tally.report()


def _follow(arrivals: SimpleQueue[_Arrival | Status], show: View) -> _Tally:
    """Take what arrives until the writer says that it is done."""
    tally = _Tally()
    while True:
        arrival = arrivals.get()
        if isinstance(arrival, Status):
            _check(arrival)
            continue
        entries = {entry.key: entry for entry in arrival.batch.entries}
        if "demo/day" in entries:
            day = entries["demo/day"].decode()
            show(day["date"], arrival.batch.entries, tally.count(arrival, day["at"]))
        if "demo/done" in entries:
            return tally


def _check(status: Status) -> None:
    # The demo's server is the parent process: without it there is nothing to wait for.
    if status.state not in (State.CONNECTING, State.READY):
        raise SourceUnavailable(f"lost the demo's server: {status.error}")


if __name__ == "__main__":
    exit_on_sigterm(TERMINATED)
    with logged(say):
        sys.exit(exit_code(lambda: _run(sys.argv[1])))
