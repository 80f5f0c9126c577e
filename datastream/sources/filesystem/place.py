"""One place of an fsspec filesystem, with what differs between them smoothed out."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from datastream.errors import (
    DatastreamError,
    InvalidKey,
    KeyNotFound,
    SourceUnavailable,
    shown,
)
from datastream.selection import check_text
from datastream.sources._common.odd_names import OddNames
from datastream.sources.filesystem.archives import check_whole, name_plainly
from datastream.sources.filesystem.errors import why_unreadable
from datastream.sources.filesystem.info import signature_of
from datastream.url import Given, Location, text_as, unknown_option

_OBJECT_STORES = frozenset(
    {"abfs", "abfss", "az", "adl", "gcs", "gs", "oci", "oss", "tos", "tosfs"}
)
"""Protocols without directories: a prefix exists while an object has it."""

_THREAD_SAFE = frozenset({"data", "file", "local", "memory", "zip"})
"""Protocols whose calls may overlap, besides those of filesystems on fsspec's event loop."""
_KEEPS_FULL = frozenset({"file", "local", "memory", "ftp", "sftp", "ssh"})
"""Protocols whose `rmdir` removes no directory with anything in it; that of others may."""
REFUSED = "datastream-refused"
"""In the information on a directory that cannot be listed: why."""
PIECE = 1 << 20
"""Bytes that are read at once where a whole content is not needed."""
ATTEMPTS = 3
"""How often a place is listed, or written to, anew while directories are removed from it."""

log = logging.getLogger("datastream")


class Refused(NamedTuple):
    """Instead of the content of a file that is there and cannot be read."""

    reason: str


