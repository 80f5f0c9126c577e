"""Looks at a commit that go on where single objects cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from datastream.entry import Capability, Entry
from datastream.selection import Selects
from datastream.source import Reading, Summary
from datastream.sources.git.errors import Damaged
from datastream.sources.git.files import Files
from datastream.sources.git.handles import Handles
from datastream.sources.git.objects import State
from datastream.sources.git.unread import Faults, UnreadObjects, position

T = TypeVar("T")

LOOKS = 4
"""How often a commit is looked at until two looks agree on what cannot be read."""

Action = Callable[[Files, State, Faults], T]
"""Reads a state; `Faults` takes what cannot be read."""


class Looks:
    """Looks at the newest commit. Safe to use from several threads.

    Args:
        state: where the branch is now.
        accept: whether objects count as broken that did not before, which were looked for with
            handles of this generation; False to look once more.
        tell: called when something else cannot be read than before.
    """

    def __init__(
        self,
        handles: Handles,
        where: str,
        state: Callable[[Files], State],
        accept: Callable[[Faults, int], bool] = lambda *_: True,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        self._handles = handles
        self._where = where
        self._state = state
        self._accept = accept
        self._tell = tell
        self.unread = UnreadObjects(where)

    def __call__(self, action: Action[T]) -> tuple[T, Faults]:
        """What `action` returns, and what it could not read.

        What nobody knew of yet is believed after a second look with a handle of its own: a
        repository may be moved away, or packed anew, under the first one.

        Raises:
            Damaged: the commit or its root cannot be read, or the objects come and go.
        """
        before: frozenset[str] | None = None
        for _ in range(LOOKS):
            generation = self._handles.generation
            try:
                with self._handles.lend() as files:
                    found, faults = self._once(files, action, before, generation)
            except _Unsure as unsure:
                before = unsure.keys
            else:
                if self.unread.note(faults):
                    self._tell()
                return found, faults
        raise Damaged(f"{self._where}: objects come and go; see what git fsck says")

    def capabilities(self) -> Sequence[Capability]:
        """All keys that can be read, with their types."""
        found, faults = self(Files.capabilities)
        return [capability for capability in found if capability.key not in faults.found]

    def state(self, selection: Selects) -> Reading:
        """All that is selected."""

        def read(files: Files, state: State, faults: Faults) -> tuple[str, list[Entry]]:
            return state.position, files.entries(selection, state, faults)

        (commit, entries), faults = self(read)
        return Reading(entries, position(commit, faults.keys), True, unread=faults.keys)

    def get(self, key: str) -> Entry | None:
        """The entry of one key.

        Raises:
            Unreadable: it cannot be read.
        """
        entry, faults = self(lambda files, state, faults: files.get(state, key, faults))
        if key in faults.found:
            raise self.unread.error(key)
        return entry

    def contents(self, keys: Sequence[str]) -> Sequence[Entry]:
        """What `keys` hold; without what is gone, or cannot be read."""

        def read(files: Files, state: State, faults: Faults) -> list[Entry]:
            found = (files.get(state, key, faults) for key in keys)
            return [entry for entry in found if entry is not None]

        return self(read)[0]

    def summaries(self, selection: Selects) -> Sequence[Summary]:
        """All that is selected, without its contents."""
        return self(lambda files, state, faults: files.summaries(selection, state, faults))[0]

    def _once(
        self, files: Files, action: Action[T], before: frozenset[str] | None, generation: int
    ) -> tuple[T, Faults]:
        state = self._state(files)
        faults = Faults(self.unread, files.objects.signature)
        found = action(files, state, faults)
        if self.unread.faults:
            self._check_again(files, state, faults)
        if not self.unread.are_known(faults):
            if faults.keys != before:
                raise _Unsure(faults.keys)
            files.objects.confirm(self._state(files))
            if not self._accept(faults, generation):
                raise _Unsure(None)
        return found, faults

    def _check_again(self, files: Files, state: State, faults: Faults) -> None:
        """Add what earlier looks could not read, unless it can be read now, or is gone."""
        known = self.unread.faults
        left = known.keys() - faults.found.keys() - faults.settled
        if not self.unread.is_due(state):
            faults.found.update({key: known[key] for key in left})
            return
        for key in left:
            files.probe(state, key, known[key].object, faults)
        self.unread.checked(state)


class _Unsure(Damaged):
    """A first look found what cannot be read; its handle is used no more."""

    def __init__(self, keys: frozenset[str] | None) -> None:
        super().__init__("objects cannot be read")
        self.keys = keys
