"""What the many filesystems tell of a file, by whatever name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from typing import Any

from datastream.sources._common.look import Coarse

_CONTENT = (
    *("ETag", "etag", "e_tag", "md5Hash", "md5", "content_md5", "crc32c", "CRC", "sha", "sha256"),
    *("checksum", "generation", "blob_id", "oid"),
)
"""Names under which something stands that follows from the content."""
_TIMES = (
    *("mtime", "modified", "LastModified", "last_modified", "updated", "timeModified"),
    *("time", "created", "date_time"),
)


def signature_of(info: Mapping[str, Any]) -> Hashable:
    """What of a file differs after it was written; None if nothing does for sure."""
    size = info.get("size")
    content = tuple(str(info[name]) for name in _CONTENT if info.get(name))
    if content:
        return (*content, size)
    at = time_of(info)
    if at is None:
        return None
    return (at, size) if at.microsecond else Coarse((at, size))


def time_of(info: Mapping[str, Any]) -> datetime | None:
    """When a file was written, where its filesystem tells."""
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str) and (at := _parsed(value)):
            return at
        if isinstance(value, tuple) and len(value) == 6:
            return datetime(*value, tzinfo=UTC)
    return None


def _parsed(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
