"""What is kept in a dead-letter store of a change that could not be handled."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from datastream.entry import Entry
from datastream.errors import InvalidKey, InvalidValue, printable

if TYPE_CHECKING:
    from datastream.store import Store

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


def post(letters: Store, keys: tuple[str, str], content: dict[str, Any]) -> str:
    """Keep a letter under the first of `keys` that the store can hold, and say under which.

    Raises:
        DatastreamError: the store is away, or can hold no letter.
    """
    key, other = keys
    try:
        return _put(letters, key, content)
    except InvalidKey:
        return _put(letters, other, content)


def _put(letters: Store, key: str, content: dict[str, Any]) -> str:
    try:
        letters.put(key, content)
        return key
    except InvalidValue:
        # What is large is JSON by its name only, where types are not stored.
        key = f"{key}.json"
    try:
        letters.put(key, content)
    except InvalidValue as error:
        # A letter without it is better than a consumer that waits for ever.
        letters.put(key, _without_value(content, error))
    return key


def _without_value(content: dict[str, Any], why: Exception) -> dict[str, Any]:
    kept = {name: part for name, part in content.items() if name not in ("value", "value_base64")}
    return kept | {"value_left_out": printable(str(why))[:LONGEST_ERROR]}


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
