"""Putting files in their places, and back: names, directories, and getting both to disk."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from datastream.sources.files.tree import RESERVED

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR)


def move(source: Path, target: Path) -> None:
    """Rename, also to another filesystem: by a copy beside `target`, which is none or all there."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The same name each time, so that what a dead process left is overwritten.
        name = blake2b(os.fsencode(target), digest_size=8).hexdigest()
        beside = target.with_name(f"{RESERVED}-{name}")
        try:
            shutil.copy2(source, beside)
            info = source.stat()
            with suppress(PermissionError):
                os.chown(beside, info.st_uid, info.st_gid)
                beside.chmod(info.st_mode & 0o7777)
            sync(str(beside))
            beside.rename(target)
        finally:
            beside.unlink(missing_ok=True)
        source.unlink()


def keep(target: Path, kept: Path) -> bool:
    """Hold on to what is at `target` under a second name; False if nothing is there."""
    try:
        kept.hardlink_to(target)
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return False
        shutil.copy2(target, kept)
    return True


def make(folder: Path, root: str) -> list[str]:
    """Make `folder` with all that is missing between it and `root`, but never `root` itself.

    Returns it, and the holders of those that were new.

    Raises:
        FileNotFoundError: `root` has been moved away meanwhile.
    """
    missing = []
    while folder != Path(root) and not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
    return [str(folder), *map(str, missing)]


def remove(target: Path | None, folder: Path, root: str) -> None:
    """Remove `target`, if there is one, and `folder` if nothing else is in it."""
    if target is not None:
        with suppress(FileNotFoundError, NotADirectoryError):
            target.unlink()
    remove_empty(folder, root)


def remove_empty(folder: Path, root: str) -> str:
    """Remove what a delete has left empty, so that its name can be a key; never the root.

    Returns the directory that has lost a name.
    """
    with suppress(OSError):
        while folder != Path(root):
            with suppress(FileNotFoundError):
                folder.rmdir()
            folder = folder.parent
    return str(folder)


def sync(path: str) -> None:
    """Get a file, or the names in a directory, to disk."""
    # A directory that may be written need not be readable.
    with suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
