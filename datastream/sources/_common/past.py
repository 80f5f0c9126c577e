"""What sources over a state in the past have in common: they are read only and never change."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from datastream.entry import Entry
from datastream.errors import ReadOnly
from datastream.source import Source, Write, Written


class ReadOnlyPast(Source):
    """Base of sources over a state in the past. Subclasses add `capabilities` and `read`.

    Args:
        where: the backend as error texts name it.
    """

    def __init__(self, where: str) -> None:
        self._past_of = where
        self._woken = threading.Event()

    def wait(self, timeout: float | None) -> None:
        # Nothing ever happens here, so only `wake` and `close` end it early.
        self._woken.wait(timeout)
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()

    def write(self, writes: Sequence[Write]) -> Written | Sequence[Entry]:
        raise ReadOnly(f"{self._past_of} as it was can only be read; nothing was written")

    def close(self) -> None:
        self._woken.set()
