"""One thread of the process that closes what the garbage collector finds, and looks for hangs.

A finalizer runs wherever the collector does, also in a thread that holds the very lock which
closing needs. So it takes no lock: it leaves the work here (`SimpleQueue.put` is reentrant).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol
from weakref import WeakSet

TICK = 2.0
"""Seconds between two looks for calls that hang."""

log = logging.getLogger("datastream")


class Watched(Protocol):
    """What is looked at every tick, and told of a fork."""

    def check_hangs(self) -> None: ...
    def forked(self) -> None: ...


class _Process:
    """What this process has of it; a child begins with none."""

    def __init__(self) -> None:
        self.work: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.watched: WeakSet[Watched] = WeakSet()
        self.started = threading.Lock()
        self.thread: threading.Thread | None = None


_process = _Process()
_lost: list[object] = []
"""What a child inherited: never collected, since that would end the parent's connections."""


def watch(watched: Watched) -> None:
    """Look at it every tick, until it is collected."""
    with _process.started:
        _process.watched.add(watched)
        if _process.thread is None:
            thread = threading.Thread(
                target=_run, args=(_process,), name="datastream-reaper", daemon=True
            )
            thread.start()
            _process.thread = thread


def unwatch(watched: Watched) -> None:
    """Look at it no more."""
    with _process.started:
        _process.watched.discard(watched)


def later(work: Callable[[], object]) -> None:
    """Do `work` soon, on the thread of the process. Takes no lock."""
    _process.work.put(work)


def _run(process: _Process) -> None:
    while True:
        try:
            work = process.work.get(timeout=TICK)
        except Empty:
            _check(process)
            continue
        try:
            work()
        except Exception:
            log.exception("closing what was dropped failed")
        # Nothing that was closed is to live on until the next work comes.
        del work


def _check(process: _Process) -> None:
    with process.started:
        watched = list(process.watched)
    for one in watched:
        one.check_hangs()


def _after_fork_in_child() -> None:
    global _process  # noqa: PLW0603
    inherited = list(_process.watched)
    _lost.extend(inherited)
    _process = _Process()
    for one in inherited:
        one.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
