"""Commits stamped rows with bare psycopg, as any other program would."""

from __future__ import annotations

import sys
from functools import partial

import psycopg

from tests.bench.arrivals import write_stamps
from tests.bench.child import answer_requests

UPSERT = (
    "INSERT INTO {} VALUES ('stamp', %s, 'bytes') "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
NOTIFY = f"WITH done AS ({UPSERT.format('bare')}) SELECT pg_notify('bench', %s)"


def main(url: str) -> None:
    """Serve until stdin ends."""
    connection = psycopg.connect(url, autocommit=True)

    def commit(value: bytes) -> None:
        connection.execute(UPSERT.format("data").encode(), (value,))

    def notify(value: bytes) -> None:
        connection.execute(NOTIFY.encode(), (value, value.decode()))

    answer_requests(
        {"commit": partial(write_stamps, commit), "notify": partial(write_stamps, notify)}
    )


if __name__ == "__main__":
    main(sys.argv[1])
