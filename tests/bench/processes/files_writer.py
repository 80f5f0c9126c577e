"""Replaces a file by a rename, as editors and other programs do, with a time stamp in it."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from tests.bench.child import answer_requests


def main(path: str) -> None:
    """Serve until stdin ends."""
    target, draft = Path(path), Path(f"{path}.draft.tmp")

    def replace(times: int, pause: float) -> tuple[int, list[float]]:
        """Replace it `times` times, about `pause` seconds apart; the last, and what each took."""
        stamp, took = 0, []
        for _ in range(times):
            time.sleep(pause * random.uniform(0.5, 1.5))
            begin = time.perf_counter()
            stamp = time.time_ns()
            draft.write_bytes(b"%d" % stamp)
            draft.rename(target)
            took.append(time.perf_counter() - begin)
        return stamp, took

    answer_requests({"replace": replace})


if __name__ == "__main__":
    main(sys.argv[1])
