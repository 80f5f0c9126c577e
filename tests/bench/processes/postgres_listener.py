"""Listens with bare psycopg and notes how long every stamped notification took."""

from __future__ import annotations

import sys
import threading

import psycopg

from tests.bench.arrivals import Arrivals
from tests.bench.child import answer_requests


def main(url: str) -> None:
    """Listen until stdin ends."""
    arrivals = Arrivals()
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("LISTEN bench")

    def listen() -> None:
        for notification in connection.notifies():
            arrivals.note(notification.payload.encode())

    threading.Thread(target=listen, daemon=True).start()
    answer_requests({"forget": arrivals.forget, "until": arrivals.until})


if __name__ == "__main__":
    main(sys.argv[1])
