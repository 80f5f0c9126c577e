"""Each error has one gRPC status, and the way back."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc import aio

import datastream
from datastream import DatastreamError
from datastream.errors import printable
from datastream_grpc._details import details_of
from datastream_grpc._limits import LimitReached
from datastream_grpc._pieces import NoSuchPoint

NAME = "datastream-error"
"""Trailing metadata that names the error, since some share a status."""

MAX_ERROR_TEXT = 1000
"""Bytes. gRPC drops a status of more than 8 kB, in which each of them counts up to five times:
it is escaped as three, and stands in the details twice."""

CODES: dict[type[DatastreamError], grpc.StatusCode] = {
    datastream.KeyNotFound: grpc.StatusCode.NOT_FOUND,
    datastream.InvalidKey: grpc.StatusCode.INVALID_ARGUMENT,
    datastream.InvalidValue: grpc.StatusCode.INVALID_ARGUMENT,
    datastream.RevisionConflict: grpc.StatusCode.ABORTED,
    datastream.ReadOnly: grpc.StatusCode.FAILED_PRECONDITION,
    datastream.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    datastream.SourceUnavailable: grpc.StatusCode.UNAVAILABLE,
    datastream.StoreClosed: grpc.StatusCode.UNAVAILABLE,
    datastream.Denied: grpc.StatusCode.PERMISSION_DENIED,
    datastream.Unreadable: grpc.StatusCode.PERMISSION_DENIED,
    DatastreamError: grpc.StatusCode.INTERNAL,
}

# From servers that do not name the error: the ancestor's, and gRPC itself.
_UNNAMED: dict[grpc.StatusCode, type[DatastreamError]] = {
    grpc.StatusCode.NOT_FOUND: datastream.KeyNotFound,
    grpc.StatusCode.INVALID_ARGUMENT: datastream.InvalidValue,
    grpc.StatusCode.OUT_OF_RANGE: datastream.InvalidValue,
    grpc.StatusCode.RESOURCE_EXHAUSTED: datastream.InvalidValue,
    grpc.StatusCode.ABORTED: datastream.RevisionConflict,
    grpc.StatusCode.FAILED_PRECONDITION: datastream.ReadOnly,
    grpc.StatusCode.UNIMPLEMENTED: datastream.Unsupported,
    grpc.StatusCode.PERMISSION_DENIED: datastream.Denied,
    grpc.StatusCode.UNAUTHENTICATED: datastream.Denied,
    grpc.StatusCode.INTERNAL: DatastreamError,
}

# A closed store on the server is, to a client, a server that may come back.
_NAMED = {error.__name__: error for error in CODES if error is not datastream.StoreClosed}


def code_of(error: Exception) -> grpc.StatusCode:
    """The status of an error; INTERNAL for what is not ours."""
    if isinstance(error, LimitReached):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, NoSuchPoint):
        return grpc.StatusCode.INVALID_ARGUMENT
    return CODES.get(public_kind(error), grpc.StatusCode.INTERNAL)  # type: ignore[arg-type]


def public_kind(error: Exception) -> type[Exception]:
    """What clients know of the kinds of an error: some are only the server's, or a source's."""
    return next((kind for kind in type(error).__mro__ if kind in CODES), type(error))


def name_of(error: Any) -> str:
    """What our server calls the error; "" from any other."""
    return next((str(value) for key, value in error.trailing_metadata() or () if key == NAME), "")


def is_unnamed(error: Any, code: grpc.StatusCode) -> bool:
    """Whether it is an answer of another server than ours, or of gRPC itself."""
    return error.code() is code and not name_of(error)


def kind_of(name: str, otherwise: type[DatastreamError]) -> type[DatastreamError]:
    """The error that a server calls `name`."""
    return _NAMED.get(name, otherwise)


def from_status(error: Any, where: str) -> DatastreamError:
    """The error that a failed call stands for."""
    code: grpc.StatusCode = error.code()
    # A server's text must not reach a terminal as it is.
    details = printable(error.details() or "")
    kind = kind_of(name_of(error), _UNNAMED.get(code, datastream.SourceUnavailable))
    is_size = code is grpc.StatusCode.RESOURCE_EXHAUSTED and not name_of(error)
    if is_size and "oncurrent" in details:
        # Of gRPC itself, which has too many calls.
        is_size, kind = False, datastream.SourceUnavailable
    if is_size and "metadata size" in details:
        is_size, kind = False, DatastreamError
        details += "; the headers of a call, such as a token, have 8 kB"
    if code is grpc.StatusCode.UNAVAILABLE and kind is datastream.SourceUnavailable:
        # gRPC tells the whole story of how it tried; the end of it is what matters.
        details = details.rpartition("last error: ")[2]
        if not name_of(error):
            details += "; check the address, and that the server runs"
    if is_size:
        details += "; send less at once, or raise max_message_size on the other side"
    return kind(f"{where}: {details or code.name}")


def from_answer(name: str, text: str, where: str) -> DatastreamError:
    """The error that a server answers one of many writes with."""
    return kind_of(name, datastream.SourceUnavailable)(f"{where}: {printable(text)}")


def to_answer(error: Exception) -> tuple[str, str]:
    """Name and text of an error as a client learns it; "" if it is none of ours."""
    if isinstance(error, DatastreamError) and not _is_unexpected(error):
        return public_kind(error).__name__, _cut(str(error))
    # What it was is the server's business; the client learns that it was not its fault.
    return "", "internal error; see the server's log"


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:MAX_ERROR_TEXT].decode("utf-8", "ignore")


def _is_unexpected(error: DatastreamError) -> bool:
    """Whether the store made it of an error that is none of ours, whose text may hold secrets."""
    cause = error.__cause__
    foreign = cause is not None and not isinstance(cause, DatastreamError)
    return foreign and code_of(error) is grpc.StatusCode.INTERNAL


def translated(error: Exception, where: str) -> Exception:
    """`error` as one of ours, if it is gRPC's; `EOFError` is a stream that ended too soon."""
    if isinstance(error, grpc.RpcError):
        return from_status(error, where)
    if isinstance(error, EOFError):
        return datastream.SourceUnavailable(f"{where}: {error}")
    if isinstance(error, ValueError) and "closed" in str(error):
        # What gRPC raises for a channel that was replaced just now; the next call has the new one.
        return datastream.SourceUnavailable(f"{where}: the connection was lost; try again")
    return error


async def abort(context: Any, code: grpc.StatusCode, text: str, name: str = "") -> None:
    """End a call with an error.

    Args:
        name: of the error; "" for one that is none of ours.

    Raises:
        AbortError: it has ended.
        CancelledError: its client is not told. One that takes not even what its call begins with
            cannot be, and gRPC would print that.
    """
    named = ((NAME, name),) if name else ()
    try:
        await context.abort(code, text, (*named, *details_of(code, name, text)))
    except aio.AbortError:
        raise
    except Exception as error:
        raise asyncio.CancelledError from error
