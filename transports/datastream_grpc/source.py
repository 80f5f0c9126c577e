"""Another process's store as a Source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc

from datastream import Capability, DatastreamError, Entry
from datastream.selection import Selection, Selects
from datastream.source import WRITING, Feature, Reading, Source, Write, Written
from datastream.url import Count, Location, Seconds, configured
from datastream_grpc._calls import Calls
from datastream_grpc._long_stream import LongStream
from datastream_grpc._status import translated
from datastream_grpc._stream import Wanted

MAX_MESSAGE = 64 << 20
"""Bytes a server may answer at once."""
PAUSE = 0.05
"""Seconds for which `wait` lasts while there is no stream to wait for."""


class GrpcSource(Source):
    """A Source over a server of this protocol, ours or the ancestor's.

    Connects when first used, and again whenever the connection was lost.

    Args:
        target: ``host:port`` or ``unix:path``.
        timeout: seconds for one call, and for a stream to begin.
        max_message_size: bytes the server may answer at once.
        credentials: for TLS; None is plaintext.
    """

    features = WRITING | {Feature.TYPES, Feature.LOG}
    eventually_consistent = True

    def __init__(
        self,
        target: str,
        *,
        timeout: Seconds = 10.0,
        max_message_size: Count = MAX_MESSAGE,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        channel = _open_channel(target, max_message_size, credentials)
        self._calls = Calls(channel, target, timeout)
        self._stream = LongStream(self._calls)

    def capabilities(self) -> Sequence[Capability]:
        return self._calls.capabilities()

    def read(self, selection: Selects, since: str | None) -> Reading:
        """The state by a call; what changed from the stream, or for a resume by one call.

        There is one long stream, which belongs to the store's poller. It is told from a resume by
        what it asks for: the poller, and who catches up beside it, passes everybody's union,
        which is no `Selection`; who resumes passes the `Selection` of its own. A resume must
        neither take the poller's messages nor replace its stream.
        """
        wanted = Wanted.of(selection)
        if since is None:
            return self._stream.state(wanted)
        if isinstance(selection, Selection):
            return self._calls.once(wanted, since)
        return self._stream.after(wanted, since)

    def get(self, key: str) -> Entry | None:
        return self._calls.entry(key)

    def wait(self, timeout: float | None) -> None:
        stream = self._stream
        if not stream.is_running:
            # It was released, or ended: only a read can tell what happened meanwhile.
            timeout = min(PAUSE, math.inf if timeout is None else timeout)
        stream.news.wait(timeout)
        # Not lost, if it is set just now: a read follows, which finds what it was set for.
        stream.news.clear()

    def wake(self) -> None:
        self._stream.news.set()

    def write(self, writes: Sequence[Write]) -> Written:
        return Written(self._calls.write(writes))

    def translate(self, error: Exception, key: str | None) -> Exception:
        return translated(error, self._calls.where)

    def release(self) -> None:
        self._stream.release()

    def close(self) -> None:
        self._stream.close()


def _open_channel(
    target: str, limit: int, credentials: grpc.ChannelCredentials | None
) -> grpc.Channel:
    # Not SingleThreadedUnaryStream, which would save a switch of threads for each message: as of
    # grpc 1.85 the connection of every such stream stays open for good.
    options = (
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", -1),
        # Back soon after the server is, instead of after gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A connection of its own, which ends with this source.
        ("grpc.use_local_subchannel_pool", 1),
    )
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def open_grpc(location: Location, **options: Any) -> GrpcSource:
    """The Source of ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` and ``grpc:unix:PATH``."""
    target = location.path.removeprefix("//").rstrip("/")
    if "@" in target:
        raise DatastreamError(f"{location.scheme}: takes no user and password; write host:port")
    if not target or ("/" in target and not target.startswith("unix:")):
        raise DatastreamError(f"{location.shown!r} names no server; write grpc://host:port")
    host, _, port = target.rpartition(":")
    if not target.startswith("unix:") and not _is_address(host, port):
        raise DatastreamError(
            f"{location.shown!r} names no server: {target!r} is no host:port; the port is a "
            "number up to 65535"
        )
    if location.scheme == "grpcs":
        options.setdefault("credentials", grpc.ssl_channel_credentials())
    return configured(partial(GrpcSource, target), location, options)


def _is_address(host: str, port: str) -> bool:
    """Whether it is a host with a port; an IPv6 address stands in brackets."""
    is_host = bool(host) and (":" not in host or (host[0] == "[" and host[-1] == "]"))
    return is_host and port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 1 << 16
