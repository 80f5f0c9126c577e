"""Writes of coroutines over one stream of grpc.aio: those that wait together travel together.

It runs on the one loop that grpc.aio has in this process (see `_loop`), whatever loop the
coroutines run on. What passes between the two does so by the batch.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple, cast

import grpc

from datastream import DatastreamError
from datastream_grpc import _loop
from datastream_grpc._connection import SERVICE
from datastream_grpc._credentials import Opener
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._pusher import MOST_BYTES
from datastream_grpc._status import from_answer, is_unnamed

ATTEMPTS = 3
"""How often a write is sent whose connection broke."""
RETRY_PAUSE = 0.03
"""Seconds between two streams: the next may still find the connection that has just broken."""
LOOKS = 4
"""How often it is looked for what got no answer, within the time that a write has."""
FULL = 4
"""A message goes out when it has so much as a fourth of what is under way: answers that come one
by one would else have new writes travel one by one."""
FILLING = 0.001
"""Seconds after which it goes out all the same."""

Outcome = pb.WriteResponse | Exception


class _Waiting(NamedTuple):
    """A write whose coroutine waits."""

    request: pb.WriteRequest
    answer: asyncio.Future[pb.WriteResponse]
    due: float
    attempt: int = 1


class AsyncPusher:
    """The Push stream of coroutines, opened when one writes, and again when it broke.

    Args:
        opener: of channels to the server.
        where: the server, for error texts.
        timeout: seconds for one write.
        heard: called whenever something arrives.
        silence: makes the error for a write that got no answer in time.
    """

    def __init__(
        self,
        opener: Opener,
        where: str,
        timeout: float,
        *,
        heard: Callable[[], None],
        silence: Callable[[], Exception],
    ) -> None:
        self._opener = opener
        self._where = where
        self._timeout = timeout
        self._heard, self._silence = heard, silence
        self._loop = _loop.shared.acquire()
        # Filled on any thread; all below is touched on the loop alone.
        self._arriving: deque[_Waiting] = deque()
        self._is_woken = False
        self._queue: deque[_Waiting] = deque()
        self._sent: dict[str, _Waiting] = {}
        self._filled = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[Exception] | None = None
        self._filling: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._closed = False

    async def push(self, request: pb.WriteRequest) -> pb.WriteResponse:
        """Send a write, from any loop; its answer.

        Raises:
            grpc.RpcError, EOFError: the connection broke, several times; or the server refuses all.
            DatastreamError: it refuses this one, or did not answer in time.
        """
        answer = asyncio.get_running_loop().create_future()
        self._arriving.append(_Waiting(request, answer, self._loop.time() + self._timeout))
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._wake)
        response: pb.WriteResponse = await answer
        return response

    def close(self) -> None:
        """End the stream; what is not answered yet fails. Called once, and not on the loop."""
        _loop.run(self._loop, self._end())
        _loop.shared.release()

    async def _end(self) -> None:
        self._closed = True
        for timer in (self._filling, self._looking):
            if timer is not None:
                timer.cancel()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._wake()

    def _wake(self) -> None:
        # Set back before it is looked at what there is: whoever comes later wakes again.
        self._is_woken = False
        while self._arriving:
            self._queue.append(self._arriving.popleft())
        if self._closed:
            self._fail(lambda waiting: True, EOFError("the store was closed"))
            return
        if FULL * len(self._queue) >= len(self._sent):
            self._filled.set()
        elif self._filling is None:
            self._filling = self._loop.call_later(FILLING, self._fill)
        if self._running is None:
            self._running = self._loop.create_task(self._run())
        if self._looking is None:
            self._looking = self._loop.call_later(self._timeout / LOOKS, self._look)

    def _fill(self) -> None:
        """Send what there is, though it may be little."""
        self._filling = None
        self._filled.set()

    def _look(self) -> None:
        """Give up what has no time left, and the connection with it: it may be dead."""
        self._looking = None
        now = self._loop.time()
        if self._fail(lambda waiting: waiting.due <= now, None) and self._reading is not None:
            self._reading.cancel()
        if self._sent or self._queue:
            self._looking = self._loop.call_later(self._timeout / LOOKS, self._look)

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            self._take_back(await self._stream())
            await asyncio.sleep(RETRY_PAUSE)

    async def _stream(self) -> Exception | None:
        """One stream, until it breaks: why it did; None if it was given up."""
        metadata: Any = ()
        if self._opener.has_token:
            try:
                metadata = await asyncio.to_thread(self._opener.metadata)
            except DatastreamError as error:
                return self._refused(error)
        async with self._opener.for_loop() as channel:
            push = channel.stream_stream(
                f"/{SERVICE}/Push",
                request_serializer=pb.PushRequest.SerializeToString,
                response_deserializer=pb.PushResponse.FromString,
            )
            call = push(metadata=metadata)
            self._reading = self._loop.create_task(self._read(call))
            sending = self._loop.create_task(self._send(call))
            try:
                await asyncio.wait((self._reading,))
                return None if self._reading.cancelled() else self._reading.result()
            finally:
                self._reading.cancel()
                sending.cancel()
                call.cancel()

    def _refused(self, error: Exception) -> Exception:
        """Take in that no stream can begin, and so no write that waits for one be sent."""
        self._sent |= {waiting.request.id: waiting for waiting in self._queue}
        self._queue.clear()
        self._filled.clear()
        return error

    async def _read(self, call: Any) -> Exception:
        try:
            async for response in call:
                self._heard()
                self._answered(response.answers)
        except grpc.RpcError as error:
            return cast(Exception, error)
        return EOFError("the server ended the stream")

    async def _send(self, call: Any) -> None:
        # Why a stream broke, its reader is told.
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                await self._filled.wait()
                self._filled.clear()
                while self._queue:
                    await call.write(pb.PushRequest(writes=self._take()))

    def _take(self) -> list[pb.WriteRequest]:
        together: list[pb.WriteRequest] = []
        size = 0
        while self._queue:
            waiting = self._queue[0]
            size += waiting.request.ByteSize()
            if together and size > MOST_BYTES:
                break
            self._queue.popleft()
            self._sent[waiting.request.id] = waiting
            together.append(waiting.request)
        return together

    def _answered(self, answers: Iterable[pb.PushAnswer]) -> None:
        outcomes: list[tuple[_Waiting, Outcome]] = []
        for answer in answers:
            waiting = self._sent.pop(answer.id, None)
            if waiting is not None:
                outcomes.append((waiting, self._outcome(answer)))
        _give(outcomes)

    def _outcome(self, answer: pb.PushAnswer) -> Outcome:
        if answer.HasField("response"):
            return answer.response
        return from_answer(answer.error, answer.text, self._where)

    def _take_back(self, error: Exception | None) -> None:
        """After a stream: queue anew what it left unanswered, unless it would end there again."""
        is_broken = error is None or isinstance(error, EOFError) or _is_broken(error)
        again: list[_Waiting] = []
        lost: list[_Waiting] = []
        for waiting in self._sent.values():
            (again if is_broken and waiting.attempt < ATTEMPTS else lost).append(waiting)
        self._sent = {}
        # Before the others: those of one key are done in their order.
        self._queue.extendleft(w._replace(attempt=w.attempt + 1) for w in reversed(again))
        _give([(waiting, error or self._silence()) for waiting in lost])
        if self._queue:
            self._filled.set()

    def _fail(self, is_lost: Callable[[_Waiting], bool], error: Exception | None) -> bool:
        """Fail some, by default for the server's silence; whether there are any."""
        lost = [waiting for waiting in (*self._sent.values(), *self._queue) if is_lost(waiting)]
        self._sent = {key: w for key, w in self._sent.items() if not is_lost(w)}
        self._queue = deque(waiting for waiting in self._queue if not is_lost(waiting))
        if lost:
            _give([(waiting, error or self._silence()) for waiting in lost])
        return bool(lost)


def _is_broken(error: Exception) -> bool:
    return isinstance(error, grpc.RpcError) and is_unnamed(error, grpc.StatusCode.UNAVAILABLE)


def _give(outcomes: Iterable[tuple[_Waiting, Outcome]]) -> None:
    """Wake the coroutines: one call for each of their loops."""
    by_loop = defaultdict(list)
    for waiting, outcome in outcomes:
        by_loop[waiting.answer.get_loop()].append((waiting.answer, outcome))
    for loop, some in by_loop.items():
        # One that was closed has no coroutines left.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, some)


def _resolve(outcomes: Iterable[tuple[asyncio.Future[pb.WriteResponse], Outcome]]) -> None:
    for answer, outcome in outcomes:
        if answer.done():
            continue
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
