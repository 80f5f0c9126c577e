"""Exposes a store over gRPC with one call; ``datastream.open("grpc://…")`` is the other side."""

try:
    from datastream_grpc import _quiet as _quiet
    from datastream_grpc._admin import Ping, ping, refresh
    from datastream_grpc._limits import Limits
    from datastream_grpc._principal import Principal
    from datastream_grpc._rules import Authorize, Rules
    from datastream_grpc._security import Tls
    from datastream_grpc._telemetry import serve_metrics
    from datastream_grpc.server import Server, serve
    from datastream_grpc.sharing import shared
    from datastream_grpc.source import GrpcSource
except ModuleNotFoundError as error:
    raise ImportError(
        f'datastream_grpc needs an extra: pip install "datastream-kv[grpc]" ({error})'
    ) from error

__all__ = [
    "Authorize",
    "GrpcSource",
    "Limits",
    "Ping",
    "Principal",
    "Rules",
    "Server",
    "Tls",
    "ping",
    "refresh",
    "serve",
    "serve_metrics",
    "shared",
]
