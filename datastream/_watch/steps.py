"""What passes between the publisher and those who read for it."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from datastream.selection import Selects


class Ticket(NamedTuple):
    """Where the publisher stood when a read began."""

    position: str
    version: int
    number: int
    """Of the read: those that begin later have a higher one."""
    union: Selects
    """What all subscriptions select together; what the read is to ask for."""
    since: str | None
    """What the read is to start from: the position; None for the complete state."""


class Outcome(Enum):
    """What became of a reading."""

    PUBLISHED = auto()
    SAME = auto()
    """Published; the state at the publisher's position, instead of what changed: nothing has."""
    DIFFERENT = auto()
    """Published; the state at the publisher's position, which should have been told before it."""
    PART = auto()
    """Published without the keys of newcomers, which the read was not asked for."""
    OUTRUN = auto()
    """The publisher has moved since the read began."""


class Step(Enum):
    """What a joining subscription has to do next."""

    DONE = auto()
    BEGIN_AGAIN = auto()
    """Read the state again: polling began while it was read."""
    CATCH_UP = auto()
    """Have what happened since the read published."""
    LOAD = auto()
    """Load values."""
    CONFIRM = auto()
    """Read again what changed since the cursor."""
