"""A directory: each file below it is a key, its content the value.

The operating system tells when something happens there; what has really changed is then looked
up, in the files it told of, or in the whole directory when that is not enough.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar

from datastream._types import SNIFFED, check_round_trip, type_of
from datastream.entry import Capability, Entry, Operation, deleted
from datastream.errors import DatastreamError, SourceUnavailable
from datastream.selection import Selects
from datastream.source import WRITING, Reading, Write, check_expected
from datastream.sources._bell import FileNotice
from datastream.sources._files_content import Content, read_file, read_start
from datastream.sources._files_errors import explain
from datastream.sources._files_lock import Step, Workshop
from datastream.sources._files_tree import Tree
from datastream.sources._listing import Listed, ListedSource, Seen
from datastream.url import Location, configured

LOOK_AT_ROOT = 0.5
"""Seconds between looks whether the path still leads to the same directory."""
MOST_TOLD = 500
"""Files told of at once, above which the whole directory is looked at."""
LOOKS = 10
"""How often a directory is read anew because it was swapped meanwhile."""

T = TypeVar("T")


class FilesSource(ListedSource):
    """A Source over the files below a directory.

    Args:
        path: the directory.
        create: make it if it is missing.
        readonly: never write to it.
        hidden: take names that start with a dot too; those with two never are.
        exclude: globs of what to leave out, such as ``*.tmp``; several as a list, or with commas.
            Without a slash they are about names, else about keys.
        polling: look every `interval` instead of being told, for NFS and some containers.
        interval: seconds, with `polling`.

    Raises:
        DatastreamError: no such directory.
        Denied: it may not be read.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        readonly: bool = False,
        hidden: bool = False,
        exclude: str | Iterable[str] = (),
        polling: bool = False,
        interval: float = 5.0,
    ) -> None:
        super().__init__(interval, exclude)
        self._where = str(path)
        self._tree = Tree(str(path), hidden=hidden, exclude=self._excluded)
        self._polling = polling
        self._notice: FileNotice | None = None
        # What was told since the last look, None where all has to be looked at; appended to by
        # `wait` and `wake`, taken by `read`, which may run beside each other.
        self._told: deque[set[str] | None] = deque([None])
        self._root = self._guarded(partial(self._open, create))
        self._workshop = Workshop(self._tree.root)
        self._batch = ""
        writable = not readonly and os.access(self._tree.root, os.W_OK | os.X_OK)
        self.features = WRITING if writable else frozenset()

    def capabilities(self) -> Sequence[Capability]:
        self._follow_root()
        return self._guarded(super().capabilities)

    def read(self, selection: Selects, since: str | None) -> Reading:
        if since is not None:
            self._arm()
        return self._guarded(partial(self._read, selection, since))

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        return self._guarded(partial(self._write, writes), writes[0].key)

    def wait(self, timeout: float | None) -> None:
        # Whoever rings for a look, or waited in vain, means all of it.
        if self._notice is None:
            return super().wait(timeout)
        until = None if timeout is None else monotonic() + timeout
        while True:
            left = LOOK_AT_ROOT if until is None else min(LOOK_AT_ROOT, until - monotonic())
            told = self._notice.wait(self._bell, max(left, 0))
            if told or told is None:
                return self._told.append(told)
            if left < LOOK_AT_ROOT or self._is_elsewhere():
                return self._told.append(None)

    def release(self) -> None:
        super().release()
        self._disarm()

    def close(self) -> None:
        self._disarm()

    # Opening and watching.

    def _open(self, create: bool) -> tuple[int, int]:
        if create:
            Path(self._where).mkdir(parents=True, exist_ok=True)
        if not Path(self._where).is_dir():
            raise DatastreamError(
                f"{self._where}: no such directory; check the path, or make it with create=True"
            )
        os.listdir(self._where)  # noqa: PTH208
        return self._tree.check_there()

    def _arm(self) -> None:
        """Be told from now on, before anything is looked at."""
        if self._notice is not None or self._polling:
            return
        self._told.append(None)
        # What cannot be watched now is away, which the look that follows says better.
        with suppress(OSError):
            self._notice = FileNotice([Path(self._tree.root)])

    def _disarm(self) -> None:
        notice, self._notice = self._notice, None
        if notice is not None:
            notice.close()

    def _is_elsewhere(self) -> bool:
        try:
            return self._tree.check_there() != self._root
        except SourceUnavailable:
            return True

    # Reading.

    def _read(self, selection: Selects, since: str | None) -> Reading:
        told = self._take_told() if since is not None else None
        try:
            return self._read_whole(selection, since, told)
        except BaseException:
            self._told.append(None)
            raise

    def _read_whole(self, selection: Selects, since: str | None, told: set[str] | None) -> Reading:
        for _ in range(LOOKS):
            self._follow_root()
            with self._workshop.shared():
                batch = self._workshop.batch()
                reading = None
                if told is not None and since == self._position and batch == self._batch:
                    reading = self._read_told(selection, told)
                reading = reading or super().read(selection, since)
                if self._is_whole(batch):
                    if since is not None:
                        self._batch = batch
                    return reading
            told = None
            self._finish_interrupted()
        raise SourceUnavailable(f"{self._where} is swapped again and again while it is read")

    def _take_told(self) -> set[str] | None:
        """The paths told of since the last look, None if all has to be looked at."""
        told: set[str] | None = None if self._notice is None else set()
        while self._told:
            more = self._told.popleft()
            told = None if told is None or more is None else told | more
        return told

    def _follow_root(self) -> None:
        """Go on with the directory that is at the path now."""
        root = self._tree.check_there()
        if root != self._root:
            self._disarm()
            self._root = root
            self._workshop = Workshop(self._tree.root)
            self._told.append(None)
            if self._watched:
                self._arm()

    def _is_whole(self, batch: str) -> bool:
        """Whether what was just read is all of one moment."""
        workshop = self._workshop
        return (
            not workshop.interrupted()
            and workshop.batch() == batch
            and self._tree.links_hold()
            and self._tree.check_there() == self._root
        )

    def _finish_interrupted(self) -> None:
        if self.features and self._workshop.interrupted():
            with self._workshop.exclusive():
                pass

    def _read_told(self, selection: Selects, told: set[str]) -> Reading | None:
        """What has become of the files told of; None where all has to be looked at."""
        if len(told) > MOST_TOLD or self._tree.links:
            return None
        start = self._tree.root.rstrip("/") + "/"
        keys = [key for path in told if self._tree.admits(key := path.removeprefix(start))]
        if any(map(self._tree.is_directory, keys)) or self._has_seen_below(keys):
            return None
        found = {key: self._tree.look_at(key) for key in keys if selection.matches(key)}
        gone = [key for key, item in found.items() if item is None]
        for key in gone:
            self._seen.pop(key, None)
        entries, loaded, _ = self._entries([item for item in found.values() if item is not None])
        if found:
            self._states += 1
            self._sums.clear()
        changes = [*map(deleted, gone), *entries]
        return Reading(changes, self._position, False, partial(self._fill, loaded))

    def _has_seen_below(self, keys: Sequence[str]) -> bool:
        starts = tuple(f"{key}/" for key in keys if key not in self._seen)
        return bool(starts) and any(key.startswith(starts) for key in self._seen)

    def _list(self, scope: str) -> Iterator[Listed]:
        return self._tree.walk(scope)

    def _get(self, keys: Sequence[str]) -> Sequence[Entry]:
        return [self._entry(key) for key in keys]

    def _entry(self, key: str) -> Entry:
        content = self._tree.read(key)
        return deleted(key) if content is None else content.entry(key)

    def _get_types(self, keys: Sequence[str]) -> Mapping[str, str]:
        types = {}
        for key in keys:
            path = self._tree.path_to_read(key)
            start = None if path is None else read_start(path, SNIFFED)
            if start is not None:
                types[key] = type_of(key, *start)
        return types

    def _fill(self, loaded: Mapping[str, Entry], entries: Sequence[Entry]) -> list[Entry]:
        return self._guarded(partial(self._fill_whole, loaded, entries))

    def _fill_whole(self, loaded: Mapping[str, Entry], entries: Sequence[Entry]) -> list[Entry]:
        with self._workshop.shared():
            filled = super()._fill(loaded, entries)
            vanished = any(entry.operation is Operation.DELETE for entry in filled)
            if (vanished or self._tree.links) and not self._is_whole(self._batch):
                raise SourceUnavailable(f"{self._where} was swapped while it was read")
            return filled

    # Writing.

    def _write(self, writes: Sequence[Write]) -> list[Entry]:
        self._follow_root()
        targets = [self._tree.target(write.key) for write in writes]
        for write in writes:
            if write.value is not None:
                check_round_trip(write.key, write.value, write.value_type)
        with self._workshop.exclusive():
            try:
                stored = self._write_locked(writes, targets)
            finally:
                self._workshop.discard()
            self._batch = self._workshop.batch()
        return stored

    def _write_locked(self, writes: Sequence[Write], targets: Sequence[str]) -> list[Entry]:
        found = [read_file(target) for target in targets]
        for write, content in zip(writes, found, strict=True):
            check_expected(write, content.entry(write.key).revision if content else None)
        steps = [
            self._step(write, target, content)
            for write, target, content in zip(writes, targets, found, strict=True)
            if _differs(write, content)
        ]
        self._workshop.apply(steps)
        return [self._stored(write.key) for write in writes]

    def _step(self, write: Write, target: str, content: Content | None) -> Step:
        before = content.entry(write.key).revision if content else ""
        if write.value is None:
            return Step(target, None, before)
        at = write.updated_at
        at_ns = None if at is None else int(at.timestamp() * 1_000_000) * 1000
        like = content.info if content else None
        return Step(target, self._workshop.stage(write.value, like, at_ns), before)

    def _stored(self, key: str) -> Entry:
        entry = self._entry(key)
        is_put = entry.operation is Operation.PUT
        self._note(key, Seen(None, entry.revision) if is_put else None)
        return entry

    def _guarded(self, action: Callable[[], T], key: str | None = None) -> T:
        """The one place where the operating system's errors become ours."""
        try:
            return action()
        except OSError as error:
            raise explain(error, self._where, key) from error


def _differs(write: Write, content: Content | None) -> bool:
    return write.value != (None if content is None else content.data)


def open_files(location: Location, **options: object) -> FilesSource:
    """The Source of ``file:PATH`` and ``file:///ABSOLUTE/PATH``."""
    path = location.path.removeprefix("//") if location.path.startswith("///") else location.path
    if not path or path.startswith("//"):
        raise DatastreamError(
            f"{location.shown!r} names no directory; write file:conf, or file:///etc/app"
        )
    return configured(partial(FilesSource, path), location, options)
