"""The lock that all writers using this library take on a directory, and what it protects.

It lies in ``.datastream/`` below the directory, made by the first write. A writer of several files
first keeps a journal of what it is about to do; should it die half way, the next one that takes
the lock goes on where it stopped. What fails half way is taken back.

Readers take no lock: the number of the last batch tells them that several files were written while
they read. Only a reader that meets one batch after the other waits for the writers.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datastream.errors import SourceUnavailable
from datastream.sources._common.listing import fingerprint
from datastream.sources.files.content import read_file
from datastream.sources.files.moves import keep, make, move, remove, remove_empty, sync
from datastream.sources.files.tree import RESERVED

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process's lock."""
LOCK_STEP = 0.001
"""Seconds between two attempts to take it."""

_NO_LOCK = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)


class Step(NamedTuple):
    """One file to be put in its place, or with no `staged` content to be removed."""

    target: str
    """Below the directory, which may be mounted elsewhere when another process finishes this."""
    staged: str | None
    """Its name in the staging area."""
    before: str
    """Fingerprint of what is there now; "" if nothing is."""


class StagingArea:
    """The directory ``.datastream``: a lock, contents about to be put in place, a journal."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._path = Path(root) / RESERVED
        self._lock = self._path / "lock"
        self._journal = self._path / "journal"
        self._batch = self._path / "batch"

    @contextmanager
    def exclusive(self, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """The only writer among those that use this library.

        What a dead process left is finished first.

        Raises:
            SourceUnavailable: another writer holds the lock for longer than `timeout` seconds.
            OSError: the directory cannot be written.
        """
        with self._locked(self._open_to_write, fcntl.LOCK_EX, timeout):
            self._recover()
            yield

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Beside other readers, with all writers waiting; no lock where none can be taken."""
        try:
            with self._locked(self._open_to_read, fcntl.LOCK_SH, LOCK_TIMEOUT):
                yield
                return
        except _NoLockError:
            pass
        yield

    def batch(self) -> str | None:
        """The number of the last batch of several files; None while one is only half written."""
        batch = ""
        with suppress(OSError):
            batch = self._batch.read_text()
        return None if self.interrupted() else batch

    def interrupted(self) -> bool:
        """Whether several files are being written, or a process died while it did that."""
        return os.path.exists(self._journal)  # noqa: PTH110

    def stage(self, data: bytes, like: os.stat_result | None, at_ns: int | None) -> str:
        """Write a content to disk, beside the place where it belongs, and return its name.

        Args:
            data: the content.
            like: the file it replaces, whose owner and permissions it gets.
            at_ns: its time, None for now.
        """
        name = f"new-{secrets.token_hex(8)}"
        mode = 0o666 if like is None else like.st_mode & 0o7777
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        handle = os.open(self._path / name, flags, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if like is not None:
                _resemble(handle, like)
            if at_ns is not None:
                os.utime(handle, ns=(at_ns, at_ns))
            os.fsync(handle)
        return name

    def apply(self, steps: Sequence[Step]) -> None:
        """Do all of `steps`, or none; those of several happen all, even if this process dies."""
        several = len(steps) > 1
        try:
            if several:
                self._begin(steps)
            folders = self._do_all(steps)
        except OSError:
            if several:
                self._journal.unlink(missing_ok=True)
            raise
        for folder in dict.fromkeys(folders):
            sync(folder)
        if several:
            self._end()

    def discard(self) -> None:
        """Remove what was staged and not applied."""
        for path in self._path.glob("new-*"):
            path.unlink(missing_ok=True)

    # Several at once.

    def _begin(self, steps: Sequence[Step]) -> None:
        """Keep the journal, then change the batch's number, by which readers know."""
        self._replace(self._journal, json.dumps([step._asdict() for step in steps]))
        sync(str(self._path))
        self._replace(self._batch, secrets.token_hex(8))

    def _replace(self, path: Path, text: str) -> None:
        draft = self._path / f"new-{path.name}"
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)

    def _end(self) -> None:
        self._journal.unlink(missing_ok=True)
        # After a power failure it must not be there to be done once more.
        sync(str(self._path))

    def _do_all(self, steps: Sequence[Step]) -> list[str]:
        """Do `steps`, or take back what was done; returns the directories that have changed."""
        folders: list[str] = []
        undo: list[Callable[[], object]] = []
        try:
            # Deletes first: they may make room for what is put.
            for step in sorted(steps, key=lambda step: step.staged is not None):
                target = self._at(step.target)
                undo.append(self._way_back(target, several=len(steps) > 1))
                folders += self._do(step, target)
        except OSError:
            for action in reversed(undo):
                action()
            raise
        for step in steps:
            if step.staged is None:
                folders.append(remove_empty(self._at(step.target).parent, self._root))
        return folders

    def _do(self, step: Step, target: Path) -> list[str]:
        if step.staged is None:
            target.unlink(missing_ok=True)
            return []
        folders = make(target.parent, self._root)
        move(self._path / step.staged, target)
        return folders

    def _way_back(self, target: Path, *, several: bool) -> Callable[[], object]:
        kept = self._path / f"new-{secrets.token_hex(8)}"
        if not several or not keep(target, kept):
            return partial(remove, target if several else None, target.parent, self._root)
        return partial(move, kept, target)

    def _recover(self) -> None:
        """Finish what a process that died had begun, except where others wrote since."""
        if self.interrupted():
            begun = [Step(**step) for step in json.loads(self._journal.read_text())]
            self._replace(self._batch, secrets.token_hex(8))
            due = [step for step in begun if self._is_still_due(step)]
            for folder in dict.fromkeys(self._do_all(due)):
                sync(folder)
            self._end()
        self.discard()

    def _is_still_due(self, step: Step) -> bool:
        if step.staged is not None and not (self._path / step.staged).exists():
            return False
        content = read_file(str(self._at(step.target)))
        return (fingerprint(content.data) if content else "") == step.before

    def _at(self, target: str) -> Path:
        return Path(self._root, target)

    # The lock.

    @contextmanager
    def _locked(self, opener: Callable[[], int], kind: int, timeout: float) -> Iterator[None]:
        until = time.monotonic() + timeout
        while True:
            handle = opener()
            try:
                self._take(handle, kind, until)
                if self._is_lock(handle):
                    yield
                    return
            finally:
                # Closing alone would leave it to a child that was forked meanwhile.
                with suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_UN)
                os.close(handle)

    def _open_to_read(self) -> int:
        try:
            return os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_LOCK:
                raise _NoLockError from error
            raise

    def _open_to_write(self) -> int:
        """Open the lock, made with the directory's permissions: its other users take it too."""
        with suppress(FileNotFoundError):
            return os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        root = os.stat(self._root)  # noqa: PTH116
        with suppress(FileExistsError):
            self._path.mkdir()
            with suppress(PermissionError):
                os.chown(self._path, -1, root.st_gid)
            self._path.chmod(root.st_mode & 0o777)
            sync(self._root)
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with suppress(PermissionError):
            os.fchmod(handle, root.st_mode & 0o666)
        return handle

    def _is_lock(self, handle: int) -> bool:
        """Whether it is still the one that others take: its directory may have been removed."""
        try:
            return os.path.samestat(os.fstat(handle), self._lock.stat())
        except FileNotFoundError:
            return False

    def _take(self, handle: int, kind: int, until: float) -> None:
        while True:
            try:
                return fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise
            if time.monotonic() > until:
                raise SourceUnavailable(
                    f"{self._lock} is held by another writer for over {LOCK_TIMEOUT:g} s; "
                    "see which process it is (fuser), or try again"
                )
            time.sleep(LOCK_STEP)


class _NoLockError(Exception):
    """There is no lock yet, or it cannot be read."""


def _resemble(handle: int, like: os.stat_result) -> None:
    if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
        with suppress(PermissionError):
            os.fchown(handle, like.st_uid, like.st_gid)
    # Last, because a new owner takes some permissions away.
    os.fchmod(handle, like.st_mode & 0o7777)
