"""A branch as a Source: what local repositories and clones of remote ones have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import tenacity
from dulwich.file import FileLocked
from dulwich.objects import Blob, Commit, ObjectID, ShaFile

from datastream.entry import Capability, Entry, deleted
from datastream.entry import Change as Revision
from datastream.errors import InvalidKey, KeyNotFound, RevisionConflict, shown
from datastream.selection import Selects, check_key
from datastream.source import WRITING, Feature, Reading, Source, Write, check_expected
from datastream.sources._common.file_types import check_round_trip, type_of
from datastream.sources._common.wake import Bell
from datastream.sources.git import past
from datastream.sources.git.branch import Moved
from datastream.sources.git.commit import Signature, make_commit
from datastream.sources.git.errors import local_errors
from datastream.sources.git.files import Files
from datastream.sources.git.keys import MAX_DEPTH, check_path, path_of
from datastream.sources.git.objects import EMPTY, UNBORN, Objects, State
from datastream.sources.git.tree import Change, rewritten

ATTEMPTS = 200
"""How often a write is done anew because somebody else was quicker."""
PATIENCE = 20.0
"""Seconds for all of that: a lock that a killed process left must not hold up a store."""
SLOWEST_RETRY = 0.5
"""Seconds, at most, between two attempts."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Branch(Protocol):
    """What a store follows and moves."""

    def tip(self) -> ObjectID | None: ...
    def confirm(self, base: State) -> None: ...
    def publish(
        self, base: State, commit: Commit, objects: Sequence[ShaFile], changes: Sequence[Change]
    ) -> None: ...
    def close(self) -> None: ...


class _Planned(NamedTuple):
    """A write with its path and, unless it is a delete, its new content."""

    write: Write
    path: bytes
    blob: Blob | None


class BranchSource(Source):
    """A Source over the files of one branch.

    Args:
        objects: for `read`, `write` and `capabilities`, which run one at a time.
        branch: what is followed.
        where: the repository as error texts name it.
        prefix: only what lies below this folder, which is no part of the keys.
        signature: of the commits that writes make.
    """

    features = WRITING | {Feature.LOG, Feature.HISTORY, Feature.AT, Feature.REPLAY}

    def __init__(
        self, objects: Objects, branch: Branch, where: str, prefix: str, signature: Signature
    ) -> None:
        self._objects = objects
        self._branch = branch
        self._where = where
        self._signature = signature
        self._files = Files(objects, folder_of(prefix))
        self._bell = Bell()
        # The commit up to which watchers know everything; "" before the first look.
        self._seen: ObjectID | None = ObjectID(b"")

    def capabilities(self) -> Sequence[Capability]:
        with self._guarded():
            return self._files.capabilities(self._state())

    def read(self, selection: Selects, since: str | None) -> Reading:
        with self._guarded():
            state = self._state()
            before = None if since is None else self._earlier(since)
            if since is not None:
                self._seen = state.commit
            if before is None:
                return Reading(self._files.entries(selection, state), state.position, True)
            found = self._files.changed(selection, before, state)
            return Reading(found, state.position, False)

    def wake(self) -> None:
        self._bell.ring()

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        planned = [self._planned(write) for write in writes]
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((Moved, FileLocked)),
            # At random, so that writers who met once do not meet again.
            wait=tenacity.wait_random_exponential(0.002, SLOWEST_RETRY),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(ATTEMPTS), tenacity.stop_after_delay(PATIENCE)
            ),
            reraise=True,
        )
        with self._guarded():
            return retrying(self._attempt, planned)

    def history(self, key: str) -> Iterator[Revision]:
        return past.history(self._past(None), key)

    def at(self, point: str | datetime) -> Source:
        return past.PastSource(lambda: self._past(point), point)

    def replay(self, selection: Selects, since: str | datetime | None) -> Iterator[Reading]:
        return past.replay(self._past(since), selection, since)

    def close(self) -> None:
        self._branch.close()
        self._objects.close()

    # For the kinds of repositories.

    def _guarded(self) -> AbstractContextManager[None]:
        """Around every access: foreign errors become ours."""
        return local_errors(self._where)

    def _past(self, point: str | datetime | None) -> past.Past:
        """Handles of its own on the repository, which should know `point`."""
        raise NotImplementedError

    # Reading.

    def _state(self) -> State:
        return self._objects.state(self._branch.tip())

    def _earlier(self, position: str) -> State | None:
        """The state at a position, None if this repository does not have it (any more)."""
        if position == UNBORN.position:
            return UNBORN
        name = ObjectID(position.encode()) if _COMMIT.fullmatch(position) else None
        if name is None or not self._objects.has_commit(name):
            return None
        return self._objects.state(name)

    # Writing.

    def _planned(self, write: Write) -> _Planned:
        path = self._files.path(write.key)
        if path.count(b"/") > MAX_DEPTH:
            raise InvalidKey(f"{shown(write.key)} lies in over {MAX_DEPTH} folders; use fewer")
        if write.value is None:
            return _Planned(write, path, None)
        check_path(write.key, path_of(write.key))
        check_round_trip(write.key, write.value, write.value_type)
        return _Planned(write, path, Blob.from_string(write.value))

    def _attempt(self, planned: Sequence[_Planned]) -> list[Entry]:
        state = self._state()
        try:
            found = [self._change(item, state) for item in planned]
        except (RevisionConflict, KeyNotFound):
            self._branch.confirm(state)
            raise
        news = [change for change in found if change.old != change.new]
        if not news:
            self._branch.confirm(state)
            return [self._entry(item, state) for item in planned]
        stored = self._commit(planned, news, state)
        return [self._entry(item, stored) for item in planned]

    def _change(self, item: _Planned, state: State) -> Change:
        old = self._files.blob(state, item.write.key)
        check_expected(item.write, old.decode() if old else None)
        return Change(item.path, old, item.blob.id if item.blob else None)

    def _commit(self, planned: Sequence[_Planned], news: Sequence[Change], state: State) -> State:
        changed = {change.path for change in news}
        writes = [item for item in planned if item.path in changed]
        root, trees = rewritten(
            self._objects.items,
            state.tree,
            [(i.write.key, i.path, i.blob.id if i.blob else None) for i in writes],
        )
        if root is None:
            root, trees = EMPTY.id, [EMPTY]
        commit = make_commit(self._signature, state.commit, root, [i.write for i in writes])
        blobs = [item.blob for item in writes if item.blob]
        self._branch.publish(state, commit, [*blobs, *trees, commit], news)
        return State(commit.id, root, datetime.fromtimestamp(commit.commit_time, UTC))

    def _entry(self, item: _Planned, state: State) -> Entry:
        key, value = item.write.key, item.write.value
        if value is None or item.blob is None:
            return deleted(key, state.time)
        return Entry(key, value, type_of(key, value), state.time, item.blob.id.decode())


def folder_of(prefix: str) -> bytes:
    """The path of a prefix, without slashes at its ends.

    Raises:
        InvalidKey: it is no path that a repository can have.
    """
    key = prefix.strip("/")
    if not key:
        return b""
    check_key(key)
    check_path(key, path_of(key))
    return path_of(key)
