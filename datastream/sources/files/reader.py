"""Looks at a directory that are whole: nothing was swapped, and no batch written, meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

from datastream.entry import Entry, deleted
from datastream.errors import KeyNotFound, SourceUnavailable, Unreadable, shown
from datastream.selection import Selects
from datastream.sources._common.file_types import SNIFFED, type_of
from datastream.sources._common.look import (
    Known,
    Look,
    Read,
    common_scope,
    fill,
    look,
    unread,
)
from datastream.sources.files.content import (
    Busy,
    Content,
    digest_file,
    is_of_one,
    read_file,
    read_pieces,
)
from datastream.sources.files.held import Held
from datastream.sources.files.staging import StagingArea
from datastream.sources.files.tree import Tree
from datastream.sources.files.walk import Walk, part_of

LOOKS = 10
"""How often a directory is read anew because it was swapped meanwhile."""
UNLOCKED = 3
"""How many of these looks make no writer wait."""

T = TypeVar("T")


class Reader:
    """Reads a directory; any thread may, beside all others.

    Args:
        tree: the directory.
        repairs: finish what a writer left that died; only those who may write can.
    """

    def __init__(self, tree: Tree, *, repairs: bool) -> None:
        self._tree = tree
        self._repairs = repairs

    def whole(self, action: Callable[[Walk], T]) -> T:
        """The result of `action`, run until what it saw is of one moment.

        Raises:
            SourceUnavailable: the directory is away, or changes too fast.
        """
        for attempt in range(LOOKS):
            with self._tree.hold() as held:
                staging = StagingArea(held)
                with _beside_writers(staging, attempt):
                    batch = staging.batch()
                    if batch is not None:
                        walk = Walk(self._tree, held, batch)
                        found = action(walk)
                        if self._is_still(walk, held):
                            return found
                if batch is None and attempt >= UNLOCKED and self._repairs:
                    # With all writers waiting it is half written still: its writer has died.
                    with suppress(OSError), staging.exclusive():
                        pass
        raise SourceUnavailable(
            f"{self._tree.path} is swapped again and again while it is read, or a process died "
            "while it wrote several files; the next one that opens it for writing finishes that"
        )

    def _is_still(self, walk: Walk, held: Held) -> bool:
        """Whether all that `walk` has met is still there, and no batch was written since."""
        return (
            StagingArea(held).batch() == walk.moment.batch
            and walk.links_hold(held)
            and self._tree.place() == walk.place
        )

    def get(self, key: str) -> Entry | None:
        """What one key holds.

        Raises:
            Unreadable: it cannot be read.
        """
        for _ in range(LOOKS):
            with self._tree.hold() as held:
                self._finish_dead(StagingArea(held))
                content = self._content(held, key)
            if content is not None:
                return content.entry(key)
            # Nothing is there; or the directory has just been moved away.
            if self._tree.place() == held.place:
                return None
        raise SourceUnavailable(f"{self._tree.path} is swapped again and again while it is read")

    def _content(self, held: Held, key: str) -> Content | None:
        try:
            name = Walk(self._tree, held, "").name_of(key)
            return None if name is None else read_file(held, name)
        except (OSError, Busy) as error:
            reason = _reason(error, held)
            text = f"{shown(key)} in {self._tree.path} cannot be read: {reason}"
            raise Unreadable(text) from error

    def digest(self, key: str, algorithm: str) -> str:
        """The digest of one content, read in pieces; "" if it is not there, or changes."""
        with self._tree.hold() as held:
            self._finish_dead(StagingArea(held))
            try:
                name = Walk(self._tree, held, "").name_of(key)
                return "" if name is None else digest_file(held, name, algorithm)
            except OSError as error:
                _reason(error, held)
                return ""

    def pieces(self, key: str) -> Iterator[bytes]:
        """One content in pieces; nothing if it is not there."""
        with self._tree.hold() as held:
            self._finish_dead(StagingArea(held))
            name = Walk(self._tree, held, "").name_of(key)
            if name is None:
                raise KeyNotFound(f"{self._tree.path} holds nothing at {shown(key)} any more")
            yield from read_pieces(held, name)

    def look(self, walk: Walk, selection: Selects, known: Known) -> Look:
        """Look at all of `selection`."""
        listing, read = walk.selected(selection), self.reading(walk)
        found = look(part_of(selection), listing, selection, known, read)
        if self._tree.unread:
            scope = common_scope(selection)
            listed = found.seen.keys() | found.unread.keys()
            self._tree.unread.keep(
                listed, lambda key: key.startswith(scope) and selection.matches(key)
            )
        return found

    def reading(self, walk: Walk) -> Read:
        """A function that reads the contents of keys."""
        return lambda keys: [self._entry(walk, key) for key in keys]

    def load(
        self, listed: Walk, loaded: Mapping[str, Entry], entries: Sequence[Entry]
    ) -> list[Entry]:
        """Read what was listed.

        Raises:
            SourceUnavailable: it does not go together with what was listed any more.
        """
        with self._tree.hold() as held:
            walk = Walk(self._tree, held, listed.moment.batch)
            filled = fill(loaded, self.reading(walk), entries)
            as_listed = {(entry.key, entry.revision) for entry in entries}
            is_other = any((entry.key, entry.revision) not in as_listed for entry in filled)
            if is_other and not self._is_still(listed, held):
                raise SourceUnavailable(f"{self._tree.path} was swapped while it was read")
        return filled

    def types(self, walk: Walk, keys: Sequence[str]) -> dict[str, str]:
        """The types of contents, by their first bytes."""
        types = {}
        for key in keys:
            try:
                start = walk.read_start(key, SNIFFED)
            except OSError as error:
                self._tree.unread.add(key, _reason(error, walk.held))
            else:
                self._tree.unread.discard(key)
                if start is not None:
                    types[key] = type_of(key, *start)
        return types

    def _entry(self, walk: Walk, key: str) -> Entry:
        """What `key` holds, `unread` if it cannot be read."""
        try:
            content = walk.read(key)
        except (OSError, Busy) as error:
            self._tree.unread.add(key, _reason(error, walk.held))
            return unread(key)
        self._tree.unread.discard(key)
        return deleted(key) if content is None else content.entry(key)

    def _finish_dead(self, staging: StagingArea) -> None:
        """Finish what a dead writer began; one that is alive is not waited for."""
        if self._repairs and staging.interrupted():
            with suppress(OSError, SourceUnavailable), staging.exclusive(timeout=0):
                pass


def _beside_writers(staging: StagingArea, attempt: int) -> AbstractContextManager[None]:
    return staging.shared() if attempt >= UNLOCKED else nullcontext()


def _reason(error: OSError | Busy, held: Held) -> str:
    """Why one file cannot be read; raises what concerns all of them."""
    if not isinstance(error, OSError):
        return str(error)
    if not is_of_one(error):
        raise error
    held.check_entered()
    return error.strerror or str(error)
