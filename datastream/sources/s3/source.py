"""Objects of an S3 bucket, or of any server that speaks its protocol.

The revision is the ETag. A look is one listing for the whole store; only what is watched and has
another ETag than before is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from datastream.entry import Entry, Revision
from datastream.errors import DatastreamError, InvalidKey, shown
from datastream.selection import Selects
from datastream.source import WRITING, Feature, Source, Summary, Write, Written
from datastream.sources._common.file_types import SNIFFED
from datastream.sources._common.look import Listed, common_scope
from datastream.sources.s3.bucket import ARCHIVED, Bucket, Refused
from datastream.sources.s3.errors import code_of, explain, is_passing
from datastream.sources.s3.objects import ObjectsSource
from datastream.sources.s3.past import PastObjects, history, time_of
from datastream.sources.s3.streams import put_pieces, read_pieces
from datastream.sources.s3.write import PROBE, Writer
from datastream.url import Location, Seconds, checks_options, configured, unescaped

NAME_MAX = 1024
"""Longest name of an object, in bytes."""


class S3Source(ObjectsSource):
    """A Source over the objects of a bucket whose names start with a prefix.

    Args:
        bucket: its name, or the ARN of an access point.
        prefix: "" for the whole bucket; keys are what follows behind it and a slash.
        endpoint_url: of the server, where it is not Amazon's.
        key, secret, token: credentials; else those that boto3 finds.
        profile: name of those in the user's configuration.
        anon: send none.
        region: of the bucket.
        readonly: never write.
        exclude: globs of what to leave out; without a slash they are about the last part of
            names, else about keys.
        interval: seconds between looks.
        client_kwargs, config_kwargs: for botocore, as s3fs takes them.

    Raises:
        DatastreamError: no such bucket.
        Denied: wrong credentials, or no right to list.
        SourceUnavailable: nobody answers.
    """

    @checks_options
    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str = "",
        key: str = "",
        secret: str = "",
        token: str = "",
        profile: str = "",
        anon: bool = False,
        region: str = "",
        readonly: bool = False,
        exclude: str | Iterable[str] = (),
        interval: Seconds = 5.0,
        client_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        start = f"{prefix.removesuffix('/')}/" if prefix else ""
        given = {
            "endpoint_url": endpoint_url,
            "key": key,
            "secret": secret,
            "token": token,
            "profile": profile,
            "anon": anon,
            "client_kwargs": {
                **(client_kwargs or {}),
                **({"region_name": region} if region else {}),
            },
            "config_kwargs": dict(config_kwargs or {}),
        }
        requests = Bucket(bucket, {name: value for name, value in given.items() if value})
        super().__init__(requests, start, f"s3://{bucket}/{prefix}", interval, exclude)
        self._writer = Writer(self._bucket, self._prefix, self._where)
        # Archived objects that can be read, by their ETags.
        self._restored: set[tuple[str, str]] = set()
        try:
            # Rights may end where the prefix ends.
            requests.page(start, MaxKeys=1)
            versioned = self._is_versioned()
        except BaseException as error:
            self.close()
            if isinstance(error, DatastreamError) or not isinstance(error, Exception):
                # Ctrl-C, too, is no outage.
                raise
            raise explain(error, self._where, opening=True) from error
        self.features = (frozenset() if readonly or anon else WRITING - {Feature.ATOMIC}) | (
            {Feature.HISTORY, Feature.AT} if versioned else frozenset()
        )

    def get(self, key: str) -> Entry | None:
        # One request, whether the object is there or not.
        return super().get(key) if self._admits(key) else None

    def write(self, writes: Sequence[Write]) -> Written:
        for write in writes:
            self._check_name(write.key, is_put=write.value is not None)
        return self._written(self._writer.write(writes))

    def history(self, key: str) -> Iterator[Revision]:
        return history(self._bucket, self._prefix, key)

    def at(self, point: str | datetime) -> Source:
        at = time_of(point)
        return PastObjects(self._bucket.another(), self._prefix, self._where, self._admits, at)

    # Reading.

    def _list(self, scope: str) -> Iterator[Listed]:
        start = len(self._prefix)
        for page in self._bucket.pages(self._prefix + scope):
            found = [(item["Key"][start:], item) for item in page]
            found = [(key, item) for key, item in found if self._admits(key)]
            self._try_unsure(found)
            for key, item in found:
                yield Listed(key, item["ETag"], item["ETag"])

    def summaries(self, selection: Selects) -> Iterator[Summary]:
        start, matches = len(self._prefix), selection.matches
        for page in self._bucket.pages(self._prefix + common_scope(selection)):
            for item in page:
                key = item["Key"][start:]
                if self._admits(key) and matches(key):
                    digest = _digest(item["ETag"])
                    yield Summary(key, item["Size"], digest, item["LastModified"], item["ETag"])

    def pieces(self, key: str) -> Iterator[bytes]:
        return read_pieces(self._bucket, self._prefix + key)

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        self._check_name(key, is_put=True)
        put_pieces(self._bucket, self._prefix + key, pieces)

    def _try_unsure(self, found: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Find out which of the archived objects, and of those refused before, can be read."""
        due = {
            key: item["ETag"]
            for key, item in found
            if (item.get("StorageClass") in ARCHIVED or self._unread.has(key))
            and not self._unread.skips(key, item["ETag"])
            and (key, item["ETag"]) not in self._restored
        }
        if not due:
            return
        answers = self._bucket.get_many([self._prefix + key for key in due], size=1)
        for (key, etag), there in zip(due.items(), answers, strict=True):
            if isinstance(there, Refused):
                self._unread.add(key, there.reason)
            else:
                self._restored.add((key, etag))
                self._unread.discard(key)
        self._unread.tried(due)

    def _admits(self, key: str) -> bool:
        # What ends in a slash is what some programs make to show an empty directory.
        name = key[key.rfind("/") + 1 :]
        return bool(name) and not name.startswith(PROBE) and key not in self._excluded

    def _get(self, keys: Sequence[str]) -> Sequence[Entry]:
        return self._entries(keys, self._bucket.get_many([self._prefix + key for key in keys]))

    def _get_types(self, keys: Sequence[str]) -> Mapping[str, str]:
        found = self._bucket.get_many([self._prefix + key for key in keys], size=SNIFFED + 1)
        entries = self._entries(keys, found)
        return {entry.key: entry.value_type for entry in entries if entry.value_type}

    # Asking the server.

    def _is_versioned(self) -> bool:
        try:
            answer = self._bucket.call("get_bucket_versioning")
        except Exception as error:
            # Not everybody may ask, and not every server knows: then there is no past to offer.
            if code_of(error) and not is_passing(error):
                return False
            raise
        return answer.get("Status") in ("Enabled", "Suspended")

    def _check_name(self, key: str, *, is_put: bool) -> None:
        name = f"{self._prefix}{key}"
        if len(name.encode()) > NAME_MAX:
            raise InvalidKey(f"{shown(key)}: an object's name has {NAME_MAX} bytes at most")
        if not self._admits(key):
            raise InvalidKey(f"{shown(key)} is excluded or reserved; choose another name")
        if not is_put:
            # What others have put under such names is read, and can be removed.
            return
        if any(part in (".", "..") for part in name.split("/")):
            raise InvalidKey(f"{shown(key)} has a part '.' or '..', which no URL keeps")
        if any(char < " " or char == "\x7f" for char in name):
            raise InvalidKey(f"{shown(key)} has control characters, which not all servers keep")


