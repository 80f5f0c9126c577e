"""The methods of DataService over a store, as grpc.aio calls them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing, contextmanager
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from grpc import aio

from datastream import (
    Batch,
    Feature,
    InvalidValue,
    ReadOnly,
    Revision,
    SourceUnavailable,
    Store,
    StoreClosed,
)
from datastream._secrets import logger
from datastream.aio import Inbox, Overflow
from datastream.selection import escape
from datastream.source import WRITING
from datastream_grpc import _convert
from datastream_grpc._access import Access
from datastream_grpc._connection import SERVICE
from datastream_grpc._description import to_description
from datastream_grpc._details import details_of
from datastream_grpc._follow import Follow
from datastream_grpc._limits import Charged, LimitReached, Limits, Meter, check_selected
from datastream_grpc._opening import Opening, Place
from datastream_grpc._outgoing import ClientLeft, Context, Outgoing, write
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._pieces import Pieces, at_point, history_of
from datastream_grpc._principal import Principal, host_or_name, principal_of
from datastream_grpc._status import NAME, code_of, to_answer
from datastream_grpc._telemetry import Metrics, span
from datastream_grpc._texts import Texts
from datastream_grpc._writes import Pushes, Writes

FEW_KEYS, FEW_CHARS = 16, 1000
"""What a request may have of keys, and characters of each, to be answered on the loop by stores
that do no I/O."""
SHUTTING_DOWN = "the server is shutting down"
NO_MESSAGE = InvalidValue("the request is no message of this method")
OF_WRITES = WRITING | {Feature.MESSAGES, Feature.TTL}
LONG_READS = 8
"""Reads of many keys at once; others wait."""

log = logger("datastream.grpc")

T = TypeVar("T")
Handler = Callable[[Any, Context], Awaitable[Any]]


class Servicer:
    """Answers for one store.

    Args:
        store: what is served.
        message_bytes: what a client may send at once.
        limits: what else a client may ask for.
        access: who may do what.
        address: it listens on, for metrics.
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
        read_only: bool,
    ) -> None:
        self._access = access
        self._meter = Meter(limits)
        self._texts = Texts(store.name, hides_keys=access.restricts)
        self._read_only = read_only
        self._store = store
        self._message_bytes = message_bytes
        # What it says of itself as a message, and who waits in a stream that wants to know it.
        self._descriptions = self._described()
        self._inboxes: set[Inbox] = set()
        self._call = store.threads.call
        self._streams: set[asyncio.Task[Any]] = set()
        # Streams that carry those of one client; they count no more than what they carry.
        self._carriers: set[asyncio.Task[Any]] = set()
        self.watchers: set[tuple[str, int]] = set()
        """The address of the client of each watch, with what tells two of one client apart."""
        self._stopping = False
        # Calls and streams.
        self._running = 0
        self._writes = Writes(store, access, self._texts)
        self._run = store.threads.run
        self._metrics = Metrics(address, store.name.partition(":")[0], self._count_streams)
        is_memory = store.threads.instant
        self._outgoing = Outgoing(self._run, self._metrics.updated, is_memory=is_memory)
        # Of reads that may take long: as many as leave cores and threads to all others.
        self._long_reads = asyncio.Semaphore(LONG_READS)

    def handlers(self) -> Any:
        """The methods, to be registered with a server."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods: dict[str, tuple[Any, Handler, Any]] = {
            "ListCapabilities": (unary, self.list_capabilities, pb.ListCapabilitiesRequest),
            "Sync": (unary, self.sync, pb.DataRequest),
            "Snapshot": (stream, self.snapshot, pb.DataRequest),
            "Subscribe": (stream, self.subscribe, pb.DataRequest),
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
                    self._answering(name, handler, is_stream=make is not unary),
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
        principal = self._access.principal(context)

        def capabilities(store: Store) -> bytes:
            scope = self._access.scope(principal, (), ())
            return _convert.to_capabilities(scope.capabilities(store))

        return await self._read(capabilities, request.at)

    async def sync(self, request: pb.DataRequest, context: Context) -> bytes:
        check_selected(request, self._meter.limits)
        principal = self._access.principal(context)

        def state(store: Store) -> bytes:
            scope = self._access.scope(principal, *selected(request))
            return _convert.to_state(scope.snapshot(store, partial=request.partial))

        if _is_small(request):
            return await self._call(state, self._store)
        return await self._read(state, request.at)

    async def snapshot(self, request: pb.DataRequest, context: Context) -> None:
        check_selected(request, self._meter.limits)
        principal = principal_of(context)

        def state(store: Store) -> Batch:
            scope = self._access.scope(principal, *selected(request))
            batch = scope.snapshot(store, partial=request.partial)
            return _convert.bare(batch) if request.bare else batch

        asked = frozenset(request.keys), frozenset(request.match)
        if request.bare:
            # Keys that follow each other and revisions of one backend are much alike.
            context.set_compression(grpc.Compression.Gzip)
        with self._stream(principal):
            if _is_small(request):
                batch = await self._call(state, self._store)
            else:
                batch = await self._read(state, request.at)
            await self._outgoing.send(batch, asked, context, deletes=True, columns=request.columns)

    async def _read(self, use: Callable[[Store], T], at: str = "") -> T:
        """What `use` finds in the store, or in the store as it was: a read that may take long."""
        async with self._long_reads:
            if at:
                return await self._run(at_point, self._store, at, use)
            return await self._run(use, self._store)

    async def push_update(self, request: pb.Data, context: Context) -> Any:
        # What an ancestor's client sends in fields it does not know cannot be an operation.
        request.ClearField("operation")
        self._check_writable()
        self._access.check_writes(self._pushing(context, 1), [(request.key, False)])
        await self._call(self._store.write, _convert.to_write(request))
        return _EMPTY

    async def write(self, request: pb.WriteRequest, context: Context) -> bytes:
        self._check_writable()
        return await self._writes.answer(request, self._pushing(context, len(request.writes)))

    def _pushing(self, context: Context, count: int) -> Principal:
        """Who writes; refused, if that is too often."""
        if not self._meter.limits.pushes:
            return self._access.principal(context)
        principal = principal_of(context)
        self._meter.check_push(host_or_name(principal), count)
        return principal

    async def push(self, requests: AsyncIterator[Any], context: Context) -> None:
        self._check_writable()
        principal = principal_of(context)
        who = host_or_name(principal)
        instant = self._store.threads.instant
        pushes = Pushes(self._writes, principal, context, instant=instant)
        with self._stream(principal):
            try:
                async for request in requests:
                    if isinstance(request, DecodeError):
                        raise NO_MESSAGE
                    if pause := self._meter.push(who, len(request.writes)):
                        await asyncio.sleep(pause)
                    await pushes.take(request.writes)
                await pushes.end()
            finally:
                pushes.cancel()

    async def describe(self, request: pb.DescribeRequest, context: Context) -> Any:
        may_write = self._access.may_write(self._access.principal(context))
        describe = partial(self._describe, may_write=may_write)
        if request.at:
            return await self._read(describe, request.at)
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

        await self._send_past(revisions, messages, context)

    async def replay(self, request: pb.ReplayRequest, context: Context) -> None:
        check_selected(request, self._meter.limits)
        scope = self._access.scope(self._access.principal(context), *selected(request))
        batches = partial(scope.replayed, self._store, request.since or None)

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
        with self._stream(principal_of(context)), closing(Pieces(start)) as pieces:
            while piece := await self._run(pieces.take):
                for message in await self._run(list, messages(piece)):
                    await write(context, message)

    @contextmanager
    def _stream(self, principal: Principal) -> Iterator[Charged]:
        """Around a stream, which counts for its principal and ends with the server."""
        with (
            _listed(self._streams, asyncio.current_task()),
            self._meter.stream(host_or_name(principal), principal.peer) as charge,
        ):
            yield charge

    def tell(self) -> None:
        """Tell all streams how the store stands now."""
        self._descriptions = self._described()
        for inbox in self._inboxes:
            inbox.wake()

    def _describe(self, store: Store, *, may_write: bool) -> pb.DescribeResponse:
        may_write = may_write and not self._read_only
        features = store.features if may_write else store.features - OF_WRITES
        limits = self._meter.limits
        return to_description(
            store.status.current, features, self._message_bytes, limits, self._texts.public
        )

    def _check_writable(self) -> None:
        if self._read_only:
            raise ReadOnly("this server can only be read; nothing was written")

    def _described(self) -> Mapping[bool, bytes]:
        """What it says of itself in streams, to those who may write and to those who may not."""
        store = self._store
        return {
            may_write: pb.DataResponse(
                description=self._describe(store, may_write=may_write)
            ).SerializeToString()
            for may_write in (True, False)
        }

    async def subscribe(self, request: pb.DataRequest, context: Context) -> None:
        await self._watch(request, context, principal=principal_of(context))

    async def follow(self, requests: AsyncIterator[Any], context: Context) -> None:
        send = partial(self._watch, principal=principal_of(context))
        with _listed(self._carriers, asyncio.current_task()):
            await Follow(send, context, self._texts).take(requests)

    async def _watch(
        self, request: pb.DataRequest, context: Context, *, principal: Principal
    ) -> None:
        """Send one watch until it ends."""
        if self._stopping:
            # Its client is told to go elsewhere, instead of being held until the grace is over.
            raise SourceUnavailable(SHUTTING_DOWN)
        check_selected(request, self._meter.limits)
        watcher = (context.peer(), id(context))
        with _listed(self.watchers, watcher), self._stream(principal) as charge:
            place = Place(request)
            while not await self._watched(request, principal, place, charge, context):
                # What it may read has changed, or it was too far behind: it goes on from there.
                pass

    async def _watched(
        self,
        request: pb.DataRequest,
        principal: Principal,
        place: Place,
        charge: Charged,
        context: Context,
    ) -> bool:
        """Send one watch; False if the stream goes on with another."""

        def begin() -> Opening:
            scope = self._access.scope(principal, *selected(request))
            return Opening(self._store, scope, place, request, charge)

        opening = await (self._call if _is_small(request) else self._run)(begin)
        try:
            async with opening.watch:
                if await self._serve(opening, request, context):
                    return True
        except Overflow:
            self._metrics.behind += 1
            log.info("Subscribe %s: too far behind, goes on from its cursor", principal.peer)
            return False
        if not opening.scope.is_current:
            place.start_over()
            return False
        # Only the end of the store ends its watches.
        raise StoreClosed("the server's store was closed")

    async def _serve(self, opening: Opening, request: pb.DataRequest, context: Context) -> bool:
        """Send what is watched; True once all that was asked for is sent."""
        watch, scope = opening.watch, opening.scope
        told = self._descriptions[scope.may_write] if request.describe else b""
        if told:
            # Before there is a batch, which a backend that is away keeps waiting for.
            await write(context, told)
        asked = frozenset(request.keys), frozenset(request.match)
        outgoing, deletes, metrics = self._outgoing, request.deletes, self._metrics
        # Not `async for`: its steps are coroutines, one more for each stream and batch.
        polled = await outgoing.joined(watch, asked)
        inbox = await watch.inbox()
        with (
            _listed(self._inboxes, inbox if request.describe else None),
            self._access.following(scope, inbox.wake),
        ):
            while scope.is_current and (found := next(polled, None)) is not None:
                if told and told is not self._descriptions[scope.may_write]:
                    told = self._descriptions[scope.may_write]
                    await write(context, told)
                if not isinstance(found, Batch):
                    await found
                    continue
                found = opening.first(found) if found.initial else self._access.shown(scope, found)
                opening.place.sent(found)
                if not (found.initial or found.entries):
                    continue
                if not found.initial and isinstance(
                    messages := outgoing.ready(found, deletes), list
                ):
                    # The usual case, for which a coroutine more would take a tenth of the time.
                    try:
                        for message in messages:
                            await context.write(message)
                            metrics.deliveries += 1
                    except Exception as error:
                        raise ClientLeft from error
                    continue
                sending = outgoing.send(
                    found, asked, context, deletes=deletes, columns=request.columns
                )
                # What is sent is held by who sends it, for no longer than that takes.
                found = None
                await sending
                if request.once:
                    return True
        return False

    async def stop_streams(self) -> None:
        """End every stream with UNAVAILABLE, so that its client comes back to another server."""
        self._stopping = True
        streams = [*self._streams, *self._carriers]
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def _abort(self, name: str, error: Exception, request: Any, context: Context) -> None:
        known, text = to_answer(error)
        if not known:
            log.error("%s failed", name, exc_info=error)
        public = self._texts.of(error, text, partial(_bytes_of, request))
        if public != text:
            log.info("%s %s: %s", name, context.peer(), text)
        code = code_of(error)
        named = ((NAME, known),) if known else ()
        await context.abort(code, public, (*named, *details_of(code, known, public)))

    def _count_streams(self) -> int:
        return len(self._streams)

    def _answering(self, name: str, handler: Handler, *, is_stream: bool) -> Handler:
        """`handler` with its errors turned into statuses and every call logged."""

        async def answer(request: Any, context: Context) -> Any:
            start = perf_counter()
            # Not known any more after a deadline.
            peer = context.peer() if log.isEnabledFor(logging.INFO) else ""
            outcome = "OK"
            self._running += 1
            try:
                if self._running > self._meter.limits.calls:
                    raise LimitReached(f"{self._running - 1} calls run already; try again later")
                if isinstance(request, DecodeError):
                    raise NO_MESSAGE from request
                if is_stream:
                    return await handler(request, context)
                with span(name, context.invocation_metadata()):
                    return await handler(request, context)
            except asyncio.CancelledError:
                outcome = "CANCELLED" if has_time(context) else "DEADLINE_EXCEEDED"
                if self._stopping:
                    outcome = "UNAVAILABLE"
                    code = grpc.StatusCode.UNAVAILABLE
                    await context.abort(code, SHUTTING_DOWN, details_of(code, "", SHUTTING_DOWN))
                raise
            except ClientLeft as left:
                outcome = "CANCELLED"
                log.debug("%s: the client left: %s", name, left.__cause__)
            except aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001
                outcome = code_of(error).name
                await self._abort(name, error, request, context)
            finally:
                self._running -= 1
                seconds = perf_counter() - start
                self._metrics.called(name, outcome, seconds)
                _log_call(name, peer, seconds, outcome)

        return answer


def _log_call(name: str, peer: str, seconds: float, outcome: str) -> None:
    if peer:
        log.info("%s %s %.1f ms %s", name, peer, seconds * 1000, outcome)


def selected(request: pb.DataRequest | pb.ReplayRequest) -> tuple[Sequence[str], Sequence[str]]:
    """Keys and patterns as a store takes them; on the wire a "*" in a key is only a character."""
    if not any("*" in key for key in request.keys):
        return request.keys, tuple(request.match)
    odd = [key for key in request.keys if "*" in key]
    match = [f"{escape(key)}**" if key.endswith("/") else escape(key) for key in odd]
    return [key for key in request.keys if "*" not in key], [*request.match, *match]


def _is_small(request: pb.DataRequest) -> bool:
    """Whether it selects a few keys, as of now: an answer takes no time worth a thread."""
    keys = request.keys
    is_few = 0 < len(keys) <= FEW_KEYS and not (request.match or request.revisions or request.at)
    return is_few and not any(key.endswith("/") or len(key) > FEW_CHARS for key in keys)


def lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`parse`, with what it raises as its result: gRPC's server would log a traceback."""

    def deserialise(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError as error:
            return error

    return deserialise


def _bytes_of(request: Any) -> bytes:
    """What a client has sent, as far as it is one message."""
    return request.SerializeToString() if isinstance(request, Message) else b""


def has_time(context: Context) -> bool:
    """Whether the deadline of a call is not over, if it has one."""
    left = context.time_remaining()
    return left is None or left > 0


def _serialise(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


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
