"""Answers in one message that clients do not take: few are made ahead for each connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from datastream_grpc._limits import Limits
from datastream_grpc._outgoing import Context
from datastream_grpc._principal import Whose, principal_of, whose
from datastream_grpc._turns import Turns

SMALL = 16 << 10
"""Bytes of an answer that does not count: gRPC takes it off the server's hands."""


class Untaken:
    """Bytes of answers that are on their way, counted for each connection and principal.

    Of calls whose client reads nothing, each would have a whole state wait for it, without bound.

    Args:
        limits: `stream_bytes` of a connection, and `principal_bytes`; beyond them answers wait.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # On the loop only.
        self._bytes: Counter[str] = Counter()
        self._turns = Turns()

    async def answer(self, make: Callable[[], Awaitable[bytes]], context: Context) -> bytes:
        """An answer to a call, made once its connection and its principal have room for it."""
        waited_for: set[str] = set()
        try:
            while True:
                answer = await make()
                if len(answer) <= SMALL:
                    return answer
                of = whose(principal_of(context))
                full = self._full(of, len(answer))
                if not full:
                    self._add(of, len(answer), context)
                    return answer
                # Not held while it waits; made again with what is there then.
                del answer
                waited_for.add(full)
                await self._turns.take(full)
        finally:
            # There may be room for one more, or its turn has come and it needs none.
            for name in waited_for:
                self._turns.give(name)

    def _full(self, of: Whose, size: int) -> str:
        """What has no room for an answer; each takes one, however large it is."""
        limits = (self._limits.stream_bytes, self._limits.principal_bytes)
        for name, most in zip(of, limits, strict=True):
            if name and self._bytes[name] and self._bytes[name] + size > most:
                return name
        return ""

    def _add(self, of: Whose, size: int, context: Context) -> None:
        for name in of:
            self._bytes[name] += size
        context.add_done_callback(partial(self._taken, of, size))

    def _taken(self, of: Whose, size: int, _: Context) -> None:
        for name in of:
            self._bytes[name] -= size
            if not self._bytes[name]:
                del self._bytes[name]
            self._turns.give(name)
