"""Positions of a backend that is read as a whole and tells of no change by itself."""

from __future__ import annotations

import secrets
import threading


class Versions:
    """Names what was seen by a digest, and counts how often that has changed.

    A digest alone would not do: where a value changes and changes back, one reader may have seen
    what lay between, and would be told that nothing has changed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = secrets.token_hex(4)
        self._digest: str | None = None
        self._count = 0

    def position(self, digest: str) -> str:
        """The position of a state that was just read."""
        with self._lock:
            if digest != self._digest:
                self._digest = digest
                self._count += 1
            return f"{self._epoch}:{self._count}:{digest}"

    def is_same(self, since: str | None, position: str) -> bool:
        """Whether nothing has changed since a position, perhaps one of another process."""
        if since is None or since == position:
            return since == position
        epoch, _, rest = since.partition(":")
        count, _, digest = rest.partition(":")
        return (
            epoch != self._epoch
            and bool(count)
            and digest == position.partition(":")[2].partition(":")[2]
        )
