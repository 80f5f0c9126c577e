"""The calls of one server that coroutines await, without a thread for each."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from datastream import Entry
from datastream.source import Write
from datastream_grpc import _convert
from datastream_grpc._async_pusher import AsyncPusher
from datastream_grpc._calls import Calls
from datastream_grpc._credentials import Opener
from datastream_grpc._pusher import MOST_BYTES


class AsyncCalls:
    """Made on the loop that grpc.aio has in this process, for coroutines of any.

    Args:
        calls: of the same server.
        opener: of channels to it.
    """

    def __init__(self, calls: Calls, opener: Opener) -> None:
        self._calls = calls
        self._opener = opener
        self._lock = threading.Lock()
        self._pusher: AsyncPusher | None = None
        self._closed = False

    async def write(self, writes: Sequence[Write]) -> list[Entry] | None:
        """Write all of them: the entries as stored; None if it takes a call of its own."""
        if not self._calls.pushes:
            return None
        request = _convert.to_request(writes, self._calls.new_id())
        if request.ByteSize() > MOST_BYTES:
            # What the server does not take must not end the stream of all others.
            return None
        response = await self._pusher_now().push(request)
        return [_convert.to_entry(data) for data in response.entries]

    def close(self) -> None:
        """Fail what is not answered yet. Called once."""
        with self._lock:
            self._closed = True
            pusher, self._pusher = self._pusher, None
        if pusher is not None:
            pusher.close()

    def _pusher_now(self) -> AsyncPusher:
        if self._pusher is not None:
            return self._pusher
        with self._lock:
            if self._closed:
                raise EOFError("the store was closed")
            if self._pusher is None:
                calls = self._calls
                self._pusher = AsyncPusher(
                    self._opener,
                    calls.where,
                    calls.timeout,
                    heard=calls.connection.heard,
                    silence=calls.silence,
                )
            return self._pusher
