"""What sources over SQL tables have in common: which column plays which part."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple


class Columns(NamedTuple):
    """Column names as asked for; "" for the optional two means "if there is one of that name"."""

    key: str
    value: str
    value_type: str = ""
    updated_at: str = ""


def parse_iso(text: str) -> datetime:
    """A time in ISO 8601, in UTC unless it says otherwise.

    Raises:
        ValueError: it is none.
    """
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