class Opened:
    """A place of a filesystem; raises what that raises.

    Args:
        system: the filesystem.
        root: the place, as the filesystem writes it.
        names: leaves out files whose names are no keys.
    """

    def __init__(self, system: Any, root: str, names: OddNames) -> None:
        from fsspec.archive import AbstractArchiveFileSystem

        self._system = system
        self._root = root.rstrip("/")
        self._protocols = (
            {system.protocol} if isinstance(system.protocol, str) else {*system.protocol}
        )
        self._quoted = bool(self._protocols & {"http", "https"})
        self.is_archive = isinstance(system, AbstractArchiveFileSystem)
        self.can_write = _can_remove(system) and not self.is_archive
        self.thread_safe = bool(system.async_impl or self._protocols & _THREAD_SAFE)
        """Whether calls may overlap. Most clients that use one connection do not document it."""
        # All who open a file in memory have one object, and one place in it.
        self._is_memory = "memory" in self._protocols
        self.has_times = not self._quoted
        """Whether `info` may have the time at which a file was written."""
        self.users, self.retired = 0, False
        """How many calls the source has running on it; whether another one has replaced it."""
        self._tells_root = False
        self._names = names
        if self.is_archive:
            name_plainly(system)
            # fsspec fills an archive's table of contents at the first call, without a lock.
            with suppress(FileNotFoundError):
                system.ls(self._root)
            check_whole(system)

    def archive_signature(self) -> Hashable:
        """What differs after the archive was written or replaced; None if nothing tells."""
        from fsspec.core import OpenFile

        file = getattr(self._system, "of", None)
        return signature_of(file.fs.info(file.path)) if isinstance(file, OpenFile) else None

    def files(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """All files below the place, each with its key and the filesystem's information on it.

        A directory that cannot be listed, while others can, comes with a key that ends in "/".
        Raises where anything else cannot be listed.
        """
        for name, info in self._all_found():
            key = self._key(name)
            if REFUSED in info:
                yield f"{key}/", info
            elif info.get("type") != "directory" and self._names.admits(key):
                yield key, info

    def read(self, keys: Sequence[str]) -> list[bytes | Refused | None]:
        """The contents of many files, None for those that are not there."""
        paths = [self._path(key) for key in keys]
        starts: list[None] = [None] * len(paths)
        found = self._system.cat_ranges(paths, starts, starts, on_error="return")
        return [self._content(item) for item in found]

    def write(self, key: str, value: bytes) -> None:
        """Put a content in its place, directories included."""
        path = self._path(key)
        self._in_its_folder(path, partial(self._system.pipe_file, path, value))

    def pieces(self, key: str) -> Iterator[bytes]:
        """One content in pieces."""
        try:
            if self._is_memory:
                yield self._system.cat_file(self._path(key))
                return
            file = self._system.open(self._path(key), "rb")
        except FileNotFoundError as error:
            raise KeyNotFound(f"{self._root} holds nothing at {shown(key)} any more") from error
        with file:
            while piece := file.read(PIECE):
                yield piece

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        """Put a content in its place, directories included, as the pieces come."""
        path = self._path(key)
        if self._is_memory:
            self.write(key, b"".join(pieces))
            return
        with self._in_its_folder(path, partial(self._system.open, path, "wb")) as file:
            for piece in pieces:
                file.write(piece)

    def remove(self, key: str) -> None:
        """Remove one file, and the directories that it leaves empty: their names can be keys."""
        self._system.rm_file(self._path(key))
        if not self._protocols & _KEEPS_FULL:
            return
        folder = key.rpartition("/")[0]
        # Each raises its own error for a directory that is not empty.
        with suppress(Exception):
            while folder:
                self._system.rmdir(self._path(folder))
                folder = folder.rpartition("/")[0]

    def info(self, key: str) -> Mapping[str, Any]:
        """The filesystem's information on one file."""
        info: Mapping[str, Any] = self._system.info(self._path(key))
        return info

    def check(self) -> None:
        """Raise unless the place is there and can be listed."""
        for _ in self._found():
            break
        self._tells_root = self._is_root_there()

    def check_root(self) -> None:
        """Raise if the place itself is away."""
        if self._tells_root and not self._is_root_there():
            raise SourceUnavailable(f"{self._root}: no such place; it was there before")

    def make_root(self) -> None:
        """Make the directory of the place."""
        self._system.makedirs(self._root, exist_ok=True)

    def close(self) -> None:
        """Close what the filesystem holds open."""
        self._close(self._system)
        if self.is_archive:
            # The file is not its own business: fsspec leaves it to the garbage collector.
            self._close(self._system.fo)

    def _close(self, held: Any) -> None:
        try:
            getattr(held, "close", lambda: None)()
        except Exception as error:  # noqa: BLE001
            # Without its text, which may hold a secret of the options.
            log.debug("closing a filesystem raised %s", type(error).__name__)

    def _in_its_folder(self, path: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, once there is a directory for the file at `path`."""
        folder = path.rpartition("/")[0]
        for _ in range(ATTEMPTS - 1):
            # A delete may remove the directory between the two steps, because it is empty.
            with suppress(FileNotFoundError):
                self._system.makedirs(folder, exist_ok=True)
                return make()
        self._system.makedirs(folder, exist_ok=True)
        return make()

    def _content(self, found: Any) -> bytes | Refused | None:
        if isinstance(found, bytes):
            return found
        if isinstance(found, FileNotFoundError | IsADirectoryError):
            return None
        if not isinstance(found, Exception):
            raise SourceUnavailable(f"{type(found).__name__} instead of a content")
        reason = why_unreadable(found, in_archive=self.is_archive)
        if not reason:
            raise found
        return Refused(reason)

    def _key(self, name: str) -> str:
        start = f"{self._root}/"
        key = name[len(start) :] if name.startswith(start) else name.lstrip("/")
        return unquote(key) if self._quoted else key

    def _path(self, key: str) -> str:
        return f"{self._root}/{quote(key) if self._quoted else key}"

    def _is_root_there(self) -> bool:
        try:
            self._system.info(self._root)
        except FileNotFoundError:
            return False
        except Exception:  # noqa: BLE001
            # Some filesystems refuse `info` of the root; the next listing tells.
            return not self._protocols & _OBJECT_STORES
        return True

    def _all_found(self) -> list[tuple[str, Mapping[str, Any]]]:
        for _ in range(ATTEMPTS - 1):
            # A directory, or a file in it, may be removed during the listing.
            with suppress(FileNotFoundError, KeyError, RuntimeError):
                return list(self._found())
        return list(self._found())

    def _found(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        system = self._system
        try:
            if self._protocols & _OBJECT_STORES:
                # One request lists all, and an error of it is raised.
                yield from system.find(self._root, detail=True).items()
                return
            if self.is_archive:
                yield from self._members()
                return
            # Elsewhere `find` leaves out what it cannot list, without a word.
            yield from self._walked()
        except FileNotFoundError:
            if not (self._protocols & _OBJECT_STORES and self._has_container()):
                raise

    def _members(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """All that an archive has a name for: one member may be above another, as no file is."""
        # Fills the table of contents, and raises if this place is not in it.
        self._system.ls(self._root)
        start = f"{self._root}/" if self._root else ""
        for name, info in self._system.dir_cache.items():
            if info["type"] != "directory" and name.startswith(start):
                yield name, info

    def _walked(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        folders = [self._root]
        while folders:
            folder = folders.pop()
            try:
                listing = self._system.ls(folder, detail=True)
            except Exception as error:
                reason = why_unreadable(error, in_archive=self.is_archive)
                if not reason or folder == self._root:
                    raise
                yield folder, {REFUSED: reason}
                continue
            for info in listing:
                name = info["name"].rstrip("/")
                if info["type"] == "directory" and name != folder:
                    folders.append(name)
                else:
                    yield name, info

    def _has_container(self) -> bool:
        return bool(self._system.exists(self._root.lstrip("/").partition("/")[0]))


def open_fsspec(url: str, options: Mapping[str, Any], names: OddNames) -> Opened:
    """The place that `url` names.

    Args:
        names: leaves out files whose names are no keys, also when it is opened anew.

    Raises:
        ImportError: the filesystem needs a package that is not installed.
        ValueError: no filesystem has this scheme.
    """
    import fsspec
    from fsspec.core import url_to_fs

    protocol = url.partition(":")[0]
    with _hints(protocol):
        kind = fsspec.get_filesystem_class(protocol)
    defaults = _defaults(kind)
    typed = {
        name: text_as(Given(name, value, protocol, in_url=False), defaults.get(name))
        for name, value in options.items()
    }
    path = url.partition(":")[2]
    if protocol in _ARCHIVES and "::" not in url and "fo" not in typed:
        # fsspec takes zip://PATH for a path within an archive; here it names the archive.
        url, typed = f"{protocol}://", {**typed, "fo": _local(path)}
    # A new instance, because fsspec shares them, and without its cache of listings that never
    # expires.
    with _hints(protocol):
        system, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **typed)
    _check_followed(system, url)
    return Opened(system, root, names)


def _check_followed(system: Any, url: str) -> None:
    from fsspec.implementations.cached import CachingFileSystem

    if isinstance(system, CachingFileSystem) and not system.check_files:
        cache = url.partition(":")[0]
        raise DatastreamError(
            f"{cache} keeps copies and looks for no changes; leave {cache}:: out of the URL. "
            "view(cache=…) keeps values for the time that a store is away"
        )


@contextmanager
def _hints(protocol: str) -> Iterator[None]:
    """Say which package is missing: some filesystems need it when made, others to be imported."""
    try:
        yield
    except ImportError as error:
        package = _PACKAGES.get(protocol, "")
        hint = f": pip install {package}" if package else ""
        raise ImportError(f"{protocol}: needs another package{hint} ({error})") from error


_PACKAGES = {
    **dict.fromkeys(("abfs", "abfss", "az"), "adlfs"),
    **dict.fromkeys(("gcs", "gs"), "gcsfs"),
    **dict.fromkeys(("github", "gist", "jlab", "jupyter", "dbfs", "webhdfs"), "requests"),
    **dict.fromkeys(("hdfs", "arrow_hdfs"), "pyarrow"),
    **dict.fromkeys(("http", "https"), '"datastream-kv[http]"'),
    **dict.fromkeys(("oci", "ocilake"), "ocifs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    **dict.fromkeys(("tos", "tosfs"), "tosfs"),
    "asynclocal": "morefs[asynclocalfs]",
    "box": "boxfs",
    "dask": "distributed",
    "dropbox": "dropboxdrivefs dropbox requests",
    "dvc": "dvc",
    "gdrive": "gdrive_fs",
    "git": "pygit2",
    "hf": "huggingface_hub",
    "lakefs": "lakefs-spec",
    "libarchive": "libarchive-c",
    "oss": "ossfs",
    "root": "fsspec-xrootd",
    "smb": "smbprotocol",
    "wandb": "wandbfs",
    "webdav": "webdav4",
}
_OBJECTS = re.compile(r"_(kwargs|options)$|session|client$|callback|^(loop|asynchronous|fs)$")
"""Names of options that filesystems have for objects, or that run in code."""
_ARCHIVES = ("zip", "tar", "libarchive")


def _local(path: str) -> str:
    return path.removeprefix("//")


def _defaults(kind: type) -> dict[str, Any]:
    """The options of a filesystem and of those it extends, each with its default."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            found |= {name: parameter.default for name, parameter in parameters.items()}
    return found


def check_options(location: Location, own: Iterable[str]) -> None:
    """Refuse options of a URL that hold objects or name programs, and those misspelt.

    Args:
        location: the URL.
        own: options that are not the filesystem's.

    Raises:
        DatastreamError: there is such an option.
    """
    import fsspec

    try:
        known = _defaults(fsspec.get_filesystem_class(location.scheme))
    except (ImportError, ValueError):
        # To be said when it is opened.
        known = {}
    for name in location.options.keys() - set(own):
        if _OBJECTS.search(name) or isinstance(known.get(name), dict | list):
            raise DatastreamError(
                f"option {name} is not taken from a URL, because it is no text; give it in code: "
                f"open(url, {name}=…)"
            )
        if name not in known and get_close_matches(name, known, cutoff=0.8):
            raise unknown_option(location.shown, name, own, known, "what fsspec's filesystem takes")


def check_name(key: str) -> None:
    """Raise InvalidKey for what is no path, or no key."""
    check_text(key)
    if not is_path(key):
        raise InvalidKey(f"{shown(key)} leads elsewhere: a part is empty, '.' or '..'")


def is_path(key: str) -> bool:
    """Whether a path keeps `key` as it is."""
    return not any(part in ("", ".", "..") for part in key.split("/"))


def _overrides(system: Any, *names: str) -> bool:
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    general = (AbstractFileSystem, AsyncFileSystem)
    kinds = [kind for kind in type(system).__mro__ if kind not in general]
    return any(name in vars(kind) for kind in kinds for name in names)


def _can_remove(system: Any) -> bool:
    """Whether the filesystem overrides a method that removes files.

    fsspec has no flag for what can be written, and every filesystem that can has such a method.
    """
    return _overrides(system, "rm", "_rm", "rm_file", "_rm_file")
