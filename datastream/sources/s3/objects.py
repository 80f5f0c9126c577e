"""What a bucket as it is and a bucket as it was have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from datastream.entry import Entry
from datastream.sources._common.listing import ListedSource
from datastream.sources._common.look import unread
from datastream.sources.s3.bucket import Bucket, Object, Refused, entry_of
from datastream.sources.s3.errors import explain

MISTAKES = (AttributeError, TypeError, NameError, AssertionError)


class ObjectsSource(ListedSource):
    """Reads from a bucket.

    Args:
        bucket: owned from here on.
        prefix: what the names of all objects start with, before their keys.
        where: what error texts call it.
        interval, exclude: as for `ListedSource`.
    """

    def __init__(
        self, bucket: Bucket, prefix: str, where: str, interval: float, exclude: str | Iterable[str]
    ) -> None:
        super().__init__(interval, exclude, where)
        self._bucket = bucket
        self._prefix = prefix
        self._where = where

    def _entries(
        self, keys: Sequence[str], found: Sequence[Object | Refused | None]
    ) -> list[Entry]:
        return [self._entry(key, there) for key, there in zip(keys, found, strict=True)]

    def _entry(self, key: str, there: Object | Refused | None) -> Entry:
        if isinstance(there, Refused):
            self._unread.add(key, there.reason)
            return unread(key)
        self._unread.discard(key)
        return entry_of(key, there)

    def translate(self, error: Exception, key: str | None) -> Exception:
        # A mistake in this library is none of the server's.
        return error if isinstance(error, MISTAKES) else explain(error, self._where, key)

    def close(self) -> None:
        self._wake.set()
        self._bucket.close()
