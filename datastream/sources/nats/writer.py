"""Writes: one message each, sent again under the same id until it is acknowledged."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from typing import Any

from datastream.entry import Entry
from datastream.errors import RevisionConflict, shown
from datastream.source import ANY_REVISION, Write
from datastream.sources.nats.bucket import Info
from datastream.sources.nats.errors import (
    WRONG_SEQUENCE,
    ApiError,
    Changed,
    Unanswered,
    explain,
    is_passing,
    unsure,
)
from datastream.sources.nats.plan import Plan, plan_of
from datastream.sources.nats.reader import PAUSE, Reader
from datastream.sources.nats.together import MOST, Look, Together
from datastream.sources.nats.turns import Turns

FLIGHT = 500
"""Messages that are sent before the first of them is acknowledged."""

ASKED = 100
"""Keys that the leader is asked for together, one by one."""
RECENT = 20_000
"""Keys of which it is remembered what was written here last."""


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
        self._together = Together(self._bucket, self._look_patiently, where, patience)
        self._turns = Turns(patience)
        self._epoch = ""
        # Sequence number and hash of what was written last, by key.
        self._recent: dict[str, tuple[int, int]] = {}

    async def write(self, writes: Sequence[Write]) -> list[Entry]:
        """Do all of `writes`: as batches of the server, where it takes such."""
        await self._turns.wait(write.key for write in writes)
        now, name = datetime.now(UTC), _name_of(writes)
        plans = [
            plan_of(write, self._bucket, now, f"{name}-{number}")
            for number, write in enumerate(writes)
        ]
        # What may fail comes first.
        sure = [plan for plan in plans if plan.write.expect is not None or len(plans) == 1]
        rest = [plan for plan in plans if plan.write.expect is None and len(plans) > 1]
        info, sure = await self._reader.patiently(partial(self._begin, sure))
        epoch = info.position.epoch
        is_alone = not (info.is_atomic and len(writes) > 1)
        for plan in plans:
            plan.check_size(self._bucket.connection.max_payload, info.largest, is_alone=is_alone)
        for plan in sure:
            plan.check(epoch)
        done: dict[str, Entry] = {}
        look = self._look_at_any if info.is_direct else self._look
        do = self._do_apart if is_alone else self._do_together
        try:
            await do(sure, rest, epoch, done, look)
        except Exception as error:
            if len(writes) == 1 or not (done or do == self._do_apart):
                raise
            reason = explain(error, self._where)
            raise type(reason)(f"{reason}; {len(done)} of {len(writes)} were written") from error
        return [done[write.key] for write in writes]

    async def _begin(self, plans: Sequence[Plan]) -> tuple[Info, list[Plan]]:
        """How the bucket stands, and what some keys hold: asked at once, which saves a round."""
        return await asyncio.gather(self._reader.info(), self._look(plans))

    async def _do_together(
        self,
        sure: Sequence[Plan],
        rest: Sequence[Plan],
        epoch: str,
        done: dict[str, Entry],
        look: Look,
    ) -> None:
        """As few batches as can be, one after the other."""
        for start in range(0, len(sure) + len(rest), MOST):
            part = sure[start : start + MOST]
            begin = max(0, start - len(sure))
            others = rest[begin : max(0, start + MOST - len(sure))]
            others = await self._recall(others, epoch, look)
            await self._do_batch(part, others, epoch, done, look)

    async def _do_batch(
        self,
        sure: Sequence[Plan],
        rest: Sequence[Plan],
        epoch: str,
        done: dict[str, Entry],
        look: Look,
    ) -> None:
        """Store those that change anything, on top of what all their keys were seen to hold.

        Raises:
            SourceUnavailable: others changed one of the keys, each time, for too long.
        """
        loop = asyncio.get_running_loop()
        until = math.inf
        with self._turns.of(plan.write.key for plan in (*sure, *rest)) as turn:
            while True:
                try:
                    await self._store([*sure, *rest], epoch, done)
                    return
                except (ApiError, Changed) as error:
                    if isinstance(error, ApiError) and error.number not in WRONG_SEQUENCE:
                        raise
                    if loop.time() > until:
                        place = f"{self._where}, {len(sure) + len(rest)} keys together"
                        raise unsure(place, error, is_sent=False) from error
                await turn.take()
                until = min(until, loop.time() + self._patience)
                sure = await self._look_patiently(sure)
                for plan in sure:
                    plan.check(epoch)
                if rest:
                    rest = await self._reader.patiently(partial(look, rest))

    async def _store(self, plans: Sequence[Plan], epoch: str, done: dict[str, Entry]) -> None:
        """As one batch, those that change anything."""
        wanted = [plan for plan in plans if not plan.is_done()]
        kept = [plan for plan in plans if plan.is_done()]
        first = 0
        if wanted:
            await self._check_kept(kept)
            first = await self._together.store(wanted)
        done |= {plan.write.key: plan.kept(epoch) for plan in kept}
        for sequence, plan in enumerate(wanted, first):
            self._did(plan, epoch, done, sequence)

    async def _check_kept(self, plans: Sequence[Plan]) -> None:
        """Look again at keys that hold already what they shall, beside others that do not.

        Each was looked at alone. What holds at both looks held between them, when the server had
        not yet changed the others either: else `store` is refused. So all is of one moment.

        Raises:
            Changed: one of them has changed.
        """
        again = await self._look_patiently(plans)
        if [plan.sequence for plan in again] != [plan.sequence for plan in plans]:
            raise Changed("others change these keys")

    async def _do_apart(
        self,
        sure: Sequence[Plan],
        rest: Sequence[Plan],
        epoch: str,
        done: dict[str, Entry],
        look: Look,
    ) -> None:
        """One message after the other, then many in flight."""
        for plan in sure:
            await self._do(plan, epoch, done)
        for start in range(0, len(rest), FLIGHT):
            part = await self._recall(rest[start : start + FLIGHT], epoch, look)
            await self._do_all(part, epoch, done)

    async def _do_all(self, plans: Sequence[Plan], epoch: str, done: dict[str, Entry]) -> None:
        """All of them in flight together; the first error once all are over."""
        connection = self._bucket.connection
        flying: dict[asyncio.Future[Any], Plan] = {}
        again: list[Coroutine[Any, Any, None]] = []
        for plan in plans:
            if plan.is_done():
                done[plan.write.key] = plan.kept(epoch)
                continue
            subject, data = self._bucket.address(plan.subject), plan.write.value or b""
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
        (plan,) = await self._look_patiently([plan])
        await self._do(plan, epoch, done)

    async def _recall(
        self,
        plans: Sequence[Plan],
        epoch: str,
        look: Look,
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
        done[plan.write.key] = plan.stored(epoch, sequence)

    async def _look_patiently(self, plans: Sequence[Plan]) -> list[Plan]:
        return await self._reader.patiently(partial(self._look, plans))

    async def _look(self, plans: Sequence[Plan]) -> list[Plan]:
        found: list[Plan] = []
        # Not all at once: the time that an answer has would be over before many are read.
        for start in range(0, len(plans), ASKED):
            part = plans[start : start + ASKED]
            messages = await asyncio.gather(*(self._bucket.last(plan.subject) for plan in part))
            found += [plan.at_last(at) for plan, at in zip(part, messages, strict=True)]
        return found

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
        is_exact = plan.write.expect not in (None, ANY_REVISION, "")
        with self._turns.of([plan.write.key]) as turn:
            while not plan.is_done():
                try:
                    self._did(plan, epoch, done, await self._send(plan, unanswered))
                    return
                except ApiError as error:
                    if error.number not in WRONG_SEQUENCE:
                        raise
                if not is_exact:
                    await turn.take()
                (plan,) = await self._look_patiently([plan])
                plan.check(epoch)
                if is_exact:
                    # Another write is on its way, which the leader knows of and does not show yet.
                    raise RevisionConflict(
                        f"{shown(plan.write.key)} is being changed by somebody else; read it "
                        "again, decide and retry"
                    )
        done[plan.write.key] = plan.kept(epoch)

    async def _send(self, plan: Plan, unanswered: int) -> int:
        """Publish until it is acknowledged: servers know the id of what they have stored."""
        connection = self._bucket.connection
        loop = asyncio.get_running_loop()
        start = loop.time()
        subject, data = self._bucket.address(plan.subject), plan.write.value or b""
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
                    raise unsure(self._place(plan), error, is_sent=is_sent) from error
            await asyncio.sleep(PAUSE)

    async def _found(self, plan: Plan, error: Exception) -> int:
        """The key has changed since the first attempt: perhaps by that.

        Raises:
            SourceUnavailable: by somebody else, before or after it.
        """
        (now,) = await self._look_patiently([plan])
        current = now.current
        if current is None or not now.is_stored:
            raise unsure(self._place(plan), error, is_sent=True) from error
        return current.sequence

    def _place(self, plan: Plan) -> str:
        return f"{self._where}, key {shown(plan.write.key)}"


def _name_of(writes: Sequence[Write]) -> str:
    """What servers know them by; the same where they come again, as after a lost answer.

    Servers drop what they know, and clients that count their writes have the same ids.
    """
    given = next((write.id for write in writes if write.id), "")
    if not given:
        return secrets.token_hex(12)
    name = blake2b(given.encode(), digest_size=12)
    for write in writes:
        name.update(f"\0{write.key}\0".encode())
        name.update(b"\0" if write.value is None else write.value)
    return name.hexdigest()
