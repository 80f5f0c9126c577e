"""Sends watches: each for one client, made anew where that falls behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial

from datastream import Batch, SourceUnavailable, Store, StoreClosed
from datastream._secrets import logger
from datastream.aio import AsyncWatch, Inbox, Overflow
from datastream_grpc._access import Access
from datastream_grpc._answering import SHUTTING_DOWN
from datastream_grpc._aside import Aside
from datastream_grpc._descriptions import Descriptions
from datastream_grpc._heartbeats import Heartbeats, heartbeat_of
from datastream_grpc._limits import Charged, Meter, check_selected
from datastream_grpc._open_streams import OpenStreams, begin, listed
from datastream_grpc._opening import Opening, Place
from datastream_grpc._outgoing import Context, Outgoing, write
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._principal import Principal, principal_of
from datastream_grpc._requests import is_small, selected
from datastream_grpc._scope import Scope
from datastream_grpc._sender import Ready, Sender
from datastream_grpc._telemetry import Metrics

log = logger("datastream.grpc")


@dataclass(frozen=True, eq=False)
class Subscribing:
    """Answers Subscribe and sends the watches of Follow, with what all of them share."""

    store: Store
    access: Access
    meter: Meter
    metrics: Metrics
    streams: OpenStreams
    descriptions: Descriptions
    outgoing: Outgoing
    ready: Ready
    leaving: Aside = field(default_factory=partial(Aside, 1))
    """Ends watches: each waits for the same lock."""
    watchers: set[tuple[str, int]] = field(default_factory=set)
    """The address of the client of each watch, with what tells two of one client apart."""

    async def subscribe(self, request: pb.DataRequest, context: Context) -> None:
        """Answer one call."""
        principal = principal_of(context)
        with self.meter.asked(principal, request):
            await self.watch(request, context, principal=principal)

    async def watch(
        self, request: pb.DataRequest, context: Context, *, principal: Principal
    ) -> None:
        """Send one watch until it ends."""
        if self.streams.stopping:
            # Its client is told to go elsewhere, instead of being held until the grace is over.
            raise SourceUnavailable(SHUTTING_DOWN)
        check_selected(request, self.meter.limits)
        watcher = (context.peer(), id(context))
        with listed(self.watchers, watcher), self.streams.opened(principal) as charge:
            stream = Stream(self, request, principal, charge, context)
            while not await stream.watched():
                # What it may read has changed, or it was too far behind: it goes on from there.
                pass


class Stream:
    """One call of Subscribe, or one watch of Follow.

    Args:
        shared: with the others.
        request: what is asked for.
        principal: who asks.
        charge: counts what waits for the client.
        context: of the call.
    """

    def __init__(
        self,
        shared: Subscribing,
        request: pb.DataRequest,
        principal: Principal,
        charge: Charged,
        context: Context,
    ) -> None:
        self._shared = shared
        self._request = request
        self._principal = principal
        self._charge = charge
        self._context = context
        self._place: Place | None = None
        self._asked = frozenset(request.keys), frozenset(request.match)
        self._heartbeat = heartbeat_of(request)
        # The description that the client was sent; b"" if it did not ask for any.
        self._told = b""
        self._has_begun = False

    async def watched(self) -> bool:
        """Send one watch; False if the stream goes on with another."""
        shared = self._shared
        threads = shared.store.threads
        if is_small(self._request):
            opening = await threads.call(self._opening)
        else:
            make = partial(threads.run, self._opening)
            opening = await shared.outgoing.long_reads.read(self._principal, make)
        try:
            # It subscribes in its turn, once the client knows how the store is.
            async with self._ending(opening.watch):
                if await self._send(opening):
                    return True
        except Overflow:
            shared.metrics.behind += 1
            log.info("Subscribe %s: too far behind, goes on from its cursor", self._principal.peer)
            return False
        if not opening.scope.is_current:
            opening.place.start_over()
            return False
        # Only the end of the store ends its watches.
        raise StoreClosed("the server's store was closed")

    @asynccontextmanager
    async def _ending(self, watch: AsyncWatch[Batch]) -> AsyncIterator[None]:
        """Around a watch; how long its end takes is no matter of other streams."""
        try:
            yield
        finally:
            if is_small(self._request):
                await watch.aclose()
            else:
                await self._shared.leaving.run(watch.leave)

    def _opening(self) -> Opening:
        request = self._request
        scope = self._shared.access.scope(self._principal, *selected(request))
        if self._place is None:
            self._place = Place(request)
        return Opening(self._shared.store, scope, self._place, request, self._charge)

    async def _send(self, opening: Opening) -> bool:
        """Send what is watched; True once all that was asked for is sent."""
        shared, scope, request = self._shared, opening.scope, self._request
        # Before there is a batch, which a backend that is away keeps waiting for.
        await self._describe(scope)
        reader = None if is_small(request) else self._principal
        found = await shared.outgoing.first(opening.watch, self._asked, reader)
        await self._begin()
        inbox = await opening.watch.inbox()
        sender = self._sender(opening, inbox)
        with (
            shared.descriptions.following(sender.interrupt if request.describe else None),
            shared.access.following(scope, sender.interrupt),
            closing(self._heartbeats(opening, sender)) as heartbeats,
        ):
            while scope.is_current and not sender.is_over:
                await self._describe(scope)
                if found is not None:
                    sending = self._sending(opening, found)
                    # What is sent is held by who sends it, for no longer than that takes.
                    found = None
                    if sending is not None:
                        await sending
                        if request.once:
                            return True
                    heartbeats.begin()
                found = await sender.run()
        return False

    async def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            await begin(self._context)

    async def _describe(self, scope: Scope) -> None:
        """Send the description, if it was asked for and has changed."""
        description = self._shared.descriptions.messages[scope.may_write]
        if self._request.describe and self._told is not description:
            self._told = description
            await self._begin()
            await write(self._context, description)

    def _sending(self, opening: Opening, batch: Batch) -> Awaitable[None] | None:
        """Sends a batch that takes longer; None if nothing of it is for this client."""
        shared = self._shared
        is_state, scope = batch.initial, opening.scope
        batch = opening.first(batch) if is_state else shared.access.shown(scope, batch)
        opening.place.sent(batch)
        if not (batch.initial or batch.entries):
            return None
        request = self._request
        return shared.outgoing.send(
            batch, self._asked, self._context, deletes=request.deletes, columns=request.columns
        )

    def _heartbeats(self, opening: Opening, sender: Sender) -> Heartbeats:
        shared, scope = self._shared, opening.scope

        def reached() -> str | None:
            cursor = shared.store.reached()
            return cursor and scope.shown(Batch(cursor=cursor)).cursor

        return Heartbeats(self._heartbeat, reached, opening.place, sender, shared.ready)

    def _sender(self, opening: Opening, inbox: Inbox) -> Sender:
        shared, scope, place = self._shared, opening.scope, opening.place
        shown, ready, sent = shared.access.shown, shared.outgoing.ready, place.sent
        is_narrowed, deletes = bool(scope.mark), self._request.deletes

        def messages_of(batch: Batch) -> Sequence[bytes] | None:
            if batch.initial:
                return None
            if is_narrowed:
                batch = shown(scope, batch)
            messages = ready(batch, deletes) if batch.entries else ()
            if isinstance(messages, asyncio.Task):
                return None
            sent(batch)
            return messages

        return Sender(inbox, self._context, messages_of, shared.metrics, shared.ready)
