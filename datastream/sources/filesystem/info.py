"""Signature and time of a file, from the information that each filesystem names differently."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from datastream.sources._common.look import COARSE_SECONDS, Coarse

_CONTENT = (
    *("ETag", "etag", "e_tag", "md5Hash", "md5", "content_md5", "crc32c", "CRC", "sha", "sha256"),
    *("checksum", "generation", "blob_id", "oid"),
)
"""Names of what follows from the content."""
_STEP = timedelta(seconds=COARSE_SECONDS)
_TIMES = (
    *("mtime", "modified", "LastModified", "last_modified", "updated", "timeModified"),
    *("time", "created", "date_time"),
)


def signature_of(info: Mapping[str, Any]) -> Hashable:
    """What differs after a file was written; None if the filesystem has nothing of that kind."""
    size = info.get("size")
    content = tuple(str(info[name]) for name in _CONTENT if info.get(name))
    if content:
        return (*content, size)
    at = time_of(info)
    if at is None:
        return None
    exact = (at, size, info.get("ino"))
    return Coarse(exact) if not at.microsecond or _is_new(at) else exact


def _is_new(at: datetime) -> bool:
    """Whether a file was written so lately that the clock behind `at` may not have moved on."""
    return abs(datetime.now(UTC) - at) <= _STEP


def member_signature(info: Mapping[str, Any], archive: Hashable) -> Hashable:
    """`signature_of` a member of an archive, which may hold whatever time its maker chose.

    Args:
        info: on the member.
        archive: the signature of the archive itself.
    """
    if any(info.get(name) for name in _CONTENT):
        return signature_of(info)
    if archive is None:
        return None
    both = (time_of(info), info.get("size"), archive)
    return Coarse(both) if isinstance(archive, Coarse) else both


def time_of(info: Mapping[str, Any]) -> datetime | None:
    """When a file was written, where its filesystem has that."""
    for name in _TIMES:
        # Archives may hold any time, such as month 0, or one that no datetime reaches.
        with suppress(ValueError, OverflowError, OSError, TypeError):
            at = _time(info.get(name))
            if at is not None:
                return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None


def _time(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    if isinstance(value, tuple) and len(value) == 6:
        return datetime(*value, tzinfo=UTC)
    return None
