"""What a client proves itself with, and how it knows its server."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import grpc
from grpc import aio

from datastream import DatastreamError, SourceUnavailable
from datastream.errors import printable
from datastream_grpc._files import WatchedFile
from datastream_grpc._pem import check_pem
from datastream_grpc._security import is_local

Path = str | os.PathLike[str]
Token = str | Callable[[], str]


class Credentials(NamedTuple):
    """How to open a channel; see `GrpcSource` for what its parts mean."""

    tls: bool = False
    roots: Path = ""
    certificate: Path = ""
    key: Path = ""
    token: Token = ""
    token_file: Path = ""
    insecure: bool = False
    given: grpc.ChannelCredentials | None = None


class Opener:
    """Opens channels to one server.

    Args:
        target: ``host:port`` or ``unix:path``.
        options: of each channel.
        credentials: for TLS and tokens.

    Raises:
        DatastreamError: a file cannot be read or holds something else, half a pair is missing, a
            token is none, or would be sent in plaintext.
    """

    def __init__(
        self, target: str, options: tuple[tuple[str, int], ...], credentials: Credentials
    ) -> None:
        self._target, self._options = target, options
        self._credentials = credentials
        self._token = _token(credentials)
        self._files = _tls_files(credentials)
        is_secret = credentials.given is not None or self._files is not None
        if self._token and not (is_secret or credentials.insecure or is_local(target)):
            raise DatastreamError(
                f"{target}: a token in plaintext is anybody's; open grpcs:// (in code: or give "
                "insecure=True, if the network is yours)"
            )

    def __call__(self) -> grpc.Channel:
        channel = self._plain()
        if self._token is None:
            return channel
        return grpc.intercept_channel(channel, _WithToken(self._token))

    def for_loop(self) -> aio.Channel:
        """A channel of the running event loop; its calls need `metadata`."""
        credentials = self._channel_credentials()
        if credentials is None:
            return aio.insecure_channel(self._target, self._options)
        return aio.secure_channel(self._target, credentials, self._options)

    @property
    def has_token(self) -> bool:
        """Whether `metadata` asks for one, which may take a while."""
        return self._token is not None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What is sent with each call, now."""
        return () if self._token is None else _authorization(self._token)

    def _plain(self) -> grpc.Channel:
        credentials = self._channel_credentials()
        if credentials is None:
            return grpc.insecure_channel(self._target, self._options)
        return grpc.secure_channel(self._target, credentials, self._options)

    def _channel_credentials(self) -> grpc.ChannelCredentials | None:
        """As the files are now; None for plaintext."""
        if self._credentials.given is not None:
            return self._credentials.given
        if self._files is None:
            return None
        roots, key, certificate = (f.data() if f else None for f in self._files)
        return grpc.ssl_channel_credentials(roots, key, certificate)


def _authorization(token: Callable[[], str]) -> tuple[tuple[str, str], ...]:
    """The metadata of a call.

    Raises:
        SourceUnavailable: there is no token just now.
        DatastreamError: no header can hold it.
    """
    try:
        given = token()
    except DatastreamError:
        raise
    except Exception as error:
        # What gives tokens, such as a vault, may be away for a moment: the next call asks again.
        raise SourceUnavailable(f"token= gave no token: {printable(repr(error))}") from error
    return (("authorization", f"Bearer {_checked(given)}"),)


def _checked(token: str) -> str:
    """A token that fits into a header: gRPC would only say that its metadata is wrong."""
    if not (isinstance(token, str) and token.isascii() and token.isprintable()):
        raise DatastreamError("the token is no text of printable ASCII, which headers consist of")
    return token


def _tls_files(credentials: Credentials) -> tuple[WatchedFile | None, ...] | None:
    """Roots, key and certificate; None for plaintext."""
    roots, key, certificate = credentials.roots, credentials.key, credentials.certificate
    if bool(key) != bool(certificate):
        raise DatastreamError("certificate and key belong together; give both, or none")
    if not (credentials.tls or roots or key):
        return None
    trusted = WatchedFile(roots, "authorities to trust") if roots else None
    private = WatchedFile(key, "client's private key") if key else None
    shown = WatchedFile(certificate, "client's certificate") if certificate else None
    check_pem(shown, private, trusted)
    return trusted, private, shown


def _token(credentials: Credentials) -> Callable[[], str] | None:
    token = credentials.token
    if credentials.token_file:
        if token:
            raise DatastreamError("token and token_file are two tokens; give one")
        file = WatchedFile(credentials.token_file, "token")
        return lambda: file.data().decode("utf-8", "replace").strip()
    if callable(token):
        return token
    return partial(_checked, token) if _checked(token) else None


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _WithToken(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Sends a token with each call."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._with(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._with(client_call_details), request)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(self._with(client_call_details), request_iterator)

    def _with(self, details: Any) -> _Details:
        metadata = [*(details.metadata or ()), *_authorization(self._token)]
        return _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
