"""Commits stamped rows with bare psycopg, as any other program would."""

from __future__ import annotations

import random
import sys
import time

import psycopg

from tests.bench.child import answer_requests

UPSERT = (
    "INSERT INTO {} VALUES ('stamp', %s, 'bytes') "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
NOTIFY = f"WITH done AS ({UPSERT.format('bare')}) SELECT pg_notify('bench', %s)"


def main(url: str) -> None:
    """Serve until stdin ends."""
    connection = psycopg.connect(url, autocommit=True)

    def stamped(statement: str, parameters: int, rows: int, pause: float) -> int:
        stamp = 0
        for _ in range(rows):
            time.sleep(pause * random.uniform(0.5, 1.5))
            stamp = time.time_ns()
            values = (b"%d" % stamp, str(stamp))[:parameters]
            connection.execute(statement.encode(), values)
        return stamp

    answer_requests(
        {
            "commit": lambda rows, pause: stamped(UPSERT.format("data"), 1, rows, pause),
            "notify": lambda rows, pause: stamped(NOTIFY, 2, rows, pause),
        }
    )


if __name__ == "__main__":
    main(sys.argv[1])
