"""The lock that all writers using this library take on a directory, and what it protects.

It lies in ``.datastream/`` below the directory, made by the first write. A writer of several files
first keeps a journal of what it is about to do; should it die half way, the next one that takes
the lock goes on where it stopped. What fails half way is taken back.

Readers take no lock: the number of the last batch tells them that several files were written while
they read. Only a reader that meets one batch after the other waits for the writers.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from datastream import _flock
from datastream.errors import SourceUnavailable
from datastream.sources._common.listing import fingerprint
from datastream.sources.files.content import read_file
from datastream.sources.files.held import TO_LIST, Held, parent_of, resemble
from datastream.sources.files.tree import RESERVED

LOCK, JOURNAL, BATCH = f"{RESERVED}/lock", f"{RESERVED}/journal", f"{RESERVED}/batch"
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

    def __init__(self, held: Held) -> None:
        self._held = held

    @contextmanager
    def exclusive(self, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """The only writer among those that use this library.

        What a dead process left is finished first.

        Raises:
            SourceUnavailable: another writer holds the lock for longer than `timeout` seconds.
            OSError: the directory cannot be written.
        """
        with self._locked(self._open_to_write, timeout):
            self._recover()
            yield

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Beside other readers, with all writers waiting; no lock where none can be taken."""
        try:
            with self._locked(self._open_to_read, LOCK_TIMEOUT, shared=True):
                yield
                return
        except _NoLockError:
            pass
        yield

    def batch(self) -> str | None:
        """The number of the last batch of several files; None while one is only half written."""
        batch = self._read(BATCH)
        return None if self.interrupted() else batch

    def interrupted(self) -> bool:
        """Whether several files are being written, or a process died while it did that."""
        try:
            return self._held.find(JOURNAL) is not None
        except PermissionError:
            return False

    def stage(self, data: Iterable[bytes], like: os.stat_result | None, at_ns: int | None) -> str:
        """Write a content to disk, beside the place where it belongs, and return its name.

        Args:
            data: the content, in pieces.
            like: the file it replaces, whose owner and permissions it gets.
            at_ns: its time, None for now.
        """
        name = f"new-{secrets.token_hex(8)}"
        mode = 0o666 if like is None else like.st_mode & 0o7777
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        handle = self._held.open(_staged(name), flags, mode)
        with os.fdopen(handle, "wb") as file:
            file.writelines(data)
            file.flush()
            if like is not None:
                resemble(handle, like)
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
                self._held.remove(JOURNAL)
            raise
        for folder in dict.fromkeys(folders):
            self._held.sync(folder)
        if several:
            self._end()

    def discard(self) -> None:
        """Remove what was staged and not applied."""
        handle = self._held.open(RESERVED, TO_LIST)
        try:
            with os.scandir(handle) as items:
                names = [item.name for item in items if item.name.startswith("new-")]
        finally:
            os.close(handle)
        for name in names:
            self._held.remove(_staged(name))

    # Several at once.

    def _begin(self, steps: Sequence[Step]) -> None:
        """Keep the journal, then change the batch's number, by which readers know."""
        self._replace(JOURNAL, json.dumps([step._asdict() for step in steps]))
        self._held.sync(RESERVED)
        self._replace(BATCH, secrets.token_hex(8))

    def _replace(self, name: str, text: str) -> None:
        draft = _staged(f"new-{name.rpartition('/')[2]}")
        handle = self._held.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        self._held.rename(draft, name)

    def _read(self, name: str) -> str:
        """The text of a file, "" if it is not there or may not be read."""
        try:
            handle = self._held.open(name, os.O_RDONLY)
        except OSError as error:
            if error.errno in _NO_LOCK:
                return ""
            raise
        with os.fdopen(handle, errors="replace") as file:
            return file.read()

    def _end(self) -> None:
        self._held.remove(JOURNAL)
        # After a power failure it must not be there to be done once more.
        self._held.sync(RESERVED)

    def _do_all(self, steps: Sequence[Step]) -> list[str]:
        """Do `steps`, or take back what was done; returns the directories that have changed."""
        folders: list[str] = []
        undo: list[Callable[[], object]] = []
        try:
            # Deletes first: they may make room for what is put.
            for step in sorted(steps, key=lambda step: step.staged is not None):
                undo.append(self._way_back(step.target, several=len(steps) > 1))
                folders += self._do(step)
        except OSError:
            for action in reversed(undo):
                # What could not be replaced cannot be put back either, and is as it was.
                with suppress(OSError):
                    action()
            raise
        emptied = {parent_of(step.target): None for step in steps if step.staged is None}
        for folder in emptied:
            self._held.remove_empty(folder)
        # Only now it is known which are left: those above one may have gone with another one.
        return folders + [self._held.remove_empty(folder) for folder in emptied]

    def _do(self, step: Step) -> list[str]:
        if step.staged is None:
            self._held.remove(step.target)
            return []
        folders = self._held.make(parent_of(step.target))
        self._held.move(_staged(step.staged), step.target, _beside(step.target))
        return folders

    def _way_back(self, target: str, *, several: bool) -> Callable[[], object]:
        kept = _staged(f"new-{secrets.token_hex(8)}")
        if not several or not self._held.keep(target, kept):
            return partial(self._take_back, target, made=several)
        return partial(self._held.move, kept, target, _beside(target))

    def _take_back(self, target: str, *, made: bool) -> None:
        if made:
            self._held.remove(target)
        self._held.remove_empty(parent_of(target))

    def _recover(self) -> None:
        """Finish what a process that died had begun, except where others wrote since."""
        if self.interrupted():
            begun = self._begun()
            self._replace(BATCH, secrets.token_hex(8))
            due = [step for step in begun if self._is_still_due(step)]
            for folder in dict.fromkeys(self._do_all(due)):
                self._held.sync(folder)
            self._end()
        self.discard()

    def _begun(self) -> list[Step]:
        """The steps of the journal.

        Raises:
            SourceUnavailable: somebody else has written to it.
        """
        try:
            begun = [Step(**step) for step in json.loads(self._read(JOURNAL))]
            # Only what is below the directory, whoever wrote the journal.
            if all(_is_below(step.target) and _is_below(step.staged or "x") for step in begun):
                return begun
        except (ValueError, TypeError, AttributeError):
            pass
        raise SourceUnavailable(
            f"{self._held.place.path(JOURNAL)} is damaged; look at what it names, and remove it"
        )

    def _is_still_due(self, step: Step) -> bool:
        if step.staged is not None and self._held.find(_staged(step.staged)) is None:
            return False
        content = read_file(self._held, step.target)
        return (fingerprint(content.data) if content else "") == step.before

    # The lock.

    @contextmanager
    def _locked(
        self, opener: Callable[[], int], timeout: float, *, shared: bool = False
    ) -> Iterator[None]:
        until = time.monotonic() + timeout
        while True:
            handle = opener()
            try:
                self._take(handle, until, shared=shared)
                if self._is_lock(handle):
                    yield
                    return
            finally:
                # Closing alone would leave it to a child that was forked meanwhile.
                with suppress(OSError):
                    _flock.unlock(handle)
                os.close(handle)

    def _open_to_read(self) -> int:
        try:
            return self._held.open(LOCK, os.O_RDONLY)
        except OSError as error:
            if error.errno in _NO_LOCK:
                raise _NoLockError from error
            raise

    def _open_to_write(self) -> int:
        """Open the lock, made with the directory's permissions: its other users take it too."""
        info = self._held.find(RESERVED)
        if info is not None and not stat.S_ISDIR(info.st_mode):
            # A link would have all writes lead out of the directory.
            area = self._held.place.path(RESERVED)
            raise SourceUnavailable(f"{area} is no directory; remove it, and write again")
        with suppress(FileNotFoundError):
            return self._held.open(LOCK, os.O_RDWR)
        root = self._held.stat("")
        if info is None:
            self._make_area(root)
        handle = self._held.open(LOCK, os.O_RDWR | os.O_CREAT)
        with suppress(PermissionError):
            os.fchmod(handle, root.st_mode & 0o666)
        return handle

    def _make_area(self, root: os.stat_result) -> None:
        self._held.make(RESERVED)
        handle = self._held.open(RESERVED, TO_LIST)
        try:
            with suppress(PermissionError):
                os.fchown(handle, -1, root.st_gid)
            os.fchmod(handle, root.st_mode & 0o777)
        finally:
            os.close(handle)
        self._held.sync("")

    def _is_lock(self, handle: int) -> bool:
        """Whether it is still the one that others take: its directory may have been removed."""
        try:
            return os.path.samestat(os.fstat(handle), self._held.stat(LOCK))
        except FileNotFoundError:
            return False

    def _take(self, handle: int, until: float, *, shared: bool) -> None:
        while not _flock.lock(handle, wait=False, shared=shared):
            if time.monotonic() > until:
                lock = self._held.place.path(LOCK)
                raise SourceUnavailable(
                    f"{lock} is held by another writer for over {LOCK_TIMEOUT:g} s; see which "
                    "process it is (fuser), or try again"
                )
            time.sleep(LOCK_STEP)


class _NoLockError(Exception):
    """There is no lock yet, or it cannot be read."""


def _is_below(name: str) -> bool:
    return not any(part in ("", ".", "..") for part in name.split("/"))


def _staged(name: str) -> str:
    return f"{RESERVED}/{name}"


def _beside(target: str) -> str:
    """Where to copy what cannot be renamed.

    The same name each time, so that what a dead process left is overwritten.
    """
    name = blake2b(os.fsencode(target), digest_size=8).hexdigest()
    folder = parent_of(target)
    return f"{folder}/{RESERVED}-{name}" if folder else f"{RESERVED}-{name}"
