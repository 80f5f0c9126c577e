"""Reads of coroutines over one channel of grpc.aio, on the one loop that it has in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import grpc
from grpc import aio

from datastream import Entry
from datastream.source import Reading
from datastream_grpc import _convert, _loop
from datastream_grpc._calls import Calls
from datastream_grpc._connection import SERVICE
from datastream_grpc._credentials import Opener
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._stream import StateParts, Wanted

T = TypeVar("T")
NO_PARTS = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""Of a server that does not know the method, or allows no stream more: it takes a call."""


class AsyncReader:
    """Asks for one key, or for a state, any number of times at once.

    Args:
        opener: of channels to the server.
        calls: of the same server.
    """

    def __init__(self, opener: Opener, calls: Calls) -> None:
        self._opener = opener
        self._calls = calls
        self._loop = _loop.shared.acquire()
        # Of the loop alone.
        self._channel: Any = None

    async def entry(self, key: str) -> Entry | None:
        """What `key` holds, asked from any loop.

        Raises:
            grpc.RpcError, EOFError: the server does not answer.
        """
        return await self._there(self._entry(key))

    async def state(self, wanted: Wanted) -> Reading | None:
        """The complete state, asked from any loop; None if the server sends none in parts.

        Raises:
            grpc.RpcError, EOFError: the server does not answer.
        """
        return await self._there(self._state(wanted))

    def close(self) -> None:
        """End what is not answered yet. Called once, and not on the loop."""
        _loop.run(self._loop, self._give_up(self._channel))
        _loop.shared.release()

    async def _there(self, asking: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns that runs on the loop of grpc.aio."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asking, self._loop))

    async def _entry(self, key: str) -> Entry | None:
        return _convert.entry_of(await self._answer(partial(self._sync, key)), key)

    async def _state(self, wanted: Wanted) -> Reading | None:
        try:
            return await self._answer(partial(self._snapshot, wanted))
        except grpc.RpcError as error:
            if error.code() in NO_PARTS:
                return None
            raise

    async def _answer(self, ask: Callable[[aio.Channel, Any], Awaitable[T]]) -> T:
        """What `ask` returns, given a channel and the metadata of a call."""
        if self._channel is None:
            self._channel = self._opener.for_loop()
        channel = self._channel
        metadata: Any = ()
        try:
            if self._opener.has_token:
                metadata = await asyncio.to_thread(self._opener.metadata)
            answer = await ask(channel, metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                # Slow, or gone without a word: the next call is over another connection.
                self._calls.connection.ask()
                await self._give_up(channel)
            raise
        except asyncio.CancelledError:
            if channel is self._channel:
                raise
            # Not by who asked.
            raise EOFError("the connection was given up") from None
        self._calls.connection.heard()
        return answer

    async def _sync(self, key: str, channel: aio.Channel, metadata: Any) -> pb.DataResponse:
        sync = channel.unary_unary(
            f"/{SERVICE}/Sync",
            request_serializer=pb.DataRequest.SerializeToString,
            response_deserializer=pb.DataResponse.FromString,
        )
        request = pb.DataRequest(keys=(key,))
        response: pb.DataResponse = await sync(
            request, timeout=self._calls.timeout, metadata=metadata
        )
        return response

    async def _snapshot(self, wanted: Wanted, channel: aio.Channel, metadata: Any) -> Reading:
        snapshot = channel.unary_stream(
            f"/{SERVICE}/Snapshot",
            request_serializer=pb.DataRequest.SerializeToString,
            response_deserializer=pb.DataResponse.FromString,
        )
        request = wanted.request(partial=True, columns=True)
        state = StateParts()
        call = snapshot(request, timeout=self._calls.timeout, metadata=metadata)
        try:
            async for message in call:
                self._calls.connection.heard()
                state.add(message)
        finally:
            call.cancel()
        return state.reading()

    async def _give_up(self, channel: Any) -> None:
        if channel is not None and channel is self._channel:
            self._channel = None
            await channel.close()
