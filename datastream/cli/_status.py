"""How a watched store stands, on stderr."""

from __future__ import annotations

from datastream import State, Status
from datastream.cli._exit import say


def say_status(status: Status) -> None:
    """Say what is wrong, if anything is."""
    if status.error is not None:
        say(f"{status.state}: {status.error}")
    elif status.state is State.READY and status.degraded:
        say(status.degraded)
