"""What a bucket held before: as many values of each key as its history keeps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from datastream.entry import Capability, Entry, Revision
from datastream.errors import DatastreamError, shown
from datastream.selection import Selects, selected
from datastream.source import Feature, Reading
from datastream.sources._common.past import ReadOnlyPast
from datastream.sources._common.points import parse_time
from datastream.sources.nats.bucket import Info
from datastream.sources.nats.messages import MARKER, OPERATION, Message, present
from datastream.sources.nats.position import SECOND, Position
from datastream.sources.nats.reader import told


class Past(NamedTuple):
    """All that a bucket has of some keys."""

    info: Info
    messages: list[Message]
    """In their order."""
    where: str
    """The bucket as error texts name it."""

    def find(self, point: str | datetime) -> int:
        """The sequence number that a point stands for.

        Raises:
            DatastreamError: it is none, or lies before or after all that there is.
        """
        if isinstance(point, str):
            cursor = Position.parse(point)
            if cursor is not None:
                return self._checked(cursor.epoch, cursor.sequence)
            found = re.fullmatch(r"(?:([0-9a-f]{1,16}):)?(0|[1-9][0-9]{0,18})", point)
            if found is not None:
                return self._whole(self._checked(found[1], int(found[2])))
        time = parse_time(point)
        if time is None:
            raise DatastreamError(
                f"{self.where} has no point {shown(str(point))}; give a sequence number, as in "
                "Revision.point, or a time in ISO 8601"
            )
        at = int(time.timestamp() * SECOND)
        if at < int(self.info.position.epoch, 16):
            raise DatastreamError(f"{self.where} is not as old as {time}")
        return self._whole(max((m.sequence for m in self.messages if m.at <= at), default=0))

    def state(self, sequence: int) -> list[Message]:
        """The newest message of each key, as of a sequence number.

        Raises:
            DatastreamError: what a key held then is no longer kept.
        """
        kept: dict[str, list[Message]] = {}
        for message in self.messages:
            kept.setdefault(message.key, []).append(message)
        found = (self._of_key(messages, sequence) for messages in kept.values())
        return [message for message in found if message is not None]

    def _of_key(self, messages: Sequence[Message], sequence: int) -> Message | None:
        before = [message for message in messages if message.sequence <= sequence]
        if before:
            return before[-1]
        first = messages[0]
        is_first = len(messages) < self.info.history and not _is_rollup(first)
        if is_first and not self._may_have_expired(sequence):
            return None
        raise DatastreamError(
            f"{self.where} keeps {self.info.history} values of each key, and no longer what "
            f"{shown(first.key)} held at {sequence}; give a later point, or a larger history= to "
            "the bucket"
        )

    def _may_have_expired(self, sequence: int) -> bool:
        info = self.info
        if not info.max_age:
            return False
        after = next((m.at for m in self.messages if m.sequence > sequence), info.now)
        return after < info.now - info.max_age

    def _whole(self, sequence: int) -> int:
        """The same, or where the batch ends in which it lies."""
        last = self.info.position.sequence
        ends = (m.end for m in self.messages if m.batch and m.sequence <= sequence)
        return min(last, max([sequence, *ends]))

    def _checked(self, epoch: str | None, sequence: int) -> int:
        position = self.info.position
        if epoch not in (None, position.epoch) or sequence > position.sequence:
            raise DatastreamError(
                f"{self.where} has no point {sequence}; its last is {position.sequence}"
            )
        return sequence


def _is_rollup(message: Message) -> bool:
    """Whether it has removed what was there before it."""
    return MARKER in message.headers or message.headers.get(OPERATION) == "PURGE"


def revisions(past: Past) -> Iterator[Revision]:
    """What a key held, newest first."""
    epoch = past.info.position.epoch
    for message in reversed(past.messages):
        yield Revision(message.entry(epoch), str(message.end), message.author, message.reason)


def replay(past: Past, since: str | datetime | None) -> Iterator[Reading]:
    """The state at a point, and each message after it."""
    now = past.info.position
    sequence = 0 if since is None else past.find(since)
    state = [] if since is None else past.state(sequence)
    at = max((message.at for message in state), default=0)
    begin = now._replace(sequence=sequence, at=at, subjects=0)
    later = [message for message in past.messages if message.sequence > sequence]
    # The last position is one from which reading goes on; the ones before it are only places.
    yield Reading(present(state, now.epoch), (begin if later else now).text, True)
    for _, together in groupby(later, lambda message: message.batch or message.sequence):
        *_, message = messages = list(together)
        is_last = message is later[-1]
        place = now if is_last and message.sequence <= now.sequence else _place(now, message)
        yield told(messages, place)


def _place(now: Position, message: Message) -> Position:
    return now._replace(sequence=message.sequence, at=message.at, subjects=0)


class PastSource(ReadOnlyPast):
    """A bucket as it was: read once, and kept in memory.

    Args:
        past: of the whole bucket.
        point: what `Past.find` takes.
    """

    features = frozenset({Feature.LOG})
    instant = True

    def __init__(self, past: Past, point: str | datetime) -> None:
        super().__init__(past.where)
        sequence = past.find(point)
        self._position = past.info.position._replace(sequence=sequence).text
        entries: Iterable[Entry] = present(past.state(sequence), past.info.position.epoch)
        self._entries = {entry.key: entry for entry in entries}

    def capabilities(self) -> Sequence[Capability]:
        return [Capability(entry.key, entry.value_type) for entry in self._entries.values()]

    def read(self, selection: Selects, since: str | None) -> Reading:
        if since == self._position:
            return Reading((), self._position, False)
        return Reading(selected(self._entries, selection), self._position, True)

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)
