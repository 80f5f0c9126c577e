"""What is served beside DataService: health and reflection, v1 as well as v1alpha."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from datastream_grpc._pb.pool import POOL
from datastream_grpc._requests import lenient

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
"""Both have the same messages."""


class _Both:
    """What reflection asks a pool for, of ours and of all others."""

    def FindFileByName(self, name: str) -> Any:  # noqa: N802
        return _first("FindFileByName", name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802
        return _first("FindFileContainingSymbol", symbol)

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802
        return _first("FindMessageTypeByName", name)

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:  # noqa: N802
        return Default().FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:  # noqa: N802
        return Default().FindAllExtensions(message)


def _first(method: str, name: str) -> Any:
    try:
        return getattr(POOL, method)(name)
    except KeyError:
        return getattr(Default(), method)(name)


NO_MESSAGE = "the request is no message of this method"


def handlers(health: Any, services: Sequence[str]) -> Sequence[Any]:
    """The handlers of both services.

    Args:
        health: the health servicer.
        services: the names of those that reflection lists.
    """
    servicer = reflection.aio.ReflectionServicer((*services, HEALTH, *REFLECTION), pool=_Both())
    request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
    methods = {
        "Check": _unary(grpc.unary_unary_rpc_method_handler, health.Check, request, response),
        "Watch": _unary(grpc.unary_stream_rpc_method_handler, health.Watch, request, response),
    }
    info = grpc.stream_stream_rpc_method_handler(
        _checked_stream(servicer.ServerReflectionInfo),
        request_deserializer=lenient(reflection_pb2.ServerReflectionRequest.FromString),
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler
    return [
        generic(HEALTH, methods),
        *(generic(name, {"ServerReflectionInfo": info}) for name in REFLECTION),
    ]


def _unary(make: Any, method: Callable[..., Any], request: Any, response: Any) -> Any:
    async def checked(message: Any, context: Any) -> Any:
        if isinstance(message, DecodeError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, NO_MESSAGE)
        return await method(message, context)

    return make(
        checked,
        request_deserializer=lenient(request.FromString),
        response_serializer=response.SerializeToString,
    )


def _checked_stream(method: Callable[..., Any]) -> Callable[..., Any]:
    async def checked(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async def parsed() -> AsyncIterator[Any]:
            async for message in messages:
                if isinstance(message, DecodeError):
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, NO_MESSAGE)
                yield message

        async for answer in method(parsed(), context):
            yield answer

    return checked
