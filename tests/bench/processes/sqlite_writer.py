"""Commits stamped rows with plain `sqlite3`, as any other program would."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from tests.bench.child import answer_requests
from tests.bench.sqlite_puts import UPSERT, connect


def main(path: str) -> None:
    """Serve until stdin ends."""
    connection = connect(Path(path))

    def commit(rows: int, pause: float) -> tuple[int, list[float]]:
        """Commit `rows` stamps, about `pause` seconds apart; the last, and what each took."""
        stamp, took = 0, []
        for _ in range(rows):
            # At random, so as not to keep step with the watcher's looks at the file.
            time.sleep(pause * random.uniform(0.5, 1.5))
            begin = time.perf_counter()
            stamp = time.time_ns()
            connection.execute(UPSERT, ("key", b"%d" % stamp, "bytes", None))
            took.append(time.perf_counter() - begin)
        return stamp, took

    answer_requests({"commit": commit})


if __name__ == "__main__":
    main(sys.argv[1])
