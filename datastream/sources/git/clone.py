"""Clones of remotes in a cache directory, shared by all processes of a user."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dulwich.config import StackedConfig
from dulwich.objects import ObjectID
from dulwich.refs import Ref
from dulwich.repo import Repo

from datastream import _flock
from datastream.errors import DatastreamError
from datastream.sources._common.paths import fixed
from datastream.sources.git.errors import local_errors
from datastream.sources.git.objects import Objects, open_repo

TIP = Ref(b"refs/datastream/tip")
"""Where a clone keeps the commit that the remote's branch was at when last seen."""

STALE = 60.0
"""Seconds after which a lock is a killed process's."""

Fill = Callable[[Repo], None]


def default_cache() -> Path:
    """Where this system's programs keep what can be had again."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local"), "datastream", "git")
    if sys.platform == "darwin":
        return home / "Library/Caches/datastream/git"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache", "datastream", "git")


def folder_for(cache: str | Path, url: str, branch: str) -> Path:
    """The clone's folder: named for people to recognise, and by what it is a clone of."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", url.rstrip("/").rpartition("/")[2])[:40]
    digest = hashlib.sha256(f"{url}\0{branch}".encode()).hexdigest()[:16]
    return Path(fixed(cache or default_cache())) / f"{name}-{digest}"


def open_clone(folder: Path, fill: Fill, *, broken: int = 0) -> Repo:
    """The clone in `folder`; made, or made anew, if there is no sound one.

    Args:
        fill: fetches into a repository that does not know yet where the remote's branch is.
        broken: inode of a folder that is known not to be sound.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _held(folder.with_name(f"{folder.name}.lock")):
        if folder.exists() and inode(folder) != broken:
            if _lacks_tip(folder):
                # A process that uses it is about to note the first commit, or the ref was lost:
                # the remote knows. Made anew, it would vanish under who uses it.
                with closing(open_repo(folder)) as repo:
                    fill(repo)
            if _is_sound(folder):
                return open_repo(folder)
        new = folder.with_name(f"{folder.name}.new-{secrets.token_hex(6)}")
        try:
            _make(new, fill)
            # Only now: while the remote is away, some of a broken one can be read.
            _remove(folder)
            new.rename(folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return open_repo(folder)


def inode(folder: Path) -> int:
    """Which folder it is that has this name now; 0 if there is none."""
    return folder.stat().st_ino if folder.exists() else 0


def free_stale_lock(folder: Path) -> None:
    """Remove the lock of the clone's ref if a killed process left it: it is held only briefly."""
    lock = folder / f"{TIP.decode()}.lock"
    with suppress(OSError):
        if time.time() - lock.stat().st_mtime > STALE:
            lock.unlink()


def _make(folder: Path, fill: Fill) -> None:
    folder.mkdir(mode=0o700)
    # What the user has configured is no business of a clone's.
    repo = Repo.init_bare(str(folder), config=StackedConfig([]))
    try:
        fill(repo)
    finally:
        repo.close()


def _lacks_tip(folder: Path) -> bool:
    """Whether it holds objects, and no ref to say what they are."""
    with suppress(Exception), closing(open_repo(folder)) as repo:
        return _tip(repo).unborn and next(iter(repo.object_store), None) is not None
    return False


class _Tip(NamedTuple):
    """The commit that a clone is at, and whether it has no ref; one that is empty is broken."""

    commit: ObjectID | None
    unborn: bool


def _tip(repo: Repo) -> _Tip:
    # In this order: another process may write the ref in between, which breaks nothing.
    there = Path(repo.controldir(), TIP.decode()).exists()
    commit = repo.refs.follow(TIP)[1]
    return _Tip(commit, commit is None and not there)


def _is_sound(folder: Path) -> bool:
    """Whether it opens, and has the commit it says it is at."""
    try:
        repo = open_repo(folder)
        objects = Objects(repo)
        try:
            with local_errors(str(folder)):
                commit, unborn = _tip(repo)
                if commit is None:
                    return unborn
                objects.items(objects.state(commit).tree)
        finally:
            objects.close()
    except DatastreamError:
        return False
    return True


def _remove(folder: Path) -> None:
    # Renamed first, so that no process finds half of it.
    if folder.exists():
        old = folder.with_name(f"{folder.name}.old-{secrets.token_hex(6)}")
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """One process at a time; the system lets go when a process dies."""
    with path.open("ab") as file:
        _flock.lock(file.fileno(), wait=True)
        try:
            yield
        finally:
            # Closing alone would leave it to a child that was forked meanwhile.
            _flock.unlock(file.fileno())
