"""How often keys change. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from datastream import Batch

WINDOW = 10.0
"""Seconds that a rate is of."""
SLICE = 0.5
"""Seconds whose changes are counted together."""


class Line(NamedTuple):
    """One key."""

    key: str
    rate: float
    """Changes a second."""
    total: int


class Counts:
    """Counts from `start`, in seconds of a monotonic clock that all methods take as `now`."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._total: Counter[str] = Counter()
        self._recent: Counter[str] = Counter()
        self._slices: deque[tuple[float, Counter[str]]] = deque()
        self._changed: set[str] = set()

    def take(self, batch: Batch, now: float) -> None:
        """Count a batch; what was there from the start is no change."""
        if batch.initial:
            return
        if not self._slices or now - self._slices[-1][0] >= SLICE:
            self._slices.append((now, Counter()))
        for entry in batch:
            for counter in (self._total, self._recent, self._slices[-1][1]):
                counter[entry.key] += 1
            self._changed.add(entry.key)

    def changed(self, now: float) -> list[Line]:
        """The keys that changed since this was called last, those first that change most."""
        changed, self._changed = self._changed, set()
        return self._lines(changed, now)

    def lines(self, now: float) -> list[Line]:
        """All keys that ever changed, those first that change most."""
        return self._lines(self._total, now)

    def rate(self, now: float) -> float:
        """Of all keys together."""
        self._forget(now)
        return self._recent.total() / self._seconds(now)

    def _lines(self, keys: Sequence[str] | set[str] | Counter[str], now: float) -> list[Line]:
        self._forget(now)
        seconds = self._seconds(now)
        lines = [Line(key, self._recent[key] / seconds, self._total[key]) for key in keys]
        return sorted(lines, key=lambda line: (-line.rate, -line.total, line.key))

    def _seconds(self, now: float) -> float:
        return min(WINDOW, max(1.0, now - self._start))

    def _forget(self, now: float) -> None:
        while self._slices and now - self._slices[0][0] > WINDOW:
            self._recent -= self._slices.popleft()[1]
