"""What is kept in a dead-letter store of a change that could not be handled."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from datastream.entry import Entry
from datastream.errors import printable

LONGEST_ERROR = 2_000
"""Characters of an error's text."""


def letter_keys(consumer: str, entry: Entry) -> tuple[str, str]:
    """Where the letter goes: sorted by time below the key, and never over an earlier one.

    The second is for stores that cannot hold the first, in which a key may be too long or have
    characters that they do not know: it has a digest instead, and the letter says the key.
    """
    digest = blake2b(entry.key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    at = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    return f"{consumer}/{entry.key}/{at}", f"{consumer}/{digest}/{at}"


def letter(consumer: str, entry: Entry, error: Exception, attempts: int) -> dict[str, Any]:
    """The letter, as JSON has it: what `as_json` says, and why it was not handled."""
    text = printable(f"{type(error).__name__}: {error}")
    return as_json(entry) | {
        "consumer": consumer,
        "error": text[:LONGEST_ERROR],
        "attempts": attempts,
        "failed_at": datetime.now(UTC).isoformat(),
    }


def as_json(entry: Entry) -> dict[str, Any]:
    """An entry as JSON has it: ``value`` where it is text, else ``value_base64``."""
    updated_at = entry.updated_at.isoformat() if entry.updated_at else None
    content = {
        "key": entry.key,
        "operation": entry.operation.value,
        "value_type": entry.value_type,
        "revision": entry.revision,
        "updated_at": updated_at,
    }
    try:
        return content | {"value": entry.value.decode()}
    except UnicodeDecodeError:
        return content | {"value_base64": base64.b64encode(entry.value).decode()}
