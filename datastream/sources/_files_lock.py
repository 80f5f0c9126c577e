"""A lock on a directory that all processes using this library honour, and what it protects.

It lies in ``.datastream/`` below the directory, made by the first write. Whoever writes several
files at once notes first what it is about to do; should it die half way, the next one that takes
the lock goes on where it stopped.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from datastream.errors import SourceUnavailable
from datastream.sources._files_content import read_file
from datastream.sources._files_tree import RESERVED
from datastream.sources._listing import fingerprint

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process's lock."""
LOCK_STEP = 0.001
"""Seconds between two attempts to take it."""


class Step(NamedTuple):
    """One file to be put in its place, or with no `staged` content to be removed."""

    target: str
    staged: str | None
    before: str
    """Fingerprint of what is there now; "" if nothing is."""


class Workshop:
    """The directory ``.datastream``: a lock, contents about to be put in place, a journal."""

    def __init__(self, root: str) -> None:
        self._path = Path(root) / RESERVED
        self._lock = self._path / "lock"
        self._journal = self._path / "journal"
        self._batch = self._path / "batch"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Alone among all who use this library; what a dead process left is finished first.

        Raises:
            SourceUnavailable: another process holds it for too long.
            OSError: the directory cannot be written.
        """
        self._path.mkdir(exist_ok=True)
        with self._locked(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX):
            self._recover()
            yield

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While nobody who uses this library writes."""
        if not self._lock.exists():
            yield
            return
        with self._locked(os.O_RDONLY, fcntl.LOCK_SH):
            yield

    def batch(self) -> str:
        """Differs after several files were written at once; "" if that never happened."""
        with suppress(OSError):
            return self._batch.read_text()
        return ""

    def interrupted(self) -> bool:
        """Whether somebody died while writing."""
        return self._journal.exists()

    def stage(self, data: bytes, like: os.stat_result | None, at_ns: int | None) -> str:
        """Write a content to disk, beside the place where it belongs, and return its path.

        Args:
            data: the content.
            like: the file it replaces, whose owner and permissions it gets.
            at_ns: its time, None for now.
        """
        path = self._path / f"new-{secrets.token_hex(8)}"
        mode = 0o666 if like is None else like.st_mode & 0o7777
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if like is not None:
                _resemble(handle, like)
            if at_ns is not None:
                os.utime(handle, ns=(at_ns, at_ns))
            file.flush()
            os.fsync(handle)
        return str(path)

    def apply(self, steps: Sequence[Step]) -> None:
        """Do all of `steps`; those of several happen all, even if this process dies."""
        if len(steps) > 1:
            self._note(steps)
        folders = [folder for step in steps for folder in _do(step)]
        for folder in dict.fromkeys(folders):
            _sync(folder)
        if len(steps) > 1:
            self._batch.write_text(secrets.token_hex(8))
            self._journal.unlink()

    def discard(self) -> None:
        """Remove what was staged and not applied."""
        for path in self._path.glob("new-*"):
            path.unlink(missing_ok=True)

    def _note(self, steps: Sequence[Step]) -> None:
        draft = self._path / "new-journal"
        with draft.open("w") as file:
            json.dump([step._asdict() for step in steps], file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._journal)
        _sync(str(self._path))

    def _recover(self) -> None:
        """Finish what a process that died had begun, except where others wrote since."""
        if self.interrupted():
            noted = [Step(**step) for step in json.loads(self._journal.read_text())]
            self.apply([step for step in noted if _is_still_due(step)])
            self._batch.write_text(secrets.token_hex(8))
            self._journal.unlink(missing_ok=True)
        self.discard()

    @contextmanager
    def _locked(self, flags: int, kind: int) -> Iterator[None]:
        handle = os.open(self._lock, flags | os.O_CLOEXEC, 0o666)
        try:
            self._take(handle, kind)
            yield
        finally:
            os.close(handle)

    def _take(self, handle: int, kind: int) -> None:
        until = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                return fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise
            if time.monotonic() > until:
                raise SourceUnavailable(
                    f"{self._lock} is held by another process for over {LOCK_TIMEOUT:g} s; "
                    "see who does (fuser), or try again"
                )
            time.sleep(LOCK_STEP)


def _is_still_due(step: Step) -> bool:
    if step.staged is not None and not Path(step.staged).exists():
        return False
    content = read_file(step.target)
    return (fingerprint(content.data) if content else "") == step.before


def _do(step: Step) -> list[str]:
    """One step; returns the directories whose names have changed."""
    target = Path(step.target)
    if step.staged is None:
        target.unlink(missing_ok=True)
        return _remove_empty(target.parent)
    folders = _make(target.parent)
    try:
        Path(step.staged).rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Another filesystem is mounted there.
        beside = target.with_name(f"{RESERVED}-{secrets.token_hex(8)}")
        shutil.copy2(step.staged, beside)
        _sync(str(beside))
        beside.rename(target)
        Path(step.staged).unlink()
    return folders


def _make(folder: Path) -> list[str]:
    """Make `folder` with all above it; returns it, and the holders of those that were new."""
    changed = [str(folder)]
    while not folder.exists():
        folder = folder.parent
        changed.append(str(folder))
    Path(changed[0]).mkdir(parents=True, exist_ok=True)
    return changed


def _remove_empty(folder: Path) -> list[str]:
    """Remove what a delete has left empty, so that its name can be a key; never the root."""
    with suppress(OSError):
        while not (folder / RESERVED).exists():
            folder.rmdir()
            folder = folder.parent
    return [str(folder)]


def _resemble(handle: int, like: os.stat_result) -> None:
    os.fchmod(handle, like.st_mode & 0o7777)
    if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
        with suppress(PermissionError):
            os.fchown(handle, like.st_uid, like.st_gid)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
