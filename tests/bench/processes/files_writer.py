"""Replaces a file by a rename, as editors and other programs do, with a time stamp in it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from tests.bench.arrivals import write_stamps
from tests.bench.child import answer_requests


def main(path: str) -> None:
    """Serve until stdin ends."""
    target, draft = Path(path), Path(f"{path}.draft.tmp")

    def replace(value: bytes) -> None:
        draft.write_bytes(value)
        draft.rename(target)

    answer_requests({"write": partial(write_stamps, replace)})


if __name__ == "__main__":
    main(sys.argv[1])
