"""Another process's store as a Source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

import grpc

from datastream import Capability, DatastreamError, Entry, Revision, SourceUnavailable
from datastream.selection import Selection, Selects
from datastream.source import Health, Publish, Reading, Source, Write, Written
from datastream.url import Count, Location, Seconds, checks_options, configured
from datastream_grpc import _convert
from datastream_grpc._async_calls import AsyncCalls
from datastream_grpc._calls import Calls
from datastream_grpc._connection import Connection, Stubs
from datastream_grpc._credentials import Credentials, Opener
from datastream_grpc._description import ASSUMED, OLDER_SERVER, Description, from_description
from datastream_grpc._long_stream import JOIN, LongStream
from datastream_grpc._past import PastSource
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._status import translated
from datastream_grpc._stream import LIMITS, Wanted
from datastream_grpc._unix import client_trouble, is_unix, lasting, path_of

MAX_MESSAGE = 64 << 20
"""Bytes a server may answer at once."""
PAUSE = 0.05
"""Seconds for which `wait` lasts while there is no stream to wait for."""
FIRST_ASK = 1.0
"""Seconds that a server gets to say what it can do when it is opened."""
LEAST_HEARTBEAT = 0.1
"""Seconds."""

T = TypeVar("T")


class GrpcSource(Source):
    """A Source over a server of this protocol, ours or the ancestor's.

    Connects at once, and again whenever the connection was lost; a server that does not answer may
    come later.

    Args:
        target: ``host:port``, ``unix:path``, or several as ``ipv4:host:port,host:port``.
        timeout: seconds for one call, and for a stream to begin.
        max_message_size: bytes the server may answer at once.
        heartbeat: seconds of silence after which the server is asked whether it is there; it has as
            long to answer. Also the least time between two heartbeats of a watch: cursors that it
            sends while the store changes in what is not watched.
        tls: as ``grpcs://``: the server proves itself to an authority of the system, or of `roots`.
        roots: file of the authorities to trust, in PEM.
        certificate, key: files of what the client proves itself with, in PEM.
        token: bearer token, or what returns it for each call.
        token_file: file of the token, read again when it changes.
        insecure: True sends the token in plaintext, too.
        credentials: of gRPC, in place of these files.

    Raises:
        DatastreamError: `heartbeat` is too short, a file cannot be read, or a token would be sent
            in plaintext to another machine.
    """

    eventually_consistent = True

    @checks_options
    def __init__(
        self,
        target: str,
        *,
        timeout: Seconds = 10.0,
        max_message_size: Count = MAX_MESSAGE,
        heartbeat: Seconds = 15.0,
        tls: bool = False,
        roots: str = "",
        certificate: str = "",
        key: str = "",
        token: str | Callable[[], str] = "",
        token_file: str = "",
        insecure: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        if not heartbeat >= LEAST_HEARTBEAT:
            raise DatastreamError(
                f"heartbeat={heartbeat}: give at least {LEAST_HEARTBEAT} seconds, such as 15"
            )
        target = lasting(target)
        proofs = Credentials(tls, roots, certificate, key, token, token_file, insecure, credentials)
        self._where = target
        self.features = ASSUMED
        opener = Opener(target, _options(max_message_size), proofs)
        self._limits = LIMITS
        self._connection = Connection(
            opener,
            target,
            heartbeat,
            described=self._described,
            died=self._died,
        )
        self._calls = Calls(self._connection, target, timeout)
        self._async_calls = AsyncCalls(self._calls, opener)
        self._stream = LongStream(self._calls, self._told)
        # The first call that needs an answer says why there is none.
        with suppress(grpc.RpcError, SourceUnavailable):
            self._described(self._connection.describe(min(timeout, FIRST_ASK)))

    @property
    def stubs(self) -> Stubs:
        """The methods of the server."""
        return self._connection.stubs

    def capabilities(self) -> Sequence[Capability]:
        return self._answered(self._calls.capabilities())

    def read(self, selection: Selects, since: str | None) -> Reading:
        """The state by a call; what changed from the stream, or for a resume by one call.

        There is one long stream, which belongs to the store's poller. It is told from a resume by
        what it asks for: the poller, and who catches up beside it, passes everybody's union,
        which is no `Selection`; who resumes passes the `Selection` of its own. A resume must
        neither take the poller's messages nor replace its stream.
        """
        wanted = Wanted.of(selection, self._limits)
        if since is None:
            return self._answered(self._stream.state(wanted))
        if isinstance(selection, Selection):
            return self._calls.once(wanted, since)
        return self._stream.after(wanted, since, selection)

    def get(self, key: str) -> Entry | None:
        return self._answered(self._calls.entry(key))

    def history(self, key: str) -> Iterator[Revision]:
        """As in `HasHistory`."""
        return self._calls.history(key)

    def at(self, point: str | datetime) -> Source:
        """As in `HasAt`."""
        return PastSource(self._calls, _convert.to_point(point))

    def replay(self, selection: Selects, since: str | datetime | None) -> Iterator[Reading]:
        """As in `HasReplay`."""
        point = "" if since is None else _convert.to_point(since)
        return self._calls.replay(Wanted.of(selection, self._limits), point)

    def wait(self, timeout: float | None) -> None:
        stream, connection = self._stream, self._connection
        # Without a stream, only a read can tell what happened meanwhile.
        soon = connection.due() if stream.is_running else self._calls.pause(PAUSE)
        stream.news.wait(soon if timeout is None else min(soon, timeout))
        # Not lost, if it is set just now: a read follows, which finds what it was set for.
        stream.news.clear()
        connection.ask_if_due()
        connection.mend()

    def wake(self) -> None:
        self._stream.news.set()

    def publish_to(self, publish: Publish) -> None:
        """As in `HasChanges`."""
        self._stream.publish = publish

    def write(self, writes: Sequence[Write]) -> Written:
        return Written(self._answered(self._calls.write(writes)))

    async def aget(self, key: str) -> Entry | None:
        """As in `HasAsyncCalls`."""
        return self._answered(await self._async_calls.entry(key))

    async def aread(self, selection: Selects) -> Reading | None:
        """As in `HasAsyncCalls`."""
        reading = await self._async_calls.state(Wanted.of(selection, self._limits))
        return None if reading is None else self._answered(reading)

    async def awrite(self, writes: Sequence[Write]) -> Sequence[Entry] | None:
        """As in `HasAsyncCalls`."""
        entries = await self._async_calls.write(writes)
        return None if entries is None else self._answered(entries)

    def translate(self, error: Exception, key: str | None) -> Exception:
        return translated(error, self._calls.where)

    def refresh(self) -> None:
        self._connection.refresh()

    def release(self) -> None:
        self._stream.release()

    def close(self) -> None:
        self._async_calls.close()
        self._calls.end_pushes(JOIN)
        self._stream.close()
        self._calls.watches.close(JOIN)

    def _answered(self, answer: T) -> T:
        """`answer`; that there is one is all that is known of the backend while no stream runs."""
        health = self.health
        if health.error is not None and not self._stream.is_running:
            self.health = Health(degraded=health.degraded)
        return answer

    # Called on threads of gRPC.

    def _described(self, described: pb.DescribeResponse | None) -> None:
        self._calls.pushes = described is not None
        self._calls.watches.follows = described is not None and described.follows
        self._calls.snapshots = described is not None and described.snapshots
        self._take(OLDER_SERVER if described is None else from_description(described, self._where))

    def _told(self, described: pb.DescribeResponse) -> Exception | None:
        self._described(described)
        return self.health.error

    def _died(self) -> None:
        self._take(Description(self.features, Health(self._connection.silence()), self._limits))

    def _take(self, description: Description) -> None:
        if description.features != self.features:
            self.features = description.features
        self._limits = description.limits
        health = description.health
        if not health.says_what(self.health):
            self.health = health
            self._stream.news.set()


def _options(limit: int) -> tuple[tuple[str, int], ...]:
    # Not SingleThreadedUnaryStream, which would save a switch of threads for each message: as of
    # grpc 1.85 the connection of every such stream stays open for good.
    return (
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", -1),
        # Back soon after the server is, instead of after gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        # What it says it is not: how long an attempt may take.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # A connection of its own, which ends with this source.
        ("grpc.use_local_subchannel_pool", 1),
    )


def open_grpc(location: Location, **options: Any) -> GrpcSource:
    """The Source of ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` and ``grpc:unix:PATH``.

    Several addresses, as in ``grpc://10.0.0.1:8080,10.0.0.2:8080``, are of servers of one backend:
    the first that answers is used, and the next when it ends.
    """
    target = location.path.removeprefix("//").rstrip("/")
    if "@" in target:
        raise DatastreamError(f"{location.scheme}: takes no user and password; write host:port")
    if not target or ("/" in target and not is_unix(target)):
        raise DatastreamError(f"{location.shown!r} names no server; write grpc://host:port")
    if not is_unix(target):
        target = _checked(target, location.shown)
    elif trouble := client_trouble(path_of(lasting(target))):
        raise DatastreamError(f"{location.shown!r} names no server: {trouble}")
    if location.scheme == "grpcs":
        options.setdefault("tls", True)
    return configured(partial(GrpcSource, target), location, options)


def _checked(target: str, shown: str) -> str:
    """One ``host:port``, or several with numbers for hosts, as gRPC wants it."""
    places = [place.rpartition(":")[::2] for place in target.split(",")]
    for place, (host, port) in zip(target.split(","), places, strict=True):
        if not _is_address(host, port):
            raise DatastreamError(
                f"{shown!r} names no server: {place!r} is no host:port; the port is a number up to "
                "65535"
            )
    if len(places) == 1:
        return target
    versions = {_version(host) for host, _ in places}
    if len(versions) > 1 or None in versions:
        raise DatastreamError(
            f"{shown!r} names several servers, which has to be by addresses, all IPv4 or all IPv6; "
            "or give one name that has several addresses"
        )
    return f"ipv{versions.pop()}:{target}"


def _version(host: str) -> int | None:
    """Of an IP address; None for a name."""
    with suppress(ValueError):
        return ip_address(host.strip("[]")).version
    return None


def _is_address(host: str, port: str) -> bool:
    """Whether it is a host with a port; an IPv6 address stands in brackets."""
    is_host = (
        bool(host) and " " not in host and (":" not in host or (host[0] == "[" and host[-1] == "]"))
    )
    return is_host and port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 1 << 16
