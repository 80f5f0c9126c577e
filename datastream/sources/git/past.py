"""What a branch held before: points of its history, single keys' histories, and replays.

The line that is followed is that of first parents: where the branch was, one commit after the
other, whatever was merged into it. Dates are never used to order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cached_property, partial
from itertools import takewhile
from typing import overload

from dulwich.objects import ObjectID

from datastream.entry import Capability, Entry, Revision, deleted
from datastream.errors import DatastreamError, shown
from datastream.selection import Selects
from datastream.source import Feature, Health, Reading
from datastream.sources._common.past import ReadOnlyPast
from datastream.sources._common.points import parse_time
from datastream.sources.git.errors import Damaged, translated
from datastream.sources.git.handles import Handles, is_answer
from datastream.sources.git.looks import Looks
from datastream.sources.git.naming import base_of, find_commit
from datastream.sources.git.objects import UNBORN, Broken, Objects, State
from datastream.sources.git.reading import ReadCommit
from datastream.sources.git.unread import Faults, UnreadObjects
from datastream.sources.git.unread import position as marked
from datastream.sources.git.walking import walk

log = logging.getLogger("datastream")

LEFT_OUT = "%s: history leaves a commit out: %s"


class Past:
    """A branch as it was when this was made, with a handle until `close`.

    Args:
        handles: lend the handle.
        tip: the newest commit.
        where: the repository as error texts name it.
        names: other names of the tip than those the repository itself knows.
    """

    def __init__(
        self,
        handles: Handles,
        tip: ObjectID | None,
        where: str,
        names: Sequence[str] = (),
    ) -> None:
        self._handles = handles
        self.files, self._generation = handles.take()
        self.objects = self.files.objects
        self.tip = tip
        self.where = where
        self._names = names

    def find(self, point: str | datetime) -> ObjectID:
        """The commit that a name or a time stands for.

        Raises:
            DatastreamError: there is none.
        """
        if isinstance(point, str):
            named = self.named(point)
            if named is not None:
                return named
        time = parse_time(point)
        if time is None:
            raise DatastreamError(
                f"{self.where} has no tag, branch or commit {shown(str(point))}, and it is no "
                "time in ISO 8601 either"
            )
        return self._at_time(time)

    def named(self, name: str) -> ObjectID | None:
        """The commit that git calls so, None if there is none."""
        if not name:
            return None
        base = base_of(name)
        if base in self._names and self.tip is not None:
            name = self.tip.decode() + name.removeprefix(base)
        return find_commit(self.objects, name)

    def value(self, commit: ObjectID, key: str) -> ObjectID | Damaged | None:
        """The content that a key has in a commit; the reason if the commit cannot tell."""
        try:
            return self.files.blob(self.objects.state(commit), key)
        except Damaged as error:
            return error

    def line(self) -> Iterator[ObjectID]:
        """Where the branch was, newest first."""
        commit = self.tip
        while commit is not None:
            yield commit
            commit = next(iter(self.objects.parents(commit)), None)

    def line_after(self, base: ObjectID | None) -> list[ObjectID]:
        """The part of the line that is newer than `base`, oldest first."""
        line = list(takewhile(lambda commit: commit != base, self.line()))
        if base is not None and line and base not in self.objects.parents(line[-1])[:1]:
            # Not on the line: it was merged into it, or the branch was rewritten since.
            before = self._ancestors(base)
            line = list(takewhile(lambda commit: commit not in before, line))
        line.reverse()
        return line

    def __enter__(self) -> Past:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.close(sound=error is None or isinstance(error, GeneratorExit) or is_answer(error))

    def close(self, *, sound: bool = True) -> None:
        """Give the handle back; one that is not sound is used no more."""
        self._handles.give_back(self.files, self._generation if sound else -1)

    def _ancestors(self, commit: ObjectID) -> set[ObjectID]:
        found, left = {commit}, [commit]
        while left:
            new = set(self.objects.parents(left.pop())) - found
            found |= new
            left += new
        return found

    def _at_time(self, time: datetime) -> ObjectID:
        for commit in self.line():
            made = self.objects.commit(commit).time
            if made is not None and made <= time:
                return commit
        raise DatastreamError(f"{self.where} has no commit as old as {time}")


OpenPast = Callable[[], Past]
"""Opens the past of a branch; the caller closes it."""


def history(opened: OpenPast, key: str) -> Iterator[Revision]:
    """Every revision of `key`, newest first.

    Where a merge took its value from one side, that side is followed, as `git log` does.
    """
    # Opened with the first step: an iterator that is never started holds nothing.
    with opened() as past:
        commit = past.tip
        while commit is not None:
            value, parents = past.value(commit, key), past.objects.parents(commit)
            values = [past.value(parent, key) for parent in parents]
            if isinstance(value, Damaged):
                log.warning(LEFT_OUT, past.where, value)
                commit = next(iter(parents), None)
            elif value in values:
                commit = parents[values.index(value)]
            else:
                if value is not None or values:
                    try:
                        revision = _revision(past, key, commit, value)
                    except Broken as error:
                        log.warning(LEFT_OUT, past.where, error)
                    else:
                        yield revision
                commit = next(iter(parents), None)


def _revision(past: Past, key: str, name: ObjectID, value: ObjectID | None) -> Revision:
    commit = past.objects.commit(name)
    if value is None:
        return Revision(deleted(key, commit.time), *about(commit))
    return Revision(past.files.entry(key, value, commit.time), *about(commit))


def explained(reading: Reading, objects: Objects, before: State, after: State) -> Reading:
    """`reading` with who made it and why, if one commit on top of `before` is all of it."""
    if after.commit is None or after.commit == before.commit:
        return reading
    commit = objects.commit(after.commit)
    parent = commit.parents[0] if commit.parents else None
    if before.commit != parent:
        return reading
    point, author, message = about(commit)
    return reading._replace(author=author, message=message, point=point)


def about(commit: ReadCommit) -> tuple[str, str, str]:
    """Its name, its author and its message."""
    return commit.id.decode(), commit.author, commit.message


def replay(opened: OpenPast, selection: Selects, since: str | datetime | None) -> Iterator[Reading]:
    """The commits after `since`, oldest first, one reading each."""
    with opened() as past:
        base = None if since in (None, UNBORN.position) else past.find(since)
        state = past.objects.state(base)
        unread = UnreadObjects(past.where)
        faults = Faults(unread, past.objects.signature)
        entries = _Later(partial(past.files.entries, selection, state, faults))
        yield Reading(entries, state.position, True)
        line = past.line_after(base)
        for commit in line:
            new = past.objects.state(commit)
            try:
                reading = past.files.changed(selection, state, new, faults)
            except Damaged as error:
                if commit == line[-1]:
                    raise
                log.warning("%s: a replay leaves a commit out: %s", past.where, error)
                continue
            unread.note(faults)
            if reading.entries or commit == line[-1]:
                yield explained(reading, past.objects, state, new)._replace(
                    # Where anything was left out, the live watch begins with all there is.
                    position=marked(reading.position, faults.keys)
                )
            state = new


class _Later(Sequence[Entry]):
    """Entries that are read when somebody looks: who has them all would wait for nothing."""

    def __init__(self, read: Callable[[], Sequence[Entry]]) -> None:
        self._read = read

    @cached_property
    def _entries(self) -> Sequence[Entry]:
        return self._read()

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        return self._entries[index]


class PastSource(ReadOnlyPast):
    """A branch at one commit: it can be read, and never changes.

    Args:
        past: the branch; closed here.
        point: what `Past.find` takes.
        handles: owned from here on.
    """

    features = frozenset({Feature.LOG, Feature.HISTORY})

    def __init__(self, past: Past, point: str | datetime, handles: Handles) -> None:
        super().__init__(past.where)
        self._where = past.where
        self._handles = handles
        with past:
            self._state: State = past.objects.state(past.find(point))
        self._looks = Looks(handles, past.where, lambda _: self._state, tell=self._tell_health)

    def capabilities(self) -> Sequence[Capability]:
        return self._looks.capabilities()

    def read(self, selection: Selects, since: str | None) -> Reading:
        position = self._state.position
        if since == position:
            return Reading((), position, False)
        return self._looks.state(selection)

    def walk(self, selection: Selects, unread: set[str]) -> Iterator[Entry]:
        """As in `HasWalk`."""
        return walk(self._handles, self._looks, selection, unread)

    def get(self, key: str) -> Entry | None:
        return self._looks.get(key)

    def _tell_health(self) -> None:
        self.health = Health(degraded=self._looks.unread.degraded)

    def history(self, key: str) -> Iterator[Revision]:
        return history(lambda: Past(self._handles, self._state.commit, self._where), key)

    def translate(self, error: Exception, key: str | None) -> Exception:
        return translated(self._where, error)

    def close(self) -> None:
        super().close()
        self._handles.close()
