"""The lock of a ref, which tells whether who took it still lives.

A lock of git is a file that names nobody, so what a killed process leaves is for people to remove.
One that this library takes has a second name in the repository, and its process holds it locked in
the system (flock). Once that has gone, the next one can tell, and removes just this lock.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from errno import ENOTSUP
from pathlib import Path
from types import TracebackType
from typing import Self

from dulwich.file import FileLocked, SharedPerm, adjust_shared_perm

from datastream import _flock

MARK = "datastream-lock-"
"""What the second names begin with."""


class RefLock:
    """Holds ``REF.lock``, as git does; leaving it puts what was written in place of the ref.

    Args:
        place: the file of the ref.
        top: the folder of the second name, on the same filesystem.
        shared: how files are made accessible to others; None leaves that to the umask.

    Raises:
        FileLocked: somebody holds it.
        FileNotFoundError: the folder of the ref has gone.
        OSError: the filesystem knows no hard links, or no locks.
    """

    def __init__(self, place: Path, top: Path, shared: SharedPerm | None) -> None:
        if not _flock.AVAILABLE:
            raise OSError(ENOTSUP, "no locks of files here")
        self._place = place
        self._lock = place.with_name(f"{place.name}.lock")
        self._mark = top / f"{MARK}{secrets.token_hex(8)}"
        self._shared = shared
        self._fd = os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _flock.lock(self._fd, wait=True)
            self._link(top)
        except BaseException:
            self._let_go()
            raise

    def _link(self, top: Path) -> None:
        try:
            os.link(self._mark, self._lock)
        except FileExistsError:
            remove_abandoned(top, self._lock)
            try:
                os.link(self._mark, self._lock)
            except FileExistsError as error:
                raise FileLocked(str(self._place), str(self._lock)) from error

    def write(self, data: bytes) -> None:
        os.write(self._fd, data)

    def abort(self) -> None:
        """Leave the ref as it is."""
        if self._fd >= 0:
            self._lock.unlink(missing_ok=True)
            self._let_go()

    def _commit(self) -> None:
        if self._fd < 0:
            return
        try:
            os.fsync(self._fd)
            adjust_shared_perm(self._lock, self._shared)
            self._lock.replace(self._place)
        except BaseException:
            self.abort()
            raise
        self._let_go()

    def _let_go(self) -> None:
        with suppress(FileNotFoundError):
            self._mark.unlink()
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._commit()
        else:
            self.abort()


def remove_abandoned(top: Path, lock: Path) -> None:
    """Remove a lock if its process has gone, and second names that are nobody's."""
    if not _flock.AVAILABLE:
        return
    for mark in top.glob(f"{MARK}*"):
        with suppress(FileNotFoundError), mark.open("rb") as file:
            if not _flock.lock(file.fileno(), wait=False):
                continue
            # Only who has this file locked may remove it, so it is still the one at that name.
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                lock.unlink()
            mark.unlink()
