"""Writes of clients, each done once: one that comes again is answered as before."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from hashlib import blake2b
from time import monotonic
from typing import NamedTuple

from datastream import DatastreamError, Store
from datastream_grpc import _convert, _shared_ids
from datastream_grpc._access import Access
from datastream_grpc._answering import told
from datastream_grpc._aside import Aside
from datastream_grpc._convert import MESSAGE_BYTES
from datastream_grpc._outgoing import ClientLeft, Context, write
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._principal import Principal, host_or_name
from datastream_grpc._sender import SLICE
from datastream_grpc._shared_ids import Known, answer_again
from datastream_grpc._texts import Texts
from datastream_grpc._under_way import Room, UnderWay

REMEMBERED, REMEMBERED_BYTES = 10_000, 16 << 20
"""Answers that are kept for writes that come again."""
IN_FLIGHT = 64
"""Writes of one stream that are done at the same time."""
UNSENT = 1 << 20
"""Bytes of answers that the client of a stream may leave unread, before its next write is done."""
FEW_WRITES = 64
"""A request with more is done in a thread, also where a store does no I/O."""
LOOKED_AT = 3
"""Of these, at the same time, before they are done."""


class _About(NamedTuple):
    """What has to be known of a request."""

    id: str
    """As one of its sender."""
    name: str
    """By what it is known if it comes again; "" if it has no id."""
    unread: Collection[str]
    """Its keys that its sender may not read."""

    def shown(self, answer: bytes) -> bytes:
        """An answer as the sender may see it."""
        return without_traces(answer, self.unread) if self.unread else answer


class Writes:
    """Does the writes of one server.

    Args:
        store: what is written.
        access: who may write it.
        texts: makes those of errors.
        most: bytes of the writes of a principal that are under way.
    """

    def __init__(self, store: Store, access: Access, texts: Texts, most: int) -> None:
        self.texts = texts
        self.under_way = UnderWay(most)
        self.aside = Aside(LOOKED_AT)
        """Looks at requests of many writes."""
        self._store = store
        self._access = access
        self._ids = _shared_ids.of_process
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        # Those being done, by the id under which they may come again meanwhile.
        self._running: dict[str, asyncio.Future[bytes]] = {}

    async def answer(
        self, request: pb.WriteRequest, principal: Principal, room: Room | None = None
    ) -> bytes:
        """Do what a request asks for, unless that was done before: the answer, serialised.

        Args:
            room: for it; without, it may be refused for want of that.
        """
        if len(request.writes) <= FEW_WRITES:
            about = self._about(request, principal)
            return about.shown(await self._answered(request, principal, about, room))
        if room is None:
            room = self.under_way.room(host_or_name(principal), request.ByteSize())
        # From here on, also while it is looked at: threads hold it, though its client may leave.
        running = asyncio.ensure_future(self._answer_many(request, principal, room))
        room.hold(running)
        return await asyncio.shield(running)

    async def _answer_many(
        self, request: pb.WriteRequest, principal: Principal, room: Room
    ) -> bytes:
        # Millions of writes may be none at all, and the loop is everybody's.
        about = await self.aside.run(self._about, request, principal)
        answer = await self._answered(request, principal, about, room)
        return await self.aside.run(about.shown, answer)

    def _about(self, request: pb.WriteRequest, principal: Principal) -> _About:
        """What has to be known of a request before it is done.

        Raises:
            Forbidden: the sender may not write that.
        """
        self._access.check_writes(principal, map(_asked_of, request.writes))
        # An id is a client's own: nobody is given the answer to another.
        id = request.id
        if id and principal.name:
            id = f"{principal.name}\0{id}"
        unread = self._access.unread(principal, (item.data.key for item in request.writes))
        return _About(id, _name_of(request, id), unread)

    async def _answered(
        self, request: pb.WriteRequest, principal: Principal, about: _About, room: Room | None
    ) -> bytes:
        id, name, _ = about
        known = self._answers.get(name) if name else None
        if known is not None:
            return known
        threads = self._store.threads
        if threads.instant and len(request.writes) <= FEW_WRITES:
            return self._keep(name, write_all(self._store, request, id))
        running = self._running.get(name) if name else None
        if running is None:
            if room is None:
                room = self.under_way.room(host_or_name(principal), request.ByteSize())
            running = asyncio.ensure_future(self._write(request, id, name))
            room.hold(running)
            if name:
                self._running[name] = running
                running.add_done_callback(lambda done: self._done(name, done))
        # It goes on though its client may leave, and who asks again gets the same answer.
        return await asyncio.shield(running)

    async def put(self, data: pb.Data, principal: Principal) -> None:
        """Put one value, as an ancestor's client asks for it."""
        self._access.check_writes(principal, [(data.key, False)])
        write = _convert.to_write(data)
        threads = self._store.threads
        if threads.instant:
            self._store.write(write)
            return
        room = self.under_way.room(host_or_name(principal), data.ByteSize())
        running = asyncio.ensure_future(threads.call(self._store.write, write))
        room.hold(running)
        # It goes on though its client may leave.
        await asyncio.shield(running)

    async def _write(self, request: pb.WriteRequest, id: str, name: str) -> bytes:
        run, ids = self._store.threads.run, self._ids
        if ids is None or not name:
            return await run(write_all, self._store, request, id)
        known = ids.begin(name)
        if known is not Known.NOTHING:
            return await run(answer_again, self._store, request, known)
        try:
            answer = await run(write_all, self._store, request, id)
        except Exception:
            ids.failed(name)
            raise
        ids.done(name)
        return answer

    def _done(self, key: str, done: asyncio.Future[bytes]) -> None:
        self._running.pop(key, None)
        if not done.cancelled() and done.exception() is None:
            self._keep(key, done.result())

    def _keep(self, key: str, answer: bytes) -> bytes:
        if key and len(answer) < REMEMBERED_BYTES:
            self._answers[key] = answer
            self._bytes += len(answer)
            while len(self._answers) > REMEMBERED or self._bytes > REMEMBERED_BYTES:
                self._bytes -= len(self._answers.popitem(last=False)[1])
        return answer


