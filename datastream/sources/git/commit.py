"""The commits that writes make: who made them, when, and what they say."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from dulwich.config import Config
from dulwich.objects import Commit, ObjectID, ShaFile
from dulwich.repo import DefaultIdentityNotFound, get_user_identity

from datastream.errors import DatastreamError, InvalidValue, shown
from datastream.source import Write
from datastream.sources.git.tree import Change

NAMED = 3
"""Keys that a message names; of more it gives the number."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORBIDDEN = ("\0", "\n", "<", ">")
_IDENTITY = re.compile(
    r"[^<>\x00-\x1f\x7f\ud800-\udfff]*[^<>\s\x00-\x1f\x7f\ud800-\udfff] "
    r"<[^<>\s\x00-\x1f\x7f\ud800-\udfff]*>"
)


class Signature(NamedTuple):
    """Who makes commits, and with which message."""

    identity: bytes
    message: str
    """A template; ``{keys}`` in it stands for what is written."""
    author: bytes = b""
    """Who has asked for them, if it is somebody else."""
    text: str = ""
    """The message of one commit, as it is, instead of the template."""

    def of(self, writes: Sequence[Write]) -> Signature:
        """What it is for `writes`, which may name an author and a message of their own.

        Raises:
            InvalidValue: no commit can hold these.
        """
        for write in writes:
            _check_message(write.message)
            if write.author and not _IDENTITY.fullmatch(write.author):
                raise InvalidValue(
                    f"author {shown(write.author)} is not of the form Name <address>, on one line"
                )
        author = next((write.author for write in writes if write.author), "")
        text = next((write.message for write in writes if write.message.strip()), "")
        return self._replace(author=author.encode(), text=text)


class NewCommit(NamedTuple):
    """A commit that is to be published, with all that belongs to it."""

    commit: Commit
    objects: Sequence[ShaFile]
    """What it consists of, itself last."""
    changes: Sequence[Change]
    """What it changes."""


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
    commit.author = signature.author or signature.identity
    commit.committer = signature.identity
    commit.author_time = commit.commit_time = _seconds(writes)
    commit.author_timezone = commit.commit_timezone = 0
    commit.message = _message(signature, writes).encode()
    return commit


def _check_message(text: str) -> None:
    if "\0" in text:
        raise InvalidValue(f"message {shown(text)} has a NUL, which no commit message can hold")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(f"message {shown(text)} cannot be encoded as UTF-8") from error


def _seconds(writes: Sequence[Write]) -> int:
    times = [write.updated_at for write in writes if write.updated_at is not None]
    if not times:
        return int(time.time())
    latest = max(times)
    try:
        # In whole numbers: as a float, the last second of year 9999 is the next one.
        seconds = (latest - _EPOCH) // timedelta(seconds=1)
        # What is written has to be readable again.
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        seconds = -1
    if seconds < 0:
        raise InvalidValue(
            f"updated_at of {shown(writes[0].key)} is {latest}; git has dates from 1970 to 9999, "
            "in UTC"
        )
    return seconds


def _message(signature: Signature, writes: Sequence[Write]) -> str:
    text = signature.text
    if not text:
        template = signature.message or _default(writes)
        text = template.replace("{keys}", _listed([write.key for write in writes]))
    return text.rstrip("\n") + "\n"


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
