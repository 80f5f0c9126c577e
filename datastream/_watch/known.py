"""The revisions that were published, and when: memory only; the publisher serialises calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from datastream._columns import EntryColumns, revisions_of
from datastream.entry import DELETE, Entry

REMEMBERED = 10_000
"""Keys, beyond the watched ones, of which it is remembered when they were last published."""


class Known:
    """The revision of every watched key that holds something, as all who have joined know it."""

    __slots__ = ("_floor", "_revisions", "_touched", "later", "version")

    def __init__(self) -> None:
        self._revisions: dict[str, str] = {}
        self.later: EntryColumns | None = None
        """The state that has these revisions, until somebody asks for one."""
        self.version = 0
        """Counts what was published."""
        # The version at which each key was last published; before `_floor`, not remembered.
        self._touched: dict[str, int] = {}
        self._floor = 0

    @property
    def revisions(self) -> dict[str, str]:
        if self.later is not None:
            self.finish(self.later, revisions_of(self.later))
        return self._revisions

    @property
    def keys(self) -> Collection[str]:
        """The keys that hold something."""
        return self._revisions.keys() if self.later is None else self.later.keys

    def begin(self, state: EntryColumns | dict[str, str]) -> None:
        """Know the state of the first that joins, or its revisions, and nothing else."""
        if isinstance(state, EntryColumns):
            self._revisions, self.later = {}, state
        else:
            self._revisions, self.later = state, None

    def finish(self, state: EntryColumns, revisions: dict[str, str]) -> None:
        """Take the revisions of the state of `begin`, and let go of that."""
        if self.later is state:
            self._revisions, self.later = revisions, None

    def learn(self, entry: Entry) -> None:
        """Know `entry`, which is published as part of `version`."""
        key = entry.key
        self._touched[key] = self.version
        if entry.operation is DELETE:
            self.revisions.pop(key, None)
            # Only deletes can make more keys touched than there are.
            self._trim()
        else:
            self.revisions[key] = entry.revision

    def learn_state(self, revisions: Mapping[str, str], is_known: Callable[[str], bool]) -> None:
        """Know the keys of a newcomer's state; not those that are known already, or come to all.

        Args:
            is_known: whether somebody else watches a key.
        """
        known = self.revisions
        for key, revision in revisions.items():
            if key not in known and not is_known(key):
                known[key] = revision

    def remembers(self, version: int) -> bool:
        """Whether it is known what was published after `version`."""
        return version >= self._floor

    def touched_since(self, version: int) -> frozenset[str]:
        """The keys published after `version`, which has to be remembered."""
        return frozenset(key for key, at in self._touched.items() if at > version)

    def is_touched(self, entries: Iterable[Entry], version: int) -> bool:
        """Whether one of these keys was, or may have been, published after `version`."""
        touched = self._touched
        return not self.remembers(version) or any(touched.get(e.key, 0) > version for e in entries)

    def forget(self, key: str) -> None:
        """Nobody watches `key` any more."""
        self.revisions.pop(key, None)
        self._touched.pop(key, None)

    def clear(self) -> None:
        """Nobody watches anything any more."""
        self.begin({})
        self._touched.clear()
        self._floor = self.version

    def _trim(self) -> None:
        if len(self._touched) > len(self.revisions) + REMEMBERED:
            self._touched.clear()
            self._floor = self.version
