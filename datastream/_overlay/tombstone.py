"""What a layer holds to hide a key of the layers below it."""

from __future__ import annotations

from datastream.entry import Entry

TOMBSTONE = b"!datastream/hidden"
"""The value that hides a key. It is text, so that every backend and every document can hold it."""
TOMBSTONE_TYPE = "str"
_MOST = len(TOMBSTONE) + 2


def is_tombstone(value: bytes | None) -> bool:
    """Whether a value hides its key; one written by an editor may end in a newline."""
    return value is not None and len(value) <= _MOST and value.rstrip(b"\r\n") == TOMBSTONE


def visible(entry: Entry | None) -> Entry | None:
    """What a layer shows that holds `entry`: nothing if it is a tombstone."""
    return None if entry is None or is_tombstone(entry.value) else entry
