"""Commits stamped rows with plain `sqlite3`, as any other program would."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from tests.bench.arrivals import write_stamps
from tests.bench.child import answer_requests
from tests.bench.sqlite_rows import UPSERT, connect


def main(path: str) -> None:
    """Serve until stdin ends."""
    connection = connect(Path(path))

    def commit(value: bytes) -> None:
        connection.execute(UPSERT, ("key", value, "bytes", None))

    answer_requests({"write": partial(write_stamps, commit)})


if __name__ == "__main__":
    main(sys.argv[1])
