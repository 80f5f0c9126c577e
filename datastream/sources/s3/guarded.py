"""What a bucket as it is and a bucket as it was have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from datastream.entry import Capability, Entry
from datastream.errors import DatastreamError
from datastream.selection import Selects
from datastream.source import Reading
from datastream.sources._common.listing import ListedSource
from datastream.sources.s3.bucket import Bucket
from datastream.sources.s3.errors import explain

T = TypeVar("T")


class GuardedObjects(ListedSource):
    """Reads from a bucket; the client library's errors become ours here and nowhere else.

    Args:
        bucket: owned from here on.
        prefix: what the names of all objects start with, before their keys.
        where: what error texts call it.
        interval, exclude: as for `ListedSource`.
    """

    def __init__(
        self, bucket: Bucket, prefix: str, where: str, interval: float, exclude: str | Iterable[str]
    ) -> None:
        super().__init__(interval, exclude)
        self._bucket = bucket
        self._prefix = prefix
        self._where = where

    def capabilities(self) -> Sequence[Capability]:
        return self._guarded(super().capabilities)

    def read(self, selection: Selects, since: str | None) -> Reading:
        return self._guarded(partial(super().read, selection, since))

    def close(self) -> None:
        self._bucket.close()

    def _fill(self, loaded: Mapping[str, Entry], entries: Sequence[Entry]) -> list[Entry]:
        return self._guarded(partial(super()._fill, loaded, entries))

    def _guarded(self, action: Callable[[], T], **about: Any) -> T:
        """Do it; `about` is what `explain` takes."""
        try:
            return action()
        except DatastreamError:
            raise
        except Exception as error:
            raise explain(error, self._where, **about) from error
