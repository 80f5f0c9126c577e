"""The end of a bucket as the poller follows it: one long consumer for what everybody selects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from time import monotonic

from datastream.source import Reading
from datastream.sources.nats.bucket import Info
from datastream.sources.nats.consumer import Consumer
from datastream.sources.nats.filters import ALL
from datastream.sources.nats.position import Position
from datastream.sources.nats.reader import Reader, reached, told

SELDOM = 60.0
"""Seconds between two full looks at a bucket whose markers expire, as they are meant to."""


class Tail:
    """Follows the union of all selections.

    Args:
        reader: of the bucket.
        patience: seconds that a read may take.
        news: set whenever there may be something to read.
    """

    def __init__(self, reader: Reader, patience: float, news: threading.Event) -> None:
        self._reader = reader
        self._patience = patience
        self._news = news
        self._consumer: Consumer | None = None
        self._epoch = ""
        # Held for memory work, by any thread that reads.
        self._lock = threading.Lock()
        self._base = 0
        self._opening = asyncio.Lock()
        self._releases = 0
        self._known: Position | None = None
        self._has_lost = False
        """Keys are gone, of which no message tells."""
        # The state that was read therefore: where it leads, and from where.
        self._told = self._since = ""
        self._looked = float("-inf")
        self._is_short = False
        """Fewer keys are there than there were, and it was too soon to look at all of them."""

    @property
    def is_running(self) -> bool:
        """Whether something will be heard of the next change."""
        consumer = self._consumer
        return consumer is not None and not consumer.is_over

    async def after(self, filters: Sequence[str], since: str) -> Reading:
        """What changed after a position, at least all that this source has told of."""
        position = Position.parse(since)
        if position is None:
            return await self._reader.changes(filters, since)
        consumer = self._usable(filters, position)
        if consumer is None:
            # One opens it, for all.
            async with self._opening:
                consumer = self._usable(filters, position)
                if consumer is None:
                    consumer = await self._open(filters, position)
        if since == self._told != self._since:
            self._taken()
        if consumer is None or self._has_lost:
            return await self._state(filters, since)
        await consumer.reach(self._reader.shown, self._patience)
        return self._reading(consumer, position)

    def arrived(self, filters: Sequence[str], since: str) -> Reading | None:
        """The same, from any thread, if all of it is there already."""
        position = Position.parse(since)
        consumer = None if position is None else self._usable(filters, position)
        if position is None or consumer is None or self._has_lost or consumer.is_torn:
            return None
        return self._reading(consumer, position) if consumer.last >= self._reader.shown else None

    def published(self, position: str) -> None:
        """A state at a position was: perhaps that which was read because keys are lost."""
        if position == self._told:
            self._taken()

    def _taken(self) -> None:
        self._has_lost, self._told = False, ""

    async def release(self) -> None:
        """Nobody watches any more."""
        self._releases += 1
        self._replace(None)

    async def check(self) -> Info:
        """Ask how the bucket stands, and find out what nobody says: that keys are lost."""
        info = await self._reader.info()
        before, self._known = self._known, info.position
        if before is not None and before.epoch != info.position.epoch:
            # Of a bucket that is no more, nothing comes.
            self._replace(None)
            self._news.set()
        elif before is not None and self._may_have_lost(info, before):
            self._has_lost, self._is_short, self._told = True, False, ""
            self._news.set()
        return info

    def _may_have_lost(self, info: Info, before: Position) -> bool:
        if not info.present and info.position != before:
            # What came since the last look is gone too.
            return True
        self._is_short = self._is_short or info.present < before.subjects
        if not self._is_short:
            # As many keys as before are not the same, where others came meanwhile.
            return info.expires_in_silence and info.position != before
        return not (info.forgets and info.present) or monotonic() - self._looked > SELDOM

    def _usable(self, filters: Sequence[str], position: Position) -> Consumer | None:
        consumer = self._consumer
        if consumer is None or consumer.is_over or position.sequence < consumer.start - 1:
            return None
        if position.epoch != self._epoch:
            return None
        covers = consumer.filters == ALL or set(filters) <= set(consumer.filters)
        return consumer if covers else None

    async def _open(self, filters: Sequence[str], position: Position) -> Consumer | None:
        """A consumer that goes on from `position`, None if the bucket cannot tell."""
        releases = self._releases
        info = await self._reader.info()
        self._known = info.position
        if not await self._reader.holds(position, info, live=True):
            return None
        self._reader.saw(info.position.epoch, info.position.sequence)
        consumer = Consumer(self._reader.bucket, filters, position.sequence + 1, self._news.set)
        await consumer.open()
        if releases != self._releases:
            self._reader.leave(consumer)
            return consumer
        self._epoch, self._base = position.epoch, position.sequence
        self._replace(consumer)
        return consumer

    async def _state(self, filters: Sequence[str], since: str) -> Reading:
        """All there is; again and again, until it was taken."""
        self._looked = monotonic()
        reading = await self._reader.state(filters)
        self._told, self._since = reading.position, since
        self._news.set()
        return reading

    def _reading(self, consumer: Consumer, position: Position) -> Reading:
        with self._lock:
            if consumer is self._consumer and position.sequence < self._base:
                # Somebody has gone on from a later one: what this one is told is outrun.
                return Reading((), position.text, False)
            if consumer is self._consumer:
                self._base = position.sequence
            messages = consumer.after(position.sequence)
            if consumer.is_torn:
                # The rest of it may be nothing that is selected: it is asked for.
                self._news.set()
        at = reached(position, messages)
        if self._known is not None and self._known.sequence <= at.sequence:
            at = at._replace(subjects=self._known.subjects)
        self._reader.saw(at.epoch, at.sequence)
        return told(messages, at)

    def _replace(self, consumer: Consumer | None) -> None:
        replaced, self._consumer = self._consumer, consumer
        if replaced is not None:
            self._reader.leave(replaced)
