"""Watches one key of a repository in which others are written too; tells its own memory."""

from __future__ import annotations

import gc
import sys
import threading

import psutil

import datastream
from tests.bench.child import answer_requests

KEY = "d000/f00000.json"
TIMEOUT = 20.0


def main(path: str) -> None:
    """Serve until stdin ends."""
    changed, values = threading.Condition(), [b""]

    def note(entry: datastream.Entry) -> None:
        with changed:
            values[0] = entry.value
            changed.notify()

    with datastream.open(f"git:{path}") as store:
        store.watch(KEY).subscribe(note)

        def memory_after(value: str) -> int:
            """Bytes, once `value` was seen."""
            with changed:
                if not changed.wait_for(lambda: values[0] == value.encode(), TIMEOUT):
                    raise TimeoutError("the value never arrived")
            gc.collect()
            return int(psutil.Process().memory_info().rss)

        answer_requests({"memory_after": memory_after})


if __name__ == "__main__":
    main(sys.argv[1])
