"""Who calls: the name that a token or a client's certificate stands for."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple

CERTIFICATE_NAMES = ("x509_common_name", "x509_subject_alternative_name")
"""What gRPC tells of a client's certificate, the best name first."""

token_name: ContextVar[str] = ContextVar("token_name", default="")
"""The name of the token that the present call has brought."""


class Principal(NamedTuple):
    """Who calls."""

    name: str = ""
    """Of the token, or the common name of the client's certificate, else its first alternative
    name; "" is somebody without a name."""
    peer: str = ""
    """The address of the client, as gRPC writes it."""


NOBODY = Principal()


def principal_of(context: Any) -> Principal:
    """Who makes the call of `context`."""
    return Principal(token_name.get() or _certified(context.auth_context()), context.peer())


def host_or_name(principal: Principal) -> str:
    """Whose limits count for it."""
    if principal.name:
        return f"principal {principal.name}"
    # Of "ipv4:10.0.0.1:5432", without the port.
    return f"host {principal.peer.rpartition(':')[0] or principal.peer}"


class Whose(NamedTuple):
    """By what is counted what somebody uses."""

    connection: str
    """"" where connections cannot be told apart."""
    who: str


def whose(principal: Principal) -> Whose:
    """By what is counted what `principal` uses."""
    peer = principal.peer
    return Whose("" if peer.startswith("unix") else f"connection {peer}", host_or_name(principal))


def _certified(proven: Any) -> str:
    for kind in CERTIFICATE_NAMES:
        for name in proven.get(kind, ()):
            return str(name.decode("utf-8", "replace"))
    return ""
