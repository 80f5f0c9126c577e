"""The files below a prefix, as the entries of a store, of whatever commit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial

from dulwich.objects import ZERO_SHA, ObjectID

from datastream.entry import Capability, Entry, deleted
from datastream.selection import Selects, starts
from datastream.source import Reading, Summary
from datastream.sources._common.file_types import type_of, type_of_name
from datastream.sources.git.keys import MAX_PATH, key_of, path_of
from datastream.sources.git.objects import Objects, State, Trees
from datastream.sources.git.tree import (
    Item,
    Items,
    ReadBelow,
    changes,
    is_file,
    lookup,
    subtree,
    walk,
)
from datastream.sources.git.unread import Faults

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
        """The tree at the prefix.

        Raises:
            Damaged: it cannot be read.
        """
        root = subtree(self.objects.items, state.tree, self.prefix)
        self.objects.items(root)
        return root

    def path(self, key: str) -> bytes:
        """The whole path of a key."""
        return path_below(self.prefix, key)

    def blob(self, state: State, key: str) -> ObjectID | None:
        """The content of one key."""
        found = lookup(self.objects.items, state.tree, self.path(key))
        return found[1] if found is not None and is_file(found[0]) else None

    def get(self, state: State, key: str, faults: Faults) -> Entry | None:
        """The entry of one key, None if it holds nothing, or cannot be read."""
        path = path_of(key)
        # A key with an unneeded escape has no file.
        if len(path) > MAX_PATH or key_of(path) != key:
            return None
        root = self.root(state)
        found = self._lookup(root, key, faults)
        if found is None or not is_file(found[0]):
            return None
        return self._readable(key, found[1], state.time, faults)

    def probe(self, state: State, key: str, name: ObjectID, faults: Faults) -> None:
        """Try again what could not be read: a key, or all below a folder if it ends in "/".

        Args:
            name: the object for which it could not.
        """
        path = path_of(key)

        def read() -> None:
            found = lookup(self.objects.items, root, path.rstrip(b"/"))
            if found is not None and is_file(found[0]):
                self.objects.content(found[1])
            elif found is not None:
                self.objects.items(subtree(self.objects.items, root, path.rstrip(b"/")))

        root = self.root(state)
        faults.attempt(key, name, read)

    def blobs(self, selection: Selects, state: State, faults: Faults) -> list[tuple[str, ObjectID]]:
        """All that is selected, with the ids of its contents."""
        return list(self._files(selection, self.root(state), faults))

    def entries(self, selection: Selects, state: State, faults: Faults) -> list[Entry]:
        """All that is selected."""
        files = self._files(selection, self.root(state), faults)
        found = (self._readable(key, blob, state.time, faults) for key, blob in files)
        return [entry for entry in found if entry is not None]

    def changed(self, selection: Selects, old: State, new: State, faults: Faults) -> Reading:
        """What turns one state into the other, as far as it is selected; deletes first.

        Raises:
            Broken: the old state cannot be read in full.
        """
        read, below = self.objects.items, self._below(faults)
        roots = self.root(old), self.root(new)
        found = [
            (key_of(change.path), change.old, change.new)
            for change in changes(read, *roots, read_below=below)
            if len(change.path) <= MAX_PATH
        ]
        selected = [item for item in found if selection.matches(item[0])]
        gone = [deleted(key, new.time) for key, _, blob in selected if blob is None]
        present = [
            entry
            for key, _, blob in selected
            if blob is not None and (entry := self._readable(key, blob, new.time, faults))
        ]
        created = frozenset(key for key, before, _ in selected if before is None)
        return Reading([*gone, *present], new.position, False, created=created)

    def entry(self, key: str, blob: ObjectID, time: datetime | None) -> Entry:
        """The entry of a file.

        Raises:
            Broken: it cannot be read.
        """
        content = self.objects.content(blob)
        return Entry(key, content, type_of(key, content), time, blob.decode())

    def summaries(self, selection: Selects, state: State, faults: Faults) -> list[Summary]:
        """All that is selected, without its contents."""
        found = [
            Summary(key, None, f"git:{blob.decode()}", state.time, blob)
            for key, blob in self._files(selection, self.root(state), faults)
        ]
        return found + [Summary(key) for key in faults.found if key.endswith("/")]

    def differing(self, state: State, other: Files, others: State) -> Iterator[str]:
        """The keys that differ from those in another repository."""
        read, read_other = self.objects.items, other.objects.items
        roots = self.root(state), other.root(others)
        for change in changes(read, *roots, read_new=read_other):
            if len(change.path) <= MAX_PATH:
                yield key_of(change.path)

    def capabilities(self, state: State, faults: Faults) -> list[Capability]:
        """All keys that can be read, with their types."""
        root = self.root(state)
        files = walk(self.objects.items, root, read_below=self._below(faults))
        named = ((key_of(path), item[1]) for path, item in files if len(path) <= MAX_PATH)
        found = [(key, self._type(key, blob, faults)) for key, blob in named]
        return [Capability(key, name) for key, name in found if name is not None]

    def _type(self, key: str, blob: ObjectID, faults: Faults) -> str | None:
        """The type of a file, None if it cannot be read."""
        return type_of_name(key) or faults.attempt(
            key, blob, partial(self._content_type, key, blob)
        )

    def _content_type(self, key: str, blob: ObjectID) -> str:
        known = self._types.get(blob)
        if known is None:
            if len(self._types) >= KEPT_TYPES:
                self._types.clear()
            known = self._types[blob] = type_of(key, self.objects.content(blob))
        return known

    def _readable(
        self, key: str, blob: ObjectID, time: datetime | None, faults: Faults
    ) -> Entry | None:
        """The entry of a file, None if it cannot be read."""
        return faults.attempt(key, blob, partial(self.entry, key, blob, time))

    def _lookup(self, root: ObjectID | None, key: str, faults: Faults) -> Item | None:
        """What is at a key; None too if a folder on the way cannot be read."""
        path = path_of(key)
        return faults.attempt(key, ZERO_SHA, partial(lookup, self.objects.items, root, path))

    def _below(self, faults: Faults) -> ReadBelow:
        """Reads the trees below a root that can be read."""

        def read(path: bytes, tree: ObjectID | None) -> Items | None:
            if tree is None:
                return {}
            return faults.attempt(key_of(path), tree, partial(self.objects.items, tree))

        return read

    def _start(self, root: ObjectID | None, start: str, faults: Faults) -> ObjectID | None:
        """The tree that begins with `start`; None too if it cannot be read."""

        def read() -> ObjectID | None:
            tree = subtree(self.objects.items, root, path_of(start)[:-1])
            self.objects.items(tree)
            return tree

        return faults.attempt(start, ZERO_SHA, read) if start else root

    def _files(
        self, selection: Selects, root: ObjectID | None, faults: Faults
    ) -> Iterator[tuple[str, ObjectID]]:
        items, matches, read_below = self.objects.items, selection.matches, self._below(faults)
        begins = _shortest(starts(selection))
        if not (selection.keys or begins):
            begins = [""]
        for start in begins:
            tree = self._start(root, start, faults)
            for below, item in walk(items, tree, path_of(start), read_below):
                key = key_of(below)
                if matches(key) and len(below) <= MAX_PATH:
                    yield key, item[1]
        for key in selection.keys:
            found = self._lookup(root, key, faults)
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
