"""Where the servers are and how one proves oneself to them, checked before any is asked."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from datastream.errors import DatastreamError
from datastream.sources._common.paths import fixed
from datastream.url import Location, check_port, expanded

PORT = 4222
BUCKET = re.compile(r"[-_A-Za-z0-9]{1,200}")


class Place(NamedTuple):
    """What a URL names."""

    servers: list[str]
    """``nats://host:port``, without user and password."""
    bucket: str
    user: str = ""
    password: str = ""


class Proof(NamedTuple):
    """What a client proves itself with, and what a server has to."""

    user: str = ""
    password: str = ""
    token: str | Callable[[], str] = ""
    token_file: str = ""
    nkey: str = ""
    credentials: str = ""
    tls: bool = False
    roots: str = ""
    certificate: str = ""
    key: str = ""

    def arguments(self) -> dict[str, Any]:
        """Those of the client library.

        Raises:
            DatastreamError: two ways at once, or a file that cannot be read.
        """
        ways = {
            "user and password": bool(self.user or self.password),
            "token": bool(self.token or self.token_file),
            "nkey": bool(self.nkey),
            "credentials": bool(self.credentials),
        }
        given = [name for name, is_given in ways.items() if is_given]
        if len(given) > 1:
            raise DatastreamError(f"nats: {' and '.join(given)} exclude each other; give one")
        found = {**self._secret(), **self._files()}
        if self.tls or self.roots or self.certificate:
            found["tls"] = self._tls()
        return found

    def _secret(self) -> dict[str, Any]:
        if self.token_file:
            path = _readable(self.token_file, "token_file")
            # Asked for each time a connection is made.
            return {"token": lambda: Path(path).read_text().strip()}
        if self.token:
            return {"token": self.token}
        if self.user or self.password:
            return {"user": self.user, "password": self.password}
        return {}

    def _files(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.nkey:
            found["nkeys_seed"] = _readable(self.nkey, "nkey")
        if self.credentials:
            found["user_credentials"] = _readable(self.credentials, "credentials")
        if found:
            try:
                import nkeys  # noqa: F401
            except ImportError as error:
                raise ImportError(
                    f'nats: needs an extra: pip install "datastream-kv[nats]" ({error})'
                ) from error
        return found

    def _tls(self) -> ssl.SSLContext:
        if self.key and not self.certificate:
            raise DatastreamError("nats: key= belongs to certificate=; give both")
        try:
            context = ssl.create_default_context(
                cafile=_readable(self.roots, "roots") if self.roots else None
            )
            if self.certificate:
                context.load_cert_chain(
                    _readable(self.certificate, "certificate"),
                    _readable(self.key, "key") if self.key else None,
                )
        except (ssl.SSLError, ValueError) as error:
            raise DatastreamError(
                f"nats: roots, certificate or key are no PEM, or do not belong together: {error}"
            ) from None
        return context


def _readable(path: str, option: str) -> str:
    """The path, of a file that can be read; what is in it is not shown."""
    name = fixed(expanded(path))
    try:
        with Path(name).open("rb"):
            return name
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DatastreamError(f"nats: the file of {option}= cannot be read: {why}") from None


def place_of(location: Location) -> Place:
    """Servers, bucket and user of ``nats://USER:PASSWORD@HOST:PORT,HOST/BUCKET``.

    Raises:
        DatastreamError: it names no server or bucket, or a port that is none.
    """
    if not location.path.startswith("//"):
        raise DatastreamError(f"{location.shown!r} names no server; write nats://host:4222/bucket")
    check_port(location)
    authority, _, bucket = location.path[2:].partition("/")
    proof, at, hosts = authority.rpartition("@")
    bucket = unquote(bucket.rstrip("/"))
    check_bucket(bucket, location.shown)
    user, _, password = proof.partition(":")
    servers = [_server(host, location.shown) for host in hosts.split(",")]
    if not at:
        return Place(servers, bucket)
    return Place(servers, bucket, unquote(user), unquote(password))


def check_bucket(bucket: str, where: str) -> None:
    """Refuse what no bucket can be called."""
    if not BUCKET.fullmatch(bucket):
        raise DatastreamError(
            f"{where!r} names no bucket; write nats://host:4222/bucket, its name made of letters, "
            "digits, '-' and '_'"
        )


def _server(host: str, where: str) -> str:
    if "@" in host:
        raise DatastreamError(f"{where!r}: give user and password once, before the first host")
    bare = re.sub(r":[0-9]+$", "", host)
    if not bare or (":" in bare and not (bare[0] == "[" and bare[-1] == "]")):
        raise DatastreamError(f"{where!r} names no server; write nats://host:4222/bucket")
    return f"nats://{host}" if bare != host else f"nats://{host}:{PORT}"
