"""Messages of a bucket as entries, and writes as messages."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from datastream.entry import PUT, Entry, deleted
from datastream.source import Write
from datastream.sources._common.file_types import type_of
from datastream.sources.nats.keys import to_key
from datastream.sources.nats.position import moment, nanoseconds

OPERATION = "KV-Operation"
REMOVING = ("DEL", "PURGE")
MARKER = "Nats-Marker-Reason"
ROLLUP = "Nats-Rollup"
TTL = "Nats-TTL"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
BATCH = "Nats-Batch-Id"
NUMBER = "Nats-Batch-Sequence"
COMMIT = "Nats-Batch-Commit"
SIZE = "Datastream-Batch"
"""Messages of its batch: of servers, only the last one is known as such."""
TYPE = "Datastream-Type"
TIME = "Datastream-Time"
AUTHOR = "Datastream-Author"
REASON = "Datastream-Message"

_SAFE = " !#$&'()*+,-./:;<=>?@[]^_`{|}~"
_NONE: Mapping[str, str] = {}


class Message(NamedTuple):
    """One message of a bucket, as stored."""

    key: str
    sequence: int
    at: int
    """When the server stored it, in nanoseconds since 1970."""
    data: bytes
    headers: Mapping[str, str]

    @property
    def is_delete(self) -> bool:
        """Whether it says that the key is gone: removed by somebody, or expired."""
        return bool(self.headers) and _says_gone(self.headers)

    def entry(self, epoch: str) -> Entry:
        """What it says of its key."""
        headers = self.headers
        if headers and _says_gone(headers):
            return deleted(self.key, _time_of(self))
        kind = headers.get(TYPE) if headers else None
        return Entry(
            self.key,
            self.data,
            type_of(self.key, self.data) if kind is None else unquote(kind),
            _time_of(self),
            revision_of(epoch, self.sequence),
        )

    @property
    def batch(self) -> str:
        """Names what it was stored together with; "" if it was stored alone."""
        return self.headers.get(BATCH, "") if self.headers else ""

    @property
    def end(self) -> int:
        """Sequence number of the last message that was stored with it, at least."""
        if not self.batch or COMMIT in self.headers:
            return self.sequence
        try:
            return self.sequence - int(self.headers[NUMBER]) + int(self.headers[SIZE])
        except (KeyError, ValueError):
            # Of another program, which tells the last one only.
            return self.sequence + 1

    @property
    def author(self) -> str:
        return unquote(self.headers.get(AUTHOR, ""))

    @property
    def reason(self) -> str:
        return unquote(self.headers.get(REASON, ""))


def revision_of(epoch: str, sequence: int) -> str:
    """A sequence number is given once; one of a bucket made anew is another."""
    return f"{epoch}:{sequence}"


def sequence_of(epoch: str, revision: str) -> int | None:
    """The sequence number of a revision, None if it is none of this bucket."""
    made, _, digits = revision.partition(":")
    if made != epoch or not re.fullmatch(r"[1-9][0-9]{0,18}", digits):
        return None
    return int(digits)


def stored(found: Mapping[str, Any], start: int) -> Message:
    """A message as JetStream's API shows it; `start` is the length of the bucket's prefix."""
    headers = base64.b64decode(found.get("hdrs", "")).decode(errors="replace")
    return Message(
        to_key(found["subject"][start:]),
        found["seq"],
        nanoseconds(found["time"]),
        base64.b64decode(found.get("data", "")),
        _parsed(headers) if headers else _NONE,
    )


def direct(found: Any, start: int) -> Message:
    """A message as any server sends it, instead of the leader."""
    headers: Mapping[str, str] = found.headers
    return Message(
        to_key(headers["Nats-Subject"][start:]),
        int(headers["Nats-Sequence"]),
        nanoseconds(headers["Nats-Time-Stamp"]),
        found.data,
        headers,
    )


def newest(messages: Iterable[Message]) -> dict[str, Message]:
    """The last message of each key, in their order."""
    found: dict[str, Message] = {}
    for message in messages:
        found.pop(message.key, None)
        found[message.key] = message
    return found


def present(messages: Iterable[Message], epoch: str) -> list[Entry]:
    """The entries of the keys that hold something."""
    entries = [message.entry(epoch) for message in newest(messages).values()]
    return [entry for entry in entries if entry.operation is PUT]


def headers_of(write: Write, at: datetime) -> dict[str, str]:
    """What a message says besides the value."""
    headers = {TIME: at.isoformat()}
    if write.value is None:
        headers[OPERATION] = "DEL"
    else:
        headers[TYPE] = quote(write.value_type, safe=_SAFE)
    if write.ttl is not None:
        headers[TTL] = f"{round(write.ttl * 1000)}ms"
    if write.author:
        headers[AUTHOR] = quote(write.author, safe=_SAFE)
    if write.message:
        headers[REASON] = quote(write.message, safe=_SAFE)
    return headers


def size_of(headers: Mapping[str, str]) -> int:
    """Bytes that headers take in a message."""
    return 14 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def _says_gone(headers: Mapping[str, str]) -> bool:
    # Another operation, such as a plain "PUT", is that of a value to NATS's own tools.
    return headers.get(OPERATION) in REMOVING or MARKER in headers


def _time_of(message: Message) -> datetime:
    given = message.headers.get(TIME) if message.headers else None
    if given:
        try:
            time = datetime.fromisoformat(given)
        except ValueError:
            return moment(message.at)
        # As metadata it may be anybody's, and without a time zone.
        return time if time.utcoffset() is not None else time.replace(tzinfo=UTC)
    return moment(message.at)


def _parsed(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.split("\r\n")[1:] if line)
    return {name.strip(): value.strip() for name, _, value in lines}
