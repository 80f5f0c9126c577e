"""The calls of one server that coroutines await, without a thread for each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import grpc

from datastream import Entry
from datastream.source import Reading, Write
from datastream_grpc import _convert, _loop
from datastream_grpc._async_pusher import AsyncPusher
from datastream_grpc._async_reader import AsyncReader
from datastream_grpc._calls import Calls
from datastream_grpc._credentials import Opener
from datastream_grpc._pusher import MOST_BYTES
from datastream_grpc._stream import Wanted


class AsyncCalls:
    """Made on the loop that grpc.aio has in this process, for coroutines of any; in threads after a
    fork, where it has none.

    Args:
        calls: of the same server.
        opener: of channels to it.
    """

    def __init__(self, calls: Calls, opener: Opener) -> None:
        self._calls = calls
        self._opener = opener
        self._lock = threading.Lock()
        self._pusher: AsyncPusher | None = None
        self._reader: AsyncReader | None = None
        self._closed = False

    async def write(self, writes: Sequence[Write]) -> list[Entry] | None:
        """Write all of them: the entries as stored; None if it takes a call of its own."""
        if not self._calls.pushes or _loop.shared.lost:
            return None
        request = _convert.to_request(writes, self._calls.new_id())
        if request.ByteSize() > MOST_BYTES:
            # What the server does not take must not end the stream of all others.
            return None
        with self._calls.metrics.call("Push"):
            response = await self._pusher_now().push(request)
        return _convert.stored_of(response, writes)

    async def entry(self, key: str) -> Entry | None:
        """What `key` holds."""
        if _loop.shared.lost:
            return await asyncio.to_thread(self._calls.entry, key)
        try:
            with self._calls.metrics.call("Sync"):
                return await self._reader_now().entry(key)
        except grpc.RpcError as error:
            if not self._calls.may_be_older(error):
                raise
        # An ancestor's server fails so for a key that is not there. To find out takes some calls.
        return await asyncio.to_thread(self._calls.entry, key)

    async def state(self, wanted: Wanted) -> Reading | None:
        """The complete state; None if the server sends none in parts, or no more just now."""
        if not self._calls.snapshots or _loop.shared.lost:
            return None
        with self._calls.metrics.call("Snapshot"):
            return await self._reader_now().state(wanted)

    def close(self) -> None:
        """Fail what is not answered yet. Called once."""
        with self._lock:
            self._closed = True
            running = (self._pusher, self._reader)
            self._pusher = self._reader = None
        for each in running:
            if each is not None:
                each.close()

    def _reader_now(self) -> AsyncReader:
        reader = self._reader
        if reader is not None:
            return reader
        with self._lock:
            if self._closed:
                raise EOFError("the store was closed")
            if self._reader is None:
                self._reader = AsyncReader(self._opener, self._calls)
            return self._reader

    def _pusher_now(self) -> AsyncPusher:
        pusher = self._pusher
        if pusher is not None:
            return pusher
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