def _digest(etag: str) -> str:
    """What an ETag says of a content. Of one sent in parts, or encrypted, it is no MD5."""
    tag = etag.strip('"')
    return f"etag:{tag}" if _MD5.fullmatch(tag) else ""


_MD5 = re.compile("[0-9a-f]{32}")
_ACCESS_POINT = re.compile(
    r"(arn:[^/]+?:(?:accesspoint[:/]|outpost[:/][^:/]+[:/](?:accesspoint|bucket)[:/])[^/]+)(?:/|$)"
)


def _parted(path: str) -> tuple[str, str]:
    """Bucket and prefix; an access point, which stands for a bucket, has slashes in its name."""
    found = _ACCESS_POINT.match(path)
    if found:
        return found[1], path[found.end() :]
    bucket, _, prefix = path.partition("/")
    return bucket, prefix


def open_s3(location: Location, **options: object) -> S3Source:
    """The Source of ``s3://BUCKET/PREFIX``."""
    bucket, prefix = _parted(location.path.removeprefix("//"))
    if "@" in bucket:
        raise DatastreamError("s3: takes no credentials before the bucket; give key= and secret=")
    if not location.path.startswith("//") or not bucket:
        raise DatastreamError(f"{location.shown!r} names no bucket; write s3://bucket/prefix")
    return configured(partial(S3Source, bucket, unescaped(prefix)), location, options)
