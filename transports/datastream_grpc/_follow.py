"""Many watches of one client over one stream: what the server does for a Follow call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError

from datastream import InvalidValue
from datastream_grpc import _convert
from datastream_grpc._answering import told
from datastream_grpc._limits import Limits
from datastream_grpc._outgoing import ClientLeft, Context
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._texts import Texts
from datastream_grpc._turns import in_turn

log = logging.getLogger("datastream.grpc")

BEGINNING = 8
"""Watches of one call that begin at the same time: of a client that does not read, each of them
holds a state."""
WAITING = 1_000
"""Watches beyond the limit of streams that wait to begin, or until their end is sent. With more, no
request is read: each holds its own."""
FEW = 16
"""Watches that are ended in one step of the event loop."""
END_WITHIN = 5.0
"""Seconds that a client has to take a message before its call ends with an error."""
BEGIN_ALONE = 5.0
"""Seconds for which one that begins keeps others from it, as where a backend is away."""

SendWatch: TypeAlias = Callable[[pb.DataRequest, "Line"], Awaitable[None]]
"""Sends one watch to what stands for the context of its call, until it ends."""
Asked: TypeAlias = Callable[[pb.DataRequest], AbstractContextManager[None]]
"""Counts what a request costs; refuses one that is too much."""


class Line:
    """One watch of a Follow call; stands for the context of a call of its own.

    Args:
        number: by which the client names it.
        context: of the call.
        writing: held by the watch that writes, since a call takes one message at a time.
        describes: its first message says how the store is.
    """

    def __init__(
        self, number: int, context: Context, writing: asyncio.Lock, *, describes: bool
    ) -> None:
        self.number = number
        self.has_sent: Callable[[], None] = _nothing
        """Called once it has sent something of its state."""
        self._first = 2 if describes else 1
        self.task: asyncio.Task[None] | None = None
        self.has_begun = False
        self.is_removed = False
        self._context = context
        self._writing = writing
        self._is_writing = False
        self._head = _convert.to_head(number)

    def peer(self) -> str:
        """The address of the client."""
        return str(self._context.peer())

    async def send_initial_metadata(self, _: object) -> None:
        """Those of the call are sent."""

    async def write(self, message: bytes) -> None:
        """Send one message of the watch."""
        await self._write(_convert.to_followed(self._head, message))
        if self._first:
            self._first -= 1
            if not self._first:
                self.has_sent()
        if self.is_removed:
            raise asyncio.CancelledError

    async def end(self, error: str, text: str) -> None:
        """Tell the client that the watch has ended, and why."""
        told = pb.FollowResponse(watch=self.number, ended=True, error=error, text=text)
        await self._write(told.SerializeToString())

    def remove(self) -> None:
        """End it; a message that is being written is written, as all others wait for that."""
        self.is_removed = True
        if self.task is not None and self.has_begun and not self._is_writing:
            self.task.cancel()

    async def _write(self, message: bytes) -> None:
        async with self._writing:
            # From here on its task is not cancelled: that must not meet a write, or gRPC would
            # refuse the next one, of another watch.
            self._is_writing = True
            try:
                await self._context.write(message)
            finally:
                self._is_writing = False


class Follow:
    """The watches of one call.

    Args:
        send: sends one.
        asked: counts its request, while it waits and runs.
        context: of the call.
        texts: makes those of errors.
        limits: of the server.
    """

    def __init__(
        self, send: SendWatch, asked: Asked, context: Context, texts: Texts, limits: Limits
    ) -> None:
        # Those that run are no more than the limit, so that all others end once the client reads.
        self._places = asyncio.Semaphore(max(limits.streams, limits.principal_streams) + WAITING)
        self._send = send
        self._asked = asked
        self._context = context
        self._texts = texts
        self._writing = asyncio.Lock()
        self._room = asyncio.Semaphore(BEGINNING)
        self._lines: dict[int, Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, requests: AsyncIterator[Any]) -> None:
        """Begin and end what the client asks for, until that is over and all have ended.

        Raises:
            InvalidValue: it asks for what makes no sense.
        """
        try:
            async for request in requests:
                await self._take(request)
                # Not held until the next has come.
                del request
            while self._tasks:
                await asyncio.wait(self._tasks)
        except InvalidValue:
            # Not within a write: gRPC refuses to send the status of a call whose first message is
            # under way.
            with suppress(TimeoutError):
                async with asyncio.timeout(END_WITHIN), self._writing:
                    self._cancel()
            raise
        finally:
            await self._end()

    async def _end(self) -> None:
        """End all watches, a few in each step of the loop: to end one takes as long as a call."""
        try:
            for number, task in enumerate(list(self._tasks)):
                task.cancel()
                if number % FEW == FEW - 1:
                    await asyncio.sleep(0)
        finally:
            self._cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _take(self, request: Any) -> None:
        if isinstance(request, DecodeError):
            raise InvalidValue("the request is no message of this method")
        number = request.watch
        line = self._lines.get(number)
        if request.HasField("add") == request.remove:
            raise InvalidValue(f"watch {number}: send either add or remove")
        if request.remove:
            if line is not None:
                line.remove()
            return
        if line is not None:
            raise InvalidValue(f"watch {number} runs already; number each watch anew")
        await self._places.acquire()
        self._begin(number, request.add)

    def _begin(self, number: int, request: pb.DataRequest) -> None:
        line = Line(number, self._context, self._writing, describes=request.describe)
        self._lines[number] = line
        task = line.task = asyncio.create_task(self._run(line, request))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.release()

    async def _run(self, line: Line, request: pb.DataRequest) -> None:
        try:
            error, text = await self._outcome(line, request)
            # Not held until the client takes that.
            del request
            # Before the client is told, which may use the number again from then on.
            self._lines.pop(line.number, None)
            await line.end(error, text)
        except ClientLeft as left:
            log.debug("Follow: the client left: %s", left.__cause__)
        except Exception as error:  # noqa: BLE001
            log.debug("Follow: the client left: %s", error)

    async def _outcome(self, line: Line, request: pb.DataRequest) -> tuple[str, str]:
        """Send the watch; the error it ends with, if there is one."""
        line.has_begun = True
        try:
            if not line.is_removed:
                with self._asked(request):
                    await self._send_in_turn(line, request)
        except asyncio.CancelledError:
            if not line.is_removed:
                raise
        except ClientLeft:
            raise
        except Exception as error:  # noqa: BLE001
            return told("Follow", error, self._context, self._texts, request.SerializeToString)
        return "", ""

    async def _send_in_turn(self, line: Line, request: pb.DataRequest) -> None:
        async with in_turn(self._room, BEGIN_ALONE) as end_turn:
            line.has_sent = end_turn
            await self._send(request, line)


def _nothing() -> None:
    """Nobody waits for this watch."""
