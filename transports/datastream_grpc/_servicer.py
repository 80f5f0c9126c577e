"""The methods of DataService over a store, as grpc.aio calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty

from datastream import Batch, ReadOnly, Revision, Store
from datastream_grpc import _convert
from datastream_grpc._access import Access
from datastream_grpc._answering import Answering, Handler
from datastream_grpc._connection import SERVICE
from datastream_grpc._descriptions import Descriptions
from datastream_grpc._follow import Follow
from datastream_grpc._limits import Limits, Meter, check_selected
from datastream_grpc._long_reads import LongReads
from datastream_grpc._open_streams import OpenStreams, begin
from datastream_grpc._outgoing import Context, Outgoing, write
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._pieces import (
    Pieces,
    at_point,
    from_point,
    history_of,
    size_of_batch,
    size_of_revision,
)
from datastream_grpc._principal import Principal, host_or_name, principal_of
from datastream_grpc._requests import checked, is_small, lenient, received, selected
from datastream_grpc._sender import Ready
from datastream_grpc._subscribing import Subscribing
from datastream_grpc._telemetry import Metrics
from datastream_grpc._texts import Texts
from datastream_grpc._untaken import Untaken
from datastream_grpc._writes import Pushes, Writes

T = TypeVar("T")


class Servicer:
    """Answers for one store.

    Args:
        store: what is served.
        message_bytes: what a client may send at once.
        limits: what else a client may ask for.
        access: who may do what.
        address: it listens on, for metrics.
        loop: calls the methods.
        read_only: refuse every write.
    """

    def __init__(
        self,
        store: Store,
        message_bytes: int,
        limits: Limits,
        access: Access,
        address: str,
        *,
        loop: asyncio.AbstractEventLoop,
        read_only: bool,
    ) -> None:
        self._store = store
        self._access = access
        self._read_only = read_only
        self._call, self._run = store.threads.call, store.threads.run
        self.meter = Meter(limits)
        self._texts = Texts(store.name, hides_keys=access.restricts)
        self._writes = Writes(store, access, self._texts, limits.write_bytes)
        self.streams = OpenStreams(self.meter)
        self.metrics = Metrics(address, store.name.partition(":")[0], lambda: len(self.streams))
        self.descriptions = Descriptions(
            store, message_bytes, limits, self._texts, read_only=read_only
        )
        is_memory = store.threads.instant
        self.long_reads = LongReads()
        self._outgoing = Outgoing(
            self._run, self.metrics.updated, self.long_reads, is_memory=is_memory
        )
        self.subscribing = Subscribing(
            store,
            access,
            self.meter,
            self.metrics,
            self.streams,
            self.descriptions,
            self._outgoing,
            Ready(loop),
        )
        self._answering = Answering(self._texts, self.metrics, self.streams, limits.calls)
        self._untaken = Untaken(limits)

    async def finish(self) -> None:
        """After all calls: wait for what is still done beside the loop, which ends with them."""
        await self.long_reads.stop()
        await self.subscribing.leaving.finish()
        await self._writes.aside.finish()

    def handlers(self) -> Any:
        """The methods, to be registered with a server."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods: dict[str, tuple[Any, Handler, Any]] = {
            "ListCapabilities": (unary, self.list_capabilities, pb.ListCapabilitiesRequest),
            "Sync": (unary, self.sync, pb.DataRequest),
            "Snapshot": (stream, self.snapshot, pb.DataRequest),
            "Subscribe": (stream, self.subscribing.subscribe, pb.DataRequest),
            "Follow": (grpc.stream_stream_rpc_method_handler, self.follow, pb.FollowRequest),
            "PushUpdate": (unary, self.push_update, pb.Data),
            "Write": (unary, self.write, pb.WriteRequest),
            "Push": (grpc.stream_stream_rpc_method_handler, self.push, pb.PushRequest),
            "Describe": (unary, self.describe, pb.DescribeRequest),
            "Refresh": (unary, self.refresh, pb.RefreshRequest),
            "History": (stream, self.history, pb.HistoryRequest),
            "Replay": (stream, self.replay, pb.ReplayRequest),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: make(
                    self._answering.around(name, handler, is_stream=make is not unary),
                    request_deserializer=lenient(request.FromString),
                    # Batches are serialised once, for all streams.
                    response_serializer=_serialise if make is unary else None,
                )
                for name, (make, handler, request) in methods.items()
            },
        )

    async def list_capabilities(
        self, request: pb.ListCapabilitiesRequest, context: Context
    ) -> bytes:
        principal = principal_of(context)

        def capabilities(store: Store) -> bytes:
            scope = self._access.scope(principal, (), ())
            return _convert.to_capabilities(scope.capabilities(store))

        make = partial(self._read, principal, capabilities, request.at)
        with self.meter.asked(principal, request):
            return await self._untaken.answer(make, context)

    async def sync(self, request: pb.DataRequest, context: Context) -> bytes:
        check_selected(request, self.meter.limits)
        # To find out takes as long as to answer a small one.
        who = self._access.principal if is_small(request) else principal_of
        principal = who(context)

        def state(store: Store) -> bytes:
            scope = self._access.scope(principal, *selected(request))
            return _convert.to_state(scope.snapshot(store, partial=request.partial))

        make = partial(self._selected, principal, request, state)
        with self.meter.asked(principal, request):
            return await self._untaken.answer(make, context)

    async def snapshot(self, request: pb.DataRequest, context: Context) -> None:
        check_selected(request, self.meter.limits)
        principal = principal_of(context)

        def state(store: Store) -> Batch:
            scope = self._access.scope(principal, *selected(request))
            return scope.snapshot(store, partial=request.partial)

        asked = frozenset(request.keys), frozenset(request.match)
        with self.streams.opened(principal), self.meter.asked(principal, request):
            batch = await self._selected(principal, request, state)
            await begin(context)
            await self._outgoing.send(batch, asked, context, deletes=True, columns=request.columns)

    async def follow(self, requests: AsyncIterator[Any], context: Context) -> None:
        principal = principal_of(context)
        send = partial(self.subscribing.watch, principal=principal)
        asked = partial(self.meter.asked, principal)
        with self.streams.carrying():
            await begin(context)
            follow = Follow(send, asked, context, self._texts, self.meter.limits)
            await follow.take(received(context))

    async def _selected(
        self, principal: Principal, request: pb.DataRequest, use: Callable[[Store], T]
    ) -> T:
        """What `use` finds of what is selected; a few keys wait for no long read."""
        if is_small(request):
            return await self._call(use, self._store)
        return await self._read(principal, use, request.at)

    async def _read(self, principal: Principal, use: Callable[[Store], T], at: str = "") -> T:
        """What `use` finds in the store, or in the store as it was: a read that may take long."""
        read: Callable[[], T] = partial(use, self._store)
        if at:
            read = partial(at_point, self._store, at, use)
        return await self.long_reads.read(principal, partial(self._run, read))

    async def push_update(self, request: pb.Data, context: Context) -> Any:
        # What an ancestor's client sends in fields it does not know cannot be an operation.
        request.ClearField("operation")
        self._check_writable()
        await self._writes.put(request, self._pushing(context, 1))
        return _EMPTY

    async def write(self, request: pb.WriteRequest, context: Context) -> bytes:
        self._check_writable()
        return await self._writes.answer(request, self._pushing(context, len(request.writes)))

    def _pushing(self, context: Context, count: int) -> Principal:
        """Who writes; refused, if that is too often."""
        if self._store.threads.instant and not self.meter.limits.pushes:
            return self._access.principal(context)
        principal = principal_of(context)
        self.meter.check_push(host_or_name(principal), count)
        return principal

    async def push(self, requests: AsyncIterator[Any], context: Context) -> None:
        self._check_writable()
        principal = principal_of(context)
        who = host_or_name(principal)
        instant = self._store.threads.instant
        pushes = Pushes(self._writes, principal, context, instant=instant)
        with self.streams.opened(principal):
            await begin(context)
            try:
                async for request in received(context):
                    if pause := self.meter.push(who, len(checked(request).writes)):
                        await asyncio.sleep(pause)
                    await pushes.take(request.writes)
                    # Not held until the next has come.
                    del request
                await pushes.end()
            finally:
                pushes.cancel()

    async def describe(self, request: pb.DescribeRequest, context: Context) -> Any:
        principal = principal_of(context)
        may_write = self._access.may_write(principal)
        describe = partial(self.descriptions.of, may_write=may_write)
        if request.at:
            with self.meter.asked(principal, request):
                return await self._read(principal, describe, request.at)
        return describe(self._store)

    async def refresh(self, request: pb.RefreshRequest, context: Context) -> Any:
        self._access.check_refresh(self._access.principal(context))
        self._store.refresh()
        return pb.RefreshResponse()

    async def history(self, request: pb.HistoryRequest, context: Context) -> None:
        scope = self._access.scope(self._access.principal(context), (), ())
        may_read = scope.may_read(request.key)
        revisions = partial(history_of, self._store, request.key, request.at, may_read=may_read)

        def messages(piece: Sequence[Revision]) -> Iterable[bytes]:
            return (_convert.to_history(piece).SerializeToString(),)

        pieces = Pieces(revisions, size_of_revision)
        await self._send_past(request, pieces, messages, context)

    async def replay(self, request: pb.ReplayRequest, context: Context) -> None:
        check_selected(request, self.meter.limits)
        scope = self._access.scope(self._access.principal(context), *selected(request))
        batches = partial(scope.replayed, self._store, request.since or None)
        if request.since:
            batches = partial(from_point, batches)

        def messages(piece: Sequence[Batch]) -> Iterable[bytes]:
            for batch in piece:
                yield from _convert.to_messages(batch, deletes=True)

        await self._send_past(request, Pieces(batches, size_of_batch), messages, context)

    async def _send_past(
        self,
        request: pb.HistoryRequest | pb.ReplayRequest,
        pieces: Pieces[T],
        messages: Callable[[Sequence[T]], Iterable[bytes]],
        context: Context,
    ) -> None:
        """Send what an iterator of the store gives, read in threads as the client takes it."""
        principal = principal_of(context)
        asked = self.meter.asked(principal, request)
        read = partial(self.long_reads.read, principal, partial(self._run, pieces.take))
        with self.streams.opened(principal), asked, closing(pieces):
            piece = await read()
            await begin(context)
            while piece:
                for message in await self._run(list, messages(piece)):
                    await write(context, message)
                piece = await read()

    def _check_writable(self) -> None:
        if self._read_only:
            raise ReadOnly("this server can only be read; nothing was written")


def _serialise(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


_EMPTY = Empty()
