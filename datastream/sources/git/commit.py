"""The commits that writes make: who made them, when, and what they say."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from dulwich.objects import Commit, ObjectID, ShaFile

from datastream.errors import DatastreamError, InvalidValue, shown
from datastream.source import Write
from datastream.sources.git.identity import Identities
from datastream.sources.git.tree import Change

NAMED = 3
"""Keys that a message names; of more it gives the number."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_IDENTITY = re.compile(
    r"[^<>\x00-\x1f\x7f\ud800-\udfff]*[^<>\s\x00-\x1f\x7f\ud800-\udfff] "
    r"<[^<>\s\x00-\x1f\x7f\ud800-\udfff]*>"
)


class Signature(NamedTuple):
    """Who makes a commit, and what it says."""

    author: bytes
    committer: bytes
    message: str
    """A template; ``{keys}`` in it stands for what is written."""
    text: str = ""
    """The message as it is, instead of the template."""


class Signing:
    """Signs the commits of a store.

    Args:
        identities: who they are by.
        message: a template for what they say; ``{keys}`` in it stands for what is written.

    Raises:
        DatastreamError: no commit can hold the message.
    """

    def __init__(self, identities: Identities, message: str) -> None:
        if "\0" in message or not _is_text(message):
            raise DatastreamError("a commit message is UTF-8, without NUL")
        self._identities = identities
        self._message = message

    def of(self, writes: Sequence[Write]) -> Signature:
        """The signature for `writes`, which may name an author and a message of their own.

        Raises:
            InvalidValue: no commit can hold these.
            DatastreamError: git does not know who commits.
        """
        for write in writes:
            _check_message(write.message)
            if write.author and not _IDENTITY.fullmatch(write.author):
                raise InvalidValue(
                    f"author {shown(write.author)} is not of the form Name <address>, on one line"
                )
        author, committer = self._identities.get()
        named = next((write.author.encode() for write in writes if write.author), author)
        text = next((write.message for write in writes if write.message.strip()), "")
        return Signature(named, committer, self._message, text)


class NewCommit(NamedTuple):
    """A commit that is to be published, with all that belongs to it."""

    commit: Commit
    objects: Sequence[ShaFile]
    """What it consists of, itself last."""
    changes: Sequence[Change]
    """What it changes."""


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
    commit.author = signature.author
    commit.committer = signature.committer
    commit.author_time = commit.commit_time = _seconds(writes)
    commit.author_timezone = commit.commit_timezone = 0
    commit.message = _message(signature, writes).encode()
    return commit


def _check_message(text: str) -> None:
    if "\0" in text:
        raise InvalidValue(f"message {shown(text)} has a NUL, which no commit message can hold")
    if not _is_text(text):
        raise InvalidValue(f"message {shown(text)} cannot be encoded as UTF-8")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
