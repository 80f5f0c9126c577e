"""The methods of DataService over a store, as grpc.aio calls them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from grpc import aio

from datastream import (
    Batch,
    DatastreamError,
    InvalidValue,
    Revision,
    SourceUnavailable,
    Store,
    StoreClosed,
)
from datastream._secrets import logger
from datastream.aio import AsyncWatch, Inbox
from datastream.selection import escape
from datastream_grpc import _convert
from datastream_grpc._connection import SERVICE
from datastream_grpc._description import to_description
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._pieces import Pieces, at_point, history_of
from datastream_grpc._status import NAME, code_of

MAX_ERROR_TEXT = 1000
"""gRPC drops a status whose text takes more than some kilobytes."""
KEPT_BATCHES = 16
"""Serialised batches kept for other streams of the same selection."""

log = logger("datastream.grpc")

T = TypeVar("T")

Context: TypeAlias = Any
"""A grpc.aio.ServicerContext: gRPC has no types."""
Handler = Callable[[Any, Context], Awaitable[Any]]


class _ClientLeft(Exception):
    """A message could not be sent, because the client is gone."""


class Servicer:
    """Answers for one store.

    Args:
        store: what is served.
        message_bytes: what a client may send at once.
    """

    def __init__(self, store: Store, message_bytes: int) -> None:
        self._store = store
        self._message_bytes = message_bytes
        # What it says of itself as a message, and who waits in a stream that wants to know it.
        self._description = self._described()
        self._inboxes: set[Inbox] = set()
        self._call = store.threads.call
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False
        # By identity: the batches of one selection are one object for all its subscribers.
        self._serialised: dict[tuple[int, bool], tuple[Batch, list[bytes]]] = {}

    def handlers(self) -> Any:
        """The methods, to be registered with a server."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods: dict[str, tuple[Any, Handler, Any]] = {
            "ListCapabilities": (unary, self.list_capabilities, pb.ListCapabilitiesRequest),
            "Sync": (unary, self.sync, pb.DataRequest),
            "Subscribe": (stream, self.subscribe, pb.DataRequest),
            "PushUpdate": (unary, self.push_update, pb.Data),
            "Write": (unary, self.write, pb.WriteRequest),
            "Describe": (unary, self.describe, pb.DescribeRequest),
            "History": (stream, self.history, pb.HistoryRequest),
            "Replay": (stream, self.replay, pb.ReplayRequest),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: make(
                    self._answering(name, handler),
                    request_deserializer=_lenient(request.FromString),
                    # Batches are serialised once, for all streams.
                    response_serializer=None if make is stream else _serialise,
                )
                for name, (make, handler, request) in methods.items()
            },
        )

    async def list_capabilities(self, request: pb.ListCapabilitiesRequest, context: Context) -> Any:
        if request.at:
            return _convert.to_capabilities(await self._at(request.at, Store.capabilities))
        return _convert.to_capabilities(await self._call(self._store.capabilities))

    async def sync(self, request: pb.DataRequest, context: Context) -> bytes:
        keys, match = _selected(request)
        if request.at:
            batch = await self._at(request.at, lambda s: s.snapshot_batch(*keys, match=match))
        else:
            batch = await self._call(self._store.snapshot_batch, *keys, match=match)
        data = {entry.key: _convert.to_data(entry) for entry in batch.entries}
        return pb.DataResponse(data=data, cursor=batch.cursor, initial=True).SerializeToString()

    async def push_update(self, request: pb.Data, context: Context) -> Any:
        # What an ancestor's client sends in fields it does not know cannot be an operation.
        await self._call(self._store.write, _convert.to_write(request))
        return _EMPTY

    async def write(self, request: pb.WriteRequest, context: Context) -> Any:
        writes = [
            _convert.to_write(item.data, item.expect if item.HasField("expect") else None)
            for item in request.writes
        ]
        if request.message or request.author:
            message, author = request.message, request.author
            writes = [write._replace(message=message, author=author) for write in writes]
        stored = await self._call(self._store.write, *writes)
        return pb.WriteResponse(entries=[_convert.to_data(entry) for entry in stored])

    async def describe(self, request: pb.DescribeRequest, context: Context) -> Any:
        if request.at:
            return await self._at(request.at, self._describe)
        return self._describe(self._store)

    async def history(self, request: pb.HistoryRequest, context: Context) -> None:
        revisions = partial(history_of, self._store, request.key, request.at)

        def messages(piece: Sequence[Revision]) -> Iterable[bytes]:
            return (_convert.to_history(piece).SerializeToString(),)

        await self._send_past(revisions, messages, context)

    async def replay(self, request: pb.ReplayRequest, context: Context) -> None:
        keys, match = _selected(request)
        batches = partial(self._store.replayed, *keys, match=match, since=request.since or None)

        def messages(piece: Sequence[Batch]) -> Iterable[bytes]:
            for batch in piece:
                yield from _convert.to_messages(batch, deletes=True)

        await self._send_past(batches, messages, context)

    async def _send_past(
        self,
        start: Callable[[], Iterator[T]],
        messages: Callable[[Sequence[T]], Iterable[bytes]],
        context: Context,
    ) -> None:
        """Send what an iterator of the store gives, read in threads as the client takes it."""
        run = self._store.threads.run
        with _listed(self._streams, asyncio.current_task()), closing(Pieces(start)) as pieces:
            while piece := await run(pieces.take):
                for message in await run(list, messages(piece)):
                    await _write(context, message)

    async def _at(self, point: str, use: Callable[[Store], T]) -> T:
        """What `use` finds in the store as it was."""
        return await self._store.threads.run(at_point, self._store, point, use)

    def tell(self) -> None:
        """Tell all streams how the store stands now."""
        self._description = self._described()
        for inbox in self._inboxes:
            inbox.wake()

    def _describe(self, store: Store) -> pb.DescribeResponse:
        return to_description(store.status.current, store.features, self._message_bytes)

    def _described(self) -> bytes:
        return pb.DataResponse(description=self._describe(self._store)).SerializeToString()

    async def subscribe(self, request: pb.DataRequest, context: Context) -> None:
        if self._stopping:
            # Its client is told to go elsewhere, instead of being held until the grace is over.
            raise SourceUnavailable("the server is shutting down")
        since = request.since or dict(request.revisions) or None
        keys, match = _selected(request)
        watch = self._store.awatch_batches(
            *keys,
            match=match,
            since=since,
            # Another store's stream, whose subscribers may have read later states meanwhile.
            transient=request.deletes,
        )
        with _listed(self._streams, asyncio.current_task()):
            async with watch:
                if await self._serve(watch, request, context):
                    return
        # Only the end of the store ends its watches.
        raise StoreClosed("the server's store was closed")

    async def _serve(
        self, watch: AsyncWatch[Batch], request: pb.DataRequest, context: Context
    ) -> bool:
        """Send what `watch` gives; True once all that was asked for is sent."""
        told = self._description if request.describe else b""
        if told:
            # Before there is a batch, which a backend that is away keeps waiting for.
            await _write(context, told)
        # Not `async for`: its steps are coroutines, one more for each stream and batch.
        inbox = await watch.inbox()
        with _listed(self._inboxes, inbox if request.describe else None):
            while (found := inbox.poll()) is not None:
                if told and told is not self._description:
                    told = self._description
                    await _write(context, told)
                if not isinstance(found, Batch):
                    await found
                    continue
                for message in self._messages(found, request.deletes):
                    await _write(context, message)
                if request.once:
                    return True
        return False

    async def stop_streams(self) -> None:
        """End every stream with UNAVAILABLE, so that its client comes back to another server."""
        self._stopping = True
        streams = list(self._streams)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    def _messages(self, batch: Batch, deletes: bool) -> Iterable[bytes]:
        if batch.initial:
            return _convert.to_messages(batch, deletes=deletes)
        key = (id(batch), deletes)
        kept = self._serialised.get(key)
        if kept is None:
            messages = list(_convert.to_messages(batch, deletes=deletes))
            # Keeping the batch itself keeps its id from being given to another one.
            self._serialised[key] = kept = (batch, messages)
            if len(self._serialised) > KEPT_BATCHES:
                del self._serialised[next(iter(self._serialised))]
        return kept[1]

    def _answering(self, name: str, handler: Handler) -> Handler:
        """`handler` with its errors turned into statuses and every call logged."""

        async def answer(request: Any, context: Context) -> Any:
            start = perf_counter()
            outcome = "OK"
            try:
                if isinstance(request, DecodeError):
                    raise InvalidValue("the request is no message of this method") from request
                return await handler(request, context)
            except asyncio.CancelledError:
                outcome = "CANCELLED"
                if self._stopping:
                    outcome = "UNAVAILABLE"
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
                raise
            except _ClientLeft as left:
                outcome = "CANCELLED"
                log.debug("%s: the client left: %s", name, left.__cause__)
            except aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001
                outcome = code_of(error).name
                await _abort(name, error, context)
            finally:
                _log_call(name, context, perf_counter() - start, outcome)

        return answer


