"""Writing to a bucket, with conditions where its server has them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import md5
from typing import Any

from datastream.entry import Entry, deleted
from datastream.errors import Unsupported, shown
from datastream.source import ANY_REVISION, Write, check_expected
from datastream.sources._common.file_types import check_round_trip
from datastream.sources.s3.bucket import Bucket, Head, Object, sent_at, tags_of
from datastream.sources.s3.errors import MISSING, code_of, explain, is_passing

PROBE = ".datastream-"
"""Start of the last part of a name under which is tried what the server can do."""
NEVER = '"00000000000000000000000000000000"'
"""An ETag that no object has."""
LEFT_AFTER = timedelta(hours=1)
"""Age at which no process can still be using such an object."""
NAMED = 3
"""Keys that an error text names."""

_CONTENT_TYPES = {
    "bytes": "application/octet-stream",
    "json": "application/json",
    **dict.fromkeys(("int", "float", "bool", "str"), "text/plain; charset=utf-8"),
}


class Writer:
    """Puts and deletes objects of one bucket.

    Args:
        bucket: where.
        prefix: what the names of all objects start with, before their keys.
        where: what error texts call it.
    """

    def __init__(self, bucket: Bucket, prefix: str, where: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._where = where
        self._has: dict[str, bool] = {}

    def write(self, writes: Sequence[Write]) -> list[Entry]:
        """Do all of `writes`; those with conditions first, since they may fail."""
        types = [
            "" if w.value is None else check_round_trip(w.key, w.value, w.value_type)
            for w in writes
        ]
        heads = self._bucket.head_many([self._prefix + write.key for write in writes])
        for write, head in zip(writes, heads, strict=True):
            check_expected(write, head.etag if head else None)
        self._check_conditions(writes)
        stored: dict[str, Entry] = {}
        plans = list(zip(writes, types, heads, strict=True))
        try:
            # One after the other, so that nothing else is written once one of them is refused.
            for plan in plans:
                if _is_conditional(plan[0]):
                    self._bucket.together(partial(self._do, stored), [plan])
            rest = [plan for plan in plans if not _is_conditional(plan[0])]
            self._bucket.together(partial(self._do, stored), rest)
        except Exception as error:
            if len(writes) == 1:
                raise
            reason = explain(error, self._where, writes[0].key)
            raise type(reason)(f"{reason}; {_told(stored, len(writes))}") from error
        return [stored[write.key] for write in writes]

    async def _do(self, stored: dict[str, Entry], plan: tuple[Write, str, Head | None]) -> None:
        write, value_type, head = plan
        stored[write.key] = await self._write(write, value_type, head)

    async def _write(self, write: Write, value_type: str, head: Head | None) -> Entry:
        if write.value is None:
            return await self._delete(write, head)
        name = self._prefix + write.key
        if head is not None and await self._holds(name, head, write.value):
            return Entry(write.key, write.value, value_type, head.updated_at, head.etag)
        kept = {} if head is None else await self._kept(name, head)
        kind = _CONTENT_TYPES.get(value_type, value_type)
        answer = await self._change("put_object", write, Body=write.value, ContentType=kind, **kept)
        etag = answer["ETag"]
        # The answer lacks the time that listings and reads will show.
        there = await self._bucket.head(name)
        same = there is not None and there.etag == etag
        at = there.updated_at if there is not None and same else sent_at(answer)
        return Entry(write.key, write.value, value_type, at, etag)

    async def _kept(self, name: str, head: Head) -> dict[str, Any]:
        """What an object has besides its content, to be put with the new one."""
        if not head.has_tags:
            return dict(head.kept)
        answer = await self._bucket.request("get_object_tagging", Key=name)
        return {**head.kept, "Tagging": tags_of(answer)}

    async def _delete(self, write: Write, head: Head | None) -> Entry:
        if head is not None:
            await self._change("delete_object", write)
        return deleted(write.key)

    async def _change(self, method: str, write: Write, **more: object) -> Mapping[str, Any]:
        """A request under the condition of `write`."""
        name = self._prefix + write.key
        try:
            answer: Mapping[str, Any] = await self._bucket.request(
                method, Key=name, **more, **_condition(write)
            )
        except FileNotFoundError as error:
            if code_of(error) in MISSING:
                # It is gone since the look, which a server answers before it looks at conditions.
                check_expected(write, None)
            raise
        return answer

    async def _holds(self, name: str, head: Head, value: bytes) -> bool:
        """Whether the object has this content already."""
        if head.size != len(value):
            return False
        if head.has_md5:
            return head.etag.strip('"') == md5(value, usedforsecurity=False).hexdigest()
        # Of an object in parts, or encrypted, the ETag says nothing about the content.
        there = await self._bucket.get_any(name)
        return isinstance(there, Object) and there.etag == head.etag and there.data == value

    # What the server can do: found out once, when first needed.

    def _check_conditions(self, writes: Sequence[Write]) -> None:
        for write in filter(_is_conditional, writes):
            if write.value is not None:
                self._require("replace" if write.expect else "create")
            elif write.expect:
                self._require("delete")

    def _require(self, what: str) -> None:
        if what not in self._has:
            probe = {
                "replace": self._probe_replace,
                "create": self._probe_create,
                "delete": self._probe_delete,
            }[what]
            self._has[what] = self._tried(probe)
        if not self._has[what]:
            raise Unsupported(
                f"{self._where}: this server cannot {what} under a condition (If-Match, "
                "If-None-Match), so that expect cannot be kept; write without it. Nothing was "
                "written"
            )

    def _tried(self, probe: Callable[[str], bool]) -> bool:
        """Try it on an object of its own, of which nothing stays."""
        start = f"{self._prefix}{PROBE}"
        # Those of processes that died over it.
        self._remove(start, datetime.now(UTC) - LEFT_AFTER)
        name = f"{start}{secrets.token_hex(8)}"
        # Before it is made: who may not delete it would leave it behind.
        self._bucket.call("delete_object", Key=name)
        try:
            return probe(name)
        finally:
            self._remove(name, None)

    def _remove(self, start: str, until: datetime | None) -> None:
        """Remove what starts with that name, all versions and marks of deletes included.

        Args:
            start: of the name.
            until: only what is older.
        """
        try:
            found = list(self._bucket.versions(start))
        except OSError as error:
            # Not everybody may ask, and not every server knows.
            if not code_of(error) or is_passing(error):
                raise
            if until is None:
                self._bucket.call("delete_object", Key=start)
            return
        for version in found:
            if until is None or version.updated_at < until:
                self._bucket.call("delete_object", Key=version.name, VersionId=version.id)

    # Each does what a server that knows conditions refuses.

    def _probe_replace(self, name: str) -> bool:
        return not self._succeeds("put_object", Key=name, Body=b"", IfMatch=NEVER)

    def _probe_create(self, name: str) -> bool:
        self._bucket.call("put_object", Key=name, Body=b"")
        return not self._succeeds("put_object", Key=name, Body=b"", IfNoneMatch="*")

    def _probe_delete(self, name: str) -> bool:
        self._bucket.call("put_object", Key=name, Body=b"")
        return not self._succeeds("delete_object", Key=name, IfMatch=NEVER)

    def _succeeds(self, method: str, **arguments: object) -> bool:
        """Whether the server does it in spite of the condition, or says that it knows none."""
        try:
            self._bucket.call(method, **arguments)
        except OSError as error:
            code = code_of(error)
            if code in _REFUSALS:
                return False
            if code in _IGNORANCE:
                return True
            raise
        return True


_REFUSALS = ("PreconditionFailed", "412", "NoSuchKey", "404", "ConditionalRequestConflict")
_IGNORANCE = ("NotImplemented", "501", "InvalidArgument", "InvalidRequest")


def _is_conditional(write: Write) -> bool:
    return write.expect is not None and write.expect != ANY_REVISION


def _condition(write: Write) -> dict[str, str]:
    if not _is_conditional(write):
        return {}
    # That an object which must not exist is not deleted needs no condition.
    if not write.expect:
        return {} if write.value is None else {"IfNoneMatch": "*"}
    return {"IfMatch": write.expect}


def _told(stored: Mapping[str, Entry], count: int) -> str:
    """What became of writes that broke off."""
    if not stored:
        return "none of the writes is known to have been made"
    names = ", ".join(shown(key) for key in list(stored)[:NAMED])
    more = ", …" if len(stored) > NAMED else ""
    return f"{len(stored)} of {count} writes were made: {names}{more}; look before writing again"
