"""One look at the files below a directory, with the symbolic links that it met."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from datastream.selection import Selects
from datastream.sources._common.look import Listed, common_scope
from datastream.sources.files.content import Content, is_of_one, listed, read_file, read_start
from datastream.sources.files.held import TO_LIST, Held, names_none, parent_of
from datastream.sources.files.tree import Moment, Tree, is_reserved

FEW = 100
"""Keys that are looked at one by one."""

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class _Folder(NamedTuple):
    name: str
    """Its path below the directory, links followed."""
    prefix: str
    """Of the keys in it."""
    met: frozenset[str]
    """The directories on the way, where links were followed: to come back is to go in circles."""


class Walk:
    """A look at a directory at one moment; one thread uses it.

    Args:
        tree: what of the directory is a key.
        held: the directory.
        batch: the number of the last batch of several files.
    """

    def __init__(self, tree: Tree, held: Held, batch: str) -> None:
        self.moment = Moment(held.place, batch)
        self.place = held.place
        self.held = held
        self._tree = tree
        # Where the links lead that were met; None for out of the directory.
        self._links: dict[str, str | None] = {}
        # Directories of which it is known that no link leads to them.
        self._plain: set[str] = set()

    @property
    def linked(self) -> bool:
        """Whether it met symbolic links."""
        return bool(self._links)

    def links_hold(self, held: Held) -> bool:
        """Whether the links that it met still lead where they led."""
        return all(held.real(key) == to for key, to in self._links.items())

    def selected(self, selection: Selects) -> Iterator[Listed]:
        """The files of a selection, and perhaps more."""
        if not are_few(selection):
            return self.files(common_scope(selection))
        found = map(self.find, sorted(selection.keys))
        return (item for item in found if item is not None)

    def files(self, scope: str) -> Iterator[Listed]:
        """All files whose keys start with `scope`.

        A directory that cannot be read comes as a key that ends in "/".
        """
        start = scope[: scope.rfind("/") + 1]
        name = self._directory(start)
        folders = [] if name is None else [_Folder(name, start, frozenset())]
        while folders:
            folder = folders.pop()
            try:
                found, below = self._files_in(folder, scope)
            except OSError as error:
                if not is_of_one(error):
                    raise
                self._tree.refuse(folder.prefix, error.strerror or str(error))
                yield Listed(folder.prefix, None)
                continue
            yield from found
            folders += below

    def find(self, key: str) -> Listed | None:
        """One file by itself, links followed as `files` does; None if there is none."""
        name = self.name_of(key)
        if name is None:
            return None
        try:
            info = self.held.find(name)
        except OSError as error:
            if not is_of_one(error):
                raise
            # What is there is not known; reading it says why.
            return Listed(key, None)
        if info is None or not stat.S_ISREG(info.st_mode):
            return None
        return listed(key, info, time.time_ns())

    def name_of(self, key: str) -> str | None:
        """Where `key` would be, links followed, None if it can be nowhere."""
        if not self._tree.admits(key):
            return None
        name, met = "", frozenset[str]()
        for part in _starts(key):
            name = f"{name}/{part.rpartition('/')[2]}".lstrip("/")
            if self._is_link(name):
                followed = self._follow(part, parent_of(name), met)
                if followed is None:
                    return None
                name, met = followed
        return name

    def read(self, key: str) -> Content | None:
        """What a file that was listed holds, None if there is none. `read_file` says the rest."""
        if key[: key.rfind("/") + 1] in self._plain:
            content = read_file(self.held, key)
            if content is not None:
                return content
        name = self._name_to_read(key)
        return None if name is None else read_file(self.held, name)

    def read_start(self, key: str, size: int) -> tuple[bytes, int] | None:
        """The first bytes of a file that was listed, and its length."""
        name = self._name_to_read(key)
        return None if name is None else read_start(self.held, name, size)

    def is_directory(self, key: str) -> bool:
        """Whether `key` is a directory, or a link."""
        try:
            mode = self.held.stat(key).st_mode
        except OSError:
            return False
        return stat.S_ISDIR(mode) or stat.S_ISLNK(mode)

    # Inside.

    def _files_in(self, folder: _Folder, scope: str) -> tuple[list[Listed], list[_Folder]]:
        """The files of one directory, and the directories in it."""
        try:
            handle = self.held.open(folder.name, TO_LIST)
        except OSError as error:
            if folder.prefix and error.errno in _GONE:
                # Removed since its parent was read.
                return [], []
            raise
        try:
            return self._entries_of(folder, handle, scope)
        finally:
            os.close(handle)

    def _entries_of(
        self, folder: _Folder, handle: int, scope: str
    ) -> tuple[list[Listed], list[_Folder]]:
        with os.scandir(handle) as items:
            entries = list(items)
        now = time.time_ns()
        prefix, start = folder.prefix, f"{folder.name}/" if folder.name else ""
        files: list[Listed] = []
        folders: list[_Folder] = []
        leaves_out = self._tree.leaves_out
        for item in entries:
            key = prefix + item.name
            if not key.startswith(scope) or leaves_out(key, item.name):
                continue
            name, met = start + item.name, folder.met
            if item.is_symlink():
                followed = self._follow(key, folder.name, met)
                if followed is None:
                    continue
                name, met = followed
                info = self._linked_info(key, name)
            else:
                info = _info(item)
            if info is None:
                continue
            if stat.S_ISREG(info.st_mode):
                files.append(listed(key, info, now))
            elif stat.S_ISDIR(info.st_mode):
                folders.append(_Folder(name, f"{key}/", met))
        self._tree.was_read(prefix)
        if not folder.met and (not prefix or not self._links):
            self._plain.add(prefix)
        return files, folders

    def _linked_info(self, key: str, name: str) -> os.stat_result | None:
        """The state of what a link leads to; None if nothing is there, or it cannot be known."""
        try:
            return self.held.find(name)
        except OSError as error:
            if error.errno in _GONE or names_none(error, name):
                return None
            if not is_of_one(error):
                raise
            self._tree.warn(key, f"{key} leads where nothing may be read and is left out")
            return None

    def _directory(self, start: str) -> str | None:
        """The directory of the keys that begin with `start`, None if there is none."""
        if not start:
            return ""
        # Links on the way count as met: who swaps one of them swaps all that is below.
        name = self.name_of(start[:-1])
        if name is None:
            return None
        info = self._linked_info(start[:-1], name)
        return name if info is not None and stat.S_ISDIR(info.st_mode) else None

    def _name_to_read(self, key: str) -> str | None:
        """Where a `key` that was listed is, None if that is outside by now."""
        real = self.held.real(key)
        return None if real is None or is_reserved(real) else real

    def _is_link(self, name: str) -> bool:
        try:
            return stat.S_ISLNK(self.held.stat(name).st_mode)
        except OSError:
            return False

    def _follow(
        self, key: str, holder: str, met: frozenset[str]
    ) -> tuple[str, frozenset[str]] | None:
        """Where the link `key` in `holder` leads, and the directories met then.

        None if it is not to be followed.
        """
        real = self._links[key] = self.held.real(key)
        if real is None or is_reserved(real):
            link = self.place.path(key)
            self._tree.warn(key, f"{link} leads out of {self._tree.path} and is left out")
            return None
        if not real or real in met or f"{holder}/".startswith(f"{real}/"):
            return None
        return real, met | {real, holder}


def _info(item: os.DirEntry[str]) -> os.stat_result | None:
    """The state of what is there; None if it has gone."""
    try:
        return item.stat(follow_symlinks=False)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _starts(key: str) -> Iterator[str]:
    """A path's own starts: a, a/b, a/b/c."""
    yield from (key[:at] for at, character in enumerate(key) if character == "/")
    yield key


def are_few(selection: Selects) -> bool:
    """Whether it names keys, and no more of them than are better looked at one by one."""
    return 0 < len(selection.keys) <= FEW and not (selection.prefixes or selection.patterns)


def part_of(selection: Selects) -> str:
    """The part of the tree that is looked at: what its keys begin with, or just a few of them."""
    if are_few(selection):
        return "\0".join(["", *sorted(selection.keys)])
    return common_scope(selection)
