"""Any filesystem that fsspec knows: ``memory://``, ``gs://``, ``sftp://``, ``zip://``, ``http://``…

Local directories and S3 have sources of their own, which can do more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from datastream.entry import Capability, Entry, deleted
from datastream.errors import DatastreamError, Denied, InvalidKey, SourceUnavailable, shown
from datastream.selection import Selects
from datastream.source import Feature, Reading, Write, check_expected
from datastream.sources._common.file_types import check_round_trip, type_of
from datastream.sources._common.listing import Listed, ListedSource, fingerprint
from datastream.sources.filesystem.info import signature_of, time_of
from datastream.sources.filesystem.place import Opened, open_fsspec
from datastream.url import Location, configured

T = TypeVar("T")

_Kinds = tuple[type[Exception], ...]
_WRITING: tuple[tuple[_Kinds, type[DatastreamError], str], ...] = (
    (
        (FileExistsError, IsADirectoryError, NotADirectoryError, FileNotFoundError),
        InvalidKey,
        "{key} is a directory or lies below a file, and cannot be written",
    ),
    ((PermissionError,), Denied, "see who may write there"),
)
_OPENING: tuple[tuple[_Kinds, type[DatastreamError], str], ...] = (
    (
        (FileNotFoundError,),
        DatastreamError,
        "no such place: check the URL, or make it: create=True",
    ),
    ((NotImplementedError,), DatastreamError, "this filesystem cannot be listed"),
    ((PermissionError,), Denied, "check the credentials"),
    ((TypeError, ValueError), DatastreamError, "check the options of this filesystem"),
)


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

    def __init__(
        self,
        url: str,
        where: str = "",
        /,
        *,
        create: bool = False,
        readonly: bool = False,
        exclude: str | Iterable[str] = (),
        interval: float = 5.0,
        **storage_options: Any,
    ) -> None:
        super().__init__(interval, exclude)
        self._where = where or url.split("?", maxsplit=1)[0]
        self._open: Callable[[], Opened] = partial(open_fsspec, url, storage_options)
        self._opened = self._guarded(self._open, opening=True)
        self.features = frozenset(
            {Feature.WRITE} if self._opened.can_write and not readonly else ()
        )
        self._guarded(
            partial(self._check_place, create and Feature.WRITE in self.features), opening=True
        )

    def capabilities(self) -> Sequence[Capability]:
        return self._guarded(super().capabilities)

    def read(self, selection: Selects, since: str | None) -> Reading:
        return self._guarded(partial(super().read, selection, since))

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        for write in writes:
            self._check_key(write.key)
            if write.value is not None:
                check_round_trip(write.key, write.value, write.value_type)
        return self._guarded(partial(self._write, writes), key=writes[0].key)

    def close(self) -> None:
        self._opened.close()

    # Reading.

    def _list(self, scope: str) -> Iterator[Listed]:
        if self._opened.is_archive:
            # Its table of contents was read when it was opened.
            self._opened.close()
            self._opened = self._open()
        for key, info in self._opened.files():
            if key not in self._excluded:
                yield Listed(key, signature_of(info), "", time_of(info))

    def _get(self, keys: Sequence[str]) -> Sequence[Entry]:
        contents = self._opened.read(keys)
        return [_entry(key, data) for key, data in zip(keys, contents, strict=True)]

    def _fill(self, loaded: Any, entries: Sequence[Entry]) -> list[Entry]:
        return self._guarded(partial(super()._fill, loaded, entries))

    # Writing.

    def _write(self, writes: Sequence[Write]) -> list[Entry]:
        found = self._get([write.key for write in writes])
        for write, entry in zip(writes, found, strict=True):
            check_expected(write, entry.revision or None)
        stored: list[Entry] = []
        try:
            for write, entry in zip(writes, found, strict=True):
                stored.append(self._put(write, entry))
        except Exception as error:
            reason = _explain(error, self._where, key=writes[len(stored)].key)
            if len(writes) == 1:
                raise reason from error
            raise type(reason)(
                f"{reason}; {len(stored)} of {len(writes)} writes were made; look before writing "
                "again"
            ) from error
        return stored

    def _put(self, write: Write, before: Entry) -> Entry:
        there = before.revision != ""
        if write.value is None:
            if there:
                self._opened.remove(write.key)
            self._note(write.key, None)
            return deleted(write.key)
        if not there or before.value != write.value:
            self._opened.write(write.key, write.value)
        return _entry(write.key, write.value)._replace(
            updated_at=time_of(self._opened.info(write.key))
        )

    def _check_key(self, key: str) -> None:
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise InvalidKey(f"{shown(key)} has an empty part, '.' or '..', which no path keeps")
        if key in self._excluded:
            raise InvalidKey(f"{shown(key)} is excluded; choose another name")

    # Opening, and trouble.

    def _check_place(self, create: bool) -> None:
        if create:
            self._opened.make_root()
        for _ in self._opened.files():
            return

    def _guarded(self, action: Callable[[], T], *, opening: bool = False, key: str = "") -> T:
        """The one place where the errors of so many libraries become ours."""
        try:
            return action()
        except (DatastreamError, ImportError):
            raise
        except Exception as error:
            raise _explain(error, self._where, opening=opening, key=key) from error


def _explain(
    error: Exception, where: str, *, opening: bool = False, key: str = ""
) -> DatastreamError:
    """What went wrong, while a place was opened or, with `key`, while that was written."""
    if isinstance(error, DatastreamError):
        return error
    text = f"{where}: {error or type(error).__name__}"
    for kinds, answer, advice in _WRITING if key else _OPENING if opening else ():
        if isinstance(error, kinds):
            return answer(f"{text}; {advice.format(key=shown(key))}")
    return SourceUnavailable(text)


def _entry(key: str, data: bytes | None) -> Entry:
    if data is None:
        return deleted(key)
    return Entry(key, data, type_of(key, data), None, fingerprint(data))


def open_filesystem(location: Location, **options: object) -> FilesystemSource:
    """The Source of every other URL that fsspec understands."""
    url = f"{location.scheme}:{location.path}"
    return configured(partial(FilesystemSource, url, location.shown), location, options)
