"""A branch as a Source: what local repositories and clones of remote ones have in common."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import tenacity
from dulwich.file import FileLocked
from dulwich.objects import Blob, Commit, ObjectID

from datastream.entry import Capability, Entry, Revision, deleted
from datastream.errors import InvalidKey, KeyNotFound, RevisionConflict, shown
from datastream.selection import Selects, check_key
from datastream.source import (
    WRITING,
    Feature,
    Reading,
    Source,
    Summary,
    Write,
    Written,
    check_expected,
)
from datastream.sources._common.file_types import check_round_trip, type_of
from datastream.sources._common.wake import WakeEvent
from datastream.sources.git import past
from datastream.sources.git.commit import NewCommit, Signature, Signing, make_commit
from datastream.sources.git.errors import translated
from datastream.sources.git.files import Files, path_below
from datastream.sources.git.handles import Handles
from datastream.sources.git.keys import MAX_DEPTH, check_path, path_of
from datastream.sources.git.looks import Looks
from datastream.sources.git.moving import Moved
from datastream.sources.git.objects import EMPTY, UNBORN, Broken, Objects, State
from datastream.sources.git.reading import ReadCommit
from datastream.sources.git.tree import Change, rewritten
from datastream.sources.git.unread import Faults, parse, position
from datastream.sources.git.walking import walk

PATIENCE = 60.0
"""Seconds for which a write is done anew because somebody else was quicker."""
LOCK_PATIENCE = 20.0
"""Seconds that a lock is waited for: one that a killed process left must not hold up a store."""
OLD_LOCK_PATIENCE = 0.5
"""Seconds for one that was there so long before: the first write that met it has waited."""
SLOWEST_RETRY = 0.25
"""Seconds, at most, between two attempts."""
LOOKS = 4
"""How often the repository is searched for a commit before it counts as missing."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Branch(Protocol):
    """What a store follows and moves."""

    def tip(self) -> ObjectID | None: ...
    def catch_up(self) -> None: ...
    def give_way(self) -> None: ...
    def check_unborn(self) -> None: ...
    def confirm(self, base: State) -> None: ...
    def publish(self, objects: Objects, base: State, new: NewCommit) -> None: ...
    def close(self) -> None: ...


class _Planned(NamedTuple):
    """A write with its path and, unless it is a delete, its new content."""

    write: Write
    path: bytes
    blob: Blob | None


