"""The files below a prefix, as the entries of a store, of whatever commit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from dulwich.objects import ObjectID

from datastream.entry import Capability, Entry, deleted
from datastream.selection import Selects, starts
from datastream.source import Reading, Summary
from datastream.sources._common.file_types import type_of, type_of_name
from datastream.sources.git.keys import MAX_PATH, key_of, path_of
from datastream.sources.git.objects import Objects, State, Trees
from datastream.sources.git.tree import changes, is_file, lookup, subtree, walk

KEPT_TYPES = 100_000
"""Files whose type is kept in memory, because it follows from content and not from the name."""


class Known:
    """What handles on one repository share; content with an id never changes."""

    def __init__(self) -> None:
        self.trees = Trees()
        self.types: dict[ObjectID, str] = {}


class Files:
    """The files below a prefix, as entries, of whatever commit.

    Args:
        objects: the handle; it belongs to this object.
        known: what other handles share with it.
    """

    def __init__(self, objects: Objects, prefix: bytes, known: Known) -> None:
        self.objects = objects
        self.prefix = prefix
        self._types = known.types

    def root(self, state: State) -> ObjectID | None:
        """The tree at the prefix."""
        return subtree(self.objects.items, state.tree, self.prefix)

    def path(self, key: str) -> bytes:
        """The whole path of a key."""
        return path_below(self.prefix, key)

    def blob(self, state: State, key: str) -> ObjectID | None:
        """The content of one key."""
        found = lookup(self.objects.items, state.tree, self.path(key))
        return found[1] if found is not None and is_file(found[0]) else None

    def get(self, state: State, key: str) -> Entry | None:
        """The entry of one key, None if it holds nothing."""
        path = path_of(key)
        # A key with an unneeded escape has no file.
        if len(path) > MAX_PATH or key_of(path) != key:
            return None
        blob = self.blob(state, key)
        return None if blob is None else self.entry(key, blob, state.time)

    def blobs(self, selection: Selects, state: State) -> list[tuple[str, ObjectID]]:
        """All that is selected, with the ids of its contents."""
        return list(self._files(selection, self.root(state)))

    def entries(self, selection: Selects, state: State) -> list[Entry]:
        """All that is selected."""
        return [
            self.entry(key, blob, state.time)
            for key, blob in self._files(selection, self.root(state))
        ]

    def changed(self, selection: Selects, old: State, new: State) -> Reading:
        """What turns one state into the other, as far as it is selected; deletes first."""
        found = [
            (key_of(change.path), change.old, change.new)
            for change in changes(self.objects.items, self.root(old), self.root(new))
            if len(change.path) <= MAX_PATH
        ]
        selected = [item for item in found if selection.matches(item[0])]
        gone = [deleted(key, new.time) for key, _, blob in selected if blob is None]
        present = [self.entry(k, blob, new.time) for k, _, blob in selected if blob is not None]
        created = frozenset(key for key, before, _ in selected if before is None)
        return Reading([*gone, *present], new.position, False, created=created)

    def entry(self, key: str, blob: ObjectID, time: datetime | None) -> Entry:
        content = self.objects.content(blob)
        return Entry(key, content, type_of(key, content), time, blob.decode())

    def summaries(self, selection: Selects, state: State) -> list[Summary]:
        """All that is selected, without its contents."""
        return [
            Summary(key, None, f"git:{blob.decode()}", state.time, blob)
            for key, blob in self._files(selection, self.root(state))
        ]

    def differing(self, state: State, other: Files, others: State) -> Iterator[str]:
        """The keys that differ from those in another repository."""
        read, read_other = self.objects.items, other.objects.items
        roots = self.root(state), other.root(others)
        for change in changes(read, *roots, read_new=read_other):
            if len(change.path) <= MAX_PATH:
                yield key_of(change.path)

    def capabilities(self, state: State) -> list[Capability]:
        root = self.root(state)
        files = walk(self.objects.items, root)
        return [
            Capability(key, type_of_name(key) or self._content_type(key, item[1]))
            for key, item in ((key_of(path), item) for path, item in files if len(path) <= MAX_PATH)
        ]

    def _content_type(self, key: str, blob: ObjectID) -> str:
        known = self._types.get(blob)
        if known is None:
            if len(self._types) >= KEPT_TYPES:
                self._types.clear()
            known = self._types[blob] = type_of(key, self.objects.content(blob))
        return known

    def _files(self, selection: Selects, root: ObjectID | None) -> Iterator[tuple[str, ObjectID]]:
        items, matches = self.objects.items, selection.matches
        begins = _shortest(starts(selection))
        if not (selection.keys or begins):
            begins = [""]
        for start in begins:
            path = path_of(start)
            for below, item in walk(items, subtree(items, root, path[:-1]), path):
                key = key_of(below)
                if matches(key) and len(below) <= MAX_PATH:
                    yield key, item[1]
        for key in selection.keys:
            found = lookup(items, root, path_of(key))
            # A key with an unneeded escape has no file.
            real = found is not None and is_file(found[0]) and key_of(path_of(key)) == key
            if found is not None and real and not key.startswith(tuple(begins)):
                yield key, found[1]


def path_below(prefix: bytes, key: str) -> bytes:
    """The whole path of a key below a prefix."""
    return b"/".join(filter(None, (prefix, path_of(key))))


def _shortest(starts: set[str]) -> list[str]:
    """Without those that lie below another one."""
    found: list[str] = []
    for start in sorted(starts):
        if not (found and start.startswith(found[-1])):
            found.append(start)
    return found
