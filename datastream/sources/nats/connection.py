"""The connection to a NATS system: requests, publishes that are acknowledged, subscriptions.

All of it runs on the source's loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, NoRespondersError

from datastream.errors import StoreClosed, printable
from datastream.sources.nats.errors import (
    ApiError,
    Disconnected,
    Unanswered,
    explain_connecting,
    is_denial,
)
from datastream.sources.nats.options import Proof

log = logging.getLogger("datastream")

PING = 4
"""Seconds between two pings; a connection on which two are not answered is given up."""
PENDING = 64 << 20
"""Bytes that wait to be sent, and as many that wait to be taken."""
INBOX = "_INBOX"

Headers = Mapping[str, str]


class Connection:
    """One connection, made again whenever it was lost.

    Args:
        servers: URLs of any servers of the system; the others are learnt from those.
        proof: what the client proves itself with.
        where: what error texts call it.
        timeout: seconds for one request.
        domain: of JetStream, "" for the servers' own.
        changed: called when the connection was lost, or is there again.
    """

    def __init__(
        self,
        servers: list[str],
        proof: Proof,
        *,
        where: str,
        timeout: float,
        domain: str,
        changed: Callable[[], None],
    ) -> None:
        self._servers = servers
        self._arguments = proof.arguments()
        self.where = where
        self.timeout = timeout
        self.attempt = timeout / 2
        """Seconds for one request, so that a second one finds a cluster's next leader."""
        self.api = f"$JS.{domain}.API" if domain else "$JS.API"
        self._changed = changed
        self._client: Client | None = None
        self._acks = Acks()
        self._error: Exception | None = None
        self._denied = asyncio.Event()
        self._opening = asyncio.Lock()
        self._closed = False
        self.generation = 0
        """Counts the connections: what was subscribed to on an earlier one may have gaps."""

    @property
    def is_up(self) -> bool:
        """Whether there is one just now."""
        return self._client is not None and self._client.is_connected

    @property
    def error(self) -> Exception | None:
        """Why there is none, if it is known."""
        return self._error

    @property
    def max_payload(self) -> int:
        """Bytes of a message, with its headers, that the server takes."""
        return self._client.max_payload if self._client else 1 << 20

    async def open(self) -> Client:
        """The client, connected or about to be again.

        Raises:
            Denied, SourceUnavailable: there is none.
        """
        client = self._client
        if client is not None and not client.is_closed:
            return client
        async with self._opening:
            if self._closed:
                raise StoreClosed("this store was closed; open it again to go on")
            if self._client is None or self._client.is_closed:
                self._client = await self._connect()
            return self._client

    async def request(self, subject: str, payload: object = None) -> dict[str, Any]:
        """What JetStream's API answers.

        Raises:
            ApiError: an error.
            Unanswered: nothing.
        """
        client = await self.open()
        data = b"" if payload is None else json.dumps(payload).encode()
        self._check_up(client)
        try:
            answer = await client.request(f"{self.api}.{subject}", data, self.attempt)
        except NoRespondersError:
            raise Unanswered(
                "no server answers for JetStream; enable it, or wait for a leader"
            ) from None
        except (TimeoutError, Error) as error:
            raise self._unanswered(error) from error
        return checked(json.loads(answer.data))

    async def send(self, subject: str, data: bytes, headers: Headers) -> asyncio.Future[Msg]:
        """Publish; the future gets what the server acknowledges it with."""
        client = await self.open()
        self._check_up(client)
        if not self._acks.prefix:
            self._acks.prefix = f"{client.new_inbox()}."
            await client.subscribe(f"{self._acks.prefix}*", cb=self._acks.take)
        reply, future = self._acks.next()
        try:
            await client.publish(subject, data, reply=reply, headers=dict(headers) or None)
        except Error as error:
            self._acks.forget(reply)
            raise self._unanswered(error) from error
        return future

    async def acknowledged(self, future: asyncio.Future[Msg], seconds: float) -> dict[str, Any]:
        """What came for a `send`.

        Raises:
            ApiError: the server refused it.
            Unanswered: it is not known whether it was stored.
        """
        try:
            answer = await asyncio.wait_for(future, seconds)
        except TimeoutError as error:
            raise self._unanswered(error) from error
        if answer.headers and answer.headers.get("Status") == "503":
            raise Unanswered(
                "no server takes messages for this bucket; it has no leader, or is gone"
            )
        return checked(json.loads(answer.data))

    async def subscribe(self, take: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """A subscription to an inbox of its own."""
        client = await self.open()
        self._check_up(client)
        return await client.subscribe(
            client.new_inbox(), cb=take, pending_msgs_limit=1 << 22, pending_bytes_limit=PENDING
        )

    async def publish(self, subject: str, reply: str = "") -> None:
        """An empty message, which nobody acknowledges."""
        client = await self.open()
        with suppress(Error):
            await client.publish(subject, b"", reply=reply)

    async def close(self) -> None:
        self._closed = True
        self._acks.fail(StoreClosed("this store was closed; open it again to go on"))
        if self._client is not None:
            await self._client.close()

    # Connecting.

    async def _connect(self) -> Client:
        client = Client()
        self._denied.clear()
        self._acks = Acks()
        connecting = asyncio.create_task(client.connect(self._servers, **self._settings()))
        denied = asyncio.create_task(self._denied.wait())
        await asyncio.wait(
            (connecting, denied), timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED
        )
        denied.cancel()
        if connecting.done() and connecting.exception() is None:
            self._error = None
            return client
        error = connecting.exception() if connecting.done() else self._error
        connecting.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await connecting
        await client.close()
        raise explain_connecting(error or TimeoutError("no answer"), self.where)

    def _settings(self) -> dict[str, Any]:
        return {
            **self._arguments,
            "name": "datastream",
            "error_cb": self._failed,
            "disconnected_cb": self._lost,
            "reconnected_cb": self._found,
            "closed_cb": self._lost,
            "connect_timeout": max(1, round(self.timeout)),
            "max_reconnect_attempts": -1,
            # Many stores do not come back at once.
            "reconnect_time_wait": random.uniform(0.1, 0.4),  # noqa: S311
            "ping_interval": PING,
            "max_outstanding_pings": 2,
            "pending_size": PENDING,
        }

    async def _failed(self, error: Exception) -> None:
        self._error = error
        log.debug("%s: %s", self.where, printable(str(error)))
        if is_denial(error):
            self._denied.set()

    async def _lost(self) -> None:
        # What was sent may have been taken or not: who waits for it asks again.
        self._acks.fail(Unanswered("the connection was lost"))
        self._changed()

    async def _found(self) -> None:
        self.generation += 1
        self._error = None
        self._changed()

    def _check_up(self, client: Client) -> None:
        if not client.is_connected:
            raise self._unanswered(self._error)

    def _unanswered(self, error: BaseException | None) -> Unanswered:
        if not self.is_up:
            why = printable(" ".join(str(error or self._error or "").split()))
            return Disconnected(f"not connected{f': {why}' if why else ''}; it is tried again")
        return Unanswered(
            f"no answer within {self.attempt:g} s; the server hangs, or its cluster has no quorum"
        )


class Acks:
    """Who waits for which acknowledgement."""

    def __init__(self) -> None:
        self.prefix = ""
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._count = 0

    def next(self) -> tuple[str, asyncio.Future[Msg]]:
        """The subject to reply to, and what gets the reply."""
        self._count += 1
        reply = f"{self.prefix}{self._count}"
        future = self._waiting[reply] = asyncio.get_running_loop().create_future()
        return reply, future

    def forget(self, reply: str) -> None:
        self._waiting.pop(reply, None)

    async def take(self, message: Msg) -> None:
        future = self._waiting.pop(message.subject, None)
        if future is not None and not future.done():
            future.set_result(message)

    def fail(self, error: Exception) -> None:
        """None of them comes any more."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
                # Whoever gave up waiting does not fetch it.
                future.exception()


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer of JetStream, unless it is an error."""
    error = answer.get("error")
    if error is None:
        return answer
    raise ApiError(
        int(error.get("code", 0)), int(error.get("err_code", 0)), str(error.get("description", ""))
    )
