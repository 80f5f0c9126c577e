"""Around every method: errors become statuses, and each call is logged and counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any

import grpc
from grpc import aio

from datastream._secrets import logger
from datastream_grpc._limits import LimitReached
from datastream_grpc._open_streams import OpenStreams
from datastream_grpc._outgoing import ClientLeft, Context
from datastream_grpc._requests import bytes_of, checked
from datastream_grpc._status import abort, code_of, to_answer
from datastream_grpc._telemetry import Metrics, span
from datastream_grpc._texts import Texts

SHUTTING_DOWN = "the server is shutting down"
EARLY = 0.05
"""Seconds before a deadline from which on its client counts as having ended the call for that: its
clock began earlier."""

log = logger("datastream.grpc")

Handler = Callable[[Any, Context], Awaitable[Any]]


class Answering:
    """Makes of a method what grpc.aio calls.

    Args:
        texts: makes those of errors.
        metrics: count the calls.
        streams: tell whether the server shuts down.
        most: calls and streams at the same time.
    """

    def __init__(self, texts: Texts, metrics: Metrics, streams: OpenStreams, most: int) -> None:
        self._texts = texts
        self._metrics = metrics
        self._streams = streams
        self._most = most
        # Calls and streams.
        self._running = 0

    def around(self, name: str, handler: Handler, *, is_stream: bool) -> Handler:
        """`handler` with its errors turned into statuses and every call logged."""

        async def answer(request: Any, context: Context) -> Any:
            start = perf_counter()
            # Not known any more after a deadline.
            peer = context.peer() if log.isEnabledFor(logging.INFO) else ""
            outcome = "OK"
            self._running += 1
            try:
                if self._running > self._most:
                    raise LimitReached(f"{self._running - 1} calls run already; try again later")
                checked(request)
                if is_stream:
                    return await handler(request, context)
                with span(name, context.invocation_metadata()):
                    return await handler(request, context)
            except asyncio.CancelledError:
                outcome = "CANCELLED" if has_time(context) else "DEADLINE_EXCEEDED"
                if self._streams.stopping:
                    outcome = "UNAVAILABLE"
                    await abort(context, grpc.StatusCode.UNAVAILABLE, SHUTTING_DOWN)
                raise
            except ClientLeft as left:
                outcome = "CANCELLED"
                log.debug("%s: the client left: %s", name, left.__cause__)
                # Not ended well: gRPC would send that, and print where it cannot.
                raise asyncio.CancelledError from left
            except aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001
                outcome = code_of(error).name
                await self._abort(name, error, request, context)
            finally:
                self._running -= 1
                seconds = perf_counter() - start
                self._metrics.called(name, outcome, seconds)
                if peer:
                    log.info("%s %s %.1f ms %s", name, peer, seconds * 1000, outcome)

        return answer

    async def _abort(self, name: str, error: Exception, request: Any, context: Context) -> None:
        known, public = told(name, error, context, self._texts, partial(bytes_of, request))
        await abort(context, code_of(error), public, known)


def told(
    name: str, error: Exception, context: Context, texts: Texts, sent: Callable[[], bytes]
) -> tuple[str, str]:
    """The name and text of an error for the client of a call; what it is not told is logged.

    Args:
        name: of the method.
        sent: gives what the client has sent, which may stand.
    """
    known, text = to_answer(error)
    if not known:
        log.error("%s failed", name, exc_info=error)
    public = texts.of(error, text, sent)
    if public != text:
        log.info("%s %s: %s", name, context.peer(), text)
    return known, public


def has_time(context: Context) -> bool:
    """Whether the deadline of a call is not over, if it has one."""
    left = context.time_remaining()
    return left is None or left > EARLY
