"""The versions that a bucket keeps of its objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from datastream.entry import Entry, Operation, Revision, deleted
from datastream.errors import DatastreamError, shown
from datastream.sources._common.look import Listed
from datastream.sources._common.past import ReadOnlyPast
from datastream.sources._common.points import parse_time
from datastream.sources.s3.bucket import Bucket, entry_of
from datastream.sources.s3.objects import ObjectsSource
from datastream.sources.s3.versions import Version


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
        entry = self._get([key])[0]
        return entry if entry.operation is Operation.PUT else None

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
        found = self._bucket.get_many(names, ids=ids)
        return [entry_of(key, there) for key, there in zip(keys, found, strict=True)]


def history(bucket: Bucket, prefix: str, key: str) -> Iterator[Revision]:
    """Every version of `key`, the newest first, each read when it is asked for."""
    for version in bucket.versions(prefix + key):
        if version.name != prefix + key:
            # Sorted by name: what starts with it comes after it.
            return
        yield Revision(_entry(bucket, key, version), version.updated_at.isoformat(), version.author)


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


def _entry(bucket: Bucket, key: str, version: Version) -> Entry:
    if version.deleted:
        return deleted(key, version.updated_at)
    there = bucket.get_many([version.name], ids=[version.id])[0]
    if there is None:
        raise DatastreamError(f"version {version.id} of {shown(key)} has been removed meanwhile")
    return entry_of(key, there)
