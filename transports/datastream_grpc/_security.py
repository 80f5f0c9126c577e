"""Who may reach a server, and what proves it: TLS, certificates of clients, bearer tokens."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import grpc
from grpc import aio

from datastream import DatastreamError, Denied, SourceUnavailable
from datastream._secrets import logger
from datastream_grpc._files import WatchedFile
from datastream_grpc._pem import check_pem
from datastream_grpc._principal import token_name
from datastream_grpc._revoking import Proof, Revoking
from datastream_grpc._status import abort

TokenCheck = Callable[[str], bool | str]
"""Whether a token is one, or the name of who has it; called in a thread."""
Path = str | os.PathLike[str]

OPEN_TO_ALL = "/grpc.health.v1.Health/"
"""Asked by balancers, which have no token."""
SCHEME = "bearer "

log = logger("datastream.grpc")


class Tls(NamedTuple):
    """The files for TLS, in PEM; read again when they change."""

    certificate: Path
    """The server's, with those of the authorities between it and the root."""
    key: Path
    """The private key of `certificate`."""
    client_roots: Path | None = None
    """Whose certificates clients have to show; None asks for none."""


def check_exposure(address: str, *, tls: Tls | None, tokens: object) -> None:
    """Refuse to serve other machines in plaintext, or whoever asks.

    Raises:
        DatastreamError: `address` is none of this machine alone, and TLS or authentication lacks.
    """
    is_authenticated = tokens is not None or (tls is not None and tls.client_roots is not None)
    if is_local(address) or (tls is not None and is_authenticated):
        return
    lacking = [] if tls is not None else ["TLS"]
    lacking += [] if is_authenticated else ["tokens"]
    raise DatastreamError(
        f"{address} can be reached from other machines: give it {' and '.join(lacking)}, or listen "
        "on 127.0.0.1; insecure=True serves whoever reaches it all the same"
    )


def is_local(address: str) -> bool:
    """Whether only this machine reaches `address`, or all of several addresses."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    places = address.removeprefix("ipv4:").removeprefix("ipv6:").split(",")
    return all(map(_is_local_place, places))


def _is_local_place(place: str) -> bool:
    host = place.rpartition(":")[0].strip("[]")
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(map(_is_loopback, found))


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """What a server proves itself with; files that change count from the next connection on.

    Raises:
        DatastreamError: a file cannot be read, or holds something else.
    """
    certificate = WatchedFile(tls.certificate, "server's certificate")
    key = WatchedFile(tls.key, "server's private key")
    roots = None if tls.client_roots is None else WatchedFile(tls.client_roots, "clients' roots")

    def read() -> tuple[bytes, bytes, bytes | None]:
        return key.data(), certificate.data(), None if roots is None else roots.data()

    given = read()
    check_pem(certificate, key, roots)

    def changed() -> Any:
        nonlocal given
        now = read()
        if now == given:
            return None
        given = now
        try:
            check_pem(certificate, key, roots)
        except DatastreamError as error:
            # Perhaps half of them is replaced.
            log.error("the files of TLS are wrong, those before stand: %s", error)
            return None
        return _configuration(*now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(*given), changed, require_client_authentication=roots is not None
    )


NameOf = Callable[[str], Awaitable[str | None]]


def token_check(tokens: Path | TokenCheck) -> TokenInterceptor:
    """Lets calls pass by a file with a token a line, or by a callable in a thread.

    Raises:
        DatastreamError: the file cannot be read.
    """
    if callable(tokens):
        return TokenInterceptor(_asking(tokens))
    file = TokenFile(tokens)
    return TokenInterceptor(file.name_of, Revoking(file.names, _refused))


class TokenFile:
    """A file with a token a line, each after the name of who has it, if there is one.

    Args:
        path: of the file.

    Raises:
        DatastreamError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path, "tokens, one a line")
        self._names: tuple[bytes, dict[str, str]] = b"", {}

    async def name_of(self, token: str) -> str | None:
        """The name of a token; None for none."""
        given = token.encode("utf-8", "replace")
        found: bytes | None = None
        # Compared with all of them, each in constant time: how long it takes tells nothing.
        for name, known in map(_named, _lines(self._file.data())):
            if hmac.compare_digest(given, known):
                found = name
        return None if found is None else _text(found)

    def names(self) -> Mapping[str, str]:
        """The name of each token; the same object until the file changes."""
        data = self._file.data()
        if data is not self._names[0]:
            named = map(_named, _lines(data))
            self._names = data, {_text(known): _text(name) for name, known in named}
        return self._names[1]


def _asking(check: TokenCheck) -> NameOf:
    async def name_of(token: str) -> str | None:
        answer = await asyncio.to_thread(check, token)
        if not answer:
            return None
        return answer if isinstance(answer, str) else ""

    return name_of


class TokenInterceptor(aio.ServerInterceptor):  # type: ignore[misc]
    """Lets calls pass that bring a token.

    Args:
        name_of: decides.
        revoking: looks after the streams that passed.
    """

    def __init__(self, name_of: NameOf, revoking: Revoking | None = None) -> None:
        self._name_of = name_of
        self._revoking = revoking

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(OPEN_TO_ALL):
            return handler
        token = _token_of(handler_call_details.invocation_metadata)
        method = handler_call_details.method.rpartition("/")[2]
        try:
            name = await self._name_of(token) if token else None
        except Exception:
            # Its text is no business of who has not said who that is.
            log.exception("%s: the token cannot be checked", method)
            return _refusing(handler, method, UNCHECKED)
        if name is None:
            return _refusing(handler, method, NO_TOKEN)
        # gRPC makes the call in the same context.
        token_name.set(name)
        if self._revoking is None:
            return handler
        return self._revoking.around(handler, Proof(token, name))


class _Refusal(NamedTuple):
    """How a call ends whose token does not count."""

    code: grpc.StatusCode
    error: type[DatastreamError]
    text: str


NO_TOKEN = _Refusal(
    grpc.StatusCode.UNAUTHENTICATED,
    Denied,
    "this server wants a bearer token, and this is none of its own; open it with token= or "
    "token_file=",
)
UNCHECKED = _Refusal(
    grpc.StatusCode.UNAVAILABLE,
    SourceUnavailable,
    "the server cannot find out just now whether this bearer token is one; try again",
)


def _refusing(handler: Any, method: str, refusal: _Refusal) -> Any:
    """A handler of the same kind that answers nothing."""

    async def refuse(request: Any, context: Any) -> None:
        log.info("%s %s 0.0 ms %s", method, context.peer(), refusal.code.name)
        await _refused(context, refusal)

    kind = "stream" if handler.request_streaming else "unary"
    kind += "_stream" if handler.response_streaming else "_unary"
    return getattr(grpc, f"{kind}_rpc_method_handler")(refuse)


async def _refused(context: Any, refusal: _Refusal = NO_TOKEN) -> None:
    code, error, text = refusal
    await abort(context, code, text, error.__name__)


def _token_of(metadata: Any) -> str:
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str) and value.lower().startswith(SCHEME):
            return value[len(SCHEME) :].strip()
    return ""


def _lines(data: bytes) -> list[bytes]:
    lines = (line.strip() for line in data.splitlines())
    return [line for line in lines if line and not line.startswith(b"#")]


def _named(line: bytes) -> tuple[bytes, bytes]:
    """Name and token of a line; the token alone has no name."""
    name, _, token = line.rpartition(b" ")
    return name.strip(), token


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _configuration(key: bytes, certificate: bytes, roots: bytes | None) -> Any:
    return grpc.ssl_server_certificate_configuration([(key, certificate)], roots)


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
