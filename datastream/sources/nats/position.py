"""Places in a bucket: what a cursor says, and whether it still holds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

_FORM = re.compile(r"([0-9a-f]{1,16}):(0|[1-9][0-9]{0,18}):([0-9a-f]{1,16}):(0|[1-9][0-9]{0,18})")
_TIME = re.compile(r"(.{19})(?:\.([0-9]{1,9}))?Z")
SECOND = 1_000_000_000
"""Nanoseconds."""


class Position(NamedTuple):
    """After a message of a bucket."""

    epoch: str
    """When the bucket was made: another one of that name has another."""
    sequence: int
    """Of the last message."""
    at: int
    """When that was stored, in nanoseconds; a restored bucket has another message in its place."""
    subjects: int
    """So many keys, present or deleted, the bucket had at least: a purge leaves fewer."""

    @property
    def text(self) -> str:
        return f"{self.epoch}:{self.sequence}:{self.at:x}:{self.subjects}"

    @classmethod
    @lru_cache(maxsize=64)
    def parse(cls, text: str) -> Position | None:
        """None if it is none."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        return cls(found[1], int(found[2]), int(found[3], 16), int(found[4]))


def nanoseconds(time: str) -> int:
    """A server's time since 1970; 0 for what lies before."""
    found = _TIME.fullmatch(time)
    if found is None:
        return int(datetime.fromisoformat(time).timestamp() * SECOND)
    whole = datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
    return max(0, int(whole) * SECOND + int((found[2] or "0").ljust(9, "0")))


def moment(time: int) -> datetime:
    """Nanoseconds since 1970 as a time; whole microseconds."""
    seconds, rest = divmod(time, SECOND)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


def rfc3339(time: int) -> str:
    """Nanoseconds since 1970 as a server wants them."""
    seconds, rest = divmod(time, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
