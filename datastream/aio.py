"""Watches as async iterators, and blocking calls made from an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar

from datastream._closing import AsyncClosing
from datastream._watch import reaper
from datastream._watch.buffer import ConflatingBuffer
from datastream._watch.subscriber import Buffer
from datastream._watch.subscriber import Overflow as Overflow  # noqa: PLC0414

T = TypeVar("T")
P = ParamSpec("P")

MAX_THREADS = 32
"""Calls of one store that event loops make at the same time."""
SMALL = 512
"""Bytes of the value of a batch that may wait outside of a buffer, as one of some."""
SLICE = 0.001
"""Seconds after which a full iterator lets other tasks of its loop run."""


class Inbox:
    """Where a publisher, on any thread, leaves batches for one coroutine.

    Args:
        buffer: keeps what the coroutine has not taken yet.
    """

    def __init__(self, buffer: Buffer[Any] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._buffer: Buffer[Any] = ConflatingBuffer() if buffer is None else buffer
        self._waiter: asyncio.Future[None] | None = None
        self._notify: Callable[[], None] | None = None
        # For who follows: what comes next, how many that may be, and whether the buffer has more.
        self._few: list[Any] = []
        self._ahead = self._buffer.AHEAD if isinstance(self._buffer, ConflatingBuffer) else 1
        self._has_more = False
        self.ended = False
        """Nothing comes any more; what came before may not be taken yet."""
        self._error: Exception | None = None

    def offer(self, batch: Any, before: Sequence[str | None] | None = None, /) -> None:
        if self._notify is not None and not (self._has_more or self.ended):
            # Without the lock, as only `take` comes meanwhile, which makes room.
            few = self._few
            if not few or (len(few) < self._ahead and _is_small(batch)):
                few.append(batch)
                if len(few) == 1:
                    self._notify()
                return
        with self._lock:
            if not self.ended:
                self._offer_kept(batch, before)

    def _offer_kept(self, batch: Any, before: Sequence[str | None] | None) -> None:
        """Have a batch wait in the buffer."""
        had_more, self._has_more = self._has_more, self._notify is not None
        self._keep(batch, before)
        if self._notify is None:
            self._wake()
        # Who takes one of the few from here on sees that there is more, as who knew that does.
        elif self.ended or not (self._few or had_more):
            self._notify()

    def _keep(self, batch: Any, before: Sequence[str | None] | None) -> None:
        overflow = self._buffer.put(batch, before)
        if overflow is not None:
            self._buffer.clear()
            self.ended, self._error = True, overflow

    def end(self, error: Exception | None = None) -> None:
        with self._lock:
            if not self.ended:
                self.ended, self._error = True, error
            if self._notify is not None:
                self._notify()
            else:
                self._wake()

    def follow(self, notify: Callable[[], None]) -> None:
        """Call `notify`, on any thread, when there is something to take after there was nothing.

        It may not block, nor use the inbox.
        """
        with self._lock:
            # In this order: from then on what is offered may pass by the buffer.
            self._has_more = bool(self._buffer)
            self._notify = notify

    def take(self) -> tuple[Any | None, bool]:
        """The next batch, None if there is none just now; and whether more wait."""
        few = self._few
        if not few:
            with self._lock:
                # Not before the lock is held: what was offered until then comes before the rest.
                if not few:
                    return self._take_kept()
        return few.pop(0), bool(few) or self._has_more

    def _take_kept(self) -> tuple[Any | None, bool]:
        """The next batch of the buffer."""
        batch = self._buffer.take()
        if batch is None and self._error is not None:
            raise self._error
        self._has_more = bool(self._buffer)
        return batch, self._has_more

    def poll(self) -> Any | asyncio.Future[None] | None:
        """The next batch; a future that is done when there may be one; None after the last."""
        with self._lock:
            batch = self._buffer.take()
            if batch is None and self._error is not None:
                raise self._error
            if batch is not None or self.ended:
                return batch
            self._waiter = self._loop.create_future()
            return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        try:
            if threading.get_ident() == self._thread:
                _release(waiter)
            else:
                self._loop.call_soon_threadsafe(_release, waiter)
        except RuntimeError:
            # The loop was closed with the watch still open.
            self.ended = True


def _is_small(batch: Any) -> bool:
    """Whether a batch may wait beside another, outside of the buffer."""
    entries = batch.entries
    return len(entries) == 1 and len(entries[0].value) <= SMALL


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _given(items: Iterable[T]) -> Iterator[T]:
    """`items`, each let go of when it is given: to free very many at once takes long."""
    return _emptied(deque(items)) if isinstance(items, tuple) else iter(items)


def _emptied(items: deque[T]) -> Iterator[T]:
    while items:
        yield items.popleft()


class Subscription(Protocol):
    """What ends a subscription made for an inbox."""

    def __call__(self) -> None: ...


class Threads:
    """Threads in which event loops make the blocking calls of one store, started when needed.

    Of the store's own: one that is stuck must not use up those of the others.

    Args:
        instant: calls never block, so that they need no thread.
    """

    def __init__(self, *, instant: bool) -> None:
        self.instant = instant
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._running = 0
        self._closed = False

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call of the source from a coroutine without holding up its loop."""
        if self.instant:
            return function(*args, **kwargs)
        return await self.run(function, *args, **kwargs)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that may block, also if those of the source do not."""
        with self._lock:
            if not self._closed and self._executor is None:
                self._executor = ThreadPoolExecutor(MAX_THREADS, "datastream-call")
            executor = None if self._closed else self._executor
            self._running += 1
        try:
            if executor is None:
                # Of a closed store: it raises at once.
                return function(*args, **kwargs)
            run = partial(copy_context().run, function, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(executor, run)
        finally:
            self._ran()

    def _ran(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running or not self.instant or self._executor is None:
                return
            # Such a store has no other use for threads. Those that run at the same time share some:
            # a loop waits for each that it starts.
            executor, self._executor = self._executor, None
        executor.shutdown(wait=False)

    @staticmethod
    async def run_once(function: Callable[[], T]) -> T:
        """Make one blocking call on a thread of its own."""
        executor = ThreadPoolExecutor(1, "datastream-once")
        try:
            run = partial(copy_context().run, function)
            return await asyncio.get_running_loop().run_in_executor(executor, run)
        finally:
            executor.shutdown(wait=False)

    def close(self) -> None:
        """Start no call any more; those that run are left to end."""
        with self._lock:
            self._closed = True
            executor = self._executor
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)


class _Opening:
    """A subscription made in a thread, which may be given up before it is there."""

    def __init__(self, subscribe: Callable[[Inbox], Subscription], inbox: Inbox) -> None:
        self._subscribe = subscribe
        self._inbox = inbox
        self._lock = threading.Lock()
        self._given_up = False
        self._unsubscribe: Subscription | None = None

    async def run(self, threads: Threads) -> Subscription:
        try:
            # Never on the loop: a large state takes a while, also where no I/O does.
            return await threads.run(self._open)
        except asyncio.CancelledError:
            # The thread goes on; whichever of the two is later undoes it.
            self._give_up()
            raise

    def _open(self) -> Subscription:
        unsubscribe = self._subscribe(self._inbox)
        with self._lock:
            self._unsubscribe = unsubscribe
            if self._given_up:
                unsubscribe()
        return unsubscribe

    def _give_up(self) -> None:
        with self._lock:
            self._given_up = True
            if self._unsubscribe is not None:
                self._unsubscribe()


class AsyncWatch(AsyncClosing, Generic[T]):
    """An async iterator over a watch; it subscribes with ``async with``, or at the first step.

    It lets other tasks run every few milliseconds, however much waits to be taken. Leaving it
    early, by ``break`` or an error, unsubscribes when the last reference goes; ``async with`` or
    `aclose` does it at once. Ends when the store is closed.

    Args:
        subscribe: called with the inbox; returns what unsubscribes. May block.
        unpack: the items of one batch.
        threads: where `subscribe` may block.
        buffer: makes what keeps the batches that were not taken yet.
        every: seconds, at least, between two batches.
    """

    def __init__(
        self,
        subscribe: Callable[[Inbox], Subscription],
        unpack: Callable[[Any], Iterable[T]],
        threads: Threads,
        buffer: Callable[[], Buffer[Any]] = ConflatingBuffer,
        every: float = 0.0,
    ) -> None:
        self._subscribe = subscribe
        self._unpack = unpack
        self._threads = threads
        self._buffer = buffer
        self._every = every
        self._yield_at = 0.0
        self._inbox: Inbox | None = None
        self._unsubscribe: Subscription | None = None
        self._ready: Iterator[T] = iter(())
        self._closed = False

    async def __aenter__(self) -> Self:
        # What happens from here on is part of it, whenever the first step comes.
        await self.inbox()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        now = monotonic()
        if now > self._yield_at:
            if self._yield_at:
                await asyncio.sleep(0)
            self._yield_at = monotonic() + SLICE
        while True:
            for item in self._ready:
                return item
            if self._closed:
                raise StopAsyncIteration
            await self._fill()

    async def _fill(self) -> None:
        found = (await self.inbox()).poll()
        if found is None:
            await self.aclose()
        elif isinstance(found, asyncio.Future):
            await found
            self._yield_at = monotonic() + SLICE
        else:
            self._ready = _given(self._unpack(found))
            if self._every and not found.initial:
                await asyncio.sleep(self._every)

    async def inbox(self) -> Inbox:
        """What the iterator polls, for a server that counts microseconds; subscribes first."""
        if self._inbox is not None:
            return self._inbox
        inbox = Inbox(self._buffer())
        self._unsubscribe = await _Opening(self._subscribe, inbox).run(self._threads)
        self._inbox = inbox
        if self._closed:
            # Meanwhile, by another task.
            self._leave()
        return inbox

    async def aclose(self) -> None:
        """Unsubscribe; the iterator ends."""
        self.leave()

    def leave(self) -> None:
        """`aclose` by any thread: with a large state or selection it may take long."""
        self._ready = iter(())
        self._leave()

    def __del__(self) -> None:
        # Wherever the collector runs, a lock that unsubscribing needs may be held.
        unsubscribe = getattr(self, "_unsubscribe", None)
        if unsubscribe is not None:
            reaper.later(unsubscribe)

    def _leave(self) -> None:
        self._closed = True
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            unsubscribe()