def _name_of(request: pb.WriteRequest, id: str) -> str:
    """By what a write is known that comes again; "" for one without an id.

    Clients may count theirs, each from 1. So one with other content is another write, and is done.
    As long for any id: thousands are remembered.
    """
    if not id:
        return ""
    content = blake2b(repr((id, request.author, request.message)).encode(), digest_size=32)
    for item in request.writes:
        content.update(item.SerializeToString())
    return content.hexdigest()


def _asked_of(item: pb.WriteItem) -> tuple[str, bool]:
    """The key of one write, and whether the answer tells what is there."""
    return item.data.key, item.HasField("expect")


def write_all(store: Store, request: pb.WriteRequest, id: str) -> bytes:
    """What a request asks for, in one go; `id` is that of the request and of its sender."""
    writes = [_convert.of_item(item) for item in request.writes]
    if request.message or request.author:
        message, author = request.message, request.author
        writes = [write._replace(message=message, author=author) for write in writes]
    if id:
        # A relay passes it on: what comes again by another way is known where it was done.
        writes = [write._replace(id=id) for write in writes]
    return _convert.to_stored(store.write(*writes))


def without_traces(answer: bytes, keys: Collection[str]) -> bytes:
    """An answer without what tells whether some keys held the same before."""
    response = pb.WriteResponse.FromString(answer)
    for data in response.entries:
        if data.key in keys:
            data.ClearField("revision")
            data.ClearField("updated_at")
    return response.SerializeToString()


def _keys_of(request: pb.WriteRequest) -> set[str]:
    return {item.data.key for item in request.writes}


