"""Writes: one message each, sent again under the same id until it is acknowledged."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from datastream.entry import Entry, deleted
from datastream.errors import InvalidKey, InvalidValue, RevisionConflict, SourceUnavailable, shown
from datastream.source import ANY_REVISION, Write, check_expected
from datastream.sources.nats.errors import (
    IN_PROCESS,
    WRONG_SEQUENCE,
    ApiError,
    Unanswered,
    explain,
    is_passing,
)
from datastream.sources.nats.keys import to_subject
from datastream.sources.nats.messages import (
    EXPECTED,
    MESSAGE_ID,
    TTL,
    TYPE,
    Message,
    headers_of,
    revision_of,
    size_of,
)
from datastream.sources.nats.reader import PAUSE, Reader

LONGEST = 3_500
"""Bytes of a subject: servers take command lines of 4,096."""
FLIGHT = 500
"""Messages that are sent before the first of them is acknowledged."""


SHORTEST = 1.0
"""Seconds that a key can be kept at least."""
RECENT = 20_000
"""Keys of which it is remembered what was written here last."""


class Plan(NamedTuple):
    """One write, with what its key holds now."""

    write: Write
    subject: str
    headers: dict[str, str]
    at: datetime
    current: Message | None = None
    """The newest message of the key, which may say that it is deleted."""
    sequence: int = 0
    """Its sequence number, perhaps from memory; 0 if there is none."""

    @property
    def content(self) -> tuple[object, str]:
        """What makes it another one than the last; with a ttl, that it is another one."""
        is_other = self.headers[MESSAGE_ID] if TTL in self.headers else ""
        return self.write.value, self.headers.get(TYPE, "") + is_other

    def at_last(self, message: Message | None) -> Plan:
        """The same, now that the newest message is known."""
        return self._replace(current=message, sequence=message.sequence if message else 0)

    @property
    def holds(self) -> Message | None:
        """The same, if the key holds something."""
        current = self.current
        return None if current is None or current.is_delete else current

    def conditional(self) -> dict[str, str]:
        """Headers by which it is refused if the key has changed."""
        return self.headers | {EXPECTED: str(self.sequence)}

    def is_done(self) -> bool:
        """Whether the key holds just that already."""
        now = self.holds
        if now is None or self.write.value is None:
            is_known = self.current is not None or self.sequence == 0
            return is_known and now is None and self.write.value is None
        if TTL in self.headers or TTL in now.headers:
            # Counted from here on.
            return False
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
        self._epoch = ""
        # Sequence number and hash of what was written last, by key.
        self._recent: dict[str, tuple[int, int]] = {}

    async def write(self, writes: Sequence[Write]) -> list[Entry]:
        """Do all of `writes`; those with conditions first, since they may fail."""
        info = await self._reader.patiently(self._reader.info)
        epoch = info.position.epoch
        now, name = datetime.now(UTC), secrets.token_hex(12)
        plans = [
            self._plan(write, write.updated_at or now, f"{name}-{number}", info.largest)
            for number, write in enumerate(writes)
        ]
        sure = [plan for plan in plans if plan.write.expect is not None or len(plans) == 1]
        sure = await self._reader.patiently(partial(self._look, sure))
        for plan in sure:
            check_expected(plan.write, _revision(plan, epoch))
        done: dict[str, Entry] = {}
        try:
            for plan in sure:
                await self._do(plan, epoch, done)
            rest = [plan for plan in plans if plan.write.expect is None] if len(plans) > 1 else []
            look = self._look_at_any if info.is_direct else self._look
            for start in range(0, len(rest), FLIGHT):
                part = await self._recall(rest[start : start + FLIGHT], epoch, look)
                await self._do_all(part, epoch, done)
        except Exception as error:
            if len(writes) == 1:
                raise
            reason = explain(error, self._where)
            raise type(reason)(f"{reason}; {len(done)} of {len(writes)} were written") from error
        return [done[write.key] for write in writes]

    async def _do_all(self, plans: Sequence[Plan], epoch: str, done: dict[str, Entry]) -> None:
        """All of them in flight together; the first error once all are over."""
        connection = self._bucket.connection
        flying: dict[asyncio.Future[Any], Plan] = {}
        again: list[Coroutine[Any, Any, None]] = []
        for plan in plans:
            if plan.is_done():
                done[plan.write.key] = _kept(plan, epoch)
                continue
            subject, data = self._bucket.prefix + plan.subject, plan.write.value or b""
            try:
                flying[await connection.send(subject, data, plan.conditional())] = plan
            except Unanswered:
                again.append(self._do(plan, epoch, done))
        if flying:
            await asyncio.wait(flying, timeout=connection.attempt)
        for future, plan in flying.items():
            try:
                self._did(plan, epoch, done, connection.answered(future)["seq"])
            except Unanswered:
                again.append(self._do(plan, epoch, done, unanswered=1))
            except ApiError as error:
                again.append(self._refused(plan, epoch, done, error))
        for end in await asyncio.gather(*again, return_exceptions=True):
            if end is not None:
                raise end

    async def _refused(
        self, plan: Plan, epoch: str, done: dict[str, Entry], error: ApiError
    ) -> None:
        """Look again at what its key holds, if that is why."""
        if error.number not in WRONG_SEQUENCE:
            raise error
        (plan,) = await self._reader.patiently(partial(self._look, [plan]))
        await self._do(plan, epoch, done)

    async def _recall(
        self,
        plans: Sequence[Plan],
        epoch: str,
        look: Callable[[Sequence[Plan]], Coroutine[Any, Any, list[Plan]]],
    ) -> list[Plan]:
        """What their keys hold: as it was written here last, else by a look.

        Memory may be wrong, which shows when a write is refused. That nothing has to be written
        is not believed of it.
        """
        known, unknown = [], []
        for plan in plans:
            sequence, content = self._recent.get(plan.write.key, (0, 0))
            if sequence and content != hash(plan.content) and self._epoch == epoch:
                known.append(plan._replace(sequence=sequence))
            else:
                unknown.append(plan)
        if unknown:
            known += await self._reader.patiently(partial(look, unknown))
        return known

    def _did(self, plan: Plan, epoch: str, done: dict[str, Entry], sequence: int) -> None:
        """It is stored: remember that."""
        self._reader.saw(epoch, sequence)
        if self._epoch != epoch:
            self._epoch = epoch
            self._recent.clear()
        self._recent[plan.write.key] = sequence, hash(plan.content)
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        done[plan.write.key] = _entry(plan, epoch, sequence)

    def _plan(self, write: Write, at: datetime, name: str, largest: int) -> Plan:
        subject = to_subject(write.key)
        if len(self._bucket.prefix) + len(subject) > LONGEST:
            raise InvalidKey(
                f"{shown(write.key)} takes {len(subject)} bytes as a subject of NATS, {LONGEST} "
                "are possible; choose a shorter one"
            )
        if write.ttl is not None and write.ttl < SHORTEST:
            raise InvalidValue(f"{shown(write.key)}: a ttl on nats is at least {SHORTEST:g} s")
        headers = headers_of(write, at)
        headers[MESSAGE_ID] = name
        size = size_of(headers) + len(write.value or b"") + 100
        limit = self._bucket.connection.max_payload
        if size > limit or 0 < largest < size:
            name = "max_payload of the server" if size > limit else "max_value_size of the bucket"
            raise InvalidValue(
                f"{shown(write.key)}: {len(write.value or b''):,} bytes are more than {name} "
                f"allows, {min(limit, largest) if largest > 0 else limit:,} with headers; nothing "
                "was written"
            )
        return Plan(write, subject, headers, at)

    async def _look(self, plans: Sequence[Plan]) -> list[Plan]:
        found = await asyncio.gather(*(self._bucket.last(plan.subject) for plan in plans))
        pairs = zip(plans, found, strict=True)
        return [plan.at_last(message) for plan, message in pairs]

    async def _look_at_any(self, plans: Sequence[Plan]) -> list[Plan]:
        """By any server. What it has missed shows when a write is refused.

        That nothing has to be written is believed of the leader only.
        """
        found = await self._bucket.last_many([plan.subject for plan in plans])
        plans = [plan.at_last(found.get(plan.subject)) for plan in plans]
        unsure = [plan for plan in plans if plan.is_done()]
        return [plan for plan in plans if not plan.is_done()] + await self._look(unsure)

    async def _do(
        self, plan: Plan, epoch: str, done: dict[str, Entry], *, unanswered: int = 0
    ) -> None:
        """One write, on top of what its key was seen to hold.

        Also where nothing is expected: what was sent to a server that hangs may reach the bucket
        much later, and must not replace what was written and acknowledged meanwhile.
        """
        while not plan.is_done():
            try:
                self._did(plan, epoch, done, await self._send(plan, unanswered))
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

    async def _send(self, plan: Plan, unanswered: int) -> int:
        """Publish until it is acknowledged: servers know the id of what they have stored."""
        connection = self._bucket.connection
        loop = asyncio.get_running_loop()
        start = loop.time()
        subject, data = self._bucket.prefix + plan.subject, plan.write.value or b""
        while True:
            is_sent = unanswered > 0
            try:
                future = await connection.send(subject, data, plan.conditional())
                is_sent = True
                answer = await connection.acknowledged(future, connection.attempt)
                return int(answer["seq"])
            except (Unanswered, ApiError) as error:
                if isinstance(error, ApiError) and error.number in WRONG_SEQUENCE and unanswered:
                    return await self._found(plan, error)
                if not is_passing(error):
                    raise
                unanswered += is_sent
                patience = self._patience if is_sent else connection.timeout
                if loop.time() + PAUSE >= start + patience:
                    raise self._unknown(plan, error, is_sent=is_sent) from error
            await asyncio.sleep(PAUSE)

    async def _found(self, plan: Plan, error: Exception) -> int:
        """The key has changed since the first attempt: perhaps by that.

        Raises:
            SourceUnavailable: by somebody else, before or after it.
        """
        (now,) = await self._reader.patiently(partial(self._look, [plan]))
        current = now.current
        if current is None or current.headers.get(MESSAGE_ID) != plan.headers[MESSAGE_ID]:
            raise self._unknown(plan, error, is_sent=True) from error
        return current.sequence

    def _unknown(self, plan: Plan, error: Exception, *, is_sent: bool) -> SourceUnavailable:
        outcome = (
            "the write may or may not have been done: read it again, decide and retry"
            if is_sent
            else "nothing was written"
        )
        if isinstance(error, ApiError) and error.number == IN_PROCESS:
            why = "no quorum of the cluster has stored it yet"
        else:
            why = str(error)
        return SourceUnavailable(f"{self._where}, key {shown(plan.write.key)}: {why}; {outcome}")


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
