"""Another process's store as a Source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from datastream import (
    Capability,
    DatastreamError,
    Entry,
    KeyNotFound,
    SourceUnavailable,
    Unsupported,
)
from datastream.selection import Selects
from datastream.source import Reading, Source, Write
from datastream.url import Location, configured
from datastream_grpc import _convert
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._servicer import SERVICE
from datastream_grpc._status import from_status, name_of
from datastream_grpc._stream import Stream, newest, puts

MAX_MESSAGE = 64 << 20
"""Bytes a server may answer at once."""
SETTLE = 0.2
"""Seconds to wait for the stream to show what is known to be on the server."""
LEGACY = "legacy:"
"""Marks positions in the streams of servers that have no cursors."""

M = TypeVar("M", bound=Message)


class GrpcSource(Source):
    """A Source over a server of this protocol, ours or the ancestor's.

    Connects when first used, and again whenever the connection was lost.

    Args:
        target: ``host:port`` or ``unix:path``.
        timeout: seconds for one call, and for a stream to begin.
        max_message_size: bytes the server may answer at once.
        credentials: for TLS; None is plaintext.
    """

    lags = True

    def __init__(
        self,
        target: str,
        *,
        timeout: float = 10.0,
        max_message_size: int = MAX_MESSAGE,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._where = target
        self._timeout = timeout
        self._channel = _open_channel(target, max_message_size, credentials)
        self._sync = self._unary("Sync", pb.DataResponse)
        self._push = self._unary("PushUpdate", Empty)
        self._write = self._unary("Write", pb.WriteResponse)
        self._list = self._unary("ListCapabilities", pb.ListCapabilitiesResponse)
        self._subscribe = self._channel.unary_stream(
            f"/{SERVICE}/Subscribe",
            request_serializer=pb.DataRequest.SerializeToString,
            response_deserializer=pb.DataResponse.FromString,
        )
        self._changed = threading.Condition()
        self._stream: Stream | None = None
        self._woken = False
        self._legacy_positions = 0

    def capabilities(self) -> Sequence[Capability]:
        response = self._call(self._list, pb.ListCapabilitiesRequest())
        return [Capability(c.key, c.value_type) for c in response.capabilities]

    def read(self, selection: Selects, since: str | None) -> Reading:
        if since is None:
            return self._state(selection)
        stream = self._stream
        if stream is None or not stream.continues(selection, since):
            return self._open(selection, since)
        messages = stream.take()
        if messages:
            stream.position = self._position(messages[-1].cursor)
        return Reading(newest(messages), stream.position, False)

    def wait(self, timeout: float | None) -> None:
        with self._changed:
            self._changed.wait_for(self._has_news, timeout)
            self._woken = False

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        request = pb.WriteRequest(writes=[_convert.to_item(write) for write in writes])
        try:
            response = self._write(request, timeout=self._timeout)
        except grpc.RpcError as error:
            if _is_unnamed(error, grpc.StatusCode.UNIMPLEMENTED):
                return self._push_alone(writes)
            raise from_status(error, self._where) from error
        return [_convert.to_entry(data) for data in response.entries]

    def settle(self, entries: Sequence[Entry]) -> None:
        stream = self._stream
        if stream is None:
            return
        with self._changed:
            shown = self._changed.wait_for(lambda: stream.shows(entries), SETTLE)
        if not shown:
            # Replaced before it was sent, or late: a stream opened anew begins with all of it.
            self._replace_stream(None)

    def release(self) -> None:
        self._replace_stream(None)

    def close(self) -> None:
        self._replace_stream(None)
        self._channel.close()

    def _open(self, selection: Selects, since: str) -> Reading:
        """Subscribe anew, from `since` where the server knows cursors."""
        request = _request(selection)
        request.deletes = True
        state = None
        if since.startswith(LEGACY):
            # An ancestor's server may send nothing until there is something to send, so the
            # state is asked for. Before: its streams begin with what is there then, so nothing
            # is missed, and a stream that lags behind the answer would make keys go back.
            self._raise_if_refused()
            state = self._state(selection)
        else:
            request.since = since
        stream = Stream(self._subscribe(request), selection, self._where, self._changed)
        self._replace_stream(stream)
        if state is not None:
            stream.position = since
            return state._replace(position=since)
        message = stream.first(self._timeout)
        stream.position = self._position(message.cursor)
        if message.reset:
            return Reading(puts(message.entries), stream.position, True)
        return Reading(message.entries, stream.position, False)

    def _raise_if_refused(self) -> None:
        """After a stream that brought nothing but its end, pause before asking again."""
        refused, stream = None, self._stream
        if stream is not None and not stream.lived:
            refused, self._stream = stream.error, None
        if refused is not None:
            raise SourceUnavailable(f"{self._where} ended the stream: {refused}") from refused

    def _state(self, selection: Selects) -> Reading:
        try:
            response = self._sync(_request(selection), timeout=self._timeout)
        except grpc.RpcError as error:
            if not _is_unnamed(error, grpc.StatusCode.NOT_FOUND):
                raise from_status(error, self._where) from error
            response = self._state_by_key(selection)
        entries = [_convert.to_entry(data) for data in response.data.values()]
        return Reading(entries, self._position(response.cursor), complete=True)

    def _state_by_key(self, selection: Selects) -> pb.DataResponse:
        """For those of the ancestor's servers that fail a whole call for one missing key."""
        state = pb.DataResponse()
        for key in (*selection.keys, *selection.prefixes):
            with suppress(KeyNotFound):
                state.MergeFrom(self._call(self._sync, pb.DataRequest(keys=[key])))
        return state

    def _replace_stream(self, stream: Stream | None) -> None:
        previous, self._stream = self._stream, stream
        if previous is not None:
            previous.cancel()
            previous.join()

    def _has_news(self) -> bool:
        return self._woken or (self._stream is not None and self._stream.has_news())

    def _position(self, cursor: str) -> str:
        if cursor:
            return cursor
        # An ancestor's server: positions only tell apart what was received from what was not.
        self._legacy_positions += 1
        return f"{LEGACY}{self._legacy_positions}"

    def _push_alone(self, writes: Sequence[Write]) -> Sequence[Entry]:
        """A plain put, all that the ancestor's servers know of writing."""
        write = writes[0]
        if len(writes) > 1 or write.value is None or write.expect is not None:
            raise Unsupported(
                f"{self._where} only takes single puts without expect: it is a server of the "
                "older protocol"
            )
        data = _convert.to_item(write).data
        if write.updated_at is None:
            # Its servers store what they are sent, and take a missing time for 1970.
            data.updated_at.GetCurrentTime()
        self._call(self._push, data)
        return [_convert.to_entry(data)]

    def _call(self, method: Callable[..., M], request: Message) -> M:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise from_status(error, self._where) from error

    def _unary(self, name: str, response: type[M]) -> Callable[..., M]:
        method: Callable[..., M] = self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=_serialise,
            response_deserializer=response.FromString,
        )
        return method


def _request(selection: Selects) -> pb.DataRequest:
    return pb.DataRequest(
        keys=[*selection.keys, *selection.prefixes], match=list(selection.patterns)
    )


def _serialise(message: Message) -> bytes:
    return message.SerializeToString()


def _is_unnamed(error: Any, code: grpc.StatusCode) -> bool:
    """Whether it is an answer of another server than ours, or of gRPC itself."""
    return error.code() is code and not name_of(error)


def _open_channel(
    target: str, limit: int, credentials: grpc.ChannelCredentials | None
) -> grpc.Channel:
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
    if location.scheme == "grpcs":
        options.setdefault("credentials", grpc.ssl_channel_credentials())
    return configured(partial(GrpcSource, target), location, options)
