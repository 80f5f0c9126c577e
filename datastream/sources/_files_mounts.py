"""What is mounted at a directory or below it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def mount_points(directory: str) -> frozenset[str]:
    """The mount points at and below `directory`; none where the system does not tell."""
    text = ""
    with suppress(OSError):
        text = _TABLE.read_text(errors="surrogateescape")
    below = directory.rstrip("/") + "/"
    places = (_unescaped(line.split(" ", 5)[4]) for line in text.splitlines())
    return frozenset(place for place in places if f"{place}/".startswith(below))


def _unescaped(path: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), path)
