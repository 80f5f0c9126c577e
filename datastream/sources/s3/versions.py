"""The versions of objects, in the order in which they were made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

ORDERED = "before-parse.s3.ListObjectVersions"
"""The client library's event at which `note_order` has to be called."""
_ORDER = "DatastreamOrder"


class Version(NamedTuple):
    """One version of an object, or the mark that it was deleted."""

    name: str
    id: str
    etag: str
    updated_at: datetime
    deleted: bool
    author: str
    latest: bool


def note_order(
    response_dict: Mapping[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Keep what the client library's parser forgets: how versions and deletes take turns.

    Their times do not tell, they are of whole seconds.
    """
    tags = re.findall(rb"<(Version|DeleteMarker)[\s>]", response_dict["body"])
    customized_response_dict[_ORDER] = [tag == b"DeleteMarker" for tag in tags]


def versions_of(page: Mapping[str, Any]) -> list[Version]:
    """Those of one answer, by name, the newest of each first."""
    puts = [_version(item, deleted=False) for item in page.get("Versions", ())]
    deletes = [_version(item, deleted=True) for item in page.get("DeleteMarkers", ())]
    found = _merged(puts, deletes, page.get(_ORDER, ()))
    # For servers that do not list them in order; these sorts keep the order of equals.
    found.sort(key=lambda version: version.updated_at, reverse=True)
    found.sort(key=lambda version: not version.latest)
    found.sort(key=lambda version: version.name)
    return found


def _merged(
    puts: Sequence[Version], deletes: Sequence[Version], order: Sequence[bool]
) -> list[Version]:
    if order.count(False) != len(puts) or order.count(True) != len(deletes):
        return [*puts, *deletes]
    of_kind = {False: iter(puts), True: iter(deletes)}
    return [next(of_kind[is_delete]) for is_delete in order]


def _version(item: Mapping[str, Any], *, deleted: bool) -> Version:
    owner = item.get("Owner") or {}
    return Version(
        item["Key"],
        item["VersionId"],
        item.get("ETag", ""),
        item["LastModified"],
        deleted,
        owner.get("DisplayName", ""),
        item.get("IsLatest", False),
    )
