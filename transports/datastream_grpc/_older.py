"""Servers of the older protocol, as the ancestor's real ones are.

Depending on what they store in, a call without keys finds nothing, one missing key fails a whole
call, streams of several keys stay silent, and each stream leaks a poller in the server when it
ends. So keys are listed first and asked for one by one; each key has a stream of its own, which is
kept for as long as possible and says only that there may be news; and what no stream tells is found
by asking again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

import grpc

from datastream import InvalidKey
from datastream.selection import check_key
from datastream_grpc._connection import Stubs
from datastream_grpc._pb import service_pb2 as pb

AT_ONCE = 16
"""Calls that run at the same time."""
POLL = 2.0
"""Seconds between two looks at keys of which no stream tells."""
STREAMS = 64
"""Keys that have a stream, each with a thread; others are looked at."""
LINGER = 10.0
"""Seconds that streams are kept when nobody seems to watch any more, and before one that the server
has ended is begun again."""
JOIN = 2.0
"""Seconds that `close` waits for threads, all together."""

PASSING = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)
"""What tells of the server or the client, not of one key."""


class Older:
    """Reads and follows one server.

    Args:
        stubs: gives the methods of the connection of now.
        timeout: seconds for one call.
        heard: called whenever the server has answered.
        news: set when there may be something new.
    """

    def __init__(
        self,
        stubs: Callable[[], Stubs],
        timeout: float,
        heard: Callable[[], None],
        news: Callable[[], None],
    ) -> None:
        self._stubs = stubs
        self._timeout = timeout
        self._heard = heard
        self._news = news
        self._lock = threading.Lock()
        self._streams: dict[str, _KeyStream] = {}
        self._idle: threading.Timer | None = None
        self._closed = False

    def listed(self) -> list[str]:
        """The keys there are; a server of S3 lists "/", which is none."""
        request = pb.ListCapabilitiesRequest()
        response = self._stubs().list(request, timeout=self._timeout)
        self._heard()
        return [one.key for one in response.capabilities if _is_key(one.key)]

    def state(self, keys: Iterable[str], wants: Callable[[str], bool] | None) -> pb.DataResponse:
        """What keys hold, those asked for and with `wants` those it selects of all there are.

        A key that is listed and cannot be read is among `unread`.
        """
        listed: list[str] | None = None
        asked = dict.fromkeys(keys)
        if wants is not None:
            listed = self.listed()
            asked |= dict.fromkeys(key for key in listed if wants(key))
        state = pb.DataResponse()
        failed: dict[str, grpc.RpcError] = {}
        for key, answer in self._synced(list(asked)):
            if isinstance(answer, grpc.RpcError):
                failed[key] = answer
            elif key in answer.data:
                state.data[key].CopyFrom(answer.data[key])
        if failed:
            there = set(self.listed() if listed is None else listed)
            # One of them fails for a key that is not there, whatever its status says.
            unread = [key for key in failed if key in there]
            if unread and not state.data:
                raise failed[unread[0]]
            state.unread.extend(unread)
        return state

    def follow(self, keys: Iterable[str]) -> None:
        """Have a stream for each of these keys, and keep those that there are."""
        now = monotonic()
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
            for key in keys:
                stream = self._streams.get(key)
                is_new = stream is None and len(self._streams) < STREAMS
                has_ended = stream is not None and stream.ended and stream.began + LINGER < now
                if (is_new or has_ended) and not self._closed:
                    self._streams[key] = _KeyStream(self._stubs(), key, self._told)

    def release(self) -> None:
        """Perhaps nobody watches any more; a stream that ends would leave a poller behind."""
        with self._lock:
            if self._streams and self._idle is None and not self._closed:
                self._idle = threading.Timer(LINGER, self._end)
                self._idle.daemon = True
                self._idle.start()

    def close(self) -> None:
        """End all streams."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, None
        if idle is not None:
            idle.cancel()
        streams = self._end()
        until = monotonic() + JOIN
        for stream in streams:
            stream.join(max(0.0, until - monotonic()))

    def _end(self) -> list[_KeyStream]:
        with self._lock:
            streams = list(self._streams.values())
            self._streams.clear()
            self._idle = None
        for stream in streams:
            stream.cancel()
        return streams

    def _told(self) -> None:
        self._heard()
        self._news()

    def _synced(self, keys: list[str]) -> Iterator[tuple[str, pb.DataResponse | grpc.RpcError]]:
        """The answer for each key, several asked for at the same time.

        Raises:
            grpc.RpcError: the server is away, or refuses this client.
        """
        sync: Any = self._stubs().sync
        for first in range(0, len(keys), AT_ONCE):
            some = keys[first : first + AT_ONCE]
            calls = [sync.future(pb.DataRequest(keys=(k,)), timeout=self._timeout) for k in some]
            for key, call in zip(some, calls, strict=True):
                yield key, _answer(call)
            self._heard()


class _KeyStream:
    """The stream of one key; what it tells is only that there is something to be told."""

    def __init__(self, stubs: Stubs, key: str, told: Callable[[], None]) -> None:
        self.began = monotonic()
        self.ended = False
        self._told = told
        self._call = stubs.subscribe(pb.DataRequest(keys=(key,)))
        self._thread = threading.Thread(
            target=self._receive, name="datastream-grpc-older", daemon=True
        )
        self._thread.start()

    def cancel(self) -> None:
        self._call.cancel()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _receive(self) -> None:
        try:
            for _ in self._call:
                self._told()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.CANCELLED:
                return
        self.ended = True


def _answer(call: Any) -> Any:
    try:
        return call.result()
    except grpc.RpcError as error:
        if error.code() in PASSING:
            raise
        return error


def _is_key(key: str) -> bool:
    try:
        check_key(key)
    except InvalidKey:
        return False
    return True
