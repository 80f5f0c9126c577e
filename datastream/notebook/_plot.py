"""Live plots of numbers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from reactivex import Observable

from datastream.entry import Batch, Entry, Operation
from datastream.errors import InvalidValue
from datastream.notebook._following import Subscriptions, picture_of
from datastream.notebook._live import EVERY, Live
from datastream.notebook._parts import visible
from datastream.notebook._rows import now

if TYPE_CHECKING:
    from datastream.store import Store

MOST_LINES = 20
"""Keys that are drawn."""
MOST_POINTS = 20_000
"""Points of a line that are kept, however long the window."""

Point = list[float | None]


class LivePlot(Live):
    """Lines of numbers over the last minutes; made by `Store.live_plot`.

    Times are those of arrival here. What is no number is not drawn.
    """

    script = "plot.js"


class Line:
    """The points of one key; those that no page has yet are at the end."""

    def __init__(self) -> None:
        self.points: deque[Point] = deque(maxlen=MOST_POINTS)
        self.new = 0

    def add(self, point: Point, oldest: float) -> None:
        """Append a point, and let go of those that left the window; one of them stays."""
        self.points.append(point)
        self.new += 1
        while len(self.points) > 1 and (self.points[1][0] or 0.0) < oldest:
            self.points.popleft()

    def taken(self, *, whole: bool) -> list[Point]:
        """All points, or those that were not taken yet."""
        first = 0 if whole else max(0, len(self.points) - self.new)
        self.new = 0
        return list(islice(self.points, first, None))


class Plotted(Subscriptions):
    """Follows numbers.

    Args:
        store: for its status.
        watch: the selected keys.
        span: of the window, in seconds.
    """

    def __init__(self, store: Store, watch: Callable[..., Observable[Batch]], span: float) -> None:
        super().__init__(store.status)
        self._watch = watch
        self._span = span * 1_000
        self._lock = threading.Lock()
        self._lines: dict[str, Line] = {}
        self._left_out: set[str] = set()

    def start(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
        with self._lock:
            self._lines.clear()
            self._left_out.clear()
        self.follow(
            self._watch(conflate="always", every=EVERY), partial(self._take, changed), ended
        )
        self.follow_status(changed, ended)

    def picture(self, ask: dict[str, Any]) -> dict[str, Any]:
        whole = bool(ask.get("fresh"))
        with self._lock:
            points = {visible(key): line.taken(whole=whole) for key, line in self._lines.items()}
            more = len(self._left_out)
        remark = f"{more:,} more keys are not drawn" if more else ""
        return {
            "whole": whole,
            "span": self._span,
            "keys": list(points),
            "points": {key: found for key, found in points.items() if found},
            "remark": remark,
            **self.standing.picture(),
        }

    def _take(self, changed: Callable[[], object], batch: Batch) -> None:
        moment = now()
        with self._lock:
            for entry in batch.entries:
                self._add(entry, moment)
        if not batch.initial:
            self.standing.arrived(batch.entries)
        changed()

    def _add(self, entry: Entry, moment: float) -> None:
        line, value = self._lines.get(entry.key), _number(entry)
        if line is None and value is None:
            return
        if line is None and len(self._lines) >= MOST_LINES:
            self._left_out.add(entry.key)
            return
        line = self._lines.setdefault(entry.key, Line())
        line.add([moment, value], moment - self._span)


def of_store(
    store: Store, name: str, watch: Callable[..., Observable[Batch]], span: float
) -> LivePlot:
    """A plot of what `watch` follows."""

    def picture() -> str:
        return picture_of(store, name, watch)

    return LivePlot(name, picture, lambda: Plotted(store, watch, span))


def _number(entry: Entry) -> float | None:
    """The value as a number; None if it is none, or gone."""
    if entry.operation is Operation.DELETE:
        return None
    try:
        value = entry.decode()
        number = float(value) if isinstance(value, int | float) else inf
    except (InvalidValue, OverflowError):
        return None
    # NaN and infinity are no JSON.
    return number if isfinite(number) else None
