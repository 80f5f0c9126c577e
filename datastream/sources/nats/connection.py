"""The connection to a NATS system: requests, publishes that are acknowledged, subscriptions.

All of it runs on the source's loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, NoRespondersError

from datastream.errors import DatastreamError, StoreClosed, printable
from datastream.sources.nats.errors import (
    ApiError,
    Disconnected,
    Forbidden,
    Unanswered,
    explain_connecting,
    is_denial,
)
from datastream.sources.nats.options import Proof
from datastream.sources.nats.waiting import Acks, Denials, taking

log = logging.getLogger("datastream")

PING = 4
"""Seconds between two pings; a connection on which two are not answered is given up."""
PENDING = 64 << 20
"""Bytes that wait to be sent."""
SOON, RARELY = 0.2, 2.0
"""Longest pauses before connecting again: at first, and in the end; in seconds."""
GRACE = 1.0
"""Seconds that the end of a connection may take."""
NOBODY = "no server answers for JetStream; enable it, or wait for a leader"

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
        self.domain = domain
        self.api = f"$JS.{domain}.API" if domain else "$JS.API"
        self._changed = changed
        self._client: Client | None = None
        self._acks = Acks()
        self._error: Exception | None = None
        self._denials = Denials()
        self._connecting = asyncio.Lock()
        self._sending: set[asyncio.Task[None]] = set()
        self._again: asyncio.Task[None] | None = None
        self._closed = False
        self.generation = 0
        """Counts the connections: what was subscribed to on an earlier one has ended."""

    @property
    def is_up(self) -> bool:
        """Whether there is one just now."""
        return self._client is not None and self._client.is_connected

    @property
    def max_payload(self) -> int:
        """Bytes of a message, with its headers, that the server takes."""
        return self._client.max_payload if self._client else 1 << 20

    async def open(self) -> Client:
        """The client, connected.

        Raises:
            Denied, SourceUnavailable: there never was a connection, and there is none now.
            Disconnected: it was lost, and is being made again.
        """
        if self._client is None:
            async with self._connecting:
                if self._client is None:
                    self._client = await self._connect()
        client = self._client
        if not client.is_connected:
            # The library says nothing if its own closing fails.
            self._lost()
            raise self._unanswered(self._error)
        return client

    async def request(self, subject: str, payload: object = None) -> dict[str, Any]:
        """What JetStream's API answers.

        Raises:
            ApiError: an error.
            Unanswered: nothing.
        """
        client = await self.open()
        data = b"" if payload is None else json.dumps(payload).encode()
        place = f"{self.api}.{subject}"
        try:
            answer = await client.request(place, data, self.attempt)
        except NoRespondersError:
            raise Unanswered(NOBODY) from None
        except (TimeoutError, Error) as error:
            raise self._unanswered(error, place) from error
        return checked(json.loads(answer.data))

    async def stream(self, subject: str, payload: object) -> list[Msg]:
        """What JetStream's API answers with, message by message.

        Raises:
            ApiError: an error.
            Unanswered: not all came.
        """
        found: list[Msg] = []
        ended = asyncio.Event()

        def take(message: Msg) -> None:
            found.append(message)
            if "Status" in (message.headers or ()):
                ended.set()

        subscription = await self.subscribe(take)
        client = await self.open()
        place = f"{self.api}.{subject}"
        try:
            async with asyncio.timeout(self.attempt):
                data = json.dumps(payload).encode()
                await client.publish(place, data, reply=subscription.subject)
                await ended.wait()
        except TimeoutError as error:
            raise self._unanswered(error, place) from error
        finally:
            with suppress(Error):
                await subscription.unsubscribe()
        end = found.pop()
        status = int((end.headers or {})["Status"])
        if status == 503:
            raise Unanswered(NOBODY)
        if status not in (204, 404) or (end.headers or {}).get("Nats-Num-Pending", "0") != "0":
            raise ApiError(status, 0, str((end.headers or {}).get("Description", "cut short")))
        return found

    async def send(self, subject: str, data: bytes, headers: Headers) -> asyncio.Future[Msg]:
        """Publish; the future gets what the server acknowledges it with."""
        client = await self.open()
        if not self._acks.prefix:
            self._acks.prefix = f"{client.new_inbox()}."
            await client.subscribe(f"{self._acks.prefix}*", future=taking(self._acks.take))
        reply, future = self._acks.next(subject)
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
            await asyncio.wait_for(future, seconds)
        except TimeoutError as error:
            raise self._unanswered(error) from error
        return self.answered(future)

    def answered(self, future: asyncio.Future[Msg]) -> dict[str, Any]:
        """The same for one that was waited for already."""
        if not future.done():
            future.cancel()
            raise self._unanswered(None)
        answer = future.result()
        if answer.headers and answer.headers.get("Status") == "503":
            raise Unanswered(
                "no server takes messages for this bucket; it has no leader, or is gone"
            )
        return checked(json.loads(answer.data))

    def refused(self, future: asyncio.Future[Msg]) -> None:
        """Raise what an answered message of a batch was refused with, if it was."""
        if future.result().data:
            self.answered(future)

    async def subscribe(self, take: Callable[[Msg], None]) -> Subscription:
        """A subscription to an inbox of its own; `take` raises nothing."""
        client = await self.open()
        return await client.subscribe(client.new_inbox(), future=taking(take))

    async def publish(self, subject: str, data: bytes, headers: Headers) -> None:
        """Publish what nobody acknowledges."""
        client = await self.open()
        try:
            await client.publish(subject, data, headers=dict(headers))
        except Error as error:
            raise self._unanswered(error) from error

    def publish_soon(self, subject: str) -> None:
        """An empty message, which nobody waits for."""
        task = asyncio.create_task(self._publish_empty(subject))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _publish_empty(self, subject: str) -> None:
        with suppress(Error, Unanswered):
            client = await self.open()
            await client.publish(subject, b"")

    async def close(self) -> None:
        self._closed = True
        self._acks.fail(StoreClosed("this store was closed; open it again to go on"))
        if self._again is not None:
            self._again.cancel()
        if self._client is not None:
            await _end(self._client)

    # Connecting. The library's own way back is not used: it leaves the sockets of attempts that a
    # server did not answer open.

    async def _connect(self) -> Client:
        error: BaseException | None = None
        servers = random.sample(self._servers, len(self._servers))
        for server in servers:
            client = Client()
            try:
                async with asyncio.timeout(self.timeout):
                    await client.connect(server, **self._settings(client))
            except BaseException as found:
                await _end(client)
                if not isinstance(found, Exception):
                    raise
                self._error = error = found
                if is_denial(found):
                    break
            else:
                self._learn(client)
                return client
        raise explain_connecting(error, self.where) from error

    def _settings(self, client: Client) -> dict[str, Any]:
        async def failed(error: Exception) -> None:
            log.debug("%s: %s", self.where, printable(str(error)))
            if "permissions violation" in str(error).lower():
                subject, text = self._denials.add(str(error))
                self._acks.fail(Forbidden(text), subject)
            elif client is not self._client:
                # While it connects, one failure is enough.
                raise error

        async def lost() -> None:
            if client is self._client:
                self._lost()

        return {
            **self._arguments,
            "name": "datastream",
            "error_cb": failed,
            "closed_cb": lost,
            "allow_reconnect": False,
            "connect_timeout": max(1, round(self.timeout)),
            "ping_interval": PING,
            "max_outstanding_pings": 2,
            "pending_size": PENDING,
        }

    def _learn(self, client: Client) -> None:
        _say_that_it_is_tls(client)
        self._error = None
        self._acks = Acks()
        self._denials = Denials()
        self.generation += 1
        found = [f"nats://{server.netloc}" for server in client.discovered_servers]
        self._servers += [server for server in found if server not in self._servers]

    def _lost(self) -> None:
        if self._closed or (self._again is not None and not self._again.done()):
            return
        # What was sent may have been taken or not: who waits for it asks again.
        self._acks.fail(Unanswered("the connection was lost"))
        if self._client is not None:
            self._error = self._client.last_error
            _abandon(self._client)
        self._again = asyncio.create_task(self._find())
        self._changed()

    async def _find(self) -> None:
        """Connect again, for as long as it takes."""
        pause = SOON
        while True:
            # Many stores do not come back at once.
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
            try:
                self._client = await self._connect()
            except DatastreamError:
                pause = min(2 * pause, RARELY)
            else:
                self._changed()
                return

    def _unanswered(self, error: BaseException | None, subject: str = "") -> Exception:
        denied = self._denials.take(subject)
        if denied:
            return Forbidden(denied)
        if not self.is_up:
            why = printable(" ".join(str(error or self._error or "").split()))
            return Disconnected(f"not connected{f': {why}' if why else ''}; it is tried again")
        return Unanswered(
            f"no answer within {self.attempt:g} s; the server hangs, or its cluster has no quorum"
        )


def _say_that_it_is_tls(client: Client) -> None:
    """The library does not tell its streams, of which asyncio warns at the end of each one."""
    writer: Any = getattr(client._transport, "_io_writer", None)
    if writer is not None and writer.get_extra_info("ssl_object") is not None:
        writer.transport.get_protocol()._over_ssl = True


def _abandon(client: Client) -> None:
    """Free what is left of a connection that is lost.

    The library's own closing stops half-way if there was something left to be sent.
    """
    for subscription in list(client._subs.values()):
        task = subscription._wait_for_msgs_task
        if task is not None:
            task.cancel()
    client._subs.clear()
    transport: Any = client._transport
    if transport is not None:
        transport.close()


async def _end(client: Client) -> None:
    """Close it, without waiting for a server that hangs."""
    try:
        async with asyncio.timeout(GRACE):
            await client.close()
    except Exception as error:  # noqa: BLE001
        log.debug("closing a connection to NATS raised %s", type(error).__name__)


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer of JetStream, unless it is an error."""
    error = answer.get("error")
    if error is None:
        return answer
    raise ApiError(
        int(error.get("code", 0)), int(error.get("err_code", 0)), str(error.get("description", ""))
    )
