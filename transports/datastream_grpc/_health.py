"""The health of a server, as balancers ask for it.

Not grpcio's own servicer, which holds a lock while it writes: a client that asks to be told, and
reads nothing, would keep all others from being told, and the server from telling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from datastream_grpc._answering import SHUTTING_DOWN
from datastream_grpc._limits import LimitReached, Meter
from datastream_grpc._open_streams import listed
from datastream_grpc._outgoing import ClientLeft, Context, write
from datastream_grpc._principal import host_or_name, principal_of
from datastream_grpc._status import abort

MAX_NAME = 1_000
"""Characters of a service: each that is watched is kept."""
log = logging.getLogger("datastream.grpc")

_STATES = health_pb2.HealthCheckResponse


class Health:
    """Answers Check and Watch of grpc.health.v1.Health; all of it on the loop.

    Args:
        services: that are served, and share one state.
        meter: limits the streams of clients, which bring no token.
    """

    def __init__(self, services: Collection[str], meter: Meter) -> None:
        self._services = frozenset(("", *services))
        self._meter = meter
        self._serving = False
        self._stopped = False
        # One of each stream, set when there is something to be told.
        self._news: set[asyncio.Event] = set()

    def set(self, *, serving: bool) -> None:
        """Tell whether the services are there."""
        self._serving = serving and not self._stopped
        for news in self._news:
            news.set()

    def stop(self) -> None:
        """Tell that they are not, and end all streams."""
        self._stopped = True
        self.set(serving=False)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> object:  # noqa: N802
        """How a service is now."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return _STATES(status=self._status_of(request.service))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """How it is now, and whenever that changes."""
        if len(request.service) > MAX_NAME:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no service has such a name")
        principal = principal_of(context)
        try:
            with self._meter.stream(host_or_name(principal), principal.peer):
                await self._tell(request.service, context)
        except LimitReached as error:
            await abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except ClientLeft as left:
            log.debug("Watch: the client left: %s", left.__cause__)
            # As of the other streams; see `Answering`.
            raise asyncio.CancelledError from left
        await abort(context, grpc.StatusCode.UNAVAILABLE, SHUTTING_DOWN)

    async def _tell(self, service: str, context: Context) -> None:
        """Send each change, until the server stops."""
        news = asyncio.Event()
        told: Any = None
        with listed(self._news, news):
            while True:
                news.clear()
                is_last, status = self._stopped, self._status_of(service)
                if status != told:
                    told = status
                    await write(context, _STATES(status=status))
                if is_last:
                    return
                await news.wait()

    def _status_of(self, service: str) -> Any:
        if service not in self._services:
            return _STATES.SERVICE_UNKNOWN
        return _STATES.SERVING if self._serving else _STATES.NOT_SERVING
