"""Reading what changed since a position: as the poller, which follows, or beside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import monotonic

from datastream.entry import Entry, deleted
from datastream.selection import Selects
from datastream.source import Reading, is_below
from datastream.sources._common.look import Look, Seen, common_scope, look
from datastream.sources.files.followed import Ask, Followed
from datastream.sources.files.reader import Reader
from datastream.sources.files.tree import Tree
from datastream.sources.files.walk import Walk
from datastream.sources.files.watcher import Watcher

MOST = 500
"""Files looked at one by one; if more may have changed, the whole directory is looked at."""


class Poll:
    """The reads with a position of one source.

    Args:
        reader, tree, watcher, followed: of that source.
        epoch: what its positions begin with.
    """

    def __init__(
        self, reader: Reader, tree: Tree, watcher: Watcher, followed: Followed, epoch: str
    ) -> None:
        self._reader = reader
        self._tree = tree
        self._watcher = watcher
        self._followed = followed
        self._epoch = epoch

    def read(self, ask: Ask) -> Reading:
        """What changed, for the poller."""
        relies = self._followed.has_waited()

        def attempt(walk: Walk) -> Reading:
            nonlocal relies
            # Armed before anything is looked at.
            self._watcher.arm(walk.place)
            taken = self._watcher.take()
            changed, relies = taken if relies else None, False
            return self._read_changed(walk, ask, changed) or self._read_all(walk, ask)

        try:
            return self._reader.whole(attempt)
        except BaseException:
            # What was taken is lost.
            self._watcher.look_at_all()
            raise

    def look_beside(self, ask: Ask) -> Reading:
        """What changed, for another thread than the poller: by looking at everything."""
        before = self._followed.state_at(ask)

        def attempt(walk: Walk) -> Reading:
            found = self._reader.look(walk, ask.selection, ask.known)
            reading = self._reading(walk, ask, found)
            if before is None or not reading.complete:
                return reading
            changes = _changes(before, found, ask.selection)
            return reading._replace(entries=changes, complete=False)

        return self._reader.whole(attempt)

    def _read_all(self, walk: Walk, ask: Ask) -> Reading:
        began = monotonic()
        # The call also finds out whether `since` is a position of the watchers.
        self._followed.due(ask, walk.moment)
        found = self._reader.look(walk, ask.selection, ask.known)
        reading = self._reading(walk, ask, found)
        self._followed.looked_at_all(ask, walk, found, reading.position)
        self._watcher.looked_at_all(
            monotonic() - began, is_part_closed=any(key.endswith("/") for key in found.unread)
        )
        return reading

    def _reading(self, walk: Walk, ask: Ask, found: Look) -> Reading:
        position = f"{self._epoch}:{found.digest}"
        if ask.since == position:
            return Reading((), position, complete=False)
        load = partial(self._reader.load, walk, found.loaded)
        return Reading(found.entries, position, True, load, unread=frozenset(found.unread))

    def _read_changed(self, walk: Walk, ask: Ask, changed: set[str] | None) -> Reading | None:
        """What has become of the files that may have changed; None to look at everything.

        Args:
            changed: the paths that notifications named; None if anything may have changed.
        """
        keys = self._keys(walk, ask, changed)
        if keys is None:
            return None
        wanted = sorted(filter(ask.selection.matches, keys))
        items = [item for key in wanted if (item := walk.find(key)) is not None]
        found = look("", items, ask.selection, ask.known, self._reader.reading(walk))
        if walk.linked:
            return None
        if not wanted:
            return Reading((), ask.since, complete=False)
        found = found._replace(is_all=len(wanted) == len(keys))
        position = self._followed.looked_at({*wanted}, found, self._epoch)
        gone = [deleted(key) for key in wanted if key not in found.seen]
        for entry in gone:
            self._tree.unread.discard(entry.key)
        load = partial(self._reader.load, walk, found.loaded)
        entries, unread = [*gone, *found.entries], frozenset(found.unread)
        return Reading(entries, position, False, load, unread=unread)

    def _keys(self, walk: Walk, ask: Ask, changed: set[str] | None) -> set[str] | None:
        """Keys that may have changed since a position; None if any may have."""
        if changed is None or self._followed.linked:
            return None
        due = self._followed.due(ask, walk.moment)
        named = {walk.place.key_of(path) for path in changed}
        if due is None or None in named:
            return None
        keys = {key for key in (*due, *named) if key and self._tree.admits(key)}
        if len(keys) > MOST or any(self._is_directory(walk, key) for key in keys):
            return None
        # A directory above all that is selected was never read, so that its end shows only here.
        parts = (*ask.selection.keys, common_scope(ask.selection))
        starts = tuple(f"{key}/" for key in keys)
        return None if any(part.startswith(starts) for part in parts) else keys

    def _is_directory(self, walk: Walk, key: str) -> bool:
        """Whether it is a directory or a link, or was one."""
        return f"{key}/" in self._tree.folders or walk.is_directory(key)


def _changes(before: Mapping[str, Seen], found: Look, selection: Selects) -> list[Entry]:
    """What turns a state known before into the one found."""
    gone = before.keys() - found.seen.keys()
    deletes = [
        deleted(key)
        for key in gone
        if selection.matches(key) and not is_below(key, found.unread.keys())
    ]
    known = {key: seen.revision for key, seen in before.items()}
    return deletes + [entry for entry in found.entries if known.get(entry.key) != entry.revision]
