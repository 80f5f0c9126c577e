"""Batches on their way to clients: serialised once for all streams, and never long on the loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from datastream import Batch, Entry
from datastream.aio import AsyncWatch
from datastream_grpc import _convert
from datastream_grpc._long_reads import LongReads
from datastream_grpc._principal import Principal, host_or_name
from datastream_grpc._turns import in_turn

KEPT_BATCHES = 16
"""Serialised batches kept for other streams of the same selection."""
KEPT_ENTRIES, KEPT_BYTES = 64, 16 << 10
"""Serialised entries kept for other selections, and what one of them may take."""
FEW_ENTRIES, FEW_BYTES = 256, 1 << 20
"""A batch with more is serialised in a thread: the loop is everybody's."""
LEAST_HELD = 10_000
"""Entries of a state that are held for others before those are looked for that nobody needs."""
JOIN_ALONE = 5.0
"""Seconds for which a stream that reads its state keeps others from reading the same."""

Context: TypeAlias = Any
"""A grpc.aio.ServicerContext: gRPC has no types."""
Asked = tuple[frozenset[str], frozenset[str]]
"""Keys and patterns of a stream."""
Kept: TypeAlias = "tuple[Batch, Sequence[bytes] | asyncio.Task[Any]]"
"""A batch with its messages, or with what becomes them."""


class ClientLeft(Exception):
    """A message could not be sent, because the client is gone."""


class Outgoing:
    """Sends batches.

    Args:
        run: makes a call in a thread.
        updated: takes each batch of changes, once for all streams.
        long_reads: makes those of states.
        is_memory: states consist of the entries that the store holds anyway.
    """

    def __init__(
        self,
        run: Callable[..., Awaitable[Any]],
        updated: Callable[[Batch], None],
        long_reads: LongReads,
        *,
        is_memory: bool,
    ) -> None:
        self._run = run
        self._is_memory = is_memory
        self._updated = updated
        self.long_reads = long_reads
        # By identity: the batches of one selection are one object for all its subscribers. Kept
        # with the batch, whose id is not given to another one as long. Without and with deletes.
        self._kept: tuple[dict[int, Kept], dict[int, Kept]] = {}, {}
        # Likewise, each with its entry.
        self._parts: dict[int, tuple[Entry, bytes]] = {}
        self._state: Callable[[], _State | None] = lambda: None
        # Of a principal, which may have to wait for a place; "" where none is needed.
        self._joins: WeakValueDictionary[tuple[Asked, str], asyncio.Lock] = WeakValueDictionary()

    async def first(
        self, watch: AsyncWatch[Batch], asked: Asked, principal: Principal | None
    ) -> Batch | None:
        """Subscribe a watch: its state; None if that is not there yet.

        Of one selection and principal, one at a time: those that begin together would each hold a
        state of its own until it is shared. One that takes long, as where a backend hangs, keeps
        the next for `JOIN_ALONE` seconds.

        Args:
            principal: whose watch it is; None if its state is small.
        """
        who = "" if principal is None else host_or_name(principal)
        lock = self._joins.setdefault((asked, who), asyncio.Lock())
        async with in_turn(lock, JOIN_ALONE):
            if principal is None:
                return await self._first(watch)
            return await self.long_reads.read(principal, partial(self._first, watch))

    async def _first(self, watch: AsyncWatch[Batch]) -> Batch | None:
        inbox = await watch.inbox()
        first: Batch | None = inbox.take()[0]
        if first is not None and first.initial and _is_large(first):
            first = await self._run(self._state_now().shared, first)
        return first

    async def send(
        self,
        batch: Batch,
        asked: Asked,
        context: Context,
        *,
        deletes: bool,
        columns: bool = False,
    ) -> None:
        """Send one batch to a stream; with `columns`, one of many entries in those."""
        if batch.initial and _is_large(batch):
            # Held until all is sent, and with it by who begins meanwhile.
            state = self._state_now()
            # From here on only what is shared is held: a client that does not read keeps it.
            batch = await self._run(state.shared, batch)
            if columns and deletes:
                # Each takes less than a millisecond, and as long to have a thread make it.
                for part in _convert.to_columned(batch):
                    await write(context, part)
                return
            await self._send_parts(_convert.to_messages(batch, deletes=deletes), context)
            return
        messages = self.ready(batch, deletes)
        if isinstance(messages, asyncio.Task):
            # Not cancelled with the stream that is first: others wait for it, too.
            messages = await asyncio.shield(messages)
        for message in messages:
            await write(context, message)

    async def _send_parts(self, parts: Iterator[bytes], context: Context) -> None:
        """Send messages, the next of which is made meanwhile."""
        made = asyncio.ensure_future(self._made(parts))
        try:
            while (part := await made) is not None:
                made = asyncio.ensure_future(self._made(parts))
                await write(context, part)
        finally:
            made.cancel()

    async def _made(self, parts: Iterator[bytes]) -> bytes | None:
        # Only now: a task that is cancelled before it began would leave it never awaited.
        made: bytes | None = await self._run(next, parts, None)
        return made

    def _state_now(self) -> _State:
        if self._is_memory:
            return _InMemory()
        state = self._state()
        if state is None:
            state = _State()
            self._state = weakref.ref(state)
        return state

    def ready(self, batch: Batch, deletes: bool) -> Sequence[bytes] | asyncio.Task[Any]:
        """The messages of a batch, or what becomes them."""
        known = self._kept[deletes]
        kept = known.get(id(batch))
        if kept is not None:
            return kept[1]
        if batch.initial:
            return list(_convert.to_messages(batch, deletes=deletes))
        if id(batch) not in self._kept[not deletes]:
            self._updated(batch)
        messages = self._serialise(batch, deletes)
        known[id(batch)] = batch, messages
        if len(known) > KEPT_BATCHES:
            del known[next(iter(known))]
        return messages

    def _serialise(self, batch: Batch, deletes: bool) -> Sequence[bytes] | asyncio.Task[Any]:
        if not _is_large(batch):
            return list(_convert.to_messages(batch, deletes=deletes, part_of=self._part_of))
        messages = _convert.to_messages(batch, deletes=deletes)
        return asyncio.ensure_future(_as_coroutine(self._run(list, messages)))

    def _part_of(self, entry: Entry) -> bytes:
        """`_convert.to_part`, once for the batches of all selections: they share their entries."""
        kept = self._parts.get(id(entry))
        if kept is not None:
            return kept[1]
        part = _convert.to_part(entry)
        if len(part) <= KEPT_BYTES:
            self._parts[id(entry)] = entry, part
            if len(self._parts) > KEPT_ENTRIES:
                del self._parts[next(iter(self._parts))]
        return part


