"""Where a branch is, read from the files of a repository by any number of threads.

dulwich takes a ref file that it cannot read, or that is empty, for a ref that does not exist. An
unborn branch is an empty store, so here every such case is an error instead.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from dulwich.objects import ObjectID
from dulwich.refs import DiskRefsContainer, Ref, check_ref_format

from datastream.errors import DatastreamError, shown
from datastream.sources.git.errors import Damaged

HEAD = Ref(b"HEAD")
HEADS = b"refs/heads/"
MAX_SYMREFS = 5
"""Symbolic refs that git follows, one after the other."""
LOOKS, PAUSE = 20, 0.005
"""How often a ref that is lost is looked for, and seconds between that."""

_OF_WORK_TREE = (b"refs/bisect/", b"refs/worktree/", b"refs/rewritten/")
# As git reads them: in any case, and what follows behind a space counts for nothing.
_COMMIT = re.compile(rb"([0-9a-fA-F]{40})(\s.*)?", re.DOTALL)
_PACKED = re.compile(rb"([0-9a-fA-F]{40})[ \t](\S+)\s*")
# A name that is too long for a file is that of none.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_HOLDS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


class Lost(Damaged):
    """There is no ref where there was one."""


class Missing(Damaged):
    """The repository is not where it was."""


def branch_ref(name: str) -> Ref:
    """The ref of a branch; that of "" is HEAD.

    Raises:
        DatastreamError: no branch can have this name.
    """
    ref = Ref(HEADS + name.encode("utf-8", "replace")) if name else HEAD
    if name and not check_ref_format(ref):
        raise DatastreamError(f"{shown(name)} is no name that a branch can have")
    return ref


class Place(NamedTuple):
    """A ref, and the commit it is at; None while it is unborn."""

    ref: Ref
    commit: ObjectID | None


class Refs:
    """Reads where one branch is. Safe to use from several threads.

    Args:
        common, own: the repository's folders; two where it has several work trees.
        name: the ref; HEAD for the branch that it stands for.
        where: the repository as error texts name it.
    """

    def __init__(self, common: str | Path, own: str | Path, name: Ref, where: str) -> None:
        self._common, self._own = os.fspath(common), os.fspath(own)
        self._name = name
        self.where = where
        self._packed: tuple[object, Mapping[bytes, ObjectID]] = None, {}

    @property
    def folders(self) -> tuple[str, str]:
        """The repository's folders, the common one first."""
        return self._common, self._own

    def find(self) -> Place:
        """Where the branch is now.

        Raises:
            Missing: the repository is not there.
            Damaged: a file on the way to the commit is empty, cut or lost.
        """
        for _ in range(LOOKS):
            try:
                return self._find()
            except Lost:
                # git writes the log before the ref: a branch may get its first commit just now.
                time.sleep(PAUSE)
        return self._find()

    def _find(self) -> Place:
        with self._folders() as (common, own):
            name = self._name
            for _ in range(MAX_SYMREFS + 1):
                folder = own if _is_of_work_tree(name) else common
                raw = folder.ref(name)
                if raw is None:
                    return Place(name, self._packed_ref(common, own, name))
                target = _target(raw)
                if target is None:
                    return Place(name, self._commit(name, raw))
                if not (target.startswith(b"refs/") and check_ref_format(Ref(target))):
                    raise self._broken(name, "names no branch")
                if not raw.endswith(b"\n") and not self._exists(common, own, target):
                    raise self._broken(name, "is cut")
                name = Ref(target)
        raise DatastreamError(
            f"{self.where}: {self._name.decode(errors='replace')} leads in a circle; repair it"
        )

    def file(self, name: Ref) -> tuple[Path, Path]:
        """The file of a loose ref, and the repository's folder that it lies in."""
        top = Path(self._own if _is_of_work_tree(name) else self._common)
        return top / os.fsdecode(name), top

    def log(self, name: bytes) -> Path:
        """The file in which git notes where a ref was."""
        top = self._own if _is_of_work_tree(name) else self._common
        return Path(top, "logs", os.fsdecode(name))

    def was_alive(self, ref: Ref) -> bool:
        """Whether an unborn `ref` had commits: True too if the repository keeps no log of it."""
        with self._folders() as (common, own):
            return common.size(b"logs/" + ref) > 0 or own.size(b"logs/HEAD") < 0

    def names(self) -> list[str]:
        """All branches."""
        heads = os.path.join(self._common, "refs", "heads")  # noqa: PTH118
        loose = {
            os.path.relpath(os.path.join(above, name), heads)  # noqa: PTH118
            for above, _, names in os.walk(heads)
            for name in names
            if not name.endswith(".lock")
        }
        with self._folders() as (common, _):
            packed = [ref for ref in self._packed_refs(common) if ref.startswith(HEADS)]
        return sorted(loose | {os.fsdecode(ref.removeprefix(HEADS)) for ref in packed})

    @contextmanager
    def _folders(self) -> Iterator[tuple[_Folder, _Folder]]:
        try:
            with _Folder(self._common) as common:
                if self._own == self._common:
                    yield common, common
                else:
                    with _Folder(self._own) as own:
                        yield common, own
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Missing(
                f"{self.where}: the repository is not there; nothing is taken for deleted while "
                "it is away"
            ) from error

    def _packed_ref(self, common: _Folder, own: _Folder, name: Ref) -> ObjectID | None:
        """The commit of a ref without a file of its own."""
        found = self._packed_refs(common).get(name)
        if found is None:
            if own.ref(HEAD) is None:
                raise FileNotFoundError(errno.ENOENT, "no HEAD", self._own)
            if common.size(b"packed-refs") == 0:
                raise self._broken(b"packed-refs", "is empty")
            if common.size(b"logs/" + name) > 0:
                raise Lost(str(self._broken(name, "was deleted or lost, but its log is there")))
        return found

    def _packed_refs(self, common: _Folder) -> Mapping[bytes, ObjectID]:
        key, known = self._packed
        with common.opened(b"packed-refs") as file:
            if file is None:
                if common.is_directory(b"packed-refs"):
                    raise self._broken(b"packed-refs", "is a directory")
                return {}
            found = os.fstat(file.fileno())
            now = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
            if now != key:
                known = self._parsed(file.read())
                self._packed = now, known
        return known

    def _parsed(self, packed: bytes) -> Mapping[bytes, ObjectID]:
        refs = {}
        for line in packed.splitlines():
            if line and not line.startswith((b"#", b"^")):
                match = _PACKED.fullmatch(line)
                if match is None:
                    raise self._broken(b"packed-refs", "is broken")
                refs[match[2]] = ObjectID(match[1].lower())
        if packed and not packed.endswith(b"\n"):
            raise self._broken(b"packed-refs", "is cut")
        return refs

    def _exists(self, common: _Folder, own: _Folder, target: bytes) -> bool:
        folder = own if _is_of_work_tree(target) else common
        return folder.ref(Ref(target)) is not None or target in self._packed_refs(common)

    def _commit(self, name: Ref, raw: bytes) -> ObjectID:
        match = _COMMIT.fullmatch(raw)
        if match is None:
            raise self._broken(name, "is cut or broken" if raw.strip(b"\0 \r\n") else "is empty")
        return ObjectID(match[1].lower())

    def _broken(self, name: bytes, how: str) -> Damaged:
        return Damaged(
            f"{self.where}: {name.decode('utf-8', 'replace')} {how}, so nothing is taken for "
            "deleted; repair it, see git fsck and git reflog"
        )


