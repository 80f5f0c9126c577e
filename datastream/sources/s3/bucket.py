"""One bucket: the requests that are made of it, on fsspec's event loop, seen from other threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import fsspec.asyn
import s3fs
import tenacity
from aiobotocore.session import AioSession
from botocore.loaders import Loader, create_loader

from datastream.entry import Entry, deleted
from datastream.errors import DatastreamError, SourceUnavailable, StoreClosed
from datastream.sources._common.file_types import type_of
from datastream.sources.s3.errors import (
    EMPTY,
    MISSING,
    code_of,
    is_passing,
    is_throttling,
    why_unreadable,
)
from datastream.sources.s3.versions import ORDERED, Version, note_order, versions_of

T = TypeVar("T")

CONNECTIONS = 32
"""Requests under way at once."""
CONNECT_TIMEOUT, ANSWER_TIMEOUT = 5.0, 15.0
"""Seconds a server has to take a connection, and to send the next bytes of an answer."""
ATTEMPTS = 4
"""How often a request is made that the server refuses because it is busy."""
RETRY_FIRST, RETRY_MOST = 0.1, 2.0
"""Seconds, at random up to the first and then doubling, between those attempts."""
CALL_TIMEOUT = 600.0
"""Seconds after which a call is given up, whatever happens to it."""
CLOSE_TIMEOUT = 5.0
"""Seconds for the connections to close."""


ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")
"""Storage classes whose objects have to be restored before they can be read."""
KEPT = (
    *("Metadata", "CacheControl", "ContentDisposition", "ContentLanguage", "Expires"),
    *("StorageClass", "WebsiteRedirectLocation"),
)
"""What an object has besides its content, and a put would lose."""
ENCRYPTION = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")


class Head(NamedTuple):
    """An object without its content."""

    etag: str
    size: int
    updated_at: datetime | None
    has_md5: bool
    """The ETag is that of the content, as it is not of parts and of what is encrypted."""
    kept: Mapping[str, Any]
    """What a put has to say again so that it stays as it is."""
    has_tags: bool


class Object(NamedTuple):
    """An object, all from one answer."""

    data: bytes
    etag: str
    updated_at: datetime | None


class Refused(NamedTuple):
    """Instead of an object that is there and cannot be read."""

    reason: str


class Session(AioSession):  # type: ignore[misc]
    """One of the client library's, which shares what describes the services with all others.

    Those are 11 MB, and each session would read them anew.
    """

    def get_component(self, name: str) -> Any:
        if name == "data_loader":
            return _loader(self.get_config_variable("data_path"))
        return super().get_component(name)


@cache
def _loader(data_path: str | None) -> Loader:
    return create_loader(data_path)


class Bucket:
    """Requests to one bucket; raises what the client library raises.

    Args:
        name: of the bucket.
        options: those of `s3fs.S3FileSystem`.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        config = {
            "max_pool_connections": CONNECTIONS,
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": ANSWER_TIMEOUT,
            # A caller waits for this: few attempts, and none after a silence.
            "retries": {"total_max_attempts": 1},
            **(options.get("config_kwargs") or {}),
        }
        self._name = name
        self._process = os.getpid()
        self._closed = False
        self._options = options
        self._sync: Callable[..., Any] = fsspec.asyn.sync
        # Of its own, and without the cache that never forgets.
        self._system = s3fs.S3FileSystem(
            use_listings_cache=False,
            skip_instance_cache=True,
            session=Session(profile=options.get("profile")),
            **{
                **{name: value for name, value in options.items() if name != "profile"},
                "config_kwargs": config,
            },
        )
        self._system.retries = 1

    def another(self) -> Bucket:
        """The same, with connections of its own."""
        return Bucket(self._name, self._options)

    def page(self, prefix: str, **more: Any) -> Mapping[str, Any]:
        """One listing of objects whose names start with `prefix`, at most a thousand."""
        page: Mapping[str, Any] = self.call("list_objects_v2", Prefix=prefix, **more)
        if "IsTruncated" not in page:
            # A page of a proxy or of a web server would pass for an empty bucket.
            raise SourceUnavailable(f"the answer for bucket {self._name} is no listing")
        return page

    def pages(self, prefix: str) -> Iterator[Sequence[Mapping[str, Any]]]:
        """All objects whose names start with `prefix`, page after page."""
        token = None
        while True:
            page = self.page(prefix, **({"ContinuationToken": token} if token else {}))
            yield page.get("Contents", ())
            if not page["IsTruncated"]:
                return
            before, token = token, page.get("NextContinuationToken")
            if not token or token == before:
                raise SourceUnavailable(
                    f"the server cut its listing of bucket {self._name} short and does not say how "
                    "to go on"
                )

    def versions(self, prefix: str) -> Iterator[Version]:
        """All versions of all objects whose names start with `prefix`, the newest of each first."""
        self._run(self._keep_order)
        markers: dict[str, str] = {}
        while True:
            page = self.call("list_object_versions", Prefix=prefix, **markers)
            yield from versions_of(page)
            if not page.get("IsTruncated"):
                return
            markers = {
                "KeyMarker": page["NextKeyMarker"],
                "VersionIdMarker": page["NextVersionIdMarker"],
            }

    def get_many(
        self, names: Sequence[str], *, size: int | None = None, ids: Sequence[str] = ()
    ) -> list[Object | Refused | None]:
        """Many objects, or their first `size` bytes; None for those that are not there."""
        first = {"Range": f"bytes=0-{size - 1}"} if size else {}
        versions = ids or [""] * len(names)
        return self.together(
            lambda pair: self.get_any(
                pair[0], **first, **({"VersionId": pair[1]} if pair[1] else {})
            ),
            list(zip(names, versions, strict=True)),
        )

    def head_many(self, names: Sequence[str]) -> list[Head | None]:
        """Many objects without their contents; None for those that are not there."""
        return self.together(self.head, names)

    def call(self, method: str, **arguments: Any) -> Any:
        """One request, for what has no method here."""
        return self._run(self.request, method, **arguments)

    def together(self, action: Callable[[Any], Coroutine[Any, Any, T]], items: Any) -> list[T]:
        """`action` for all of `items`, many at a time; the results in their order."""
        return self._run(_gather, action, items)

    async def request(self, method: str, **arguments: Any) -> Any:
        """One request, for use in `together`."""
        return await _patiently(self._call, method, **arguments)

    def close(self) -> None:
        """Close all connections; calls that run, or come later, fail."""
        self._closed = True
        creator = getattr(self._system, "_s3creator", None)
        if creator is None or self._process != os.getpid():
            return
        # fsspec's loop is busy with other filesystems, or has ended with the interpreter.
        with suppress(TimeoutError, RuntimeError):
            self._sync(self._system.loop, creator.__aexit__, *[None] * 3, timeout=CLOSE_TIMEOUT)

    def _run(self, action: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        if self._closed:
            # The client library would open a new session, and nobody would close it.
            raise StoreClosed("this store was closed; open it again to go on")
        if self._process != os.getpid():
            raise DatastreamError(
                "this store was opened before fork; open it anew in the child process"
            )
        result: T = self._sync(self._system.loop, action, *args, timeout=CALL_TIMEOUT, **kwargs)
        return result

    async def _call(self, method: str, **arguments: Any) -> Any:
        return await self._system._call_s3(method, Bucket=self._name, **arguments)

    async def _keep_order(self) -> None:
        client = await self._system.set_session()
        client.meta.events.register(ORDERED, note_order, unique_id="datastream")

    async def get(self, name: str, **more: str) -> Object | None:
        """One object, for use in `together`."""
        return await _patiently(self._get, name, **more)

    async def get_any(self, name: str, **more: str) -> Object | Refused | None:
        """The same, also if it is one that cannot be read while others can."""
        try:
            return await self.get(name, **more)
        except OSError as error:
            reason = why_unreadable(error)
            if not reason:
                raise
            return Refused(reason)

    async def _get(self, name: str, **more: str) -> Object | None:
        try:
            answer = await self._call("get_object", Key=name, **more)
        except OSError as error:
            code = code_of(error)
            if code in MISSING:
                return None
            if code not in EMPTY or "Range" not in more:
                raise
            # There is no first byte of an object of none.
            return await self._get(name, **{k: v for k, v in more.items() if k != "Range"})
        async with answer["Body"] as body:
            data = await body.read()
        if len(data) != answer["ContentLength"]:
            raise SourceUnavailable(
                f"{name} of bucket {self._name} broke off after {len(data)} bytes"
            )
        return Object(data, answer["ETag"], answer.get("LastModified"))

    async def head(self, name: str) -> Head | None:
        """One object without its content, for use in `together`."""
        try:
            answer = await self.request("head_object", Key=name)
        except FileNotFoundError:
            return None
        kept = {name: answer[name] for name in KEPT if answer.get(name)}
        if kept.get("StorageClass") in ARCHIVED:
            # What is put could not be read.
            del kept["StorageClass"]
        if str(answer.get("ServerSideEncryption", "")).startswith("aws:kms"):
            kept |= {name: answer[name] for name in ENCRYPTION if answer.get(name)}
        sealed = answer.get("SSECustomerAlgorithm") or answer.get("ServerSideEncryption", "AES256")
        return Head(
            answer["ETag"],
            answer["ContentLength"],
            answer.get("LastModified"),
            has_md5="-" not in answer["ETag"] and sealed == "AES256",
            kept=kept,
            has_tags=bool(answer.get("TagCount")),
        )


def entry_of(key: str, there: Object | None) -> Entry:
    """An object as the entry of `key`; a DELETE if it is not there."""
    if there is None:
        return deleted(key)
    return Entry(key, there.data, type_of(key, there.data), there.updated_at, there.etag)


def tags_of(answer: Mapping[str, Any]) -> str:
    """An object's tags as a put takes them."""
    return urlencode([(tag["Key"], tag["Value"]) for tag in answer.get("TagSet", ())])


def sent_at(answer: Mapping[str, Any]) -> datetime | None:
    """When the server says it answered."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(text) if text else None


async def _patiently(action: Callable[..., Coroutine[Any, Any, T]], *args: Any, **more: Any) -> T:
    """Again, if the server was busy. Of a conditional write it has to have said so: where an
    answer was lost, the second attempt would meet what the first one wrote."""
    conditional = "IfMatch" in more or "IfNoneMatch" in more
    attempts = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_throttling if conditional else is_passing),
        wait=tenacity.wait_random_exponential(RETRY_FIRST, RETRY_MOST),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    return await attempts(action, *args, **more)


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
