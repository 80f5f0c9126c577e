"""Questions to a server that need no store: is it there, and may it look at its backend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import grpc
from grpc_health.v1 import health_pb2

from datastream import Unsupported
from datastream.url import parse
from datastream_grpc._connection import Stubs, answer_or_none
from datastream_grpc._description import OLDER_SERVER, from_description
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._status import translated
from datastream_grpc.source import open_grpc

T = TypeVar("T")

TIMEOUT = 10.0
"""Seconds for each question."""


class Ping(NamedTuple):
    """What a server says of itself."""

    seconds: float
    """From a question to its answer."""
    serving: bool | None
    """Its health; None where the server does not tell."""
    state: str
    """Of the store behind it, such as "READY"; "" from a server of the older protocol."""
    error: Exception | None
    """Why the store is not READY."""
    degraded: str
    """Why it works less well than it could."""
    version: str
    """Of the server's program."""


def ping(url: str, *, timeout: float = TIMEOUT, **options: Any) -> Ping:
    """Ask a server whether it is there, and how its store is.

    Args:
        url: ``grpc://host:port``, ``grpcs://host:port`` or ``grpc:unix:path``.
        timeout: seconds.
        options: credentials, as for `datastream.open`.

    Raises:
        DatastreamError: it does not answer, or not this client.
    """
    return _asked(url, timeout, options, lambda stubs: _ping(stubs, url, timeout))


def refresh(url: str, *, timeout: float = TIMEOUT, **options: Any) -> None:
    """Have a server look at its backend now, for hooks of what changes it.

    Args:
        url, timeout, options: as for `ping`.

    Raises:
        Unsupported: it is a server of the older protocol.
        DatastreamError: it does not answer, or not this client.
    """
    request = pb.RefreshRequest()

    def ask(stubs: Stubs) -> Any:
        return answer_or_none(lambda: stubs.refresh(request, timeout=timeout))

    if _asked(url, timeout, options, ask) is None:
        raise Unsupported(
            f"{parse(url).shown} is a server of the older protocol, which cannot be asked to look"
        )


def _ping(stubs: Stubs, where: str, timeout: float) -> Ping:
    # The first question also connects.
    serving = _health(stubs.channel, timeout)
    start = perf_counter()
    described = answer_or_none(lambda: stubs.describe(pb.DescribeRequest(), timeout=timeout))
    seconds = perf_counter() - start
    if described is None:
        return Ping(seconds, serving, "", None, OLDER_SERVER.health.degraded, "")
    health = from_description(described, where).health
    state = pb.State.Name(described.status.state).removeprefix("STATE_")
    return Ping(seconds, serving, state, health.error, health.degraded, described.version)


def _health(channel: grpc.Channel, timeout: float) -> bool | None:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answer = answer_or_none(lambda: check(health_pb2.HealthCheckRequest(), timeout=timeout))
    return None if answer is None else answer.status == health_pb2.HealthCheckResponse.SERVING


def _asked(url: str, timeout: float, options: dict[str, Any], ask: Callable[[Stubs], T]) -> T:
    location = parse(url)
    with closing(open_grpc(location, timeout=timeout, **options)) as source:
        try:
            return ask(source.stubs)
        except grpc.RpcError as error:
            raise translated(error, location.shown) from error
