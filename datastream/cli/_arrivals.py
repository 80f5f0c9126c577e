"""Batches of a subscription, taken by the main thread: that is the one which Ctrl-C ends."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Semaphore, Thread, current_thread

from reactivex import Observable

from datastream import Batch

AHEAD = 16
"""Batches that are waiting at most; beyond them the store conflates, or a replay pauses."""


@contextmanager
def arriving(batches: Observable[Batch]) -> Iterator[Iterator[Batch]]:
    """The batches as they arrive; raises what the subscription ends with.

    They end with a BrokenPipeError when the reader of a piped stdout leaves, as `head` does.
    """
    inbox = _Inbox()
    _tell_when_stdout_is_closed(inbox)
    with batches.subscribe(inbox.put, inbox.put, inbox.end):
        try:
            yield inbox.taken()
        finally:
            inbox.leave()


class _Inbox:
    def __init__(self) -> None:
        self._items: SimpleQueue[Batch | Exception | None] = SimpleQueue()
        self._room = Semaphore(AHEAD)
        self._taker = current_thread()
        self._left = False

    def put(self, item: Batch | Exception) -> None:
        # What comes while subscribing comes on the thread that will take it.
        if current_thread() is not self._taker and not self._left:
            self._room.acquire()
        self._items.put(item)

    def end(self, error: Exception | None = None) -> None:
        self._items.put(error)

    def taken(self) -> Iterator[Batch]:
        while isinstance(item := self._items.get(), Batch):
            yield item
            self._room.release()
        if item is not None:
            raise item

    def leave(self) -> None:
        """Whoever waits for room goes on, and nobody waits from here on."""
        self._left = True
        self._room.release()


def _tell_when_stdout_is_closed(inbox: _Inbox) -> None:
    """A store may be quiet for hours: writing alone would not find out."""
    with suppress(io.UnsupportedOperation, OSError, AttributeError):
        stdout = sys.stdout.fileno()
        poll = select.poll()
        mode = os.fstat(stdout).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return
        # Nothing to wait for but errors, which cannot be left out.
        poll.register(stdout, 0)

        def wait() -> None:
            poll.poll()
            inbox.end(BrokenPipeError())

        Thread(target=wait, daemon=True).start()
