"""What one client may cost all others: counted for each principal, connection and stream."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple

from datastream import DatastreamError, Denied, InvalidKey, SourceUnavailable
from datastream.errors import shown
from datastream.selection import MAX_KEYS, MAX_PATTERNS
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._principal import Principal, host_or_name


class Limits(NamedTuple):
    """What clients may ask of a server; 0 is no limit, where it says so.

    A principal is who calls by the name of a token or certificate, else by its host.
    """

    keys: int = MAX_KEYS
    """Keys and prefixes of one request."""
    patterns: int = MAX_PATTERNS
    """Patterns of one request."""
    pattern_chars: int = 65_536
    """Characters of all patterns of one request: every key is compared with each of them."""
    stream_bytes: int = 8 << 20
    """What may wait for the reader of one stream. One that falls further behind goes on with the
    difference to what it has, as if it had resumed. Also of the answers to calls of one connection,
    beyond which the next waits."""
    principal_bytes: int = 64 << 20
    """The same, of all streams of a principal."""
    request_bytes: int = 512 << 20
    """What the server holds for requests of a principal, as long as it answers them, about: three
    times the size of each, and more for each key and pattern."""
    write_bytes: int = 256 << 20
    """Of the writes of a principal that are under way, with all that is theirs. A Push waits before
    it takes more; other calls are refused."""
    streams: int = 2_000
    """Streams of one connection, and watches of its Follow calls."""
    principal_streams: int = 10_000
    """Streams of a principal."""
    connections: int = 10_000
    """Connections of all clients at the same time; more are closed at once, and those with
    streams are refused those."""
    principal_connections: int = 2_000
    """Connections of a principal that have streams."""
    calls: int = 50_000
    """Calls and streams of all clients at the same time."""
    pushes: int = 0
    """Writes of a principal in a second, 0 for as many as it can make; twice that at once."""


SMALL = 16 << 10
"""What a request may cost that does not count: the limit of streams is enough for those."""
COST_OF_BYTE, COST_OF_KEY, COST_OF_PATTERN = 3, 400, 1_000
"""Bytes that the server holds, as measured: gRPC keeps what it received beside the message, and a
watch is found by each of its keys and patterns."""
REMEMBERED = 10_000
"""Principals whose writes are counted; with more, all begin anew."""
EVERYBODY = ""
LEAST = Limits(*[1] * len(Limits._fields))._replace(pushes=0)
MOST = {"keys": MAX_KEYS, "patterns": MAX_PATTERNS}


def check_limits(limits: Limits) -> None:
    """Refuse what is no limit.

    Raises:
        DatastreamError: one is too small or too large.
    """
    for name, value, least in zip(Limits._fields, limits, LEAST, strict=True):
        most = MOST.get(name, 1 << 62)
        if not isinstance(value, int) or not least <= value <= most:
            raise DatastreamError(
                f"limit {name}={shown(str(value))}: give a number of at least {least}"
                + (f" and at most {most}" if name in MOST else "")
            )


class LimitReached(SourceUnavailable):
    """A client asks for more than it may have just now; the same call may succeed later."""


class Forbidden(Denied):
    """A principal may not do this."""


def check_selected(request: pb.DataRequest | pb.ReplayRequest, limits: Limits) -> None:
    """Refuse what is too large to look at on the loop.

    Raises:
        InvalidKey: there are too many keys or patterns.
    """
    keys, patterns = len(request.keys), len(request.match)
    if keys > limits.keys or patterns > limits.patterns:
        raise InvalidKey(
            f"{keys} keys and {patterns} patterns are too many; {limits.keys} keys and "
            f"{limits.patterns} patterns are allowed, so use broader ones"
        )
    if patterns and sum(map(len, request.match)) > limits.pattern_chars:
        raise InvalidKey(
            f"the patterns are too long; together they may have {limits.pattern_chars} "
            "characters, so use broader ones"
        )
    if isinstance(request, pb.DataRequest) and len(request.lacking) > MAX_KEYS:
        raise InvalidKey(f"{len(request.lacking)} lacking keys are too many; resume without since")


def cost_of(request: Any) -> int:
    """Bytes that the server holds while it answers a request, about."""
    cost = COST_OF_BYTE * int(request.ByteSize())
    if isinstance(request, pb.DataRequest | pb.ReplayRequest):
        cost += COST_OF_KEY * len(request.keys) + COST_OF_PATTERN * len(request.match)
    return cost


class Meter:
    """Counts what principals use.

    Args:
        limits: of each.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        # On the loop only.
        self._streams: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._pushes: dict[str, tuple[float, float]] = {}
        # Written by the threads that publish.
        self._lock = threading.Lock()
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def stream(self, who: str, peer: str) -> Iterator[Charged]:
        """Around a stream.

        Raises:
            LimitReached: there are too many.
        """
        names = _names(who, peer)
        self._check_stream(names)
        self._count(names, 1)
        charged = Charged(self, who)
        try:
            yield charged
        finally:
            charged.set(0)
            self._count(names, -1)

    @contextmanager
    def asked(self, principal: Principal, request: Any) -> Iterator[None]:
        """Around the answer to a request, which is held as long.

        Raises:
            LimitReached: requests that are answered now are too large. One may be, however large.
        """
        cost = cost_of(request)
        if cost <= SMALL:
            yield
            return
        who = host_or_name(principal)
        if self._asked[who] and self._asked[who] + cost > self.limits.request_bytes:
            raise LimitReached(
                f"requests of {self.limits.request_bytes} bytes are answered already, each counted "
                "with what it takes to hold it; ask for less, or use prefixes"
            )
        self._asked[who] += cost
        try:
            yield
        finally:
            self._add(self._asked, who, -cost)

    def _check_stream(self, names: _Names) -> None:
        limits, streams, connections = self.limits, self._streams, self._connections
        who, connection, shared = names
        if streams[who] >= limits.principal_streams:
            raise LimitReached(f"{limits.principal_streams} streams are open already; close some")
        if not connection:
            return
        if streams[connection] >= limits.streams:
            raise LimitReached(
                f"{limits.streams} streams of this connection are open already; close some, or "
                "watch more with each"
            )
        if not streams[shared] and connections[who] >= limits.principal_connections:
            raise LimitReached(
                f"{limits.principal_connections} connections have streams already; close some, or "
                "open more streams on each"
            )
        if not streams[connection] and connections[EVERYBODY] >= limits.connections:
            raise LimitReached(
                f"{limits.connections} connections of all clients have streams already; try again "
                "later, or at another server"
            )

    def _count(self, names: _Names, step: int) -> None:
        who, connection, shared = names
        self._add(self._streams, who, step)
        if not connection:
            return
        for name, owner in ((shared, who), (connection, EVERYBODY)):
            before = self._streams[name]
            self._add(self._streams, name, step)
            if not before or before + step == 0:
                # The first stream of it, or the last.
                self._add(self._connections, owner, step)

    @staticmethod
    def _add(counter: Counter[str], name: str, step: int) -> None:
        counter[name] += step
        if not counter[name]:
            del counter[name]

    def push(self, who: str, count: int) -> float:
        """Count writes; the seconds to wait before they are within the limit."""
        rate = self.limits.pushes
        if not rate:
            return 0.0
        left = self._pushes_left(who) - count
        if len(self._pushes) > REMEMBERED:
            self._pushes.clear()
        self._pushes[who] = left, monotonic()
        return max(0.0, -left / rate)

    def check_push(self, who: str, count: int) -> None:
        """Count writes, or refuse them.

        Raises:
            LimitReached: they are too many for now.
        """
        rate = self.limits.pushes
        if rate and self._pushes_left(who) < min(count, rate):
            raise LimitReached(
                f"more than {rate} writes a second; write less often, or through Push, which waits"
            )
        self.push(who, count)

    def _pushes_left(self, who: str) -> float:
        rate = self.limits.pushes
        left, at = self._pushes.get(who, (2.0 * rate, 0.0))
        return min(2.0 * rate, left + (monotonic() - at) * rate)

    def changed(self, who: str, delta: int) -> bool:
        """Count bytes that wait, by any thread; False if a principal has too many."""
        with self._lock:
            self._bytes[who] += delta
            count = self._bytes[who]
            if not count:
                del self._bytes[who]
            return count <= self.limits.principal_bytes


class _Names(NamedTuple):
    """By what a stream is counted."""

    who: str
    connection: str
    shared: str
    """The connection as one of `who`: a proxy's may be of several."""


def _names(who: str, peer: str) -> _Names:
    if peer.startswith("unix"):
        # It tells no connections apart.
        return _Names(who, "", "")
    return _Names(who, f"connection {peer}", f"connection {peer} of {who}")


class Charged:
    """What waits for one stream.

    Args:
        meter: counts for the principal.
        who: the principal.
    """

    def __init__(self, meter: Meter, who: str) -> None:
        self._meter = meter
        self._who = who
        self._size = 0

    def take(self, size: int) -> bool:
        """Count more bytes; False if that is too much."""
        return self.set(self._size + size)

    def set(self, size: int) -> bool:
        """Count just that many; False if that is too much."""
        delta, self._size = size - self._size, size
        fits = self._meter.changed(self._who, delta) if delta else True
        return fits and size <= self._meter.limits.stream_bytes
