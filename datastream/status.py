"""How a store stands with its backend."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """The five things a store can say of itself."""

    CONNECTING = "CONNECTING"
    """The backend has not answered yet."""
    READY = "READY"
    """The last call of the backend succeeded."""
    STALE = "STALE"
    """The backend is away; the last good state stands, and the store retries."""
    FAILED = "FAILED"
    """Probably permanent, such as a refused password; still retried."""
    CLOSED = "CLOSED"
    """The store was closed."""


class Status(NamedTuple):
    """How a store stands with its backend, since when, and why."""

    state: State
    since: datetime
    error: Exception | None = None
    """Why the state is STALE or FAILED."""
    degraded: str = ""
    """Why it runs degraded, such as "polling every 5 s: no triggers"; "" where it does not."""

    def _repr_html_(self) -> str:
        from datastream.notebook import _status

        return _status.status_badge(self)
