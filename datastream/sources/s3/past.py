"""The versions that a bucket keeps of its objects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from datastream.entry import Entry, Revision, deleted
from datastream.errors import DatastreamError, printable, shown
from datastream.sources._common.look import Listed
from datastream.sources._common.past import ReadOnlyPast
from datastream.sources._common.points import parse_time
from datastream.sources.s3.bucket import Bucket, Refused, entry_of
from datastream.sources.s3.objects import ObjectsSource
from datastream.sources.s3.versions import Version

log = logging.getLogger("datastream")


class PastObjects(ReadOnlyPast, ObjectsSource):
    """A Source over a bucket as it was at one time; it can only be read, and never changes.

    Args:
        bucket, prefix, where: as for `ObjectsSource`.
        admits: which keys are not left out.
        at: the time; of several versions of one second the newest counts.
    """

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        where: str,
        admits: Callable[[str], bool],
        at: datetime,
    ) -> None:
        ReadOnlyPast.__init__(self, where)
        ObjectsSource.__init__(self, bucket, prefix, where, interval=1, exclude=())
        self._admits = admits
        self._when = at
        # Filled as they are listed; what is in it never changes.
        self._versions: dict[str, Version] = {}

    def get(self, key: str) -> Entry | None:
        if key not in self._versions and not any(item.key == key for item in self._list(key)):
            return None
        return ObjectsSource.get(self, key)

    def close(self) -> None:
        ReadOnlyPast.close(self)
        ObjectsSource.close(self)

    def _list(self, scope: str) -> Iterator[Listed]:
        last = None
        for version in self._bucket.versions(self._prefix + scope):
            if version.name == last or version.updated_at > self._when:
                continue
            last = version.name
            key = version.name.removeprefix(self._prefix)
            if not version.deleted and self._admits(key):
                self._versions[key] = version
                yield Listed(key, version.id, version.etag)

    def _get(self, keys: Sequence[str]) -> Sequence[Entry]:
        versions = [self._versions[key] for key in keys]
        names, ids = [v.name for v in versions], [v.id for v in versions]
        return self._entries(keys, self._bucket.get_many(names, ids=ids))


def history(bucket: Bucket, prefix: str, key: str) -> Iterator[Revision]:
    """Every version of `key`, the newest first, each read when it is asked for.

    One that cannot be read, such as an archived one, is left out with a warning.
    """
    for version in bucket.versions(prefix + key):
        if version.name != prefix + key:
            # Sorted by name: what starts with it comes after it.
            return
        entry = _entry(bucket, key, version)
        if entry is not None:
            yield Revision(entry, version.updated_at.isoformat(), version.author)


def time_of(point: str | datetime) -> datetime:
    """The time that `point` means.

    Raises:
        DatastreamError: it is no time, or has no time zone.
    """
    at = parse_time(point)
    if at is None:
        raise DatastreamError(
            f"a bucket has no point {shown(str(point))}; give a time, as in Revision.point"
        )
    return at


def _entry(bucket: Bucket, key: str, version: Version) -> Entry | None:
    if version.deleted:
        return deleted(key, version.updated_at)
    there = bucket.get_many([version.name], ids=[version.id])[0]
    if isinstance(there, Refused):
        log.warning(
            "version %s of %s cannot be read and is left out: %s",
            version.id,
            shown(key),
            printable(there.reason),
        )
        return None
    if there is None:
        raise DatastreamError(f"version {version.id} of {shown(key)} has been removed meanwhile")
    return entry_of(key, there)
