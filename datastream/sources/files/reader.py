"""Looks at a directory that are whole: nothing was swapped, and no batch written, meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

from datastream.entry import Entry, deleted
from datastream.errors import SourceUnavailable, shown
from datastream.selection import Selects
from datastream.sources._common.file_types import SNIFFED, type_of
from datastream.sources._common.look import Known, Look, Read, fill, is_unread, look
from datastream.sources.files.content import Busy, read_file, read_start
from datastream.sources.files.staging import StagingArea
from datastream.sources.files.tree import Moment, Tree
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
        last: what a key held when it could be read.
        repairs: finish what a writer left that died; only those who may write can.
    """

    def __init__(self, tree: Tree, last: Known, *, repairs: bool) -> None:
        self._tree = tree
        self._last = last
        self._repairs = repairs

    def whole(self, action: Callable[[Walk], T]) -> T:
        """The result of `action`, run until what it saw is of one moment.

        Raises:
            SourceUnavailable: the directory is away, or changes too fast.
        """
        for attempt in range(LOOKS):
            place = self._tree.place()
            staging = StagingArea(place.root)
            with _beside_writers(staging, attempt):
                batch = staging.batch()
                if batch is not None:
                    walk = Walk(self._tree, Moment(place, batch))
                    found = action(walk)
                    if self.is_still(walk):
                        return found
            if batch is None and attempt >= UNLOCKED and self._repairs:
                # With all writers waiting it is half written still: its writer has died.
                with suppress(OSError), staging.exclusive():
                    pass
        raise SourceUnavailable(
            f"{self._tree.path} is swapped again and again while it is read, or a process died "
            "while it wrote several files; the next one that opens it for writing finishes that"
        )

    def is_still(self, walk: Walk) -> bool:
        """Whether all that `walk` has met is still there, and no batch was written since."""
        return (
            StagingArea(walk.place.root).batch() == walk.moment.batch
            and walk.links_hold()
            and self._tree.place() == walk.place
        )

    def get(self, key: str) -> Entry | None:
        """What one key holds.

        Raises:
            PermissionError, Busy: it cannot be read.
        """
        for _ in range(LOOKS):
            place = self._tree.place()
            self._finish_dead(StagingArea(place.root))
            path = Walk(self._tree, Moment(place, "")).path_of(key)
            content = None if path is None else read_file(path)
            if content is not None:
                return content.entry(key)
            # Nothing is there; or the directory has just been moved away.
            if self._tree.place() == place:
                return None
        raise SourceUnavailable(f"{self._tree.path} is swapped again and again while it is read")

    def look(self, walk: Walk, selection: Selects, known: Known, *, strict: bool = False) -> Look:
        """Look at all of `selection`. With `strict`, a file that cannot be read is an error."""
        read = self.reading(walk, strict=strict)
        return look(part_of(selection), walk.selected(selection), selection, known, read)

    def reading(self, walk: Walk, *, strict: bool = False) -> Read:
        """A function that reads the contents of keys."""
        if strict:
            return lambda keys: [_entry(walk, key) for key in keys]
        return lambda keys: [self._entry_or_last(walk, key) for key in keys]

    def load(
        self, listed: Walk, loaded: Mapping[str, Entry], entries: Sequence[Entry]
    ) -> list[Entry]:
        """Read what was listed.

        Raises:
            SourceUnavailable: it does not go together with what was listed any more.
        """
        filled = fill(loaded, self.reading(Walk(self._tree, listed.moment)), entries)
        pairs = zip(entries, filled, strict=True)
        if any(old.revision != new.revision for old, new in pairs) and not self.is_still(listed):
            raise SourceUnavailable(f"{self._tree.path} was swapped while it was read")
        # Watchers that had it before keep it; a newcomer has to wait.
        self.check_read(filled)
        return filled

    def check_read(self, entries: Sequence[Entry]) -> None:
        """Refuse what could be read before and cannot be now."""
        unread = next((entry for entry in entries if is_unread(entry)), None)
        if unread is not None:
            raise SourceUnavailable(
                f"{shown(unread.key)} in {self._tree.path} could be read before and cannot be now"
            )

    def types(self, walk: Walk, keys: Sequence[str]) -> dict[str, str]:
        """The types of contents, told from their beginnings."""
        types = {}
        for key in keys:
            path = walk.path_to_read(key)
            # One that may not be read, and whose name does not tell, has none.
            with suppress(PermissionError):
                start = None if path is None else read_start(path, SNIFFED)
                if start is not None:
                    types[key] = type_of(key, *start)
        return types

    def _entry_or_last(self, walk: Walk, key: str) -> Entry:
        """What `key` holds; as it was, if it cannot be read now; left out, if it never could."""
        try:
            return _entry(walk, key)
        except (PermissionError, Busy) as error:
            last = self._last(key)
            if last is not None:
                return Entry(key, b"", "", None, last.revision)
            if isinstance(error, PermissionError):
                self._tree.warn(key, f"{error.filename} cannot be read and is left out")
            return deleted(key)

    def _finish_dead(self, staging: StagingArea) -> None:
        """Finish what a dead writer began; one that is alive is not waited for."""
        if self._repairs and staging.interrupted():
            with suppress(OSError, SourceUnavailable), staging.exclusive(timeout=0):
                pass


def _beside_writers(staging: StagingArea, attempt: int) -> AbstractContextManager[None]:
    return staging.shared() if attempt >= UNLOCKED else nullcontext()


def _entry(walk: Walk, key: str) -> Entry:
    content = walk.read(key)
    return deleted(key) if content is None else content.entry(key)
