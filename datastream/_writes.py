"""What the writing calls of a store mean, as writes to its source: encoded and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from datastream import codecs
from datastream._columns import EntryColumns
from datastream._puts import Puts
from datastream._watches import check_seconds
from datastream.entry import Entry
from datastream.errors import InvalidKey, InvalidValue, ReadOnly, Unsupported, shown
from datastream.selection import MAX_KEY_BYTES, check_key
from datastream.source import ANY_REVISION, Feature, Source, Write


def of_many(
    values: Mapping[str, Any], expect: Mapping[str, str] | None, message: str, author: str
) -> list[Write]:
    """The writes of `Store.put_many`."""
    expected = expect or {}
    if not isinstance(values, Mapping) or not isinstance(expected, Mapping):
        raise InvalidValue("put_many takes its values, and expect, as a mapping of keys")
    writes = []
    for key, value in values.items():
        if isinstance(value, Entry):
            data, name = value.value, value.value_type
        else:
            data, name = codecs.encode(value, key=key)
        writes.append(Write(key, data, name, expected.get(key), None, message, author))
    for key in expected:
        if key not in values:
            raise InvalidKey(f"expect names {shown(key)}, which is not among the values to put")
    return writes


def of_delete(
    key: str, expect: str | None, message: str, author: str, *, missing_ok: bool
) -> Write:
    """The write of `Store.delete`."""
    unconditional = None if missing_ok else ANY_REVISION
    wanted = unconditional if expect is None else expect
    return Write(key, None, expect=wanted, message=message, author=author)


class WriteCheck:
    """Refuses what no backend takes, or this one does not.

    Args:
        source: the backend.
        name: of the store.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source = source
        self._name = name
        self._learn_features()

    def all(self, writes: Sequence[Write]) -> None:
        """Check what is written in one go."""
        if isinstance(writes, Puts) and _are_plain(writes.entries):
            # What is left to be asked is the same for all.
            self.one(writes[0])
            return
        for write in writes:
            self.one(write)
            codecs.check_type(write.value_type, key=write.key)
        if len(writes) > 1 and len({write.key for write in writes}) < len(writes):
            raise InvalidKey("a key is written twice at once; write each key once")

    def one(self, write: Write) -> None:
        """Check one write whose value has been encoded, which checks its type."""
        if self._source.features is not self._learnt:
            self._learn_features()
        if not self._can_write:
            why = self._source.why_only_read
            reason = f": {why}" if why else ""
            raise ReadOnly(f"{self._name} can only be read{reason}; nothing was written")
        key, _, _, expect, updated_at, message, author, _, ttl = write
        check_key(key)
        if updated_at is not None:
            _check_time(updated_at, key)
        if expect is not None and expect != ANY_REVISION:
            if not isinstance(expect, str):
                raise InvalidValue(f"expect of {shown(key)} is a revision, which is text")
            if not self._can_expect:
                raise Unsupported(f"{self._name} has no compare-and-set; put without expect")
        if message or author:
            self._check_texts(message, author)
        if ttl is not None:
            self._check_ttl(write, ttl)

    def _check_texts(self, message: str, author: str) -> None:
        if not self._keeps_messages:
            raise Unsupported(
                f"{self._name} keeps neither message nor author of a write; leave them out"
            )
        for what, text in (("message", message), ("author", author)):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidValue(
                    f"{what} {shown(text)} cannot be encoded as UTF-8; nothing was written"
                ) from error

    def _check_ttl(self, write: Write, ttl: float) -> None:
        if not self._has_ttl:
            raise Unsupported(f"{self._name} keeps every key until it is removed; put without ttl")
        check_seconds(ttl, "ttl")
        if write.value is None or ttl == 0:
            raise InvalidValue(f"ttl={ttl:g} of {shown(write.key)}: give one above 0, to puts only")

    def _learn_features(self) -> None:
        features = self._source.features
        # Looked up for each write, which would take a third of the time of one in memory.
        self._can_write = Feature.WRITE in features
        self._can_expect = Feature.COMPARE_AND_SET in features
        self._keeps_messages = Feature.MESSAGES in features
        self._has_ttl = Feature.TTL in features
        self._learnt = features


def _are_plain(entries: EntryColumns) -> bool:
    """Whether these are such that no look at each is needed, which takes as long as to store it."""
    keys = entries.keys
    joined = "\0".join(["", *keys, ""])
    return (
        len(keys) > 0
        and joined.isascii()
        and joined.count("\0") == len(keys) + 1
        and "\0\0" not in joined
        and "/\0" not in joined
        and max(map(len, keys)) <= MAX_KEY_BYTES
        and len(set(keys)) == len(keys)
        and all(map(_is_type, set(entries.types)))
        and not any(time.tzinfo is None for time in set(entries.times) if time is not None)
    )


def _is_type(value_type: str) -> bool:
    try:
        codecs.check_type(value_type)
    except InvalidValue:
        return False
    return True


def _check_time(updated_at: datetime, key: str) -> None:
    if not isinstance(updated_at, datetime):
        raise InvalidValue(f"updated_at of {shown(key)} is a datetime with a time zone")
    if updated_at.tzinfo is None:
        raise InvalidValue(
            f"updated_at of {shown(key)} has no time zone; give one, such as datetime.UTC"
        )
    try:
        updated_at.astimezone(UTC)
    except OverflowError as error:
        raise InvalidValue(
            f"updated_at of {shown(key)} is {updated_at}, which is no time between the years 1 and "
            "9999 in UTC"
        ) from error
