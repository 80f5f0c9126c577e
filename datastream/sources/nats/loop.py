"""The event loop that the client library needs: private to one source, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, ParamSpec, TypeVar

from datastream.errors import StoreClosed

T = TypeVar("T")
P = ParamSpec("P")

CLOSED = "this store was closed; open it again to go on"


class Loop:
    """Runs coroutines for threads that wait for them."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(
        self,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `function` on the loop, and wait here for what it returns; it sees to its timeout.

        Raises:
            StoreClosed: the loop has ended, or ended meanwhile.
        """
        coroutine = function(*args, **kwargs)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise StoreClosed(CLOSED) from None
        try:
            return future.result()
        except CancelledError:
            raise StoreClosed(CLOSED) from None

    def soon(self, call: Callable[[], object]) -> None:
        """Have `call` made on the loop, unless that has ended."""
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return

    def close(self) -> None:
        """End all that runs, and the thread."""
        self.soon(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
