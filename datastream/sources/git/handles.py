"""Handles on one repository, lent to one call at a time: dulwich's are not made for threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from datastream.errors import DatastreamError, StoreClosed
from datastream.sources.git.errors import Damaged
from datastream.sources.git.files import Files

KEPT = 8
"""Handles that stay open while no call uses them."""
KEPT_PACKS = 32
"""Pack files that these have open, all together; each has two descriptors."""
BUSY = 16
"""Handles in use at once, beyond which a call first waits for another one to come back."""
BUSY_PACKS = 128
"""Pack files in use at once, likewise."""
PATIENCE = 0.1
"""Seconds of that wait: calls that hang in the file system must not hold up others for long."""

Opened = Callable[[], Files]


def is_answer(error: BaseException) -> bool:
    """Whether a handle that raised it is as good as before."""
    return isinstance(error, DatastreamError) and not isinstance(error, Damaged)


class Handles:
    """Lends handles, and opens another one while all are lent. Safe to use from several threads.

    Args:
        opened: opens a handle.
        first: one that is open already.
    """

    def __init__(self, opened: Opened, first: Files | None = None) -> None:
        self._opened = opened
        # Guards what follows; never held while a file is opened, read or closed.
        self._returned = threading.Condition(threading.Lock())
        self._idle: list[Files] = [] if first is None else [first]
        self._lent = 0
        self._packs = 1
        self._closed = False
        self.generation = 0
        """How often `renew` was called."""

    @contextmanager
    def lend(self) -> Iterator[Files]:
        """A handle for one call.

        Raises:
            StoreClosed: `close` was called.
        """
        files, generation = self.take()
        try:
            yield files
        except BaseException as error:
            # It may have kept what it saw of a repository that was away or broken.
            self.give_back(files, generation if is_answer(error) else -1)
            raise
        self.give_back(files, generation)

    def take(self) -> tuple[Files, int]:
        """A handle, and what `give_back` wants beside it."""
        with self._returned:
            if not self._idle and self._lent >= self._most():
                self._await_return(monotonic() + PATIENCE)
            if self._closed:
                raise StoreClosed("this git repository was closed; open it anew")
            self._lent += 1
            generation = self.generation
            if self._idle:
                return self._idle.pop(), generation
        try:
            return self._opened(), generation
        except BaseException:
            with self._returned:
                self._lent -= 1
                self._returned.notify()
            raise

    def give_back(self, files: Files, generation: int) -> None:
        """Take a handle back; it is closed unless it is kept for the next call."""
        packs = files.objects.packs()
        with self._returned:
            self._lent -= 1
            self._packs = max(1, packs)
            kept = not self._closed and generation == self.generation and self._has_room()
            if kept:
                self._idle.append(files)
            self._returned.notify()
        if not kept:
            files.objects.close()

    def another(self) -> Handles:
        """Handles on the same repository that are closed by themselves."""
        return Handles(self._opened)

    def renew(self, first: Files | None = None) -> None:
        """Use no handle any more that was opened before: the repository is another one now."""
        with self._returned:
            self.generation += 1
            idle, self._idle = self._idle, []
            kept = first is not None and not self._closed
            if first is not None and kept:
                self._idle.append(first)
        for files in idle:
            files.objects.close()
        if first is not None and not kept:
            first.objects.close()

    def close(self) -> None:
        """Close those that are idle now, and those in use when they come back."""
        with self._returned:
            self._closed = True
            self._returned.notify_all()
        self.renew()

    def _await_return(self, until: float) -> None:
        while not (self._idle or self._closed) and self._lent >= self._most():
            left = until - monotonic()
            if left <= 0 or not self._returned.wait(left):
                return

    def _most(self) -> int:
        return max(2, min(BUSY, BUSY_PACKS // self._packs))

    def _has_room(self) -> bool:
        idle = len(self._idle)
        return idle == 0 or (idle < KEPT and (idle + 1) * self._packs <= KEPT_PACKS)
