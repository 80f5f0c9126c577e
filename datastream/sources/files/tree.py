"""The files below a directory: which there are, and whether all is in its place."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from datastream.errors import InvalidKey, SourceUnavailable, shown
from datastream.selection import check_text
from datastream.sources._common.listing import Exclusion, Listed
from datastream.sources.files.content import Content, listed, read_file
from datastream.sources.files.mounts import mount_points

RESERVED = ".datastream"
"""Where this library keeps its lock and what it is about to write."""
NAME_MAX = 255
"""Longest name of a file, in bytes."""

log = logging.getLogger("datastream")

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class Place(NamedTuple):
    """Which directory it is, as long as it is that one."""

    device: int
    inode: int
    mounts: frozenset[str]
    """On the way to it and below it."""


class _Folder(NamedTuple):
    path: str
    prefix: str
    """Of the keys in it."""
    met: frozenset[str]
    """The directories on the way, where links were followed: to come back is to go in circles."""


class Tree:
    """Walks a directory that others change, move, unmount and bring back.

    Args:
        path: the directory; looked up anew at each look, so it may be a link that is swapped.
        hidden: take names that start with a dot too.
        exclude: what to leave out.
    """

    def __init__(self, path: str, *, hidden: bool, exclude: Exclusion) -> None:
        self.path = path
        self.root = os.path.realpath(path)
        self.linked = False
        """Whether there are symbolic links, as far as looks at the whole have told."""
        self.opened = False
        """Whether a directory can be read that could not; whoever asks sets it back."""
        self.folders: set[str] = set()
        """The directories ever read, by what the keys in them begin with."""
        self._hidden = hidden
        self._exclude = exclude
        self._mounts: frozenset[str] = frozenset()
        self._links: dict[str, str] = {}
        self._plain: set[str] = set()
        self._locked: set[str] = set()
        self._warned: set[str] = set()

    def check_there(self) -> Place:
        """The identity of the directory, if it is there with all that was mounted.

        Raises:
            SourceUnavailable: it is away, or something is no longer mounted.
        """
        root = os.path.realpath(self.path)
        if root != self.root:
            self.root, self._mounts = root, frozenset()
            self.folders.clear()
        try:
            info = os.stat(root)  # noqa: PTH116
        except OSError as error:
            raise SourceUnavailable(
                f"{self.path}: {error.strerror}; nothing is taken for deleted while it is away"
            ) from error
        if not stat.S_ISDIR(info.st_mode):
            raise SourceUnavailable(f"{self.path} is no directory any more")
        mounts = frozenset(filter(self._concerns, mount_points(root)))
        if lost := self._mounts - mounts:
            raise SourceUnavailable(
                f"{min(lost)} is not mounted any more; mount it again, or open the store anew"
            )
        self._mounts = mounts
        return Place(info.st_dev, info.st_ino, mounts)

    def is_at(self, place: Place) -> bool:
        """`check_there` for a thread beside: it changes nothing, and raises nothing."""
        root = os.path.realpath(self.path)
        try:
            info = os.stat(root)  # noqa: PTH116
        except OSError:
            return False
        mounts = frozenset(filter(self._concerns, mount_points(root)))
        return root == self.root and place == (info.st_dev, info.st_ino, mounts)

    def begin(self) -> None:
        """Before a look: forget which links were met."""
        self._links.clear()
        self._plain.clear()

    def links_hold(self) -> bool:
        """Whether the links that were met since `begin` still lead where they led."""
        return all(os.path.realpath(self._path(key)) == to for key, to in self._links.items())

    def walk(self, scope: str) -> Iterator[Listed]:
        """All files whose keys start with `scope`.

        Raises:
            SourceUnavailable: a part that could be read before cannot be read any more.
        """
        if not scope:
            self.linked = False
        start = scope[: scope.rfind("/") + 1]
        path = self._directory(start)
        now = time.time_ns()
        folders = [] if path is None else [_Folder(path, start, frozenset())]
        while folders:
            yield from self._walk_one(folders.pop(), scope, now, folders)

    def _walk_one(
        self, folder: _Folder, scope: str, now: int, folders: list[_Folder]
    ) -> Iterator[Listed]:
        prefix = folder.prefix
        for item in self._scan(folder):
            name = item.name
            key = prefix + name
            if not key.startswith(scope) or self._leaves_out(key, name):
                continue
            met = folder.met
            if item.is_symlink():
                followed = self._follow(item.path, key, met)
                if followed is None:
                    continue
                met = followed
            info = self._info(item, folder)
            if info is None:
                continue
            if stat.S_ISREG(info.st_mode):
                yield listed(key, info, now)
            elif stat.S_ISDIR(info.st_mode):
                folders.append(_Folder(item.path, f"{key}/", met))

    def find(self, key: str) -> Listed | None:
        """One file by itself, links followed as `walk` does; None if there is none."""
        if not self.admits(key):
            return None
        path, met = self._path(key), frozenset[str]()
        end = len(path) - len(key) - 1
        while end >= 0:
            end = path.find("/", end + 1)
            part = path if end < 0 else path[:end]
            if os.path.islink(part):  # noqa: PTH114
                followed = self._follow(part, part[len(path) - len(key) :], met)
                if followed is None:
                    return None
                met = followed
        try:
            info = os.stat(path)  # noqa: PTH116
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        return listed(key, info, time.time_ns()) if stat.S_ISREG(info.st_mode) else None

    def look_at(self, key: str) -> Listed | None:
        """`find` where there are no links."""
        try:
            info = os.lstat(self._path(key))
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        return listed(key, info, time.time_ns()) if stat.S_ISREG(info.st_mode) else None

    def key_of(self, path: str) -> str | None:
        """The key that a file at `path` has or would have, "" for the directory itself."""
        start = self.root.rstrip("/") + "/"
        if path.startswith(start):
            return path[len(start) :]
        return "" if path == self.root else None

    def is_directory(self, key: str) -> bool:
        """Whether `key` is a directory, or a link."""
        try:
            mode = os.lstat(self._path(key)).st_mode
        except OSError:
            return False
        return stat.S_ISDIR(mode) or stat.S_ISLNK(mode)

    def path_to_read(self, key: str) -> str | None:
        """Where `key` would be, None if it is outside."""
        path = self._path(key)
        return path if self._within(os.path.realpath(path)) else None

    def read(self, key: str) -> Content | None:
        """What a file that was listed holds, None if there is none. `read_file` says the rest."""
        if key[: key.rfind("/") + 1] in self._plain:
            content = read_file(self._path(key), os.O_NOFOLLOW)
            if content is not None:
                return content
        path = self.path_to_read(key)
        return None if path is None else read_file(path)

    def admits(self, key: str) -> bool:
        """Whether `key` names a place below the directory that is not left out."""
        names = key.split("/")
        if any(name in ("", ".", "..") for name in names):
            return False
        end = 0
        for name in names:
            end += len(name)
            if self._leaves_out(key[:end], name):
                return False
            end += 1
        return True

    def target(self, key: str) -> str:
        """Where to write `key`, links followed: the path below the directory.

        Raises:
            InvalidKey: it leads out of the directory, is hidden or left out, or is no file.
        """
        if not self.admits(key):
            raise InvalidKey(
                f"{shown(key)} names no file below {self.path}: a part of it is empty, '.', '..', "
                "reserved, excluded, or hidden (hidden=True takes those); nothing was written"
            )
        if any(len(name.encode()) > NAME_MAX for name in key.split("/")):
            raise InvalidKey(f"{shown(key)}: no part of a file's path is over {NAME_MAX} bytes")
        path = os.path.realpath(self._path(key))
        if not self._within(path):
            raise InvalidKey(f"{shown(key)} leads out of {self.path} through a symbolic link")
        with suppress(OSError):
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode):
                raise InvalidKey(f"{shown(key)} is a directory; keys start with it, none is it")
            if not stat.S_ISREG(mode):
                raise InvalidKey(f"{shown(key)} is no regular file; nothing was written")
        return path[len(self.root.rstrip("/")) + 1 :]

    # Inside.

    def _path(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{key}"

    def _concerns(self, mount: str) -> bool:
        key = self.key_of(mount)
        return not key or self.admits(key)

    def _directory(self, start: str) -> str | None:
        """The directory of the keys that begin with `start`, None if there is none."""
        if not start:
            return self.root
        if not self.admits(start[:-1]):
            return None
        path = self.path_to_read(start[:-1])
        return path if path is not None and os.path.isdir(path) else None  # noqa: PTH112

    def _scan(self, folder: _Folder) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder.path) as items:
                found = list(items)
        except (FileNotFoundError, NotADirectoryError):
            # Gone since its parent was read. Were it the whole, that would be no delete.
            self.check_there()
            return []
        except PermissionError as error:
            self._refuse(folder, error)
            return []
        prefix = folder.prefix
        if prefix in self._locked:
            self._locked.discard(prefix)
            self.opened = True
        self.folders.add(prefix)
        if not folder.met and (not prefix or not self._links):
            self._plain.add(prefix)
        return found

    def _refuse(self, folder: _Folder, error: PermissionError) -> None:
        """A directory may not be read: is that news?"""
        if not folder.prefix or folder.prefix in self.folders:
            raise SourceUnavailable(
                f"{folder.path} cannot be read any more; nothing is taken for deleted"
            ) from error
        self._locked.add(folder.prefix)
        self.warn(folder.prefix, f"{folder.path} cannot be read and is left out")

    def _info(self, item: os.DirEntry[str], folder: _Folder) -> os.stat_result | None:
        """The state of what is there, links followed; None if it has gone."""
        try:
            return item.stat()
        except PermissionError as error:
            # It is listed, but may not be entered; or so is what a link leads to.
            if not item.is_symlink():
                raise SourceUnavailable(
                    f"{item.path} is there, but {folder.path} may not be entered"
                ) from error
            self.warn(item.path, f"{item.path} leads where nothing may be read and is left out")
            return None
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def _leaves_out(self, key: str, name: str) -> bool:
        # "..data" is how Kubernetes swaps directories: the keys are those of the links to it.
        if name.startswith(".") and (not self._hidden or name.startswith(("..", RESERVED))):
            return True
        if self._exclude and key in self._exclude:
            return True
        if name.isascii():
            return False
        try:
            check_text(name)
        except InvalidKey:
            self.warn(key, f"{name!r} in {self.path} is no UTF-8 and is left out")
            return True
        return False

    def _follow(self, link: str, key: str, met: frozenset[str]) -> frozenset[str] | None:
        """The directories met once `link` is followed, None if it is not to be."""
        self.linked = True
        real = os.path.realpath(link)
        holder = os.path.realpath(os.path.dirname(link))  # noqa: PTH120
        self._links[key] = real
        if not self._within(real):
            self.warn(key, f"{link} leads out of {self.path} and is left out")
            return None
        if real in met or f"{holder}/".startswith(f"{real}/"):
            return None
        return met | {real, holder}

    def _within(self, real: str) -> bool:
        start = self.root.rstrip("/")
        return f"{real}/".startswith(f"{start}/") and not real.startswith(f"{start}/{RESERVED}")

    def warn(self, about: str, text: str) -> None:
        """Log it, once."""
        if about not in self._warned:
            self._warned.add(about)
            log.warning("%s", text.encode(errors="backslashreplace").decode())
