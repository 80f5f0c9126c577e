"""Watches a store and notes how long every value of one key took to be seen."""

from __future__ import annotations

import sys
import time

import datastream
from datastream import Entry
from tests.bench.arrivals import Arrivals
from tests.bench.child import answer_requests


def main(url: str, key: str, *selected: str) -> None:
    """Watch the `selected` keys, or all, until stdin ends."""
    arrivals = Arrivals()

    def note(entry: Entry) -> None:
        # Other values than time stamps were there before.
        if entry.key == key and entry.value.isdigit():
            arrivals.note(entry.value)

    with datastream.open(url) as store:
        store.watch(*selected).subscribe(note)
        answer_requests(
            {"forget": arrivals.forget, "until": arrivals.until, "cpu": time.process_time}
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
