"""The directory itself: where it is, what was mounted, which names in it are keys."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from datastream.errors import InvalidKey, SourceUnavailable, shown
from datastream.selection import check_text
from datastream.sources._common.listing import Exclusion
from datastream.sources._common.unread import Unread
from datastream.sources.files.held import TO_HOLD, Held, held
from datastream.sources.files.mounts import mount_points

RESERVED = ".datastream"
"""Where this library keeps its lock and what it is about to write."""
NAME_MAX = 255
"""Longest name of a file, in bytes."""

log = logging.getLogger("datastream")


class Place(NamedTuple):
    """Which directory it is, as long as it is that one."""

    root: str
    """Its path, links followed."""
    device: int
    inode: int
    mounts: frozenset[str]
    """On the way to it and below it."""

    def path(self, key: str) -> str:
        """Where `key` is."""
        return f"{self.root.rstrip('/')}/{key}"

    def key_of(self, path: str) -> str | None:
        """The key that a file at `path` has or would have, "" for the directory itself."""
        start = self.root.rstrip("/") + "/"
        if path.startswith(start):
            return path[len(start) :]
        return "" if path == self.root else None


def is_reserved(name: str) -> bool:
    """Whether it is what this library keeps for itself, or below that."""
    return name.startswith(RESERVED)


class Moment(NamedTuple):
    """When a look was made, between two batches of several files."""

    place: Place
    batch: str


class Tree:
    """A directory that others change, move, unmount and bring back. Safe to use from any thread.

    Args:
        path: the directory; looked up anew at each look, so it may be a link that is swapped.
        hidden: take names that start with a dot too.
        exclude: what to leave out.
        unread: takes the files and directories that cannot be read.
    """

    def __init__(self, path: str, *, hidden: bool, exclude: Exclusion, unread: Unread) -> None:
        self.path = path
        self.opened = False
        """Whether a directory can be read that could not; the poller resets it."""
        self.folders: set[str] = set()
        """The directories ever read, by what the keys in them begin with."""
        self.has_odd_names = False
        """Whether a name was met that is no UTF-8."""
        self.unread = unread
        self._hidden = hidden
        self._exclude = exclude
        self._lock = threading.Lock()
        self._root = ""
        self._mounts: frozenset[str] = frozenset()
        self._unreadable: set[str] = set()
        self._warned: set[str] = set()

    def place(self) -> Place:
        """The directory that is at the path now, if it is there with all that was mounted.

        Raises:
            SourceUnavailable: it is away, or something is no longer mounted.
        """
        root = os.path.realpath(self.path)
        try:
            info = os.stat(root)  # noqa: PTH116
        except OSError as error:
            raise self._away(error) from error
        return self._place_of(root, info)

    @contextmanager
    def hold(self) -> Iterator[Held]:
        """The same directory, open: for one look or one write.

        It is held no longer, because what is mounted there could not be unmounted meanwhile.
        """
        root = os.path.realpath(self.path)
        try:
            handle = os.open(root, TO_HOLD)
        except OSError as error:
            raise self._away(error) from error
        try:
            place = self._place_of(root, os.fstat(handle))
        except BaseException:
            os.close(handle)
            raise
        with held(place, handle) as directory:
            yield directory

    def _away(self, error: OSError) -> SourceUnavailable:
        if error.errno == errno.ENOTDIR:
            return SourceUnavailable(f"{self.path} is no directory any more")
        return SourceUnavailable(
            f"{self.path}: {error.strerror}; nothing is taken for deleted while it is away"
        )

    def _place_of(self, root: str, info: os.stat_result) -> Place:
        if not stat.S_ISDIR(info.st_mode):
            raise SourceUnavailable(f"{self.path} is no directory any more")
        # Looked up once more before it is believed: another thread may know of a later mount.
        lost: set[str] | frozenset[str] = frozenset()
        for _ in range(2):
            place = Place(root, info.st_dev, info.st_ino, self._mounted(root))
            lost = self._lost_mounts(place)
            if not lost:
                return place
        raise SourceUnavailable(
            f"{min(lost)} is not mounted any more; mount it again, or open the store anew"
        )

    def is_at(self, place: Place) -> bool:
        """Whether `place` would be the answer still; raises nothing, and changes nothing."""
        root = os.path.realpath(self.path)
        try:
            info = os.stat(root)  # noqa: PTH116
            return place == (root, info.st_dev, info.st_ino, self._mounted(root))
        except OSError:
            return False

    def admits(self, key: str) -> bool:
        """Whether `key` names a place below the directory that is not left out."""
        names = key.split("/")
        if any(name in ("", ".", "..") for name in names):
            return False
        end = 0
        for name in names:
            end += len(name)
            if self.leaves_out(key[:end], name):
                return False
            end += 1
        return True

    def leaves_out(self, key: str, name: str) -> bool:
        """Whether what is called `name`, the last part of `key`, is no key and holds none."""
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
            self.has_odd_names = True
            self.warn(key, f"{name!r} in {self.path} is no UTF-8 and is left out")
            return True
        return False

    def target(self, held: Held, key: str) -> str:
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
        real = held.real(key)
        if not real or is_reserved(real):
            raise InvalidKey(f"{shown(key)} leads out of {self.path} through a symbolic link")
        info = held.find(real)
        if info is not None and stat.S_ISDIR(info.st_mode):
            raise InvalidKey(f"{shown(key)} is a directory; keys start with it, none is it")
        if info is not None and not stat.S_ISREG(info.st_mode):
            raise InvalidKey(f"{shown(key)} is no regular file; nothing was written")
        return real

    # Directories that cannot be read.

    def was_read(self, prefix: str) -> None:
        """Note that the directory of the keys that begin with `prefix` was read."""
        self.folders.add(prefix)
        if prefix in self._unreadable:
            with self._lock:
                self._unreadable.discard(prefix)
                self.opened = True
            self.unread.discard(prefix)

    def refuse(self, prefix: str, reason: str) -> None:
        """Note that a directory cannot be read.

        Raises:
            SourceUnavailable: it is the whole.
        """
        if not prefix:
            raise SourceUnavailable(
                f"{self.path} cannot be read: {reason}; nothing is taken for deleted"
            )
        with self._lock:
            self._unreadable.add(prefix)
        self.unread.add(prefix, reason)

    def warn(self, about: str, text: str) -> None:
        """Log it, once."""
        with self._lock:
            if about in self._warned:
                return
            self._warned.add(about)
        log.warning("%s", text.encode(errors="backslashreplace").decode())

    def _mounted(self, root: str) -> frozenset[str]:
        """The mount points that concern keys."""
        here = Place(root, 0, 0, frozenset())
        found = ((point, here.key_of(point)) for point in mount_points(root))
        return frozenset(point for point, key in found if not key or self.admits(key))

    def _lost_mounts(self, place: Place) -> frozenset[str]:
        """What was mounted before and is no longer; nothing, where the path leads elsewhere."""
        with self._lock:
            if place.root != self._root:
                self._root, self._mounts = place.root, frozenset()
                self.folders.clear()
            lost = self._mounts - place.mounts
            if not lost:
                self._mounts = place.mounts
            return lost
