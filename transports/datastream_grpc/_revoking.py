"""Ends the streams of a token that is taken out of the file of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from inspect import isasyncgenfunction
from typing import Any, NamedTuple

import grpc

LOOK = 1.0
"""Seconds between two looks at the file, while there are streams."""

Refuse = Callable[[Any], Awaitable[None]]
"""Ends the call of a context whose token does not count."""


class Proof(NamedTuple):
    """By what a stream was begun."""

    token: str
    name: str


class Revoking:
    """Looks after the streams of one server; all of it on the loop.

    Args:
        names: the name of each token that counts now; the same object until that changes.
        refuse: ends a stream.
    """

    def __init__(self, names: Callable[[], Mapping[str, str]], refuse: Refuse) -> None:
        self._names = names
        self._refuse = refuse
        self._running: dict[asyncio.Task[Any], Proof] = {}
        self._revoked: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.Task[None] | None = None

    def around(self, handler: Any, proof: Proof) -> Any:
        """`handler`, ended once its token counts no more, if it is a stream of ours."""
        kind = "stream_stream" if handler.request_streaming else "unary_stream"
        inner = getattr(handler, kind) if handler.response_streaming else None
        if inner is None or isasyncgenfunction(inner):
            return handler

        async def answer(request: Any, context: Any) -> None:
            task = asyncio.current_task()
            if task is None or not self._counts(proof):
                # Its request may have come long after its token was looked at.
                await self._refuse(context)
                return
            self._begin(task, proof)
            try:
                await inner(request, context)
            except asyncio.CancelledError:
                if task in self._revoked:
                    await self._refuse(context)
                raise
            finally:
                self._end(task)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(answer, handler.request_deserializer, handler.response_serializer)

    def _counts(self, proof: Proof) -> bool:
        return self._names().get(proof.token) == proof.name

    def _begin(self, task: asyncio.Task[Any], proof: Proof) -> None:
        self._running[task] = proof
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._running.pop(task, None)
        self._revoked.discard(task)
        if not self._running and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        seen: Mapping[str, str] | None = None
        missed: set[asyncio.Task[Any]] = set()
        while True:
            names = self._names()
            if names is not seen or missed:
                seen = names
                gone = self._gone(names)
                # Only what is missed twice: a file that is just being written is empty at first.
                for task in gone & missed:
                    self._revoked.add(task)
                    task.cancel()
                missed = gone - missed
            await asyncio.sleep(LOOK)

    def _gone(self, names: Mapping[str, str]) -> set[asyncio.Task[Any]]:
        """Streams whose token does not count, and that were not ended for it yet."""
        running = self._running.items()
        gone = {task for task, proof in running if names.get(proof.token) != proof.name}
        return gone - self._revoked
