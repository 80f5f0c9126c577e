"""Watches a PostgreSQL table and notes how long every value took to be seen."""

from __future__ import annotations

import sys

import datastream
from tests.bench.arrivals import Arrivals
from tests.bench.child import answer_requests


def main(url: str) -> None:
    """Watch until stdin ends."""
    arrivals = Arrivals()
    with datastream.open(url) as store:
        store.watch("stamp").subscribe(lambda entry: arrivals.note(entry.value))
        answer_requests({"forget": arrivals.forget, "until": arrivals.until})


if __name__ == "__main__":
    main(sys.argv[1])