async def _abort(name: str, error: Exception, context: Context) -> None:
    if isinstance(error, DatastreamError) and not _is_unexpected(error):
        text = str(error)[:MAX_ERROR_TEXT]
        await context.abort(code_of(error), text, ((NAME, type(error).__name__),))
    # What it was is the server's business; the client learns that it was not its fault.
    log.error("%s failed", name, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "internal error; see the server's log")


def _is_unexpected(error: DatastreamError) -> bool:
    """Whether the store made it of an error that is none of ours, whose text may hold secrets."""
    cause = error.__cause__
    foreign = cause is not None and not isinstance(cause, DatastreamError)
    return foreign and code_of(error) is grpc.StatusCode.INTERNAL


def _log_call(name: str, context: Context, seconds: float, outcome: str) -> None:
    if log.isEnabledFor(logging.INFO):
        log.info("%s %s %.1f ms %s", name, context.peer(), seconds * 1000, outcome)


def _selected(request: pb.DataRequest | pb.ReplayRequest) -> tuple[Sequence[str], Sequence[str]]:
    """Keys and patterns as a store takes them; on the wire a "*" in a key is only a character."""
    if not any("*" in key for key in request.keys):
        return request.keys, tuple(request.match)
    odd = [key for key in request.keys if "*" in key]
    match = [f"{escape(key)}**" if key.endswith("/") else escape(key) for key in odd]
    return [key for key in request.keys if "*" not in key], [*request.match, *match]


def _lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`parse`, with what it raises as its result: gRPC's server would log a traceback."""

    def deserialise(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError as error:
            return error

    return deserialise


def _serialise(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


async def _write(context: Context, message: bytes) -> None:
    try:
        await context.write(message)
    except Exception as error:
        # gRPC has no error of its own for this.
        raise _ClientLeft from error


@contextmanager
def _listed(items: set[T], item: T | None) -> Iterator[None]:
    """Keep `item` in a set while in the block, if there is one."""
    if item is None:
        yield
        return
    items.add(item)
    try:
        yield
    finally:
        items.discard(item)


_EMPTY = Empty()
