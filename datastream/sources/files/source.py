"""A directory: each file below it is a key, its content the value.

The operating system notifies when something happens there; what has really changed is then looked
up, in the files it named, or in the whole directory when that is not enough.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from datastream.entry import Capability, Entry, deleted
from datastream.errors import DatastreamError, SourceUnavailable, Unreadable
from datastream.selection import Selects
from datastream.source import WRITING, Reading, Summary, Write, Written
from datastream.sources._common.file_types import check_round_trip, type_of
from datastream.sources._common.listing import ListedSource, fingerprint
from datastream.sources._common.look import Listed, Seen
from datastream.sources._common.paths import fixed, local_path
from datastream.sources.files.content import summary, time_of
from datastream.sources.files.errors import explain
from datastream.sources.files.followed import Ask, Followed
from datastream.sources.files.held import Held
from datastream.sources.files.poll import Poll
from datastream.sources.files.reader import Reader
from datastream.sources.files.staging import LOCK_TIMEOUT, StagingArea
from datastream.sources.files.tree import Moment, Place, Tree
from datastream.sources.files.walk import Walk
from datastream.sources.files.watcher import Watcher
from datastream.sources.files.write import find_targets, put_in_place, put_streamed
from datastream.url import Location, Seconds, checks_options, configured


class FilesSource(ListedSource):
    """A Source over the files below a directory.

    Args:
        path: the directory.
        create: make it if it is missing.
        readonly: never write to it.
        hidden: take names that start with a dot too; those with two never are.
        exclude: globs of what to leave out, such as ``*.tmp``; several as a list, or with commas.
            Without a slash they are about names, else about keys.
        polling: look every `interval` instead of being notified, for NFS and some containers.
        interval: seconds, with `polling`.

    Raises:
        DatastreamError: no such directory.
        Denied: it may not be read.
    """

    recursive = True
    """The operating system notifies of what lies deeper, too."""

    @checks_options
    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        readonly: bool = False,
        hidden: bool = False,
        exclude: str | Iterable[str] = (),
        polling: bool = False,
        interval: Seconds = 5.0,
    ) -> None:
        self._where = fixed(path)
        super().__init__(interval, exclude, self._where)
        self._tree = Tree(self._where, hidden=hidden, exclude=self._excluded, unread=self._unread)
        try:
            place = self._open(create=create)
        except OSError as error:
            raise explain(error, self._where, None) from error
        writable = not readonly and os.access(place.root, os.W_OK | os.X_OK)
        self.features = WRITING if writable else frozenset()
        if not (writable or readonly):
            self.why_only_read = "this process may not write to its directory"
        self._watcher = Watcher(
            self._tree,
            self._wake,
            interval=interval,
            polling=polling,
            recursive=self.recursive,
        )
        self._followed = Followed()
        self._reader = Reader(self._tree, repairs=writable)
        self._poll = Poll(self._reader, self._tree, self._watcher, self._followed, self._epoch)
        self._writing = threading.Lock()

    def capabilities(self) -> Sequence[Capability]:
        with self._noticing():
            return self._reader.whole(self._capabilities)

    def _capabilities(self, walk: Walk) -> Sequence[Capability]:
        listed = [item for item in walk.files("") if not item.key.endswith("/")]
        # Those that could not be read lately are tried again.
        self._reader.types(walk, [item.key for item in listed if self._unread.has(item.key)])
        found = self._types.tell(listed, partial(self._reader.types, walk))
        return [capability for capability in found if not self._unread.has(capability.key)]

    def get(self, key: str) -> Entry | None:
        with self._noticing():
            return self._reader.get(key)

    def read(self, selection: Selects, since: str | None) -> Reading:
        with self._noticing():
            if since is None:
                return self._read_state(selection)
            with self._followed.poll() as is_poller:
                if is_poller:
                    return self._poll.read(Ask(selection, since, self._known))
            # Another reader than the poller.
            return self._poll.look_beside(Ask(selection, since, self._known))

    def wait(self, timeout: float | None) -> None:
        # Else what it is to be notified of is only asked for when it reads.
        if self._followed.waits():
            self._watcher.wait(timeout)
            self._report_health()

    def release(self) -> None:
        super().release()
        self._followed.clear()
        self._watcher.disarm()

    def close(self) -> None:
        self._watcher.disarm()
        self._wake.set()

    def translate(self, error: Exception, key: str | None) -> Exception:
        return explain(error, self._where, key) if isinstance(error, OSError) else error

    def write(self, writes: Sequence[Write]) -> Written:
        for write in writes:
            if write.value is not None:
                check_round_trip(write.key, write.value, write.value_type)
        with self._noticing(), self._tree.hold() as held, self._alone(held) as staging:
            return self._write(held, staging, writes)

    # Comparing with other stores.

    def summaries(self, selection: Selects) -> Sequence[Summary]:
        def listed(walk: Walk) -> list[Summary]:
            return [summary(item, walk.held) for item in walk.selected(selection)]

        with self._noticing():
            return self._reader.whole(listed)

    def contents(self, keys: Sequence[str]) -> Sequence[Entry]:
        found = []
        for key in keys:
            # One that cannot be read is left out.
            with suppress(Unreadable):
                entry = self.get(key)
                found += [] if entry is None else [entry]
        return found

    def digest(self, key: str, algorithm: str) -> str:
        with self._noticing():
            return self._reader.digest(key, algorithm)

    def pieces(self, key: str) -> Iterator[bytes]:
        return self._reader.pieces(key)

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        with self._noticing(), self._tree.hold() as held, self._alone(held) as staging:
            self._check_place(held.place, "; nothing was written")
            target = find_targets(self._tree, held, [Write(key, b"")])[0]
            put_streamed(held, staging, target, pieces)
            self._check_place(held.place, " while it was written; read it again when it is back")

    # Reading.

    def _read_state(self, selection: Selects) -> Reading:
        """What there is, all of one moment, contents included."""

        def state(walk: Walk) -> Reading:
            found = self._reader.look(walk, selection, lambda _: None)
            if not self._followed.is_following:
                self._memory.learn(found, selection, watched=False)
            unread = frozenset(found.unread)
            return Reading(found.entries, self._position_of(found), True, unread=unread)

        return self._reader.whole(state)

    def _known(self, key: str) -> Seen | None:
        return self._followed.known(key) or self._memory.known(key)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Notice that the directory is away: its watch is gone then, also when it is back."""
        try:
            yield
        except SourceUnavailable:
            self._watcher.lose()
            raise
        finally:
            self._report_health()

    def _why_degraded(self) -> str:
        return "; ".join(filter(None, (self._watcher.degraded, self._unread.degraded)))

    # Writing.

    @contextmanager
    def _alone(self, held: Held) -> Iterator[StagingArea]:
        """Write while no other writer does, of this store or of any other."""
        staging = StagingArea(held)
        if not self._writing.acquire(timeout=LOCK_TIMEOUT):
            raise SourceUnavailable(
                f"{self._where}: another write has not ended for {LOCK_TIMEOUT:g} s; try again"
            )
        try:
            with staging.exclusive():
                yield staging
        finally:
            self._writing.release()

    def _write(self, held: Held, staging: StagingArea, writes: Sequence[Write]) -> Written:
        # It may have been moved while the lock was waited for.
        self._check_place(held.place, "; nothing was written")
        targets = find_targets(self._tree, held, writes)
        before = staging.batch()
        put_in_place(held, staging, writes, targets)
        stored = [
            _stored(held, target, write) for target, write in zip(targets, writes, strict=True)
        ]
        self._check_place(held.place, " while it was written; read it again when it is back")
        written = self._written(stored)
        moments = (Moment(held.place, batch or "") for batch in (before, staging.batch()))
        self._followed.wrote(written.position, {write.key for write in writes}, *moments)
        # A look may have found already what others made of these keys since, which is then told
        # before this write.
        self._watcher.look_again()
        return written

    def _check_place(self, place: Place, text: str) -> None:
        if self._tree.place() != place:
            raise SourceUnavailable(f"{self._where} was moved{text}")

    # Every method that would use these is overridden.

    def _list(self, scope: str) -> Iterator[Listed]:
        raise NotImplementedError

    def _get(self, keys: Sequence[str]) -> Sequence[Entry]:
        raise NotImplementedError

    # Opening.

    def _open(self, *, create: bool) -> Place:
        if Path(self._where).is_file():
            raise DatastreamError(f"{self._where}: it is a file; name the directory that holds it")
        if create:
            Path(self._where).mkdir(parents=True, exist_ok=True)
        if not Path(self._where).is_dir():
            raise DatastreamError(
                f"{self._where}: no such directory; check the path, or make it with create=True"
            )
        os.listdir(self._where)  # noqa: PTH208
        return self._tree.place()


def _stored(held: Held, target: str, write: Write) -> Entry:
    """What was written, with the time that its file has."""
    if write.value is None:
        return deleted(write.key)
    at = write.updated_at
    with suppress(OSError):
        at = time_of(held.stat(target).st_mtime_ns)
    value_type = type_of(write.key, write.value)
    return Entry(write.key, write.value, value_type, at, fingerprint(write.value))


def open_files(location: Location, **options: object) -> FilesSource:
    """The Source of ``file:PATH`` and ``file:///ABSOLUTE/PATH``."""
    path = local_path(location, "file:conf, or file:///etc/app", "directory")
    return configured(partial(FilesSource, path), location, options)
