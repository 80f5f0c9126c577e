"""One bucket: the requests that are made of it, on fsspec's event loop, seen from other threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

from datastream._types import type_of
from datastream.entry import Entry, deleted
from datastream.errors import SourceUnavailable
from datastream.sources._s3_errors import EMPTY, MISSING, code_of

T = TypeVar("T")

CONNECTIONS = 32
"""Requests under way at once."""
CALL_TIMEOUT = 600.0
"""Seconds after which a call is given up, whatever happens to it."""
CLOSE_TIMEOUT = 5.0
"""Seconds for the connections to close."""


class Head(NamedTuple):
    """What a bucket tells of an object without its content."""

    etag: str
    size: int
    updated_at: datetime | None


class Object(NamedTuple):
    """An object, all from one answer."""

    data: bytes
    etag: str
    updated_at: datetime | None


class Version(NamedTuple):
    """One version of an object, or the mark that it was deleted."""

    name: str
    id: str
    etag: str
    updated_at: datetime
    deleted: bool
    author: str


class Bucket:
    """Requests to one bucket; raises what the client library raises.

    Args:
        name: of the bucket.
        options: those of `s3fs.S3FileSystem`.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        import fsspec.asyn
        import s3fs

        config = {"max_pool_connections": CONNECTIONS, **(options.get("config_kwargs") or {})}
        self._name = name
        self._options = options
        self._sync = fsspec.asyn.sync
        # Of its own, and without the cache that never forgets.
        self._system = s3fs.S3FileSystem(
            use_listings_cache=False,
            skip_instance_cache=True,
            **{**options, "config_kwargs": config},
        )

    def another(self) -> Bucket:
        """The same, with connections of its own."""
        return Bucket(self._name, self._options)

    def pages(self, prefix: str) -> Iterator[Sequence[Mapping[str, Any]]]:
        """All objects whose names start with `prefix`, page after page."""
        token: dict[str, str] = {}
        while True:
            page = self.call("list_objects_v2", Prefix=prefix, **token)
            yield page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def versions(self, prefix: str) -> Iterator[Version]:
        """All versions of all objects whose names start with `prefix`, the newest of each first."""
        markers: dict[str, str] = {}
        while True:
            page = self.call("list_object_versions", Prefix=prefix, **markers)
            found = [_version(item, deleted=False) for item in page.get("Versions", ())]
            found += [_version(item, deleted=True) for item in page.get("DeleteMarkers", ())]
            latest = {item["VersionId"] for item in _latest(page)}
            found.sort(key=lambda v: (v.id in latest, v.updated_at), reverse=True)
            found.sort(key=lambda v: v.name)
            yield from found
            if not page.get("IsTruncated"):
                return
            markers = {
                "KeyMarker": page["NextKeyMarker"],
                "VersionIdMarker": page["NextVersionIdMarker"],
            }

    def get_many(
        self, names: Sequence[str], *, size: int | None = None, ids: Sequence[str] = ()
    ) -> list[Object | None]:
        """Many objects, or their first `size` bytes; None for those that are not there."""
        first = {"Range": f"bytes=0-{size - 1}"} if size else {}
        versions = ids or [""] * len(names)
        return self.together(
            lambda pair: self.get(pair[0], **first, **({"VersionId": pair[1]} if pair[1] else {})),
            list(zip(names, versions, strict=True)),
        )

    def head_many(self, names: Sequence[str]) -> list[Head | None]:
        """What is told of many objects; None for those that are not there."""
        return self.together(self.head, names)

    def call(self, method: str, **arguments: Any) -> Any:
        """One request, for what has no method here."""
        return self._run(self._call, method, **arguments)

    def together(self, action: Callable[[Any], Coroutine[Any, Any, T]], items: Any) -> list[T]:
        """`action` for all of `items`, many at a time; the results in their order."""
        return self._run(_gather, action, items)

    async def request(self, method: str, **arguments: Any) -> Any:
        """One request, for use in `together`."""
        return await self._call(method, **arguments)

    def close(self) -> None:
        """Close all connections."""
        creator = getattr(self._system, "_s3creator", None)
        if creator is not None:
            with suppress(Exception):
                self._sync(self._system.loop, creator.__aexit__, *[None] * 3, timeout=CLOSE_TIMEOUT)

    def _run(self, action: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        result: T = self._sync(self._system.loop, action, *args, timeout=CALL_TIMEOUT, **kwargs)
        return result

    async def _call(self, method: str, **arguments: Any) -> Any:
        return await self._system._call_s3(method, Bucket=self._name, **arguments)

    async def get(self, name: str, **more: str) -> Object | None:
        """One object, for use in `together`."""
        try:
            answer = await self._call("get_object", Key=name, **more)
        except OSError as error:
            code = code_of(error)
            if code in MISSING:
                return None
            if code not in EMPTY:
                raise
            # There is no first byte of an object of none.
            answer = await self._call("get_object", Key=name)
        async with answer["Body"] as body:
            data = await body.read()
        if len(data) != answer["ContentLength"]:
            raise SourceUnavailable(
                f"{name} of bucket {self._name} broke off after {len(data)} bytes"
            )
        return Object(data, answer["ETag"], answer.get("LastModified"))

    async def head(self, name: str) -> Head | None:
        """What is told of one object, for use in `together`."""
        try:
            answer = await self._call("head_object", Key=name)
        except FileNotFoundError:
            return None
        return Head(answer["ETag"], answer["ContentLength"], answer.get("LastModified"))


def entry_of(key: str, there: Object | None) -> Entry:
    """An object as the entry of `key`; a DELETE if it is not there."""
    if there is None:
        return deleted(key)
    return Entry(key, there.data, type_of(key, there.data), there.updated_at, there.etag)


def sent_at(answer: Mapping[str, Any]) -> datetime | None:
    """When the server says it answered."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(text) if text else None


async def _gather(action: Callable[[Any], Coroutine[Any, Any, T]], items: Sequence[Any]) -> list[T]:
    results: list[Any] = [None] * len(items)
    waiting = iter(enumerate(items))

    async def work() -> None:
        for place, item in waiting:
            results[place] = await action(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONNECTIONS, len(items))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        # What it says of its cause is where the server's own answer stands.
        first = errors.exceptions[0]
        raise first from first.__cause__
    return results


def _version(item: Mapping[str, Any], *, deleted: bool) -> Version:
    owner = item.get("Owner") or {}
    return Version(
        item["Key"],
        item["VersionId"],
        item.get("ETag", ""),
        item["LastModified"],
        deleted,
        owner.get("DisplayName", ""),
    )


def _latest(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
    return [item for item in items if item.get("IsLatest")]
