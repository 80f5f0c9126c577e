"""A store served over gRPC by this process, or by workers of it: many keys, changes, memory."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datastream_grpc
import psutil

import datastream
from tests.bench.child import answer_requests

VALUE = b"v" * 64


class Served:
    """A store of `keys` keys, and what is done to it from within.

    Args:
        url: of the store.
        options: of `serve`.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self.store = datastream.open(url)
        shared = url if options.get("workers") else self.store
        self.server = datastream_grpc.serve(shared, "127.0.0.1:0", **options)
        self._stop = threading.Event()
        self._changing: threading.Thread | None = None
        self._count = 0

    def fill(self, keys: int) -> str:
        """Put so many keys; the cursor after them."""
        self.store.put_many({f"k/{n:06}": VALUE for n in range(keys)})
        return self.store.snapshot_batch("none").cursor

    def change(self, keys: Sequence[int]) -> None:
        """Put another value to some of them."""
        self._count += 1
        self.store.put_many({f"k/{n:06}": b"%064d" % self._count for n in keys})

    def snapshot(self) -> float:
        """Seconds that a snapshot takes here."""
        begin = time.perf_counter()
        self.store.snapshot()
        return time.perf_counter() - begin

    def begin_changes(self, per_second: int, keys: int) -> None:
        """Put the time to one key after the other, so often, until `end_changes`."""
        self._stop.clear()
        self._changing = threading.Thread(target=self._change, args=(per_second, keys))
        self._changing.start()

    def end_changes(self, last: str) -> int:
        """Put this value last; how many there were before."""
        self._stop.set()
        if self._changing is not None:
            self._changing.join()
        self.store.put("last", last.encode())
        return self._count

    def _change(self, per_second: int, keys: int) -> None:
        self._count = 0
        begin = time.perf_counter()
        while not self._stop.is_set():
            self._count += 1
            self.store.put(f"k/{self._count % keys:06}", b"%064d" % time.time_ns())
            due = begin + self._count / per_second
            self._stop.wait(max(0.0, due - time.perf_counter()))

    def busy(self) -> dict[str, float]:
        """Seconds of CPU that each of its workers has used."""
        used = ((child.pid, child.cpu_times()) for child in psutil.Process().children())
        return {str(pid): times.user + times.system for pid, times in used}

    def cost(self) -> dict[str, float]:
        """Resident bytes and seconds of CPU of this process, and of its workers."""
        processes = [psutil.Process(), *psutil.Process().children()]
        times = [process.cpu_times() for process in processes]
        return {
            "memory": float(sum(process.memory_info().rss for process in processes)),
            "cpu": float(sum(t.user + t.system for t in times)),
        }


def main(url: str = "memory:", workers: str = "0", tls: str = "") -> None:
    """Serve until stdin ends."""
    options: dict[str, Any] = {"workers": int(workers)} if int(workers) else {}
    if tls:
        options["tls"] = datastream_grpc.Tls(f"{tls}/server.pem", f"{tls}/server.key")
    with contextlib.ExitStack() as stack:
        if url == "sqlite:":
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            url = f"sqlite:{Path(directory) / 'bench.db'}"
        served = Served(url, **options)
        answer_requests(
            {
                "address": lambda: served.server.address,
                "fill": served.fill,
                "change": served.change,
                "snapshot": served.snapshot,
                "begin_changes": served.begin_changes,
                "end_changes": served.end_changes,
                "busy": served.busy,
                "cost": served.cost,
            }
        )
        served.server.stop(0)
        served.store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