class TolerantRefs(DiskRefsContainer):
    """dulwich's, for moving refs, which takes an empty packed-refs for the one that git does."""

    def get_packed_refs(self) -> dict[Ref, ObjectID]:
        try:
            return super().get_packed_refs()
        except StopIteration:
            return {}


def _is_of_work_tree(name: bytes) -> bool:
    return name == HEAD or name.startswith(_OF_WORK_TREE)


def _target(raw: bytes) -> bytes | None:
    """The ref that a symbolic one stands for, None if it is none."""
    return raw[4:].strip() if raw.startswith(b"ref:") else None


class _Folder:
    """A directory held open: while it is, it stays the same one, also if it is renamed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._handle: int | None = None

    def __enter__(self) -> _Folder:
        if _HOLDS:
            self._handle = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def ref(self, name: Ref) -> bytes | None:
        """The content of a loose ref; None if it has no file."""
        try:
            return self.read(name, os.O_NOFOLLOW if _HOLDS else 0)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK):
                raise
        # HEAD as old versions of git made it.
        target = os.fsencode(os.readlink(os.fsdecode(name), dir_fd=self._handle))
        return b"ref: " + target + b"\n" if target.startswith(b"refs/") else self.read(name)

    def read(self, name: bytes, flags: int = 0) -> bytes | None:
        """The content of a file, None if there is none."""
        with self.opened(name, flags) as file:
            return None if file is None else file.read()

    def is_directory(self, name: bytes) -> bool:
        """Whether it is there, and no file."""
        path = os.fsdecode(name)
        try:
            if self._handle is not None:
                found = os.stat(path, dir_fd=self._handle)
            else:
                found = Path(self._path, path).stat()
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode)

    def size(self, name: bytes) -> int:
        """The size of a file, -1 if there is none."""
        with self.opened(name) as file:
            return -1 if file is None else os.fstat(file.fileno()).st_size

    @contextmanager
    def opened(self, name: bytes, flags: int = 0) -> Iterator[IO[bytes] | None]:
        """A file, open; None if there is none, or a directory of that name."""

        def opener(path: str, mode: int) -> int:
            # Without NONBLOCK, opening a pipe would wait until somebody writes into it.
            return os.open(path, mode | flags | _NONBLOCK, dir_fd=self._handle)

        path = os.fsdecode(name)
        try:
            file = open(  # noqa: SIM115
                path if self._handle is not None else os.path.join(self._path, path),  # noqa: PTH118
                "rb",
                buffering=0,
                opener=opener,
            )
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            yield None
            return
        with file:
            yield file