class BranchSource(Source):
    """A Source over the files of one branch.

    Reads take a handle on the repository each, so they run beside each other and beside a write.
    Writes of one source run one after the other: all move the same ref.

    Args:
        handles: on the repository, with the prefix.
        branch: what is followed.
        where: the repository as error texts name it.
        prefix: only files below this folder; keys do not contain it.
        signing: signs the commits that writes make.
    """

    features = WRITING | {
        Feature.LOG,
        Feature.MESSAGES,
        Feature.HISTORY,
        Feature.AT,
        Feature.REPLAY,
    }

    def __init__(
        self, handles: Handles, branch: Branch, where: str, prefix: bytes, signing: Signing
    ) -> None:
        self._handles = handles
        self._branch = branch
        self._where = where
        self._prefix = prefix
        self._signing = signing
        self._looks = Looks(handles, where, self._state, self._accept, self._tell_health)
        self._writing = threading.Lock()
        self._wake = WakeEvent()
        # The commit up to which watchers know everything; "" before the first read with `since`.
        self._seen: ObjectID | None = ObjectID(b"")

    def capabilities(self) -> Sequence[Capability]:
        return self._looks.capabilities()

    def read(self, selection: Selects, since: str | None) -> Reading:
        if since is None:
            return self._looks.state(selection)
        name, mark = parse(since)
        reading, faults = self._looks(partial(self._read_since, selection, name))
        if reading is None:
            return self._looks.state(selection)
        now = position(reading.position, faults.keys)
        if mark not in ("", parse(now)[1]):
            # Of what could not be read and can be now, nobody has seen how it differs.
            return self._looks.state(selection)
        return reading._replace(position=now, unread=faults.keys)

    def _read_since(
        self, selection: Selects, since: str, files: Files, state: State, faults: Faults
    ) -> Reading | None:
        """What changed, None if only the complete state can tell."""
        before = self._earlier(files, since)
        if before is not None and before.commit is not None and state.commit is None:
            self._branch.check_unborn()
        self._seen = state.commit
        if before is None:
            return None
        try:
            changed = files.changed(selection, before, state, faults)
        except Broken:
            return None
        faults.settled.update(entry.key for entry in changed.entries)
        return past.explained(changed, files.objects, before, state)

    def get(self, key: str) -> Entry | None:
        return self._looks.get(key)

    def wake(self) -> None:
        self._wake.set()

    def write(self, writes: Sequence[Write]) -> Written:
        planned = [self._planned(write) for write in writes]
        signature = self._signing.of(writes)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((Moved, FileLocked)),
            # At random, so that writers who met once do not meet again.
            wait=tenacity.wait_random_exponential(0.002, SLOWEST_RETRY),
            stop=_is_enough,
            # After the wait: what was seen before it is old by now, if others write all the time.
            before=lambda state: None if state.attempt_number == 1 else self._branch.catch_up(),
            reraise=True,
        )
        with self._writing:
            self._branch.give_way()
            unread = frozenset(self._looks.unread.faults)
            written = retrying(self._attempt, planned, signature)
        return self._marked(written, unread) if unread else written

    def _marked(self, written: Written, unread: frozenset[str]) -> Written:
        """`written` between positions of which these keys could not be read."""
        left = unread.difference(entry.key for entry in written.entries)
        self._looks.unread.forget(unread - left)
        self._tell_health()
        since, now = written.since or "", written.position
        return written._replace(since=position(since, unread), position=position(now, left))

    def history(self, key: str) -> Iterator[Revision]:
        return past.history(partial(self._past, None), key)

    def at(self, point: str | datetime) -> Source:
        return past.PastSource(self._past(point), point, self._handles.another())

    def replay(self, selection: Selects, since: str | datetime | None) -> Iterator[Reading]:
        return past.replay(partial(self._past, since), selection, since)

    def translate(self, error: Exception, key: str | None) -> Exception:
        return translated(self._where, error)

    def close(self) -> None:
        self._branch.close()
        self._handles.close()
        self._wake.set()

    # Comparing with other stores.

    def summaries(self, selection: Selects) -> Sequence[Summary]:
        return self._looks.summaries(selection)

    def walk(self, selection: Selects, unread: set[str]) -> Iterator[Entry]:
        """As in `HasWalk`."""
        return walk(self._handles, self._looks, selection, unread)

    def contents(self, keys: Sequence[str]) -> Sequence[Entry]:
        return self._looks.contents(keys)

    def digest(self, key: str, algorithm: str) -> str:
        return ""

    def differing(self, other: Source, selection: Selects) -> Sequence[str] | None:
        if not isinstance(other, BranchSource):
            return None
        with self._handles.lend() as mine, other._handles.lend() as theirs:
            found = mine.differing(self._state(mine), theirs, other._state(theirs))
            try:
                return [key for key in found if selection.matches(key)]
            except Broken:
                return None

    # Objects of a repository are compressed whole: one value at a time is in memory.

    def pieces(self, key: str) -> Iterator[bytes]:
        entry = self.get(key)
        if entry is None:
            raise KeyNotFound(f"{self._where} holds nothing at {shown(key)} any more")
        yield entry.value

    def put_pieces(self, key: str, pieces: Iterable[bytes]) -> None:
        self.write([Write(key, b"".join(pieces), "bytes")])

    # For the kinds of repositories.

    def _accept(self, faults: Faults, generation: int) -> bool:
        """Whether objects count as broken from now on; False to look once more."""
        return True

    @property
    def _degraded(self) -> str:
        """What works less well than it could; "" if nothing does."""
        return self._looks.unread.degraded

    def _tell_health(self) -> None:
        if self.health.degraded != (degraded := self._degraded):
            self.health = self.health._replace(degraded=degraded)

    def _past(self, point: str | datetime | None) -> past.Past:
        """The branch as it is now, in a repository which should know `point`."""
        raise NotImplementedError

    # Reading.

    def _state(self, files: Files) -> State:
        return files.objects.state(self._branch.tip())

    def _earlier(self, files: Files, commit: str) -> State | None:
        """The state at a commit, None if this repository does not have it (any more)."""
        if commit == UNBORN.position:
            return UNBORN
        name = ObjectID(commit.encode()) if _COMMIT.fullmatch(commit) else None
        if name is None or not self._has_commit(files.objects, name):
            return None
        return files.objects.state(name)

    def _has_commit(self, objects: Objects, name: ObjectID) -> bool:
        for _ in range(LOOKS):
            if objects.has_commit(name):
                return True
            # Is it missing, or was the whole repository away for a moment? Then this fails.
            self._branch.tip()
        return False

    # Writing.

    def _planned(self, write: Write) -> _Planned:
        path = path_below(self._prefix, write.key)
        if path.count(b"/") > MAX_DEPTH:
            raise InvalidKey(f"{shown(write.key)} lies in over {MAX_DEPTH} folders; use fewer")
        if write.value is None:
            return _Planned(write, path, None)
        check_path(write.key, path_of(write.key))
        check_round_trip(write.key, write.value, write.value_type)
        return _Planned(write, path, Blob.from_string(write.value))

    def _attempt(self, planned: Sequence[_Planned], signature: Signature) -> Written:
        with self._handles.lend() as files:
            state = self._state(files)
            try:
                found = [_change(files, item, state) for item in planned]
            except (RevisionConflict, KeyNotFound):
                self._branch.confirm(state)
                raise
            news = [change for change in found if change.old != change.new]
            if not news:
                self._branch.confirm(state)
                entries = [_entry(item, state) for item in planned]
                return Written(entries, state.position, state.position)
            commit, root = self._commit(files, planned, news, state, signature)
            made = ReadCommit.of(commit)
            stored = State(made.id, root, made.time)
            entries = [_entry(item, stored) for item in planned]
            point, author, message = past.about(made)
            return Written(entries, stored.position, state.position, author, message, point)

    def _commit(
        self,
        files: Files,
        planned: Sequence[_Planned],
        news: Sequence[Change],
        state: State,
        signature: Signature,
    ) -> tuple[Commit, ObjectID]:
        """Commit the writes; the commit and its tree."""
        changed = {change.path for change in news}
        writes = [item for item in planned if item.path in changed]
        root, trees = rewritten(
            files.objects.items,
            state.tree,
            [(i.write.key, i.path, i.blob.id if i.blob else None) for i in writes],
        )
        if root is None:
            root, trees = EMPTY.id, [EMPTY]
        commit = make_commit(signature, state.commit, root, [item.write for item in writes])
        blobs = [item.blob for item in writes if item.blob]
        new = NewCommit(commit, [*blobs, *trees, commit], news)
        self._branch.publish(files.objects, state, new)
        return commit, root


