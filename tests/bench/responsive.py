"""Gets and puts beside polls that take long, or never end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from datastream import Store
from datastream.selection import Selection, Selects
from datastream.source import Reading, Write
from datastream.sources.sqlite import SqliteSource
from datastream.testing import Spy
from tests.bench.figures import Effort, Figure, percentile, take_turns
from tests.bench.in_process import ignore

SLOW, SHORT = 3.0, 0.3
"""Seconds of a slow poll, thorough and quick."""
CALLS = 2_000
"""Gets, and as many puts, of which the percentile is taken."""
BUSY = 0.02
"""Seconds of each poll of a backend that always has news."""
GETS_FOR = 1.0
"""Seconds of gets of which the longest is taken."""
PAUSE = 0.0005
"""Seconds between two of them, so that they do not keep the poller from its work."""
WATCHED = Selection(frozenset(("watched",)))


class SlowPolls(Spy):
    """A SQLite file of which every poll takes `takes` seconds and, if so, brings news."""

    def __init__(self, path: Path, takes: float, *, has_news: bool = False) -> None:
        super().__init__(SqliteSource(str(path)))
        self.polled = Event()
        """Set once the first poll has begun."""
        self._takes = takes
        self._has_news = has_news
        self._numbers = count()

    def read(self, selection: Selects, since: str | None) -> Reading:
        if since is not None and self._takes:
            self.polled.set()
            if self._has_news:
                self._source.write([Write("watched", b"%d" % next(self._numbers), "bytes")])
            time.sleep(self._takes)
        return super().read(selection, since)

    def wait(self, timeout: float | None) -> None:
        # With slow polls, one follows the other.
        if not self._takes:
            super().wait(timeout)


def slow_polls(effort: Effort) -> Iterator[Figure]:
    """Of other keys than the one watched; one poll follows the other."""
    takes = SLOW if effort.share == 1 else SHORT
    with _watched(takes) as (busy, _), _watched(0) as (idle, _):
        calls = effort.of(CALLS)
        for name, call in (("get", _get), ("put", _put)):
            rounds = take_turns(effort, _p99(busy, call, calls), _p99(idle, call, calls))
            yield rounds.figure(
                f"p99 of {name} while each poll takes {takes:g} s",
                "ms",
                "≤ 2 × when idle",
                lambda ratio: ratio <= 2,
            )


def endless_news(effort: Effort) -> Iterator[Figure]:
    """The longest wait of many gets, beside the median of a single poll."""
    with _watched(BUSY, has_news=True) as (store, source):

        def longest() -> float:
            until, most = time.perf_counter() + GETS_FOR * effort.share, 0.0
            while time.perf_counter() < until:
                most = max(most, _seconds(lambda: store.entry("other")))
                time.sleep(PAUSE)
            return most * 1000

        position = store.snapshot_batch("watched").cursor

        def poll() -> float:
            return 1000 * _seconds(lambda: source.read(WATCHED, position))

        rounds = take_turns(effort, longest, poll)
    yield rounds.figure(
        "longest wait of a get while the backend always has news",
        "ms",
        f"≤ 1 poll of {BUSY * 1000:g} ms",
        lambda ratio: ratio <= 1,
    )


@contextmanager
def _watched(takes: float, *, has_news: bool = False) -> Iterator[tuple[Store, SlowPolls]]:
    """A store with the keys "watched" and "other", the first of which is watched."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="datastream-bench-"))
        source = SlowPolls(Path(folder, "bench.db"), takes, has_news=has_news)
        store = stack.enter_context(Store(source))
        store.put_many({"watched": b"first", "other": b"first"})
        store.watch("watched").subscribe(ignore)
        if takes and not source.polled.wait(10):
            raise RuntimeError("the store never polled")
        yield store, source


_numbers = count()


def _get(store: Store) -> None:
    store.entry("other")


def _put(store: Store) -> None:
    store.put("other", b"%d" % next(_numbers))


def _p99(store: Store, call: Callable[[Store], None], calls: int) -> Callable[[], float]:
    return lambda: 1000 * percentile([_seconds(lambda: call(store)) for _ in range(calls)], 99)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
