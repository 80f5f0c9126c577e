"""What clients send, as the methods of a server take it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message
from grpc import aio

from datastream import InvalidValue
from datastream.selection import escape
from datastream_grpc._pb import service_pb2 as pb

FEW_KEYS, FEW_CHARS = 16, 1000
"""What a request may have of keys, and characters of each, to be answered on the loop by stores
that do no I/O."""
END = vars(aio)["EOF"]
"""What gRPC reads after the last message; its types know nothing of it."""
NO_MESSAGE = InvalidValue("the request is no message of this method")


def lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`parse`, with what it raises as its result: gRPC's server would log a traceback."""

    def deserialise(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError as error:
            return error

    return deserialise


def checked(message: Any) -> Any:
    """What `lenient` gave.

    Raises:
        InvalidValue: it is no message.
    """
    if isinstance(message, DecodeError):
        raise NO_MESSAGE from message
    return message


async def received(context: Any) -> AsyncIterator[Any]:
    """What a client sends, message by message.

    gRPC's own iterator holds each until the next has come, as large as it is.
    """
    while (message := await context.read()) is not END:
        yield message
        del message


def bytes_of(request: Any) -> bytes:
    """What a client has sent, as far as it is one message."""
    return request.SerializeToString() if isinstance(request, Message) else b""


def selected(request: pb.DataRequest | pb.ReplayRequest) -> tuple[Sequence[str], Sequence[str]]:
    """Keys and patterns as a store takes them; on the wire a "*" in a key is only a character."""
    if not any("*" in key for key in request.keys):
        return request.keys, tuple(request.match)
    odd = [key for key in request.keys if "*" in key]
    match = [f"{escape(key)}**" if key.endswith("/") else escape(key) for key in odd]
    return [key for key in request.keys if "*" not in key], [*request.match, *match]


def is_small(request: pb.DataRequest) -> bool:
    """Whether it selects a few keys, as of now: an answer takes no time worth a thread."""
    keys = request.keys
    is_few = 0 < len(keys) <= FEW_KEYS and not (request.match or request.revisions or request.at)
    return is_few and not any(key.endswith("/") or len(key) > FEW_CHARS for key in keys)
