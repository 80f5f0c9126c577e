"""Progress on stderr, of what lasts longer than a second."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from datastream import Entry, Feature, Store, Write

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 1.0
"""Seconds before a bar appears."""
STEP, ATOMIC_STEP = 100, 10_000
"""Writes that are made in one go: as many as possible where they happen all or none of them."""
STEP_BYTES = 8 << 20
"""Bytes of their values."""

NO_SIZES: Mapping[str, int] = MappingProxyType({})

Advance = Callable[[int], None]


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Advance]:
    """Gives what is told how many more are done; on a terminal a bar shows it.

    Args:
        what: such as "copying".
        total: how many there will be; None where that is not known.
    """
    if not sys.stderr.isatty():
        yield lambda number: None
        return
    bar = _Bar(what, total)
    try:
        yield bar.advance
    finally:
        bar.close()


class _Bar:
    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total, self._done = what, total, 0
        self._lock = threading.Lock()
        self._is_closed = False
        self._shown: tuple[Progress, TaskID] | None = None
        # A call may last, and say nothing before its end.
        self._timer = threading.Timer(PATIENCE, self._show)
        self._timer.daemon = True
        self._timer.start()

    def advance(self, number: int) -> None:
        with self._lock:
            self._done += number
            if self._shown:
                bar, task = self._shown
                bar.update(task, completed=self._done)

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_closed = True
            if self._shown:
                self._shown[0].stop()

    def _show(self) -> None:
        from datastream.cli import _terminal

        with self._lock:
            if not self._is_closed:
                bar = _terminal.bar(self._total)
                self._shown = bar, bar.add_task(self._what, total=self._total)
                bar.update(self._shown[1], completed=self._done)
                bar.start()


def write_in_steps(
    store: Store, writes: Iterable[Write], advance: Advance, sizes: Mapping[str, int] = NO_SIZES
) -> int:
    """Make all of `writes`, as many at once as is sensible; returns how many there were.

    Args:
        sizes: bytes of what is deleted, which a backend may read to compare it.
    """
    number = 0
    for step in steps(store, writes, sizes):
        stored: Sequence[Entry] = store.write(*step)
        number += len(stored)
        advance(len(step))
    return number


def steps(
    store: Store, writes: Iterable[Write], sizes: Mapping[str, int] = NO_SIZES
) -> Iterator[list[Write]]:
    """`writes` in lists, each of which is one call of ``store.write``."""
    most = ATOMIC_STEP if Feature.ATOMIC in store.features else STEP
    step: list[Write] = []
    keys: set[str] = set()
    size = 0
    for write in writes:
        length = sizes.get(write.key, 0) if write.value is None else len(write.value)
        is_full = len(step) == most or size + length > STEP_BYTES
        # One key twice is no single write.
        if step and (is_full or write.key in keys):
            yield step
            step, size = [], 0
            keys.clear()
        step.append(write)
        keys.add(write.key)
        size += length
    if step:
        yield step
