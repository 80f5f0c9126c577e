"""The commits that writes make: who made them, when, and what they say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from dulwich.config import Config
from dulwich.objects import Commit, ObjectID
from dulwich.repo import DefaultIdentityNotFound, get_user_identity

from datastream.errors import DatastreamError, InvalidValue, shown
from datastream.source import Write

NAMED = 3
"""Keys that a message names; of more it gives the number."""
MAX_SECONDS = 1 << 40
"""Dates beyond this are refused by many programs."""

_FORBIDDEN = ("\0", "\n", "<", ">")


class Signature(NamedTuple):
    """Who makes commits, and with which message."""

    identity: bytes
    message: str


def signature(config: Config, author: str, email: str, message: str) -> Signature:
    """Author and committer of the commits to come; what is not given is git's configuration.

    Raises:
        DatastreamError: it is nothing that a commit can hold.
    """
    name, _, address = _configured(config).partition(" <")
    name, address = author or name, email or address.rstrip(">")
    if any(sign in name + address for sign in _FORBIDDEN) or not name.strip():
        raise DatastreamError("author and email are one line each, without < and >")
    if "\0" in message:
        raise DatastreamError("a commit message cannot hold NUL")
    return Signature(f"{name} <{address}>".encode(), message)


def _configured(config: Config) -> str:
    try:
        return get_user_identity(config).decode("utf-8", "replace")
    except DefaultIdentityNotFound:
        return "datastream <datastream@localhost>"


def make_commit(
    signature: Signature, parent: ObjectID | None, tree: ObjectID, writes: Sequence[Write]
) -> Commit:
    """The commit of `writes`.

    Raises:
        InvalidValue: they are dated as no commit can be.
    """
    commit = Commit()
    commit.tree = tree
    commit.parents = [] if parent is None else [parent]
    commit.author = commit.committer = signature.identity
    commit.author_time = commit.commit_time = _seconds(writes)
    commit.author_timezone = commit.commit_timezone = 0
    commit.message = _message(signature.message, writes).encode()
    return commit


def _seconds(writes: Sequence[Write]) -> int:
    times = [write.updated_at for write in writes if write.updated_at is not None]
    seconds = int(max(times).timestamp()) if times else int(time.time())
    if not 0 <= seconds < MAX_SECONDS:
        raise InvalidValue(f"updated_at of {shown(writes[0].key)} is before 1970; git has no such")
    return seconds


def _message(template: str, writes: Sequence[Write]) -> str:
    text = template or _default(writes)
    return text.replace("{keys}", _listed([write.key for write in writes])).rstrip("\n") + "\n"


def _default(writes: Sequence[Write]) -> str:
    deletes = [write.key for write in writes if write.value is None]
    puts = [write.key for write in writes if write.value is not None]
    parts = [f"put {_listed(puts)}"] if puts else []
    parts += [f"delete {_listed(deletes)}"] if deletes else []
    text = ", ".join(parts)
    return text[0].upper() + text[1:]


def _listed(keys: Sequence[str]) -> str:
    if len(keys) > NAMED:
        return f"{len(keys)} keys"
    return ", ".join(key if key.isprintable() else ascii(key) for key in keys)
