"""Tells the client of a quiet watch how far its store is, so that it may resume from there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from datastream import Batch, InvalidValue
from datastream_grpc import _convert
from datastream_grpc._opening import Place
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._sender import Ready, Sender

LEAST, MOST = 1.0, 3600.0
"""Seconds between two heartbeats of a watch."""


class Heartbeats:
    """Those of one watch, from `begin` until they are closed.

    Args:
        every: seconds; 0 for none.
        reached: the cursor up to which all watches were offered everything; None if there is none.
        place: where the client is.
        sender: sends them, while it has nothing else to send.
        ready: calls this: very many may be due at the same time.
    """

    __slots__ = ("_every", "_place", "_reached", "_ready", "_sender", "_timer")

    def __init__(
        self,
        every: float,
        reached: Callable[[], str | None],
        place: Place,
        sender: Sender,
        ready: Ready,
    ) -> None:
        self._every = every
        self._reached = reached
        self._place = place
        self._sender = sender
        self._ready = ready
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The client has its first batch, so that a cursor may follow."""
        if self._every and self._timer is None:
            self._wait()

    def close(self) -> None:
        """Send none any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._every = 0.0

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every, self._ready.add, self)

    def step(self) -> None:
        """Send one, if there is something to tell."""
        if not self._every:
            # Closed meanwhile.
            return
        # Before the sender is asked: what it is offered from here on comes after this cursor.
        cursor = self._reached()
        if cursor and cursor != self._place.since and self._sender.is_idle:
            batch = Batch(cursor=cursor)
            self._place.sent(batch)
            self._sender.send(_convert.to_messages(batch, deletes=True))
        self._wait()


def heartbeat_of(request: pb.DataRequest) -> float:
    """Seconds between two heartbeats that a client asks for; 0 for none.

    Raises:
        InvalidValue: it is no such time.
    """
    every = request.heartbeat
    if not every >= 0:
        raise InvalidValue(f"heartbeat={every}: give seconds, or 0 for none")
    return min(max(every, LEAST), MOST) if every else 0.0
