"""What a branch held before: points of its history, single keys' histories, and replays.

The line that is followed is that of first parents: where the branch was, one commit after the
other, whatever was merged into it. Dates are never used to order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from itertools import takewhile

from dulwich.errors import RefFormatError
from dulwich.objects import Commit, ObjectID
from dulwich.objectspec import AmbiguousShortId, parse_commit, parse_object

from datastream.entry import Capability, Change, Entry, deleted
from datastream.errors import DatastreamError, InvalidValue, ReadOnly, shown
from datastream.selection import Selects
from datastream.source import Feature, Reading, Source, Write
from datastream.sources._common.wake import Bell
from datastream.sources.git.errors import local_errors
from datastream.sources.git.files import Files
from datastream.sources.git.objects import State, time_of


class Past:
    """A branch as it was when this was made, with handles of its own.

    Args:
        files: owned from here on.
        tip: the newest commit.
        names: other names of the tip than those the repository itself knows.
    """

    def __init__(
        self,
        files: Files,
        tip: ObjectID | None,
        where: str,
        names: Sequence[str] = (),
    ) -> None:
        self.files = files
        self.objects = files.objects
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
        time = _time(point)
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
        base = re.split("[~^]", name)[0]
        way = name.removeprefix(base)
        if base in self._names and self.tip is not None:
            name = f"{self.tip.decode()}{way}"
        repo = self.objects.repo
        try:
            # Only the second one knows v1.2~3, and only the first one short ids.
            found = parse_object(repo, name) if way else parse_commit(repo, name)
            return self.objects.commit(found.id).id
        except AmbiguousShortId as error:
            raise DatastreamError(f"{shown(name)} begins several ids; write more of it") from error
        except (KeyError, ValueError, IndexError, RefFormatError):
            return None

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

    def close(self) -> None:
        self.objects.close()

    def _ancestors(self, commit: ObjectID) -> set[ObjectID]:
        found, left = {commit}, [commit]
        while left:
            new = set(self.objects.parents(left.pop())) - found
            found |= new
            left += new
        return found

    def _at_time(self, time: datetime) -> ObjectID:
        for commit in self.line():
            made = time_of(self.objects.commit(commit))
            if made is not None and made <= time:
                return commit
        raise DatastreamError(f"{self.where} has no commit as old as {time}")


def history(past: Past, key: str) -> Iterator[Change]:
    """Every revision of `key`, newest first; closes `past` at the end.

    Where a merge took its value from one side, that side is followed, as `git log` does.
    """
    try:
        with local_errors(past.where):
            commit = past.tip
            while commit is not None:
                state = past.objects.state(commit)
                value = past.files.blob(state, key)
                parents = [past.objects.state(name) for name in past.objects.parents(commit)]
                values = [past.files.blob(parent, key) for parent in parents]
                if value in values:
                    commit = parents[values.index(value)].commit
                    continue
                if value is not None or values:
                    yield _change(past, key, commit, value)
                commit = parents[0].commit if parents else None
    finally:
        past.close()


def _change(past: Past, key: str, name: ObjectID, value: ObjectID | None) -> Change:
    commit = past.objects.commit(name)
    time = time_of(commit)
    entry = deleted(key, time) if value is None else past.files.entry(key, value, time)
    return Change(entry, name.decode(), _text(commit, commit.author), _text(commit, commit.message))


def _text(commit: Commit, raw: bytes) -> str:
    encoding = (commit.encoding or b"utf-8").decode("ascii", "replace")
    try:
        return raw.decode(encoding)
    except (LookupError, UnicodeDecodeError):
        return raw.decode("utf-8", "replace")


def replay(past: Past, selection: Selects, since: str | datetime | None) -> Iterator[Reading]:
    """The commits after `since`, oldest first, one reading each; closes `past` at the end."""
    try:
        with local_errors(past.where):
            base = None if since is None else past.find(since)
            state = past.objects.state(base)
            yield Reading(past.files.entries(selection, state), state.position, True)
            line = past.line_after(base)
            for commit in line:
                new = past.objects.state(commit)
                entries = past.files.changed(selection, state, new)
                state = new
                if entries or commit == line[-1]:
                    yield Reading(entries, state.position, False)
    finally:
        past.close()


def _time(point: str | datetime) -> datetime | None:
    if isinstance(point, str):
        parsed = None
        with suppress(ValueError):
            parsed = datetime.fromisoformat(point)
        if parsed is None:
            return None
        point = parsed
    if point.tzinfo is None:
        raise InvalidValue(f"{point} has no time zone; write {point.isoformat()}Z for UTC")
    return point


class PastSource(Source):
    """A branch at one commit: it can be read, and nothing ever happens.

    Args:
        open_past: makes handles; called for each history too.
        point: what `Past.find` takes.
    """

    features = frozenset({Feature.LOG, Feature.HISTORY})

    def __init__(self, open_past: Callable[[], Past], point: str | datetime) -> None:
        self._open_past = open_past
        self._past = open_past()
        self._bell = Bell()
        try:
            with self._guarded():
                self._state: State = self._past.objects.state(self._past.find(point))
        except BaseException:
            self._past.close()
            raise

    def capabilities(self) -> Sequence[Capability]:
        with self._guarded():
            return self._past.files.capabilities(self._state)

    def read(self, selection: Selects, since: str | None) -> Reading:
        position = self._state.position
        if since == position:
            return Reading((), position, False)
        with self._guarded():
            return Reading(self._past.files.entries(selection, self._state), position, True)

    def wait(self, timeout: float | None) -> None:
        self._bell.wait(timeout)

    def wake(self) -> None:
        self._bell.ring()

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        raise ReadOnly(f"{self._past.where} as it was can only be read; nothing was written")

    def history(self, key: str) -> Iterator[Change]:
        past = self._open_past()
        past.tip = self._state.commit
        return history(past, key)

    def close(self) -> None:
        self._past.close()

    def _guarded(self) -> AbstractContextManager[None]:
        return local_errors(self._past.where)
