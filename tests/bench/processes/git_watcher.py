"""Watches a git repository and notes how long every value took to be seen."""

from __future__ import annotations

import sys
import time

import datastream
from tests.bench.arrivals import Arrivals
from tests.bench.child import answer_requests


def main(path: str) -> None:
    """Watch until stdin ends."""
    arrivals = Arrivals()
    with datastream.open(f"git:{path}") as store:
        store.watch("key").subscribe(lambda entry: arrivals.note(entry.value))
        answer_requests(
            {"forget": arrivals.forget, "until": arrivals.until, "cpu": time.process_time}
        )


if __name__ == "__main__":
    main(sys.argv[1])
