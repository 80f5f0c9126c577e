"""Reads of coroutines over one channel of grpc.aio, on the one loop that it has in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc import aio

from datastream import Entry
from datastream_grpc import _convert, _loop
from datastream_grpc._calls import Calls
from datastream_grpc._connection import SERVICE
from datastream_grpc._credentials import Opener
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._status import is_unnamed


class AsyncReader:
    """Asks for one key at a time, any number of times at once.

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
        asked = asyncio.run_coroutine_threadsafe(self._entry(key), self._loop)
        return await asyncio.wrap_future(asked)

    def close(self) -> None:
        """End what is not answered yet. Called once, and not on the loop."""
        _loop.run(self._loop, self._give_up(self._channel))
        _loop.shared.release()

    async def _entry(self, key: str) -> Entry | None:
        if self._channel is None:
            self._channel = self._opener.for_loop()
        channel = self._channel
        try:
            response = await self._sync(channel, key)
        except grpc.RpcError as error:
            if is_unnamed(error, grpc.StatusCode.NOT_FOUND):
                return None
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
        return _convert.to_entry(response.data[key]) if key in response.data else None

    async def _sync(self, channel: aio.Channel, key: str) -> Any:
        metadata: Any = ()
        if self._opener.has_token:
            metadata = await asyncio.to_thread(self._opener.metadata)
        sync = channel.unary_unary(
            f"/{SERVICE}/Sync",
            request_serializer=pb.DataRequest.SerializeToString,
            response_deserializer=pb.DataResponse.FromString,
        )
        return await sync(
            pb.DataRequest(keys=(key,)), timeout=self._calls.timeout, metadata=metadata
        )

    async def _give_up(self, channel: Any) -> None:
        if channel is not None and channel is self._channel:
            self._channel = None
            await channel.close()
