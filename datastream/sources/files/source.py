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

from datastream.entry import Capability, Entry, Operation, deleted
from datastream.errors import DatastreamError, SourceUnavailable, shown
from datastream.selection import Selects
from datastream.source import WRITING, Reading, Write
from datastream.sources._common.file_types import SNIFFED, check_round_trip, type_of
from datastream.sources._common.listing import Listed, ListedSource, Seen
from datastream.sources.files.content import Busy, read_start
from datastream.sources.files.errors import explain
from datastream.sources.files.notify import TreeNotice
from datastream.sources.files.staging import Workshop
from datastream.sources.files.tree import Place, Tree
from datastream.sources.files.write import find_targets, put_in_place
from datastream.url import Location, configured

LOOK_AT_ROOT = 0.5
"""Seconds between looks whether the path still leads to the same directory."""
LOOK_AGAIN = 2.0
"""Seconds after a look at the whole directory that something told of led to, until the next one:
what happens in a new directory before the system watches it is told by nobody."""
MOST_TOLD = 500
"""Files told of at once, above which the whole directory is looked at."""
FEW = 100
"""Keys that are looked at one by one."""
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
        self._notice: TreeNotice | None = None
        # What was told since the last look, None where all has to be looked at; appended to by
        # `wait` and `wake`, taken by `read`, which may run beside each other.
        self._told: deque[set[str] | None] = deque([None])
        self._heard = False
        self._again_at: float | None = None
        self._pause = LOOK_AGAIN
        self._root = self._guarded(partial(self._open, create))
        self._lost = False
        self._workshop = Workshop(self._tree.root)
        self._batch: str | None = ""
        # Whether what is asked for is so few that one which cannot be read is worth an error.
        self._strict = False
        self._checked = 0
        writable = not readonly and os.access(self._tree.root, os.W_OK | os.X_OK)
        self.features = WRITING if writable else frozenset()

    def capabilities(self) -> Sequence[Capability]:
        return self._guarded(self._capabilities)

    def read(self, selection: Selects, since: str | None) -> Reading:
        if since is not None:
            self._arm()
        return self._guarded(partial(self._read, selection, since))

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        return self._guarded(partial(self._write, writes), writes[0].key)

    def wait(self, timeout: float | None) -> None:
        # Whoever rings for a look, or waited in vain, means all of it.
        notice = self._notice
        if notice is None:
            return super().wait(timeout)
        until = None if timeout is None else monotonic() + timeout
        while True:
            left = LOOK_AT_ROOT if until is None else min(LOOK_AT_ROOT, until - monotonic())
            told = notice.wait(self._bell, max(left, 0))
            if told:
                return self._told.append(told)
            if told is None or left < LOOK_AT_ROOT or notice.ended or self._is_due():
                return self._told.append(None)

    def release(self) -> None:
        super().release()
        self._disarm()

    def close(self) -> None:
        self._disarm()

    # Opening and watching.

    def _open(self, create: bool) -> Place:
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
        if self._polling:
            return
        if self._notice is not None:
            if not self._notice.ended:
                return
            self._disarm()
        self._told.append(None)
        try:
            self._notice = TreeNotice(self._tree.root)
        except FileNotFoundError:
            # It is away, which the look that follows says better.
            pass
        except OSError as error:
            self._warn_polling(error)

    def _warn_polling(self, error: OSError) -> None:
        self._tree.warn(
            "",
            f"{self._where} is not watched ({error.strerror}), so it is looked at every "
            f"{self._interval:g} s instead; raise fs.inotify.max_user_watches or "
            "max_user_instances, or give polling=True",
        )

    def _check_notice(self) -> None:
        """After a look at the whole: are the new directories watched too?"""
        if self._notice is None:
            return
        if self._tree.opened:
            self._move_notice()
        if self._checked != len(self._tree.folders):
            self._checked = len(self._tree.folders)
            try:
                self._notice.check()
            except OSError as error:
                self._disarm()
                self._bell.ring()
                self._warn_polling(error)

    def _move_notice(self) -> None:
        """Watch what is there now; whoever waits for the old notice goes on with the new one."""
        self._tree.opened = False
        self._disarm()
        self._told.append(None)
        if self._watched:
            self._arm()
        self._bell.ring()

    def _disarm(self) -> None:
        notice, self._notice = self._notice, None
        if notice is not None:
            notice.close()

    def _is_due(self) -> bool:
        if self._again_at is not None and monotonic() > self._again_at:
            self._again_at = None
            return True
        return not self._tree.is_at(self._root)

    # Reading.

    def _capabilities(self) -> Sequence[Capability]:
        self._follow_root()
        with self._workshop.shared():
            self._tree.begin()
            return super().capabilities()

    def _read(self, selection: Selects, since: str | None) -> Reading:
        told = self._take_told() if since is not None else None
        # Several may be had without the one; whoever asks for that one wants to know.
        self._strict = since is None and _are_few(selection)
        try:
            return self._read_whole(selection, since, told)
        except BaseException:
            self._told.append(None)
            raise

    def _read_whole(self, selection: Selects, since: str | None, told: set[str] | None) -> Reading:
        heard, self._heard = self._heard, False
        for _ in range(LOOKS):
            self._follow_root()
            with self._workshop.shared():
                batch = self._workshop.moment()
                reading = None
                if told is not None and since == self._at and batch == self._batch:
                    reading = self._read_told(selection, told)
                if reading is None:
                    reading = self._read_all(selection, since)
                    if heard:
                        self._again_at = self._again_at or monotonic() + self._pause
                if self._is_whole(batch):
                    if since is not None:
                        self._batch = batch
                    load = reading.load
                    return reading._replace(load=load and partial(self._loaded, load, batch))
            told = None
            self._finish_interrupted()
        raise SourceUnavailable(
            f"{self._where} is swapped again and again while it is read, or one who wrote several "
            "files died; the next one who opens it for writing finishes that"
        )

    def _read_all(self, selection: Selects, since: str | None) -> Reading:
        self._tree.begin()
        began = monotonic()
        reading = super().read(selection, since)
        self._pause = max(LOOK_AGAIN, 20 * (monotonic() - began))
        self._check_notice()
        return reading

    def _take_told(self) -> set[str] | None:
        """The paths told of since the last look, None if all has to be looked at."""
        told: set[str] | None = None if self._notice is None else set()
        while self._told:
            more = self._told.popleft()
            self._heard |= bool(more)
            told = None if told is None or more is None else told | more
        return told

    def _follow_root(self) -> None:
        """Go on with the directory that is at the path now."""
        try:
            root = self._tree.check_there()
        except SourceUnavailable:
            # When it comes back, nobody watches it, even if it is the same one.
            self._lost = True
            raise
        if root != self._root or self._lost:
            self._root, self._lost = root, False
            self._workshop = Workshop(self._tree.root)
            self._move_notice()

    def _is_whole(self, batch: str | None) -> bool:
        """Whether what was just read is all of one moment."""
        return (
            batch is not None
            and self._workshop.moment() == batch
            and self._tree.links_hold()
            and self._tree.check_there() == self._root
        )

    def _finish_interrupted(self) -> None:
        if self.features and self._workshop.interrupted():
            # Who may not do that reads when somebody else has.
            with suppress(OSError), self._workshop.exclusive():
                pass

    def _read_told(self, selection: Selects, told: set[str]) -> Reading | None:
        """What has become of the files told of; None where all has to be looked at."""
        if len(told) > MOST_TOLD or self._tree.linked:
            return None
        named = [self._tree.key_of(path) for path in told]
        if None in named:
            return None
        keys = [key for key in named if key and self._tree.admits(key)]
        if any(map(self._tree.is_directory, keys)) or self._has_seen_below(keys):
            return None
        found = {key: self._tree.look_at(key) for key in keys if selection.matches(key)}
        gone = [key for key, item in found.items() if item is None]
        for key in gone:
            self._seen.pop(key, None)
        entries, loaded, _ = self._entries([item for item in found.values() if item is not None])
        if found:
            self._at = self._next_position()
            self._sums.clear()
        changes = [*map(deleted, gone), *entries]
        return Reading(changes, self._at, False, partial(self._fill, loaded))

    def _has_seen_below(self, keys: Sequence[str]) -> bool:
        starts = tuple(f"{key}/" for key in keys if key not in self._seen)
        return bool(starts) and any(key.startswith(starts) for key in self._seen)

    def _look(self, selection: Selects) -> tuple[list[Entry], dict[str, Entry], str]:
        if not _are_few(selection):
            return super()._look(selection)
        keys = sorted(selection.keys)
        items = [item for key in keys if (item := self._tree.find(key)) is not None]
        entries, loaded, _ = self._entries(items)
        total = sum(hash((entry.key, entry.revision)) for entry in entries)
        return entries, loaded, self._position_of("\0".join(["", *keys]), total, moved=False)

    def _list(self, scope: str) -> Iterator[Listed]:
        return self._tree.walk(scope)

    def _get(self, keys: Sequence[str]) -> Sequence[Entry]:
        return [self._entry_or_last(key) for key in keys]

    def _entry_or_last(self, key: str) -> Entry:
        """What `key` holds; as it was, if it cannot be read now; left out, if it never could."""
        try:
            return self._entry(key)
        except (PermissionError, Busy) as error:
            if self._strict:
                raise
            if key in self._seen:
                return _unread(key, self._seen[key].revision)
            if isinstance(error, PermissionError):
                self._tree.warn(key, f"{error.filename} cannot be read and is left out")
            return deleted(key)

    def _entry(self, key: str) -> Entry:
        content = self._tree.read(key)
        return deleted(key) if content is None else content.entry(key)

    def _get_types(self, keys: Sequence[str]) -> Mapping[str, str]:
        types = {}
        for key in keys:
            path = self._tree.path_to_read(key)
            # One that may not be read, and whose name does not tell, has none.
            with suppress(PermissionError):
                start = None if path is None else read_start(path, SNIFFED)
                if start is not None:
                    types[key] = type_of(key, *start)
        return types

    def _loaded(
        self,
        load: Callable[[Sequence[Entry]], Sequence[Entry]],
        batch: str | None,
        entries: Sequence[Entry],
    ) -> list[Entry]:
        return self._guarded(partial(self._load_whole, load, batch, entries))

    def _load_whole(
        self,
        load: Callable[[Sequence[Entry]], Sequence[Entry]],
        batch: str | None,
        entries: Sequence[Entry],
    ) -> list[Entry]:
        """Load what was listed, if that is still so."""
        with self._workshop.shared():
            filled = list(load(entries))
            vanished = any(entry.operation is Operation.DELETE for entry in filled)
            if (vanished or self._tree.linked) and not self._is_whole(batch):
                raise SourceUnavailable(f"{self._where} was swapped while it was read")
        unread = next((entry for entry in filled if _is_unread(entry)), None)
        if unread is not None:
            # Who watches it already keeps what it had; who comes now has to wait.
            raise SourceUnavailable(
                f"{shown(unread.key)} in {self._where} could be read before and cannot be now"
            )
        return filled

    # Writing.

    def _write(self, writes: Sequence[Write]) -> list[Entry]:
        self._follow_root()
        targets = find_targets(self._tree, writes)
        for write in writes:
            if write.value is not None:
                check_round_trip(write.key, write.value, write.value_type)
        with self._workshop.exclusive():
            before = self._workshop.moment()
            put_in_place(self._tree.root, self._workshop, writes, targets)
            stored = [self._stored(write.key) for write in writes]
            if self._batch == before:
                # Else others have written several, which nobody here has seen yet.
                self._batch = self._workshop.moment()
        return stored

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


def _are_few(selection: Selects) -> bool:
    """Whether it names keys, and no more of them than are better looked at one by one."""
    return 0 < len(selection.keys) <= FEW and not (selection.prefixes or selection.patterns)


def _unread(key: str, revision: str) -> Entry:
    """What stands for a file that was read before and cannot be now."""
    return Entry(key, b"", "", None, revision)


def _is_unread(entry: Entry) -> bool:
    return entry.operation is Operation.PUT and not entry.value_type


def open_files(location: Location, **options: object) -> FilesSource:
    """The Source of ``file:PATH`` and ``file:///ABSOLUTE/PATH``."""
    path = location.path.removeprefix("//") if location.path.startswith("///") else location.path
    if not path or path.startswith("//"):
        raise DatastreamError(
            f"{location.shown!r} names no directory; write file:conf, or file:///etc/app"
        )
    return configured(partial(FilesSource, path), location, options)
