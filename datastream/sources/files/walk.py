"""One look at the files below a directory, with the symbolic links that it met."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from datastream.errors import SourceUnavailable
from datastream.selection import Selects
from datastream.sources._common.look import Listed, common_scope
from datastream.sources.files.content import Content, listed, read_file
from datastream.sources.files.tree import Moment, Tree

FEW = 100
"""Keys that are looked at one by one."""

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class _Folder(NamedTuple):
    path: str
    prefix: str
    """Of the keys in it."""
    met: frozenset[str]
    """The directories on the way, where links were followed: to come back is to go in circles."""


class Walk:
    """A look at a directory at one moment; one thread uses it."""

    def __init__(self, tree: Tree, moment: Moment) -> None:
        self.moment = moment
        self.place = moment.place
        self._tree = tree
        self._links: dict[str, str] = {}
        # Directories of which it is known that no link leads to them.
        self._plain: set[str] = set()

    @property
    def linked(self) -> bool:
        """Whether it met symbolic links."""
        return bool(self._links)

    def links_hold(self) -> bool:
        """Whether the links that it met still lead where they led."""
        path = self.place.path
        return all(os.path.realpath(path(key)) == to for key, to in self._links.items())

    def selected(self, selection: Selects) -> Iterator[Listed]:
        """The files of a selection, and perhaps more."""
        if not are_few(selection):
            return self.files(common_scope(selection))
        found = map(self.find, sorted(selection.keys))
        return (item for item in found if item is not None)

    def files(self, scope: str) -> Iterator[Listed]:
        """All files whose keys start with `scope`.

        Raises:
            SourceUnavailable: a part that could be read before cannot be read any more.
        """
        start = scope[: scope.rfind("/") + 1]
        path = self._directory(start)
        now = time.time_ns()
        folders = [] if path is None else [_Folder(path, start, frozenset())]
        while folders:
            yield from self._files_in(folders.pop(), scope, now, folders)

    def find(self, key: str) -> Listed | None:
        """One file by itself, links followed as `files` does; None if there is none."""
        path = self.path_of(key)
        if path is None:
            return None
        try:
            info = os.stat(path)  # noqa: PTH116
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        return listed(key, info, time.time_ns()) if stat.S_ISREG(info.st_mode) else None

    def path_of(self, key: str) -> str | None:
        """Where `key` would be, None if it can be nowhere."""
        if not self._tree.admits(key):
            return None
        path, met = self.place.path(key), frozenset[str]()
        end = len(path) - len(key) - 1
        while end >= 0:
            end = path.find("/", end + 1)
            part = path if end < 0 else path[:end]
            if os.path.islink(part):  # noqa: PTH114
                followed = self._follow(part, part[len(path) - len(key) :], met)
                if followed is None:
                    return None
                met = followed
        return path

    def path_to_read(self, key: str) -> str | None:
        """Where a `key` that was listed is, None if that is outside by now."""
        path = self.place.path(key)
        return path if self.place.holds(os.path.realpath(path)) else None

    def read(self, key: str) -> Content | None:
        """What a file that was listed holds, None if there is none. `read_file` says the rest."""
        if key[: key.rfind("/") + 1] in self._plain:
            content = read_file(self.place.path(key), os.O_NOFOLLOW)
            if content is not None:
                return content
        path = self.path_to_read(key)
        return None if path is None else read_file(path)

    def is_directory(self, key: str) -> bool:
        """Whether `key` is a directory, or a link."""
        try:
            mode = os.lstat(self.place.path(key)).st_mode
        except OSError:
            return False
        return stat.S_ISDIR(mode) or stat.S_ISLNK(mode)

    # Inside.

    def _files_in(
        self, folder: _Folder, scope: str, now: int, folders: list[_Folder]
    ) -> Iterator[Listed]:
        prefix = folder.prefix
        leaves_out = self._tree.leaves_out
        for item in self._scan(folder):
            name = item.name
            key = prefix + name
            if not key.startswith(scope) or leaves_out(key, name):
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

    def _directory(self, start: str) -> str | None:
        """The directory of the keys that begin with `start`, None if there is none."""
        if not start:
            return self.place.root
        # Links on the way count as met: who swaps one of them swaps all that is below.
        path = self.path_of(start[:-1])
        if path is None or not self.place.holds(os.path.realpath(path)):
            return None
        return path if os.path.isdir(path) else None  # noqa: PTH112

    def _scan(self, folder: _Folder) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder.path) as items:
                found = list(items)
        except (FileNotFoundError, NotADirectoryError):
            # Gone since its parent was read. Were it the whole, that would be no delete.
            self._tree.place()
            return []
        except PermissionError as error:
            self._tree.refuse(folder.path, folder.prefix, error)
            return []
        self._tree.was_read(folder.prefix)
        if not folder.met and (not folder.prefix or not self._links):
            self._plain.add(folder.prefix)
        return found

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
            self._tree.warn(
                item.path, f"{item.path} leads where nothing may be read and is left out"
            )
            return None
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def _follow(self, link: str, key: str, met: frozenset[str]) -> frozenset[str] | None:
        """The directories met once `link` is followed, None if it is not to be."""
        real = os.path.realpath(link)
        holder = os.path.realpath(os.path.dirname(link))  # noqa: PTH120
        self._links[key] = real
        if not self.place.holds(real):
            self._tree.warn(key, f"{link} leads out of {self._tree.path} and is left out")
            return None
        if real in met or f"{holder}/".startswith(f"{real}/"):
            return None
        return met | {real, holder}


def are_few(selection: Selects) -> bool:
    """Whether it names keys, and no more of them than are better looked at one by one."""
    return 0 < len(selection.keys) <= FEW and not (selection.prefixes or selection.patterns)


def part_of(selection: Selects) -> str:
    """The part of the tree that is looked at: what its keys begin with, or just a few of them."""
    if are_few(selection):
        return "\0".join(["", *sorted(selection.keys)])
    return common_scope(selection)
