"""The files below a directory: which there are, and whether all is in its place."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datastream.errors import InvalidKey, SourceUnavailable, shown
from datastream.selection import check_text
from datastream.sources._files_content import Content, listed, read_file
from datastream.sources._files_mounts import mount_points
from datastream.sources._listing import Exclusion, Listed

RESERVED = ".datastream"
"""Where this library keeps its lock and what it is about to write."""
NAME_MAX = 255
"""Longest name of a file, in bytes."""

log = logging.getLogger("datastream")


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
        self.links: dict[str, str] = {}
        """Where the symbolic links that were met lead to."""
        self._hidden = hidden
        self._exclude = exclude
        self._mounts: frozenset[str] = frozenset()
        self._walked: set[str] = set()
        self._warned: set[str] = set()

    def check_there(self) -> tuple[int, int]:
        """The identity of the directory, if it is there with all that was mounted on it.

        Raises:
            SourceUnavailable: it is away, or something on it is no longer mounted.
        """
        root = os.path.realpath(self.path)
        if root != self.root:
            self.root, self._mounts = root, frozenset()
            self._walked.clear()
        try:
            info = os.stat(root)  # noqa: PTH116
        except OSError as error:
            raise SourceUnavailable(
                f"{self.path}: {error.strerror}; nothing is taken for deleted while it is away"
            ) from error
        if not stat.S_ISDIR(info.st_mode):
            raise SourceUnavailable(f"{self.path} is no directory any more")
        mounts = mount_points(root)
        if lost := self._mounts - mounts:
            raise SourceUnavailable(
                f"{min(lost)} is not mounted any more; mount it again, or open the store anew"
            )
        self._mounts = mounts
        return info.st_dev, info.st_ino

    def walk(self, scope: str) -> Iterator[Listed]:
        """All files in the directory that `scope` lies in, and below.

        Raises:
            SourceUnavailable: a part that could be read before cannot be read any more.
        """
        self.links.clear()
        start = scope[: scope.rfind("/") + 1]
        path = self._directory(start)
        now = time.time_ns()
        folders = [] if path is None else [_Folder(path, start, frozenset())]
        while folders:
            folder = folders.pop()
            for item in self._scan(folder):
                key = folder.prefix + item.name
                if self._leaves_out(key, item.name):
                    continue
                met = self._follow(item, key, folder.met) if item.is_symlink() else folder.met
                info = None if met is None else _info(item)
                if info is None or met is None:
                    continue
                if stat.S_ISREG(info.st_mode):
                    yield listed(key, info, now)
                elif stat.S_ISDIR(info.st_mode):
                    folders.append(_Folder(item.path, f"{key}/", met))

    def look_at(self, key: str) -> Listed | None:
        """One file by itself, None if there is none."""
        if not self.admits(key):
            return None
        try:
            info = os.lstat(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return listed(key, info, time.time_ns()) if stat.S_ISREG(info.st_mode) else None

    def is_directory(self, key: str) -> bool:
        """Whether `key` is a directory, or a link, that is not left out."""
        path = Path(self._path(key))
        return self.admits(key) and (path.is_dir() or path.is_symlink())

    def path_to_read(self, key: str) -> str | None:
        """Where `key` would be, None if no key here is such."""
        if not self.admits(key):
            return None
        path = self._path(key)
        return path if self._within(os.path.realpath(path)) else None

    def read(self, key: str) -> Content | None:
        """What a file holds, None if there is none. `read_file` says the rest."""
        path = self.path_to_read(key)
        return None if path is None else read_file(path)

    def links_hold(self) -> bool:
        """Whether the links that were met still lead where they led."""
        return all(os.path.realpath(self._path(key)) == to for key, to in self.links.items())

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
        """The path to write `key` to, links followed.

        Raises:
            InvalidKey: it leads out of the directory, is hidden or left out, or is a directory.
        """
        if not self.admits(key):
            raise InvalidKey(
                f"{shown(key)} names no file below {self.path}: a part of it is empty, '.', '..', "
                "reserved, excluded, or hidden (hidden=True takes those)"
            )
        if any(len(name.encode()) > NAME_MAX for name in key.split("/")):
            raise InvalidKey(f"{shown(key)}: no part of a file's path is over {NAME_MAX} bytes")
        path = os.path.realpath(self._path(key))
        if not self._within(path):
            raise InvalidKey(f"{shown(key)} leads out of {self.path} through a symbolic link")
        if os.path.isdir(path):  # noqa: PTH112
            raise InvalidKey(f"{shown(key)} is a directory: keys can start with it, none can be it")
        return path

    # Inside.

    def _path(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{key}"

    def _directory(self, start: str) -> str | None:
        """The directory of the keys that begin with `start`, None if there is none."""
        if not start:
            return self.root
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
            if not folder.prefix or folder.prefix in self._walked:
                raise SourceUnavailable(
                    f"{folder.path} cannot be read any more; nothing is taken for deleted"
                ) from error
            self._warn(folder.prefix, f"{folder.path} cannot be read and is left out")
            return []
        self._walked.add(folder.prefix)
        return found

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
            self._warn(key, f"{name!r} in {self.path} is no UTF-8 and is left out")
            return True
        return False

    def _follow(
        self, link: os.DirEntry[str], key: str, met: frozenset[str]
    ) -> frozenset[str] | None:
        """The directories met once `link` is followed, None if it is not to be."""
        real = os.path.realpath(link.path)
        holder = os.path.realpath(link.path[: -len(link.name)])
        self.links[key] = real
        if not self._within(real):
            self._warn(key, f"{link.path} leads out of {self.path} and is left out")
            return None
        if real in met or f"{holder}/".startswith(f"{real}/"):
            return None
        return met | {real, holder}

    def _within(self, real: str) -> bool:
        return f"{real}/".startswith(f"{self.root.rstrip('/')}/")

    def _warn(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("%s", text)


def _info(item: os.DirEntry[str]) -> os.stat_result | None:
    """The state of what is there, links followed; None if it has gone."""
    try:
        return item.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
