"""What is mounted at a directory, above it and below it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def mount_points(directory: str) -> frozenset[str]:
    """The mount points on the way to `directory`, at it and below; none without ``/proc``.

    Raises:
        OSError: the table cannot be read now.
    """
    text = ""
    # Nothing else: with EMFILE the table is there, and cannot be read just now.
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        text = _TABLE.read_text(errors="surrogateescape")
    here = directory.rstrip("/") + "/"
    places = (_unescaped(line.split(" ", 5)[4]) for line in text.splitlines())
    return frozenset(place for place in places if _is_on_one_way(place.rstrip("/") + "/", here))


def _is_on_one_way(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _unescaped(path: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), path)
