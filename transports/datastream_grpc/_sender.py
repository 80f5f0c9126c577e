"""Sends changes to very many streams: one wake-up of the loop, and no task switch for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from threading import get_ident
from time import monotonic
from typing import Any, Protocol, TypeAlias

from datastream import Batch
from datastream.aio import Inbox
from datastream_grpc._loop import ask
from datastream_grpc._outgoing import ClientLeft, Context
from datastream_grpc._telemetry import Metrics

SLICE = 0.005
"""Seconds after which senders let other callbacks of the loop run."""
FEW, TOGETHER = 128, 32
"""Senders that all begin to write before the loop looks which writes have ended; and how many do
where there are more. What a write consists of is then mostly taken from what another one has just
freed; of a thousand that begin at once, Python's garbage collector would look at everything there
is, several times."""

Write: TypeAlias = Generator["asyncio.Future[Any] | None", None, None]
"""Yields what gRPC's writes await, and None where there is nothing to write."""


class Step(Protocol):
    """Something that `Ready` calls."""

    def step(self) -> None:
        """Go on, on the loop."""
        ...


class Ready:
    """The senders that have something to send, called in few wake-ups of their loop.

    Args:
        loop: calls them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.context = copy_context()
        """What callbacks of senders run in: else each would copy that of whoever published."""
        self._loop = loop
        self._steps: deque[Step] = deque()
        self._is_scheduled = False
        # That of the loop, once it has called any.
        self._thread = 0

    def add(self, step: Step) -> None:
        """Have a step made soon, on the loop; by any thread."""
        self._steps.append(step)
        # Looked at after the step is there: `_run` takes the mark away before it takes steps.
        if not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        try:
            if get_ident() == self._thread:
                # Of a store that does no I/O: nobody has to wake the loop.
                self._loop.call_soon(self._run)
            else:
                self._loop.call_soon_threadsafe(self._run)
        except RuntimeError:
            # The loop was closed, and with it all streams.
            self._steps.clear()
            self._is_scheduled = False

    def _run(self) -> None:
        self._is_scheduled = False
        self._thread = get_ident()
        steps, until = self._steps, monotonic() + SLICE
        waiting = len(steps)
        for _ in range(waiting if waiting <= FEW else TOGETHER):
            steps.popleft().step()
            if monotonic() > until:
                break
        if steps:
            self._schedule()


class Sender:
    """Sends the changes of one watch to its client, while the stream's task waits in `run`.

    A task would be woken twice for each message: when there is one, and when it is written. Here
    gRPC's ``write``, a coroutine that awaits a future, is begun by a callback and ended by that
    future's own, both within one generator: of many streams, each delivery costs a third less.

    Args:
        inbox: of the watch.
        context: of the call.
        messages_of: the messages of a batch; None if it is left to the task.
        metrics: count the messages.
        ready: calls this.
    """

    __slots__ = (
        "_awaited", "_between", "_context", "_has_news", "_inbox", "_interrupted", "_messages_of",
        "_metrics", "_ready", "_waiter", "_writing", "is_over",
    )  # fmt: skip

    def __init__(
        self,
        inbox: Inbox,
        context: Context,
        messages_of: Callable[[Batch], Sequence[bytes] | None],
        metrics: Metrics,
        ready: Ready,
    ) -> None:
        self._inbox = inbox
        self._context = context
        self._messages_of = messages_of
        self._metrics = metrics
        self._ready = ready
        self.is_over = False
        """Nothing comes any more."""
        self._has_news = True
        self._interrupted = False
        self._between: Iterable[bytes] = ()
        # What writes, what that awaits, and the task that waits for something else to do.
        self._writing: Write | None = None
        self._awaited: asyncio.Future[Any] | None = None
        self._waiter: asyncio.Future[Batch | None] | None = None
        inbox.follow(self._notify)

    async def run(self) -> Batch | None:
        """Send changes until there is something else to do.

        Returns:
            A batch that is left to the task; None if it was interrupted, or nothing comes any more.

        Raises:
            ClientLeft: nobody takes the messages.
        """
        self._waiter = asyncio.get_running_loop().create_future()
        self.step()
        try:
            return await self._waiter
        except asyncio.CancelledError:
            if self._awaited is not None:
                # As a task does that is cancelled: `_written` then cancels the write.
                self._awaited.cancel()
            raise
        finally:
            self._waiter = None
            self._interrupted = False

    @property
    def is_idle(self) -> bool:
        """Whether all that was offered is sent, and `run` waits for more."""
        waits = self._waiter is not None and not self._waiter.done()
        return waits and self._awaited is None and not self._has_news

    def send(self, messages: Iterable[bytes]) -> None:
        """Send messages in between, while it is idle."""
        self._between = messages
        self.step()

    def interrupt(self) -> None:
        """Have `run` return before it takes another batch; by any thread."""
        self._interrupted = True
        self._notify()

    def _notify(self) -> None:
        self._has_news = True
        # The end of a write looks for news by itself.
        if self._awaited is None:
            self._ready.add(self)

    def step(self) -> None:
        """Write, if there is something and nothing is under way."""
        if self._awaited is None and self._waiter is not None and not self._waiter.done():
            self._advance(self._waiter)

    def _written(self, done: asyncio.Future[object]) -> None:
        waiter, self._awaited = self._waiter, None
        if waiter is not None and not waiter.done():
            self._advance(waiter)
            return
        ask(done)
        writing, self._writing = self._writing, None
        if writing is not None:
            self._cancel(writing)

    def _cancel(self, writing: Write) -> None:
        """Cancel a write with its task, as one within that: it may await what is there already."""
        with suppress(Exception, asyncio.CancelledError):
            awaited = writing.throw(asyncio.CancelledError())
            if awaited is not None:
                self._writing, self._awaited = writing, awaited
                awaited.add_done_callback(self._written)

    def _advance(self, waiter: asyncio.Future[Batch | None]) -> None:
        """Go on until a write is under way, or there is none to begin."""
        if self._writing is None:
            self._writing = self._write()
        try:
            awaited = next(self._writing)
            if awaited is not None:
                self._awaited = awaited
                awaited.add_done_callback(self._written, context=self._ready.context)
            return
        except asyncio.CancelledError:
            waiter.cancel()
        except Exception as error:  # noqa: BLE001
            waiter.set_exception(error)
        # It has ended with that.
        self._writing = None

    def _write(self) -> Write:
        """Write what there is, message by message."""
        while True:
            messages = self._between or (self._next() if self._has_news else None)
            if messages is None:
                yield None
                continue
            self._between = ()
            for message in messages:
                try:
                    yield from self._context.write(message).__await__()
                except Exception as error:
                    # gRPC has no error of its own for a client that is gone.
                    raise ClientLeft from error
                self._metrics.deliveries += 1

    def _next(self) -> Sequence[bytes] | None:
        """The messages of the next batch; None if there is none, or the task has to go on."""
        # Before it looks: whatever comes while nothing is found tells so again.
        self._has_news = False
        if self._interrupted:
            self._has_news = True
            self._return(None)
            return None
        is_over = self._inbox.ended
        batch, has_more = self._inbox.take()
        if batch is None:
            self.is_over = is_over
            if is_over:
                self._return(None)
            return None
        if has_more or is_over:
            self._has_news = True
        messages = self._messages_of(batch)
        if messages is None:
            self._return(batch)
        return messages

    def _return(self, found: Batch | None) -> None:
        """Have `run` return this."""
        if self._waiter is not None:
            self._waiter.set_result(found)
