"""The event loop of all servers in this process, on a thread of its own.

One for all, because two grpc.aio loops in one process disturb each other. It starts with the
first server and ends with the last.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from datastream import DatastreamError

T = TypeVar("T")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LoopThread:
    """A loop that runs while it has users."""

    def __init__(self) -> None:
        self.has_run = False
        """grpc.aio was used in this process, or in one that it was forked from."""
        self.lost = False
        """Since it was before the fork, it cannot be here: its calls would never end."""
        self.reset()

    def reset(self) -> None:
        """Have no loop and no users."""
        self._lock = threading.Lock()
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Refuse what needs a loop where there can be none.

        Raises:
            DatastreamError: this process was forked from one that had it.
        """
        if self.lost:
            raise DatastreamError(
                "this process was forked from one that had served a store, or awaited one, over "
                "gRPC, which its library survives in the parent only; fork before that, or start "
                "a new process instead (multiprocessing: spawn)"
            )

    def acquire(self) -> asyncio.AbstractEventLoop:
        self.check()
        self.has_run = True
        with self._lock:
            if self._loop is None:
                loop = _new_loop()
                thread = threading.Thread(
                    target=_run, args=(loop,), name="datastream-grpc", daemon=True
                )
                thread.start()
                self._loop, self._thread = loop, thread
            self._users += 1
            return self._loop

    def release(self) -> None:
        """Not to be called from the loop itself: it waits for the loop to end."""
        with self._lock:
            self._users -= 1
            if self._users or self._loop is None or self._thread is None:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def run(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop's thread and wait for it here."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def ask(done: asyncio.Future[Any]) -> None:
    """Ask how something ended: perhaps nobody else does, and asyncio would print an error."""
    if not done.cancelled():
        done.exception()


shared = LoopThread()


def _forked() -> None:
    """A child has neither the thread of its parent's loop nor that which grpc.aio waits in."""
    shared.lost = shared.lost or shared.has_run
    shared.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
