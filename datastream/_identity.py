"""Which store is which, as far as its URL tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from inspect import signature

from datastream.errors import DatastreamError
from datastream.source import Source
from datastream.url import Location, parse

ON_DISK = frozenset(("sqlite", "file", "local", "git"))
"""Schemes of which a path tells which store it is."""
_MANNERS = frozenset((
    "anon", "author", "cache", "certificate", "create", "credentials", "email", "heartbeat",
    "history", "history_days", "history_rows", "insecure", "interval", "max_bytes",
    "max_message_size", "message", "mode", "nkey", "password", "polling", "profile", "progress",
    "readonly", "replicas", "roots", "storage", "timeout", "tls", "token", "token_file",
    "triggers", "ttl", "user", "username",
))  # fmt: skip
"""Options that say how a store is opened, and not which one."""


def identity_of(name: str, source: Source | None) -> str:
    """What tells a store from others, the same in all processes; "" where its URL does not.

    Args:
        name: of the store.
        source: of the store; None if it is not open.
    """
    try:
        location = parse(name)
    except DatastreamError:
        return ""
    if location.scheme == "memory":
        return ""
    options = "&".join(f"{name}={text}" for name, text in sorted(_telling(source, location)))
    is_local = location.scheme in ON_DISK and not location.path.startswith("//")
    path = os.path.realpath(location.path) if is_local else location.path
    return f"{location.scheme}:{path}?{options}"


def spoken(identity: str) -> str:
    """Which store it is, as errors give it."""
    return identity.removesuffix("?")


def _telling(source: Source | None, location: Location) -> Iterator[tuple[str, str]]:
    """The options that tell a store from others."""
    parameters = {} if source is None else signature(type(source)).parameters
    for name, text in location.options.items():
        known = parameters.get(name)
        is_default = known is not None and str(known.default) == text
        if name not in _MANNERS and not is_default:
            yield name, text
