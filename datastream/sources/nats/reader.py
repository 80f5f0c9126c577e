"""Reads of a bucket: one key, its state, and what changed since a position."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from datastream.entry import Entry
from datastream.source import Reading
from datastream.sources.nats.bucket import Bucket, Info
from datastream.sources.nats.consumer import Consumer
from datastream.sources.nats.errors import Disconnected, Outrun, is_passing
from datastream.sources.nats.messages import Message, newest, present
from datastream.sources.nats.position import Position

PAUSE = 0.1
"""Seconds before a call is made again."""
FRESH = 10.0
"""Seconds for which what was acknowledged is believed more than what a leader says."""


T = TypeVar("T")


class Reader:
    """Reads one bucket; all of it on the source's loop.

    Args:
        bucket: which.
        patience: seconds that a read may take.
    """

    def __init__(self, bucket: Bucket, patience: float) -> None:
        self.bucket = bucket
        self._patience = patience
        self.shown = 0
        """The last sequence number that a read or write of this source has told of."""
        self._epoch = ""
        self._behind_since: float | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def patiently(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a call that changes nothing until it is answered: a cluster may choose a leader."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            try:
                return await call()
            except Exception as error:
                is_lost = isinstance(error, Disconnected)
                left = start + (self.bucket.connection.timeout if is_lost else self._patience)
                if not is_passing(error) or loop.time() + PAUSE >= left:
                    raise
            await asyncio.sleep(PAUSE)

    async def info(self) -> Info:
        """How the bucket stands.

        Raises:
            Outrun: who answers does not know of what was acknowledged. Not for long: the bucket
                may have been restored.
        """
        # Other calls go on meanwhile, and may show more than it will say.
        shown = self.shown
        info = await self.bucket.info()
        epoch, last = info.position[:2]
        if epoch != self._epoch:
            # Another bucket of that name counts from one.
            self._epoch, self.shown = epoch, last
            return info
        if last >= shown:
            self._behind_since = None
            return info
        now = asyncio.get_running_loop().time()
        self._behind_since = self._behind_since or now
        if now - self._behind_since < FRESH:
            raise Outrun(
                f"its leader is at {last} and has acknowledged {shown}: it lags behind, or the "
                "bucket was restored; it is asked again"
            )
        self.shown, self._behind_since = 0, None
        return info

    async def reach(self) -> None:
        """Have no later read show less than there is now."""
        info = await self.info()
        self.saw(info.position.epoch, info.position.sequence)

    async def get(self, subject: str) -> Entry | None:
        """The entry of a key, by the leader."""
        info, message = await asyncio.gather(self.bucket.info(), self.bucket.last(subject))
        if message is None:
            return None
        self.saw(info.position.epoch, message.sequence)
        return None if message.is_delete else message.entry(info.position.epoch)

    async def state(self, filters: Sequence[str], info: Info | None = None) -> Reading:
        """What the keys hold, at least as of when this was called."""
        info = info or await self.info()
        messages: list[Message] = []
        if info.present:
            messages = await self._collect(filters, 0, info)
        position = reached(info.position, messages)
        self.saw(position.epoch, position.sequence)
        return Reading(present(messages, position.epoch), position.text, True)

    async def changes(self, filters: Sequence[str], since: str) -> Reading:
        """What changed after a position; the state, if the bucket cannot tell."""
        info = await self.info()
        position = Position.parse(since)
        if position is None or not await self.holds(position, info):
            return await self.state(filters, info)
        if position.sequence == info.position.sequence:
            return Reading((), since, False)
        messages = await self._collect(filters, position.sequence + 1, info)
        at = reached(info.position, messages)
        self.saw(at.epoch, at.sequence)
        return told(messages, at)

    async def holds(self, position: Position, info: Info, *, live: bool = False) -> bool:
        """Whether all that has happened since `position` can be told.

        Args:
            live: what has gone since in silence is found otherwise.
        """
        now = info.position
        if position.epoch != now.epoch or position.sequence > now.sequence:
            return False
        if info.present < position.subjects:
            # Somebody has purged it: of what is gone, nothing is left.
            return False
        if not live and (info.expires_in_silence or not (info.present or now.sequence == 0)):
            # What there was may be gone without a word, and an empty state costs nothing.
            return False
        if position.sequence == now.sequence:
            return position.at == now.at
        if position.sequence and 0 < info.forgets < info.now - position.at:
            # Where nothing was known, nothing that is forgotten is missed.
            return False
        # In a bucket that was restored, other messages have the numbers of those that are lost.
        first = await self.bucket.first_after(position.at)
        return first is not None and first.sequence > position.sequence

    def saw(self, epoch: str, sequence: int) -> None:
        """No later read of that bucket may show less."""
        if epoch == self._epoch:
            self.shown = max(self.shown, sequence)

    def leave(self, consumer: Consumer) -> None:
        """Have a consumer removed, which nobody waits for."""
        task = asyncio.create_task(consumer.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Wait until all consumers are removed."""
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def past(self, filters: Sequence[str]) -> tuple[Info, list[Message]]:
        """All messages that there are."""
        info = await self.info()
        return info, await self._collect(filters, 1, info) if info.present else []

    async def _collect(self, filters: Sequence[str], start: int, info: Info) -> list[Message]:
        consumer = Consumer(self.bucket, filters, start)
        try:
            await consumer.open()
            await consumer.reach(
                info.position.sequence,
                self._patience,
                all_now=True,
                is_alone=info.replicas == 1,
            )
            return consumer.after(0)
        finally:
            self.leave(consumer)


def reached(position: Position, messages: Sequence[Message]) -> Position:
    """Where one is who was at `position` and has these messages."""
    if not messages or messages[-1].sequence <= position.sequence:
        return position
    last = messages[-1]
    return position._replace(sequence=last.sequence, at=last.at)


def told(messages: Iterable[Message], position: Position) -> Reading:
    """What messages say, each key once."""
    found = list(newest(messages).values())
    entries = [message.entry(position.epoch) for message in found]
    batch = found[0].batch if found else ""
    if not found or any(not batch or message.batch != batch for message in found[1:]):
        return Reading(entries, position.text, False)
    return Reading(
        entries,
        position.text,
        False,
        author=found[0].author,
        message=found[0].reason,
        point=str(found[-1].end),
    )
