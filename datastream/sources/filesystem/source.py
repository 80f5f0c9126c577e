"""Any filesystem that fsspec knows: ``memory://``, ``gs://``, ``sftp://``, ``zip://``, ``http://``…

Local directories and S3 have sources of their own, which can do more.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from datastream.entry import Entry, deleted
from datastream.errors import DatastreamError, InvalidKey, shown
from datastream.selection import Selects
from datastream.source import Feature, Summary, Write, Written, check_expected
from datastream.sources._common.file_types import check_round_trip, type_of
from datastream.sources._common.listing import ListedSource, fingerprint
from datastream.sources._common.look import Coarse, Listed, Read, is_unread, unread
from datastream.sources._common.odd_names import OddNames
from datastream.sources.filesystem.errors import explain
from datastream.sources.filesystem.info import member_signature, signature_of, time_of
from datastream.sources.filesystem.place import (
    REFUSED,
    Opened,
    Refused,
    check_name,
    check_options,
    is_path,
    open_fsspec,
)
from datastream.url import Location, Seconds, check_port, checks_options, configured

_Signature = Callable[[Mapping[str, Any]], Hashable]


class FilesystemSource(ListedSource):
    """A Source over the files below one place of a filesystem.

    Args:
        url: as fsspec takes it, chains such as ``zip://::s3://bucket/a.zip`` included.
        where: what error texts call it.
        create: make the directory if it is missing.
        readonly: never write.
        exclude: globs of what to leave out; without a slash they are about names, else about keys.
        interval: seconds between looks.
        storage_options: for the filesystem, credentials for instance.

    Raises:
        DatastreamError: no such place, or nothing that can be listed.
        Denied: it may not be read.
        ImportError: a package is missing; the text says which.
    """

    @checks_options
    def __init__(
        self,
        url: str,
        where: str = "",
        /,
        *,
        create: bool = False,
        readonly: bool = False,
        exclude: str | Iterable[str] = (),
        interval: Seconds = 5.0,
        **storage_options: Any,
    ) -> None:
        self._where = where or url.split("?", maxsplit=1)[0]
        super().__init__(interval, exclude, self._where)
        names = OddNames(self._where, "a file", check_name)
        self._open = partial(open_fsspec, url, storage_options, names)
        self._lock = threading.Lock()
        # How often it was opened anew; which of these is the one that is open now.
        self._opens = self._newest = 0
        try:
            self._opened = self._open()
            can_write = self._opened.can_write and not readonly
            if create and can_write:
                self._opened.make_root()
            self._opened.check()
        except (DatastreamError, ImportError):
            raise
        except Exception as error:
            raise explain(error, self._where, opening=True) from error
        self.features = frozenset({Feature.WRITE} if can_write else ())
        if not (can_write or readonly):
            is_archive = self._opened.is_archive
            self.why_only_read = "it is an archive" if is_archive else "its kind cannot be written"
        self.thread_safe = self._opened.thread_safe

    def get(self, key: str) -> Entry | None:
        if key in self._excluded or not is_path(key):
            return None
        with self._using() as opened:
            data = opened.read([key])[0]
            if isinstance(data, Refused):
                self._unread.add(key, data.reason)
                raise self._unread.error(key)
            self._unread.discard(key)
            if data is None:
                # Not there, or all of it is away.
                opened.check_root()
                return None
            return _entry(key, data)._replace(updated_at=_time_at(opened, key))

    def write(self, writes: Sequence[Write]) -> Written:
        for write in writes:
            self._check_key(write.key)
            if write.value is not None:
                check_round_trip(write.key, write.value, write.value_type)
        found = self._get([write.key for write in writes])
        for write, entry in zip(writes, found, strict=True):
            if is_unread(entry):
                raise self._unread.error(write.key)
            check_expected(write, entry.revision or None)
        return self._written(self._write(writes, found))

    def translate(self, error: Exception, key: str | None) -> Exception:
        return error if isinstance(error, ImportError) else explain(error, self._where, key=key)

    def close(self) -> None:
        self._wake.set()
        self._opened.close()

    # Reading.

    @contextmanager
    def _looking(self, scope: str) -> Iterator[tuple[Iterable[Listed], Read]]:
        with self._looking_anew() as (opened, signature):
            yield self._listed(opened, signature), partial(self._get_from, opened)

    def _list(self, scope: str) -> Iterator[Listed]:
        with self._looking_anew() as (opened, signature):
            yield from self._listed(opened, signature)

    def _listed(self, opened: Opened, signature: _Signature) -> Iterator[Listed]:
        for key, info in opened.files():
            if key in self._excluded:
                continue
            if REFUSED in info:
                self._unread.add(key, info[REFUSED])
                yield Listed(key, None)
            else:
                yield Listed(key, signature(info), "", time_of(info))

    def summaries(self, selection: Selects) -> Iterator[Summary]:
        with self._looking_anew() as (opened, signature):
            for key, info in opened.files():
                if key in self._excluded or REFUSED in info:
                    if REFUSED in info:
                        yield Summary(key)
                elif selection.matches(key):
                    size = info.get("size")
                    known = size if isinstance(size, int) else None
                    tells = signature(info)
                    # A coarse one may stand for what is written next, too.
                    exact = None if isinstance(tells, Coarse) else tells
                    yield Summary(key, known, "", time_of(info), exact)

    def pieces(self, key: str) -> Iterator[bytes]:
        with self._using() as opened:
            yield from opened.pieces(key)

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        self._check_key(key)
        with self._using() as opened:
            opened.put_pieces(key, pieces)

    def _get(self, keys: Sequence[str]) -> Sequence[Entry]:
        with self._using() as opened:
            return self._get_from(opened, keys)

    def _get_from(self, opened: Opened, keys: Sequence[str]) -> Sequence[Entry]:
        contents = opened.read(keys)
        return [self._entry(key, data) for key, data in zip(keys, contents, strict=True)]

    def _entry(self, key: str, data: bytes | Refused | None) -> Entry:
        if isinstance(data, Refused):
            self._unread.add(key, data.reason)
            return unread(key)
        self._unread.discard(key)
        return _entry(key, data)

    @contextmanager
    def _looking_anew(self) -> Iterator[tuple[Opened, _Signature]]:
        """What a look reads, from its listing on, and what makes signatures of its files."""
        with self._using() as opened:
            if not opened.is_archive:
                yield opened, signature_of
                return
            # First: it must not be newer than what is read of the archive.
            archive = opened.archive_signature()
        self._open_anew()
        with self._using() as opened:
            yield opened, partial(member_signature, archive=archive)

    def _open_anew(self) -> None:
        """An archive's table of contents is read when it is opened."""
        with self._lock:
            self._opens += 1
            number = self._opens
        opened = self._open()
        with self._lock:
            old = opened
            # Else another one began to be opened after this one, and shows what is as new.
            if number > self._newest:
                old, self._opened, self._newest = self._opened, opened, number
            old.retired = True
            is_unused = not old.users
        if is_unused:
            old.close()

    @contextmanager
    def _using(self) -> Iterator[Opened]:
        """What is open now; it stays open while it is used."""
        with self._lock:
            opened = self._opened
            opened.users += 1
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                is_over = opened.retired and not opened.users
            if is_over:
                opened.close()

    # Writing.

    def _write(self, writes: Sequence[Write], found: Sequence[Entry]) -> list[Entry]:
        stored: list[Entry] = []
        try:
            for write, entry in zip(writes, found, strict=True):
                stored.append(self._put(write, entry))
        except Exception as error:
            reason = explain(error, self._where, key=writes[len(stored)].key)
            if len(writes) == 1:
                raise reason from error
            raise type(reason)(
                f"{reason}; {len(stored)} of {len(writes)} writes were made; look before writing "
                "again"
            ) from error
        return stored

    def _put(self, write: Write, before: Entry) -> Entry:
        there = before.revision != ""
        with self._using() as opened:
            if write.value is None:
                if there:
                    opened.remove(write.key)
                return deleted(write.key)
            if not there or before.value != write.value:
                opened.write(write.key, write.value)
            at = _time_at(opened, write.key)
        return _entry(write.key, write.value)._replace(updated_at=at)

    def _check_key(self, key: str) -> None:
        if not is_path(key):
            raise InvalidKey(f"{shown(key)} has an empty part, '.' or '..', which no path keeps")
        if key in self._excluded:
            raise InvalidKey(f"{shown(key)} is excluded; choose another name")


def _time_at(opened: Opened, key: str) -> Any:
    """When a file that was just read, or written, was written, where its filesystem has that."""
    # Metadata only: where it cannot be had, the value was there all the same.
    with suppress(Exception):
        return time_of(opened.info(key)) if opened.has_times else None
    return None


def _entry(key: str, data: bytes | None) -> Entry:
    if data is None:
        return deleted(key)
    return Entry(key, data, type_of(key, data), None, fingerprint(data))


_SERVERS = frozenset(("http", "https", "ftp", "sftp", "ssh", "smb", "webdav", "hdfs", "webhdfs"))
"""Schemes whose place is a host, with a port or without."""


def open_filesystem(location: Location, **options: object) -> FilesystemSource:
    """The Source of every other URL that fsspec understands."""
    if location.scheme in ("http", "https") and location.path.endswith(".git"):
        raise DatastreamError(f"{location.shown!r} is a git repository; write git+{location.shown}")
    if location.scheme in _SERVERS:
        check_port(location)
    names = inspect.signature(FilesystemSource).parameters.values()
    check_options(location, [p.name for p in names if p.kind is p.KEYWORD_ONLY])
    url = f"{location.scheme}:{location.path}"
    return configured(partial(FilesystemSource, url, location.shown), location, options)
