"""Moving a ref as git does: under its lock, from where it was, with a line in its logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dulwich.file import FileLocked, GitFile, SharedPerm, adjust_shared_perm
from dulwich.objects import ZERO_SHA, Commit, ObjectID
from dulwich.reflog import format_reflog_line

from datastream.errors import SourceUnavailable
from datastream.sources.git.modes import make_folders
from datastream.sources.git.ref_lock import RefLock
from datastream.sources.git.refs import Place, Refs

ATTEMPTS = 10
"""How often a folder is made that another git program removes because it is empty."""


class Moved(SourceUnavailable):
    """The branch has moved since it was read; read again and retry."""


@contextmanager
def moving(
    refs: Refs, before: Place, new: Commit, logs: Sequence[Path], shared: SharedPerm | None
) -> Iterator[None]:
    """Hold a ref where it is; when the body is done, it is at `new`.

    Args:
        before: where the ref is expected to be.
        logs: files that get a line about it.
        shared: how files are made accessible to others; None leaves that to the umask.

    Raises:
        Moved: it is elsewhere; nothing has changed.
        FileLocked: another program moves it.
    """
    place, top = refs.file(before.ref)
    with _locked(place, top, shared) as lock:
        if refs.find() != before:
            lock.abort()
            raise Moved(f"{refs.where}: the branch moved")
        lock.write(new.id + b"\n")
        for log in logs:
            _append(log, top, b"", shared)
        yield
        # Not before: a ref that has a log and no file counts as lost, and the body may take long.
        for log in logs:
            _append(log, top, _line(before.commit, new), shared)


def _locked(place: Path, top: Path, shared: SharedPerm | None) -> Any:
    for attempt in range(ATTEMPTS):
        make_folders(place.parent, top, shared)
        with suppress(OSError):
            # Branches whose names went on from here leave an empty folder.
            place.rmdir()
        try:
            return RefLock(place, top, shared)
        except FileNotFoundError:
            if attempt == ATTEMPTS - 1:
                raise
        except FileLocked:
            raise
        except OSError:
            # A filesystem without hard links, or without locks.
            return GitFile(str(place), "wb", mask=0o666, shared_perm=shared)
    raise AssertionError


def _append(log: Path, top: Path, line: bytes, shared: SharedPerm | None) -> None:
    make_folders(log.parent, top, shared)
    with log.open("ab") as file:
        is_new = file.tell() == 0
        file.write(line)
    if is_new:
        adjust_shared_perm(log, shared)


def _line(old: ObjectID | None, new: Commit) -> bytes:
    return b"%b\n" % format_reflog_line(
        old or ZERO_SHA,
        new.id,
        new.committer,
        new.commit_time,
        new.commit_timezone,
        b"datastream: " + new.message.partition(b"\n")[0],
    )