def _is_enough(state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome is not None else None
    waited = state.seconds_since_start or 0.0
    patience = _patience(error, waited) if isinstance(error, FileLocked) else PATIENCE
    return waited >= patience


def _patience(locked: FileLocked, waited: float) -> float:
    try:
        age = time.time() - Path(os.fsdecode(locked.lockfilename)).stat().st_mtime
    except OSError:
        # It went away just now.
        return LOCK_PATIENCE
    return max(OLD_LOCK_PATIENCE, LOCK_PATIENCE - max(0.0, age - waited))


def _change(files: Files, item: _Planned, state: State) -> Change:
    old = files.blob(state, item.write.key)
    check_expected(item.write, old.decode() if old else None)
    return Change(item.path, old, item.blob.id if item.blob else None)


def _entry(item: _Planned, state: State) -> Entry:
    key, value = item.write.key, item.write.value
    if value is None or item.blob is None:
        return deleted(key, state.time)
    return Entry(key, value, type_of(key, value), state.time, item.blob.id.decode())


def folder_of(prefix: str) -> bytes:
    """The path of a prefix, without slashes at its ends.

    Raises:
        InvalidKey: no repository can have such a path.
    """
    key = prefix.strip("/")
    if not key:
        return b""
    check_key(key)
    check_path(key, path_of(key))
    return path_of(key)
