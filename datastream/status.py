"""How a store stands with its backend."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """The four things a store can say of itself."""

    READY = "READY"
    """The last look at the backend went well."""
    STALE = "STALE"
    """The backend is away; what was delivered last still stands, and it is tried again."""
    FAILED = "FAILED"
    """Something is wrong that waiting alone may not mend; it is tried again all the same."""
    CLOSED = "CLOSED"
    """The end."""


class Status(NamedTuple):
    """A state, since when, the error behind it, and how the source works just now."""

    state: State
    since: datetime
    error: Exception | None = None
    note: str = ""
    """Such as that it polls, and why; "" if all is as it best could be."""
