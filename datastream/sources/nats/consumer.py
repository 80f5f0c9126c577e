"""What a server pushes of a bucket, in order and without a gap, for as long as that lasts.

An ordered consumer as NATS's own clients have it: without acknowledgements, in memory, on one
server. Whatever goes wrong with it, it has *ended*, and another one goes on from its last message.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from datastream.sources.nats.bucket import Bucket
from datastream.sources.nats.errors import ApiError, Forbidden, Unanswered
from datastream.sources.nats.filters import ALL
from datastream.sources.nats.messages import BATCH, Message, newest
from datastream.sources.nats.position import SECOND

HEARTBEAT = 1.0
"""Seconds after which a server with nothing to send says so."""
SILENCE = 3.5
"""Seconds without a word after which a consumer has ended."""
SOON = 0.005
"""Seconds that a message has to arrive before its leader is asked for it."""
LEFT = 10
"""Seconds after which a server removes a consumer that nobody listens to."""
KEPT = 10_000
"""Messages kept one by one; beyond, only the newest of each key is."""
_NONE: dict[str, str] = {}


class Consumer:
    """One consumer: messages as they arrive, kept until `drop`.

    Args:
        bucket: whose.
        filters: which subjects, see `filters_of`.
        start: the first sequence number; 0 for the newest message of each key, then what follows.
        news: called whenever something arrived, and at the end.
    """

    def __init__(
        self,
        bucket: Bucket,
        filters: Sequence[str],
        start: int,
        news: Callable[[], None] = lambda: None,
    ) -> None:
        self.filters = tuple(filters)
        self.start = start
        self.messages: list[Message] = []
        self.last = max(0, start - 1)
        """Sequence number of the last message that arrived."""
        self.end = 0
        """Of the last message that was stored together with one that arrived."""
        self.complete = 0
        """All that was stored up to here has arrived, besides up to `last`."""
        self.ended: Exception | None = None
        self._bucket = bucket
        self._news = news
        self._name = f"datastream-{secrets.token_hex(8)}"
        self._generation = bucket.connection.generation
        self._subscription: Subscription | None = None
        # Held for memory work: the loop adds what arrives, other threads take it.
        self._lock = threading.Lock()
        self._arrived = asyncio.Event()
        self._count = 0
        self._pending = 0
        self._heard = monotonic()

    async def open(self) -> None:
        """Have the server begin.

        Raises:
            ApiError, Unanswered: it does not.
        """
        connection = self._bucket.connection
        self._subscription = await connection.subscribe(self._take)
        self._generation = connection.generation
        config = self._config(self._subscription.subject)
        try:
            answer = await connection.request(
                f"CONSUMER.CREATE.{self._bucket.stream}.{self._name}",
                {"stream_name": self._bucket.stream, "config": config, "action": "create"},
            )
        except BaseException:
            await self.close()
            raise
        # What arrived before this answer has been counted by the server as delivered or not.
        if not self._count:
            self._pending = answer["num_pending"] + answer["delivered"]["consumer_seq"]

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or nothing has been heard of it for too long."""
        if self.ended is None:
            if self._generation != self._bucket.connection.generation:
                self._end(Unanswered("the connection was lost"))
            elif monotonic() - self._heard > SILENCE:
                self._end(Unanswered(f"nothing was heard of the bucket for {SILENCE:g} s"))
        return self.ended is not None

    async def reach(
        self, sequence: int, patience: float, *, all_now: bool = False, is_alone: bool = False
    ) -> None:
        """Wait until all that was stored up to `sequence` is there.

        Args:
            all_now: and until nothing is left that the server has now.
            is_alone: no other server can have more than that one.

        Raises:
            Unanswered: it takes longer than `patience` seconds, or the consumer has ended.
        """
        async with asyncio.timeout(patience):
            while all_now and self._pending:
                await self._next()
            if not (all_now and is_alone):
                await self._reach(sequence)
            # A batch is there whole: it was stored in one go.
            await self._reach(self.end)

    async def _reach(self, sequence: int) -> None:
        if self.last < sequence > self.complete:
            # What was acknowledged just now is mostly on its way.
            await self._next(SOON)
        while self.last < sequence > self.complete:
            found = await self._first_missing()
            if found > sequence:
                self.complete = sequence
            while self.last < found <= sequence:
                await self._next()

    async def _first_missing(self) -> int:
        """The first message, by the leader, that has not arrived; far away if there is none."""
        after = self.last + 1
        asked = [self._bucket.next(subject, after) for subject in self.filters]
        found = [message for message in await asyncio.gather(*asked) if message is not None]
        return min((message.sequence for message in found), default=1 << 63)

    async def _next(self, seconds: float = HEARTBEAT) -> None:
        if self.is_over:
            raise self.ended or Unanswered("ended")
        self._arrived.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), seconds)

    async def close(self) -> None:
        """Have it removed from the server, which would do so by itself after `LEFT` seconds."""
        self._end(Unanswered("closed"))
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(Error):
                await subscription.unsubscribe()
        with suppress(ApiError, Unanswered, Forbidden):
            await self._bucket.connection.request(
                f"CONSUMER.DELETE.{self._bucket.stream}.{self._name}"
            )

    @property
    def is_torn(self) -> bool:
        """Whether a part of a batch has arrived, and perhaps not all of it."""
        return self.last < self.end > self.complete

    def after(self, sequence: int) -> list[Message]:
        """The messages after `sequence`; those before it are forgotten. From any thread.

        A batch of which only a part has arrived is not among them.
        """
        there = max(self.last, self.complete)
        with self._lock:
            if self.messages and self.messages[0].sequence <= sequence:
                self.messages = [m for m in self.messages if m.sequence > sequence]
            found = list(self.messages)
        while found and found[-1].end > there:
            del found[-1]
        return found

    def _config(self, inbox: str) -> dict[str, Any]:
        prefix = self._bucket.prefix
        config: dict[str, Any] = {
            "name": self._name,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT * SECOND),
            "inactive_threshold": LEFT * SECOND,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if self.filters != ALL or self.start == 0:
            config["filter_subjects"] = [prefix + subject for subject in self.filters]
        if self.start:
            return config | {"deliver_policy": "by_start_sequence", "opt_start_seq": self.start}
        return config | {"deliver_policy": "last_per_subject"}

    # Called by the client library.

    def _take(self, message: Msg) -> None:
        self._heard = monotonic()
        headers = message.headers or _NONE
        try:
            if "Status" in headers:
                self._take_status(message, headers)
            elif self.ended is None:
                self._take_message(message, headers)
        except Exception as error:  # noqa: BLE001
            # The library ends its reading of the connection for an error that it does not know.
            self._end(Unanswered(f"what the server sent cannot be read: {error}"))

    def _take_message(self, message: Msg, headers: dict[str, str]) -> None:
        # $JS.ACK.STREAM.CONSUMER.deliveries.sequence.count.time.pending, with a domain before and
        # more behind where there are domains.
        parts = message.reply.split(".")
        at = 5 if len(parts) == 9 else 7
        sequence, count, time, pending = map(int, parts[at : at + 4])
        if count != self._count + 1:
            self._end(Unanswered("messages were lost on the way"))
            return
        self._count, self._pending = count, pending
        key = self._bucket.key_of(message.subject)
        if key is not None:
            self._keep(Message(key, sequence, time, message.data, headers))
        # After the message: who sees the number finds all up to it.
        self.last = sequence
        self._arrived.set()
        self._news()

    def _keep(self, message: Message) -> None:
        if BATCH in message.headers:
            self.end = max(self.end, message.end)
        with self._lock:
            self.messages.append(message)
            if len(self.messages) > KEPT and self.start:
                self.messages = list(newest(self.messages).values())

    def _take_status(self, message: Msg, headers: dict[str, str]) -> None:
        status = headers["Status"]
        if status != "100":
            self._end(Unanswered(f"the server ended the consumer ({status})"))
            return
        stalled = headers.get("Nats-Consumer-Stalled")
        if message.reply or stalled:
            # Flow control: the server goes on once it knows that all until here has arrived.
            self._bucket.connection.publish_soon(message.reply or stalled or "")
        delivered = headers.get("Nats-Last-Consumer")
        if delivered is not None and int(delivered) != self._count:
            self._end(Unanswered("messages were lost on the way"))

    def _end(self, error: Exception) -> None:
        if self.ended is None:
            self.ended = error
            self._arrived.set()
            self._news()
