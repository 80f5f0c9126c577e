"""Writes: one message each, sent again under the same id until it is acknowledged."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from datastream.entry import Entry, deleted
from datastream.errors import InvalidKey, InvalidValue, RevisionConflict, SourceUnavailable, shown
from datastream.source import ANY_REVISION, Write, check_expected
from datastream.sources.nats.errors import WRONG_SEQUENCE, ApiError, Unanswered, explain
from datastream.sources.nats.keys import to_subject
from datastream.sources.nats.messages import (
    EXPECTED,
    MESSAGE_ID,
    TYPE,
    Message,
    headers_of,
    revision_of,
    size_of,
)
from datastream.sources.nats.reader import LOST, PAUSE, Reader

LONGEST = 3_500
"""Bytes of a subject: servers take command lines of 4,096."""
FLIGHT = 500
"""Messages that are sent before the first of them is acknowledged."""


class Plan(NamedTuple):
    """One write, with what its key holds now."""

    write: Write
    subject: str
    headers: dict[str, str]
    at: datetime
    current: Message | None
    """The newest message of the key, which may say that it is deleted."""

    @property
    def holds(self) -> Message | None:
        """The same, if the key holds something."""
        current = self.current
        return None if current is None or current.is_delete else current

    def is_done(self) -> bool:
        """Whether the key holds just that already."""
        now = self.holds
        if now is None or self.write.value is None:
            return now is None and self.write.value is None
        return now.data == self.write.value and now.headers.get(TYPE) == self.headers[TYPE]


class Writer:
    """Writes to one bucket; all of it on the source's loop.

    Args:
        reader: of the same bucket.
        where: what error texts call it.
        patience: seconds for which a write that is not acknowledged is tried again.
    """

    def __init__(self, reader: Reader, where: str, patience: float) -> None:
        self._reader = reader
        self._bucket = reader.bucket
        self._where = where
        self._patience = patience

    async def write(self, writes: Sequence[Write]) -> list[Entry]:
        """Do all of `writes`; those with conditions first, since they may fail."""
        info = await self._reader.patiently(self._reader.info)
        epoch = info.position.epoch
        plans = [self._plan(write, info.largest) for write in writes]
        plans = await self._reader.patiently(partial(self._look, plans))
        for plan in plans:
            check_expected(plan.write, _revision(plan, epoch))
        done: dict[str, Entry] = {}
        try:
            for plan in plans:
                if plan.write.expect is not None:
                    await self._do(plan, epoch, done)
            rest = [plan for plan in plans if plan.write.expect is None]
            for start in range(0, len(rest), FLIGHT):
                await self._do_all(rest[start : start + FLIGHT], epoch, done)
        except Exception as error:
            if len(writes) == 1:
                raise
            reason = explain(error, self._where)
            raise type(reason)(f"{reason}; {len(done)} of {len(writes)} were written") from error
        return [done[write.key] for write in writes]

    async def _do_all(self, plans: Sequence[Plan], epoch: str, done: dict[str, Entry]) -> None:
        """All of them in flight together; the first error once all are over."""
        ends = await asyncio.gather(
            *(self._do(plan, epoch, done) for plan in plans), return_exceptions=True
        )
        for error in ends:
            if error is not None:
                raise error

    def _plan(self, write: Write, largest: int) -> Plan:
        subject = to_subject(write.key)
        if len(self._bucket.prefix) + len(subject) > LONGEST:
            raise InvalidKey(
                f"{shown(write.key)} takes {len(subject)} bytes as a subject of NATS, {LONGEST} "
                "are possible; choose a shorter one"
            )
        at = write.updated_at or datetime.now(UTC)
        headers = headers_of(write, at)
        headers[MESSAGE_ID] = secrets.token_hex(12)
        size = size_of(headers) + len(write.value or b"") + 100
        limit = self._bucket.connection.max_payload
        if size > limit or 0 < largest < size:
            name = "max_payload of the server" if size > limit else "max_value_size of the bucket"
            raise InvalidValue(
                f"{shown(write.key)}: {len(write.value or b''):,} bytes are more than {name} "
                f"allows, {min(limit, largest) if largest > 0 else limit:,} with headers; nothing "
                "was written"
            )
        return Plan(write, subject, headers, at, None)

    async def _look(self, plans: Sequence[Plan]) -> list[Plan]:
        found = await asyncio.gather(*(self._bucket.last(plan.subject) for plan in plans))
        pairs = zip(plans, found, strict=True)
        return [plan._replace(current=message) for plan, message in pairs]

    async def _do(self, plan: Plan, epoch: str, done: dict[str, Entry]) -> None:
        """One write, on top of what its key was seen to hold.

        Also where nothing is expected: what was sent to a server that hangs may reach the bucket
        much later, and must not replace what was written and acknowledged meanwhile.
        """
        while not plan.is_done():
            headers = plan.headers | {EXPECTED: str(plan.current.sequence if plan.current else 0)}
            try:
                done[plan.write.key] = _entry(plan, epoch, await self._send(plan, epoch, headers))
                return
            except ApiError as error:
                if error.number not in WRONG_SEQUENCE:
                    raise
            (plan,) = await self._reader.patiently(partial(self._look, [plan]))
            check_expected(plan.write, _revision(plan, epoch))
            if plan.write.expect not in (None, ANY_REVISION, ""):
                # Another write is on its way, which the leader knows of and does not show yet.
                raise RevisionConflict(
                    f"{shown(plan.write.key)} is being changed by somebody else; read it again, "
                    "decide and retry"
                )
        done[plan.write.key] = _kept(plan, epoch)

    async def _send(self, plan: Plan, epoch: str, headers: Mapping[str, str]) -> int:
        """Publish until it is acknowledged: servers know the id of what they have stored."""
        connection = self._bucket.connection
        loop = asyncio.get_running_loop()
        start, unanswered = loop.time(), 0
        subject, data = self._bucket.prefix + plan.subject, plan.write.value or b""
        while True:
            is_sent = unanswered > 0
            try:
                future = await connection.send(subject, data, headers)
                is_sent = True
                answer = await connection.acknowledged(future, connection.attempt)
            except Unanswered as error:
                unanswered += is_sent
                if loop.time() + PAUSE >= start + (self._patience if is_sent else LOST):
                    raise self._unknown(plan, error, is_sent=is_sent) from error
                await asyncio.sleep(PAUSE)
            except ApiError as error:
                if not unanswered or error.number not in WRONG_SEQUENCE:
                    raise
                return await self._found(plan, epoch, error)
            else:
                self._reader.saw(epoch, answer["seq"])
                return int(answer["seq"])

    async def _found(self, plan: Plan, epoch: str, error: Exception) -> int:
        """The key has changed since the first attempt: perhaps by that.

        Raises:
            SourceUnavailable: by somebody else, before or after it.
        """
        (now,) = await self._reader.patiently(partial(self._look, [plan]))
        current = now.current
        if current is None or current.headers.get(MESSAGE_ID) != plan.headers[MESSAGE_ID]:
            raise self._unknown(plan, error, is_sent=True) from error
        self._reader.saw(epoch, current.sequence)
        return current.sequence

    def _unknown(self, plan: Plan, error: Exception, *, is_sent: bool) -> SourceUnavailable:
        outcome = (
            "the write may or may not have been done: read it again, decide and retry"
            if is_sent
            else "nothing was written"
        )
        return SourceUnavailable(f"{self._where}, key {shown(plan.write.key)}: {error}; {outcome}")


def _revision(plan: Plan, epoch: str) -> str | None:
    now = plan.holds
    return None if now is None else revision_of(epoch, now.sequence)


def _kept(plan: Plan, epoch: str) -> Entry:
    now = plan.holds
    return deleted(plan.write.key, plan.at) if now is None else now.entry(epoch)


def _entry(plan: Plan, epoch: str, sequence: int) -> Entry:
    write = plan.write
    if write.value is None:
        return deleted(write.key, plan.at)
    return Entry(write.key, write.value, write.value_type, plan.at, revision_of(epoch, sequence))