class _State:
    """What the streams that begin just now are sent, so that it is held once."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._most = LEAST_HELD
        # Of the streams that still hold one.
        self._batches: WeakValueDictionary[int, Batch] = WeakValueDictionary()
        self._numbers = count()

    def shared(self, batch: Batch) -> Batch:
        """`batch` with the entries that others are sent, where those are the same."""
        if len(self._entries) > self._most:
            self._forget()
        held = self._entries
        entries = []
        for entry in batch.entries:
            other = held.get(entry.key)
            if other is None or other.revision != entry.revision or other != entry:
                held[entry.key] = other = entry
            entries.append(other)
        shared = replace(batch, entries=tuple(entries))
        self._batches[next(self._numbers)] = shared
        return shared

    def _forget(self) -> None:
        """Drop what nobody is sent any more: a client that does not read may keep this for ever."""
        # Not `values`: another thread may add one meanwhile.
        batches = [batch for find in self._batches.valuerefs() if (batch := find()) is not None]
        self._entries = {entry.key: entry for batch in batches for entry in batch.entries}
        self._most = max(LEAST_HELD, 2 * len(self._entries))


class _InMemory(_State):
    """The same of a store that holds its entries, so that they are shared without more."""

    def shared(self, batch: Batch) -> Batch:
        return batch


async def write(context: Context, message: object) -> None:
    """Send one message, serialised or as the method has it.

    Raises:
        ClientLeft: nobody takes it.
    """
    try:
        await context.write(message)
    except Exception as error:
        # gRPC has no error of its own for this.
        raise ClientLeft from error


def _is_large(batch: Batch) -> bool:
    entries = batch.entries
    return len(entries) > FEW_ENTRIES or sum(len(entry.value) for entry in entries) > FEW_BYTES


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
