"""A bucket as its servers know it: the stream behind it, asked for at the stream's leader."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from datastream.errors import DatastreamError, shown
from datastream.sources.nats.connection import Connection
from datastream.sources.nats.errors import NO_MESSAGE, NO_STREAM, ApiError
from datastream.sources.nats.keys import is_key, to_key, to_subject
from datastream.sources.nats.messages import Message, direct, stored
from datastream.sources.nats.position import SECOND, Position, nanoseconds, rfc3339

log = logging.getLogger("datastream")

MARKERS = 2_592_000.0
"""Seconds for which the server's own markers are kept in a bucket made here: thirty days."""
DUPLICATES = 120.0
"""Seconds within which a message that is sent again is recognised."""


class Info(NamedTuple):
    """A bucket just now, as the leader of its stream says."""

    position: Position
    present: int
    """Keys that hold something or are marked as deleted."""
    replicas: int
    history: int
    max_age: int
    """Nanoseconds after which keys expire; 0 for never."""
    markers: int
    """Nanoseconds for which it is said that a key has expired; 0 if that is never said."""
    makes_room: bool
    """Whether it drops the oldest messages once it is full, instead of refusing new ones."""
    takes_ttl: bool
    is_closed: bool
    """Whether it can only be read: it is sealed, or what it holds is another one's."""
    is_direct: bool
    """Whether any server answers what its messages are, not only the leader."""
    is_atomic: bool
    """Whether it takes several messages together."""
    largest: int
    """Bytes of a value that the bucket takes; -1 for any."""
    now: int
    """The server's time."""

    @property
    def forgets(self) -> int:
        """Nanoseconds after which it is no longer known which keys were deleted; 0 for never."""
        return min((time for time in (self.max_age, self.markers) if time), default=0)

    @property
    def tells_of_ttl(self) -> bool:
        """Whether single keys may expire, and it is said that they have."""
        return self.takes_ttl and bool(self.markers)

    @property
    def expires_in_silence(self) -> bool:
        """Whether keys may go without a word."""
        return self.makes_room or (bool(self.max_age) and not self.markers)


class Bucket:
    """The stream of a bucket.

    Args:
        connection: to any server of its system.
        name: of the bucket.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.stream = f"KV_{name}"
        self.prefix = f"$KV.{name}."
        self._has_strangers = False

    def key_of(self, subject: str) -> str | None:
        """The key of a message's subject; None if it is none, which is logged, once."""
        name = subject[len(self.prefix) :]
        if is_key(name) and subject.startswith(self.prefix):
            return to_key(name)
        if not self._has_strangers:
            self._has_strangers = True
            log.warning(
                "%s: left out, since no tool of NATS takes %s for a key, nor what is like it",
                self.connection.where,
                shown(subject),
            )
        return None

    def address(self, subject: str) -> str:
        """Where a message for a key is sent."""
        domain = self.connection.domain
        return f"$JS.{domain}.API.{self.prefix}{subject}" if domain else self.prefix + subject

    async def info(self) -> Info:
        """How it stands."""
        answer = await self.connection.request(f"STREAM.INFO.{self.stream}")
        mirrored = answer["config"].get("mirror")
        if mirrored:
            # It holds the messages as they are in the other one.
            self.prefix = f"$KV.{mirrored['name'].removeprefix('KV_')}."
        return _info(answer)

    async def create(self, **settings: Any) -> None:
        """Make the bucket, unless it is there, whatever its settings."""
        try:
            await self.info()
        except ApiError as error:
            if error.number != NO_STREAM:
                raise
            await self.connection.request(f"STREAM.CREATE.{self.stream}", self._config(**settings))

    async def last(self, subject: str) -> Message | None:
        """The newest message of a key."""
        return await self._message(last_by_subj=self.prefix + subject)

    async def last_many(self, subjects: Sequence[str]) -> dict[str, Message]:
        """The newest message of each of some keys, by any server: it may lag behind.

        Raises:
            ApiError: the bucket, or its server, does not answer so.
        """
        found: dict[str, Message] = {}
        start = len(self.prefix)
        for part in self._requests(subjects):
            wanted = {"multi_last": part, "batch": len(part)}
            for message in await self.connection.stream(f"DIRECT.GET.{self.stream}", wanted):
                last = direct(message, start)
                found[to_subject(last.key)] = last
        return found

    def _requests(self, subjects: Sequence[str]) -> Iterator[list[str]]:
        """Whole subjects, as many together as a message holds."""
        part: list[str] = []
        size = 0
        for subject in subjects:
            name = self.prefix + subject
            if part and size + len(name) > self.connection.max_payload // 2:
                yield part
                part, size = [], 0
            part.append(name)
            size += len(name)
        if part:
            yield part

    async def next(self, subject: str, sequence: int) -> Message | None:
        """The first message of some subjects from a sequence number on."""
        return await self._message(seq=sequence, next_by_subj=self.prefix + subject)

    async def first_after(self, at: int) -> Message | None:
        """The first message that was stored after a time."""
        return await self._message(start_time=rfc3339(at + 1))

    async def _message(self, **wanted: object) -> Message | None:
        try:
            answer = await self.connection.request(f"STREAM.MSG.GET.{self.stream}", wanted)
        except ApiError as error:
            if error.number == NO_MESSAGE:
                return None
            raise
        return stored(answer["message"], len(self.prefix))

    def _config(
        self, *, replicas: int, history: int, ttl: float, storage: str, max_bytes: int
    ) -> Mapping[str, object]:
        """As all of NATS's tools make a bucket."""
        age = int(ttl * SECOND)
        return {
            "name": self.stream,
            "subjects": [f"{self.prefix}>"],
            "num_replicas": replicas,
            "max_msgs_per_subject": history,
            "max_age": age,
            "storage": storage,
            "max_bytes": max_bytes or -1,
            "discard": "new",
            "deny_delete": True,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "allow_msg_ttl": True,
            # Servers before 2.12 do not know it.
            "allow_atomic": True,
            "subject_delete_marker_ttl": int(MARKERS * SECOND),
            "duplicate_window": min(age or SECOND * int(DUPLICATES), SECOND * int(DUPLICATES)),
        }


def _info(answer: Mapping[str, Any]) -> Info:
    config, state = answer["config"], answer["state"]
    present = state.get("num_subjects", 0)
    position = Position(
        f"{nanoseconds(answer['created']):x}",
        state["last_seq"],
        nanoseconds(state["last_ts"]),
        present,
    )
    return Info(
        position,
        present,
        config["num_replicas"],
        config["max_msgs_per_subject"],
        config["max_age"],
        config.get("subject_delete_marker_ttl", 0),
        config["discard"] == "old" and max(config["max_bytes"], config["max_msgs"]) > 0,
        config.get("allow_msg_ttl", False),
        config.get("sealed", False) or "mirror" in config,
        config.get("allow_direct", False),
        config.get("allow_atomic", False),
        config["max_msg_size"],
        nanoseconds(answer.get("ts", "")) if answer.get("ts") else 0,
    )


def check_bucket(info: Info, where: str) -> None:
    """Refuse a stream that is no bucket."""
    if info.history < 1:
        raise DatastreamError(f"{where}: this stream keeps any number of messages; it is no bucket")


def missing(where: str) -> DatastreamError:
    """There is no bucket of that name."""
    return DatastreamError(
        f"{where}: there is no such bucket; check the name, or have it made by create=true"
    )
