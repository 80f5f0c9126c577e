"""What a write does to the files of a directory, decided before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from datastream.errors import InvalidKey, shown
from datastream.source import Write, check_expected
from datastream.sources.files.content import Content, read_file, time_stamp
from datastream.sources.files.held import Held
from datastream.sources.files.staging import StagingArea, Step
from datastream.sources.files.tree import Tree


def find_targets(tree: Tree, held: Held, writes: Sequence[Write]) -> list[str]:
    """Where to write, as paths below the directory.

    Raises:
        InvalidKey: one of the keys can be no file there, or not all of them together.
    """
    targets = [tree.target(held, write.key) for write in writes]
    puts = {to for to, write in zip(targets, writes, strict=True) if write.value is not None}
    gone = set(targets) - puts
    if len(set(targets)) < len(targets):
        raise InvalidKey("two of the keys are the same file through a link; write one of them")
    for target in puts:
        for above in _above(target):
            if above in puts or (above not in gone and _is_file(held, above)):
                raise InvalidKey(
                    f"{shown(target)}: {shown(above)} is a file, so that nothing can be below "
                    "it; nothing was written"
                )
    return targets


def put_in_place(
    held: Held, staging: StagingArea, writes: Sequence[Write], targets: Sequence[str]
) -> None:
    """Do all of `writes`; the caller holds the lock.

    Raises:
        RevisionConflict, KeyNotFound: an ``expect`` does not hold; nothing was written.
        OSError: it cannot be done; what was done is taken back.
    """
    found = [read_file(held, target) for target in targets]
    for write, content in zip(writes, found, strict=True):
        check_expected(write, _revision(write, content) or None)
    try:
        staging.apply(
            [
                _step(staging, write, target, content)
                for write, target, content in zip(writes, targets, found, strict=True)
                if write.value != (None if content is None else content.data)
            ]
        )
    finally:
        staging.discard()


def put_streamed(held: Held, staging: StagingArea, target: str, pieces: Iterable[bytes]) -> None:
    """Write one file from pieces; the caller holds the lock.

    Raises:
        OSError: it cannot be done; nothing was written.
    """
    try:
        staged = staging.stage(pieces, held.find(target), None)
        staging.apply([Step(target, staged, "")])
    finally:
        staging.discard()


def _step(staging: StagingArea, write: Write, target: str, content: Content | None) -> Step:
    before = _revision(write, content)
    if write.value is None:
        return Step(target, None, before)
    at_ns = None if write.updated_at is None else time_stamp(write.updated_at)
    like = content.info if content else None
    return Step(target, staging.stage((write.value,), like, at_ns), before)


def _revision(write: Write, content: Content | None) -> str:
    return content.entry(write.key).revision if content else ""


def _is_file(held: Held, name: str) -> bool:
    return held.find(name) is not None and not held.is_directory(name)


def _above(path: str) -> list[str]:
    """The directories that `path` is in."""
    return [path[:at] for at, character in enumerate(path) if character == "/"]
