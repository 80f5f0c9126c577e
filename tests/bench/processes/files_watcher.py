"""Watches a directory and notes how long every value of one key took to be seen."""

from __future__ import annotations

import sys
import time

import datastream
from tests.bench.arrivals import Arrivals
from tests.bench.child import answer_requests


def main(path: str, key: str) -> None:
    """Watch all of it until stdin ends."""
    arrivals = Arrivals()

    def note(entry: datastream.Entry) -> None:
        # First it holds what all files do.
        if entry.key == key and entry.value.isdigit():
            arrivals.note(entry.value)

    with datastream.open(f"file:{path}") as store:
        store.watch().subscribe(note)
        answer_requests(
            {"forget": arrivals.forget, "until": arrivals.until, "cpu": time.process_time}
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