class Pushes:
    """The writes of one stream: those for one key in their order, others beside each other.

    Args:
        writes: does them.
        principal: whose they are.
        instant: they take no time worth a task.
        context: of the call, which takes the answers.
    """

    def __init__(
        self, writes: Writes, principal: Principal, context: Context, *, instant: bool
    ) -> None:
        self._writes = writes
        self._under_way = writes.under_way
        self._principal = principal
        self._who = host_or_name(principal)
        self._context = context
        self._instant = instant
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)
        self._last: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: deque[pb.PushAnswer] = deque()
        self._unsent = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_sending = False

    async def take(self, requests: Iterable[pb.WriteRequest]) -> None:
        """Begin all of them; waits while very many are in flight."""
        until = monotonic() + SLICE
        for request in requests:
            if self._instant:
                await self._do(request)
            else:
                is_few = len(request.writes) <= FEW_WRITES
                keys = _keys_of(request) if is_few else await asyncio.to_thread(_keys_of, request)
                await self._in_flight.acquire()
                await self._has_room.wait()
                room = await self._under_way.wait(self._who, request.ByteSize())
                self._begin(request, keys, room)
            if monotonic() > until:
                # One message may have millions, and the loop is everybody's.
                await self._send()
                await asyncio.sleep(0)
                until = monotonic() + SLICE
        await self._send()

    async def end(self) -> None:
        """Wait until all are answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Answer nothing any more; writes that were begun are done."""
        for task in self._tasks:
            task.cancel()

    def _begin(self, request: pb.WriteRequest, keys: Collection[str], room: Room) -> None:
        before = {self._last[key] for key in keys if key in self._last}
        task = asyncio.create_task(self._do(request, before, room))
        self._tasks.add(task)
        self._last.update(dict.fromkeys(keys, task))
        task.add_done_callback(lambda done: self._ended(done, keys, room))

    def _ended(self, task: asyncio.Task[None], keys: Iterable[str], room: Room) -> None:
        room.leave()
        self._in_flight.release()
        self._tasks.discard(task)
        for key in keys:
            if self._last.get(key) is task:
                del self._last[key]

    async def _do(
        self,
        request: pb.WriteRequest,
        before: Collection[asyncio.Task[None]] = (),
        room: Room | None = None,
    ) -> None:
        if before:
            await asyncio.wait(before)
        try:
            outcome: bytes | Exception = await self._writes.answer(request, self._principal, room)
        except Exception as error:  # noqa: BLE001
            outcome = error
        self._add(self._answer(request, outcome))
        if not self._instant:
            await self._send()

    def _add(self, answer: pb.PushAnswer) -> None:
        self._answers.append(answer)
        self._unsent += answer.ByteSize()
        if self._unsent > UNSENT:
            self._has_room.clear()

    async def _send(self) -> None:
        """Send what is answered, in few messages that any client takes."""
        if self._is_sending:
            return
        self._is_sending = True
        try:
            while self._answers:
                response = pb.PushResponse(answers=self._taken())
                await write(self._context, response.SerializeToString())
        except ClientLeft:
            # What it wrote is written all the same; the call ends by itself.
            return
        finally:
            self._is_sending = False

    def _taken(self) -> list[pb.PushAnswer]:
        """The next answers that travel together."""
        together: list[pb.PushAnswer] = []
        size = 0
        while self._answers:
            size += self._answers[0].ByteSize()
            if together and size > MESSAGE_BYTES:
                break
            answer = self._answers.popleft()
            self._unsent -= answer.ByteSize()
            together.append(answer)
        if self._unsent <= UNSENT:
            self._has_room.set()
        return together

    def _answer(self, request: pb.WriteRequest, outcome: bytes | Exception) -> pb.PushAnswer:
        if isinstance(outcome, bytes):
            response = pb.WriteResponse.FromString(outcome)
            return pb.PushAnswer(id=request.id, response=response)
        texts, sent = self._writes.texts, request.SerializeToString
        known, text = told("Push", outcome, self._context, texts, sent)
        return pb.PushAnswer(id=request.id, error=known or DatastreamError.__name__, text=text)
