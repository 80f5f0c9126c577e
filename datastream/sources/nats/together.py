"""Several writes as one batch of the server: all of them are stored, in one go, or none is."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from datastream.sources.nats.bucket import Bucket
from datastream.sources.nats.errors import (
    DUPLICATE,
    WRONG_SEQUENCE,
    ApiError,
    Unanswered,
    is_passing,
    unsure,
)
from datastream.sources.nats.messages import BATCH, COMMIT, NUMBER, SIZE
from datastream.sources.nats.plan import Plan
from datastream.sources.nats.reader import PAUSE

MOST = 1_000
"""Messages that servers take in one batch."""
BREATH = 100
"""Messages after which what was sent goes out, while the rest is made."""

Look = Callable[[Sequence[Plan]], Coroutine[Any, Any, list[Plan]]]


class Together:
    """Sends batches, each again until it is acknowledged: servers know the ids of its messages.

    Args:
        bucket: where to.
        look: finds what keys hold now, by the leader.
        where: what error texts call the bucket.
        patience: seconds for which a batch that is not acknowledged is tried again.
    """

    def __init__(self, bucket: Bucket, look: Look, where: str, patience: float) -> None:
        self._bucket = bucket
        self._look = look
        self._where = where
        self._patience = patience

    async def store(self, plans: Sequence[Plan]) -> int:
        """Store all of `plans`, at most `MOST`; the sequence number of the first.

        Raises:
            ApiError: nothing was stored; if it is one of `WRONG_SEQUENCE`, since a key has changed.
            SourceUnavailable: nothing was acknowledged.
        """
        connection = self._bucket.connection
        loop = asyncio.get_running_loop()
        start, attempts, may_be_stored = loop.time(), 0, False
        while True:
            is_sent = False
            try:
                waiting = await self._send(plans, asks=attempts > 0)
                is_sent = True
                return await self._acknowledged(waiting) - len(plans) + 1
            except (Unanswered, ApiError) as error:
                if _says_stored(error) or (may_be_stored and _says_changed(error)):
                    return await self._found(plans, error)
                if not is_passing(error):
                    raise
                may_be_stored |= is_sent
                patience = self._patience if may_be_stored else connection.timeout
                if loop.time() + PAUSE >= start + patience:
                    raise unsure(self._place(plans), error, is_sent=may_be_stored) from error
            attempts += 1
            await asyncio.sleep(PAUSE)

    async def _send(self, plans: Sequence[Plan], *, asks: bool) -> list[asyncio.Future[Any]]:
        """Publish them; what gets the answer to the first and, in the end, to the last.

        Args:
            asks: have each answered, to learn which one is refused.
        """
        connection = self._bucket.connection
        name, last = secrets.token_hex(12), len(plans)
        waiting = []
        for number, plan in enumerate(plans, 1):
            headers = plan.conditional()
            headers |= {BATCH: name, NUMBER: str(number), SIZE: str(last)}
            if number == last:
                headers[COMMIT] = "1"
            subject, data = self._bucket.address(plan.subject), plan.write.value or b""
            if asks or number in (1, last):
                waiting.append(await connection.send(subject, data, headers))
            else:
                await connection.publish(subject, data, headers)
            if number % BREATH == 0:
                await asyncio.sleep(0)
        return waiting

    async def _acknowledged(self, waiting: Sequence[asyncio.Future[Any]]) -> int:
        connection = self._bucket.connection
        *others, commit = waiting
        try:
            answer = await connection.acknowledged(commit, connection.timeout)
        except (Unanswered, ApiError):
            # What is wrong with one is said there; in the end, that it was missing.
            for future in others:
                if future.done() and not future.cancelled():
                    connection.refused(future)
            raise
        finally:
            for future in others:
                future.cancel()
        return int(answer["seq"])

    async def _found(self, plans: Sequence[Plan], error: Exception) -> int:
        """A key has changed since an earlier attempt, or an id is known: perhaps by that.

        Raises:
            SourceUnavailable: by somebody else, before or after it.
        """
        for at, now in enumerate(await self._look(plans)):
            current = now.current
            if current is not None and now.is_stored:
                return current.sequence - at
        raise unsure(self._place(plans), error, is_sent=True) from error

    def _place(self, plans: Sequence[Plan]) -> str:
        return f"{self._where}, {len(plans)} keys together"


def _says_changed(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.number in WRONG_SEQUENCE


def _says_stored(error: Exception) -> bool:
    return isinstance(error, ApiError) and error.number == DUPLICATE
