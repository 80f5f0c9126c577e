"""One write of a bucket, before it is sent: what it says, and on top of what it is made."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from datastream.entry import Entry, deleted
from datastream.errors import InvalidKey, InvalidValue, shown
from datastream.source import Write, check_expected
from datastream.sources.nats.bucket import Bucket
from datastream.sources.nats.keys import to_subject
from datastream.sources.nats.messages import (
    EXPECTED,
    MESSAGE_ID,
    TTL,
    TYPE,
    Message,
    headers_of,
    revision_of,
    size_of,
)

LONGEST = 3_500
"""Bytes of a subject: servers take command lines of 4,096."""
SHORTEST = 1.0
"""Seconds that a key can be kept at least."""
ALONE, TOGETHER = 60, 180
"""Bytes that a message takes besides: what is expected, and its place in a batch."""


class Plan(NamedTuple):
    """One write, with what its key holds now."""

    write: Write
    subject: str
    headers: dict[str, str]
    at: datetime
    current: Message | None = None
    """The newest message of the key, which may say that it is deleted."""
    sequence: int = 0
    """Its sequence number, perhaps from memory; 0 if there is none."""

    @property
    def content(self) -> tuple[object, str]:
        """What makes it another one than the last; with a ttl, that it is another one."""
        is_other = self.headers[MESSAGE_ID] if TTL in self.headers else ""
        return self.write.value, self.headers.get(TYPE, "") + is_other

    def at_last(self, message: Message | None) -> Plan:
        """The same, now that the newest message is known."""
        return self._replace(current=message, sequence=message.sequence if message else 0)

    @property
    def holds(self) -> Message | None:
        """The same, if the key holds something."""
        current = self.current
        return None if current is None or current.is_delete else current

    def conditional(self) -> dict[str, str]:
        """Headers by which it is refused if the key has changed."""
        return self.headers | {EXPECTED: str(self.sequence)}

    @property
    def is_stored(self) -> bool:
        """Whether this very write is what was done to the key last, by an earlier attempt."""
        current = self.current
        return current is not None and current.headers.get(MESSAGE_ID) == self.headers[MESSAGE_ID]

    def check(self, epoch: str) -> None:
        """Refuse it if what it expects does not hold, as in `check_expected`."""
        if not self.is_stored:
            check_expected(self.write, self.revision(epoch))

    def is_done(self) -> bool:
        """Whether the key holds just that already."""
        if self.is_stored:
            return True
        now = self.holds
        if now is None or self.write.value is None:
            is_known = self.current is not None or self.sequence == 0
            return is_known and now is None and self.write.value is None
        if TTL in self.headers or TTL in now.headers:
            # Counted from here on.
            return False
        return now.data == self.write.value and now.headers.get(TYPE) == self.headers[TYPE]

    def check_size(self, limit: int, largest: int, *, is_alone: bool) -> None:
        """Refuse what is too large.

        Args:
            limit: bytes of a message that the server takes.
            largest: bytes of a value that the bucket takes; -1 for any.
            is_alone: it is not stored together with others.
        """
        write = self.write
        size = len(write.value or b"") + size_of(self.headers) + (ALONE if is_alone else TOGETHER)
        if size > limit or 0 < largest < size:
            name = "max_payload of the server" if size > limit else "max_value_size of the bucket"
            raise InvalidValue(
                f"{shown(write.key)}: {len(write.value or b''):,} bytes are more than {name} "
                f"allows, {min(limit, largest) if largest > 0 else limit:,} with headers; nothing "
                "was written"
            )

    def revision(self, epoch: str) -> str | None:
        """What the key holds, None if it holds nothing."""
        now = self.holds
        return None if now is None else revision_of(epoch, now.sequence)

    def kept(self, epoch: str) -> Entry:
        """The entry that is there and stays."""
        now = self.holds
        return deleted(self.write.key, self.at) if now is None else now.entry(epoch)

    def stored(self, epoch: str, sequence: int) -> Entry:
        """The entry once it is stored."""
        write = self.write
        if write.value is None:
            return deleted(write.key, self.at)
        revision = revision_of(epoch, sequence)
        return Entry(write.key, write.value, write.value_type, self.at, revision)


def plan_of(write: Write, bucket: Bucket, at: datetime, name: str) -> Plan:
    """A write as a message.

    Args:
        at: when, unless it says so itself.
        name: by which servers know the message again.

    Raises:
        InvalidKey, InvalidValue: no bucket can hold it.
    """
    subject = to_subject(write.key)
    if len(bucket.prefix) + len(subject) > LONGEST:
        raise InvalidKey(
            f"{shown(write.key)} takes {len(subject)} bytes as a subject of NATS, {LONGEST} "
            "are possible; choose a shorter one"
        )
    if write.ttl is not None and write.ttl < SHORTEST:
        raise InvalidValue(f"{shown(write.key)}: a ttl on nats is at least {SHORTEST:g} s")
    at = write.updated_at or at
    headers = headers_of(write, at)
    headers[MESSAGE_ID] = name
    return Plan(write, subject, headers, at)
