"""What the layers hold and what of it is visible: memory only, no I/O, no threads.

The table takes in the batches of each layer, finds out which keys look different now, and counts.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import NamedTuple

from datastream._overlay.position import Place, spell, spell_cursor
from datastream._overlay.tombstone import visible
from datastream._watch.diff import changed_back
from datastream.entry import DELETE, Batch, Entry, deleted
from datastream.selection import NOTHING, Selection, Selects, selected
from datastream.source import Reading, Written, is_below

REMEMBERED = 50_000
"""Changes a table remembers; a reader that missed more gets the full state again."""


CONCEALED = Entry("")
"""In place of an entry, where a layer holds what it cannot read."""


class _Changed(NamedTuple):
    """A key that looked different from some count on."""

    sequence: int
    key: str
    before: str | None
    """The revision that was visible until then; "" for none, None where it was concealed."""


class Mark:
    """A moment of a table, for one who asks the layers from then on.

    Args:
        sequence: what the table had counted.
        layers: how many there are.
    """

    def __init__(self, sequence: int, layers: int) -> None:
        self.sequence = sequence
        self.held: tuple[dict[str, Entry | None], ...] = tuple({} for _ in range(layers))
        """By layer, what it held at that moment of the keys that have changed since."""


class Table:
    """The merged state of some layers.

    Args:
        layers: how many.
        selection: which keys the layers give.
    """

    def __init__(self, layers: int, selection: Selection) -> None:
        self.epoch = secrets.token_hex(4)
        self.selection = selection
        self._lock = threading.Lock()
        self._held: tuple[dict[str, Entry], ...] = tuple({} for _ in range(layers))
        self._joined = [False] * layers
        # By layer, what it holds and cannot read: nobody knows what is visible there.
        self._unread: list[frozenset[str]] = [NOTHING] * layers
        self._visible: dict[str, Entry] = {}
        # Keys of which an unread one of an upper layer hides what lower ones hold.
        self._concealed: set[str] = set()
        self._cursors = [""] * layers
        # The same, as a position has them.
        self._spelled = list(map(spell_cursor, self._cursors))
        self._sequence = 0
        self._position = spell(self.epoch, 0, self._cursors)
        self._log: deque[_Changed] = deque()
        self._floor = 0
        # The last batch, with its author and message.
        self._last: Batch = Batch()
        # Of those who ask the layers just now.
        self._marks: list[Mark] = []

    def covers(self, selection: Selects) -> bool:
        """Whether the layers give all keys of `selection`."""
        return covers(self.selection, selection)

    def has_joined(self, layer: int) -> bool:
        """Whether the layer has given its state."""
        return self._joined[layer]

    def knows(self, layer: int, key: str) -> bool:
        """Whether it is known what the layer held of a key, if only that it held nothing."""
        return self._joined[layer] and self.selection.matches(key)

    def held(self, layer: int, key: str) -> Entry | None:
        """What a layer held of a key, when it was last heard of."""
        return self._held[layer].get(key)

    def last_of(self, layer: int) -> Batch | None:
        """All that a layer held when it was last heard of; None if it never was."""
        with self._lock:
            if not self._joined[layer]:
                return None
            held, unread = tuple(self._held[layer].values()), self._unread[layer]
            return Batch(held, self._cursors[layer], initial=True, unread=unread)

    # What the layers give.

    def apply(self, layer: int, batch: Batch) -> Written | None:
        """Take in a batch of a layer, the first one as its whole state.

        Returns:
            What looks different by it; None for a whole state, which polls compare.
        """
        with self._lock:
            held = self._held[layer]
            since = self._position
            is_state = batch.initial or batch.reset
            if is_state:
                keys: Iterable[str] = self._replace(layer, batch)
            else:
                if self._marks:
                    self._remember(layer, (entry.key for entry in batch.entries))
                keys = _update(held, batch)
                if self._unread[layer]:
                    self._unread[layer] -= {entry.key for entry in batch.entries}
            self._joined[layer] = True
            self._cursors[layer] = batch.cursor
            self._spelled[layer] = spell_cursor(batch.cursor)
            self._count()
            self._last = batch
            news = [entry for key in keys if (entry := self._look_at(key)) is not None]
            while len(self._log) > REMEMBERED:
                self._floor = self._log.popleft().sequence
            if is_state:
                return None
            return Written(news, self._position, since, batch.author, batch.message)

    def begin(self) -> None:
        """All layers have joined: what came until now is the state, and no change."""
        with self._lock:
            self._log.clear()
            self._floor = self._sequence

    def forget(self) -> None:
        """Answer all who stand at an earlier position with the whole state."""
        with self._lock:
            self._count()
            self._log.clear()
            self._floor = self._sequence

    def set_unread(self, layer: int, unread: frozenset[str]) -> None:
        """Know what a layer cannot read by now."""
        with self._lock:
            before, self._unread[layer] = self._unread[layer], unread
            if before != unread:
                self._look_below(before | unread)

    def _replace(self, layer: int, batch: Batch) -> Iterable[str]:
        held, unread = self._held[layer], batch.unread
        before = dict(held)
        if self._marks:
            self._remember(layer, before.keys() | {entry.key for entry in batch.entries})
        held.clear()
        # What cannot be read just now is as it was.
        held.update((key, old) for key, old in before.items() if is_below(key, unread))
        held.update((entry.key, entry) for entry in batch.entries)
        concealing = self._unread[layer] | unread
        self._unread[layer] = unread
        changed = {**before, **held}
        return changed | self._below(concealing) if concealing else changed

    def _remember(self, layer: int, keys: Iterable[str]) -> None:
        """Keep what a layer holds of keys that change now, for those who ask the layers."""
        held = self._held[layer]
        for key in keys:
            entry = held.get(key)
            for mark in self._marks:
                mark.held[layer].setdefault(key, entry)

    def _below(self, places: frozenset[str]) -> dict[str, None]:
        """The keys that any layer holds among these, or below them."""
        return {key: None for held in self._held for key in held if is_below(key, places)}

    def _look_below(self, places: frozenset[str]) -> None:
        self._count()
        # Nobody made this change.
        self._last = Batch()
        for key in self._below(places):
            self._look_at(key)

    def _count(self) -> None:
        """Stand at the next position."""
        self._sequence += 1
        self._position = f"{self.epoch}:{self._sequence}:{''.join(self._spelled)}"

    def _look_at(self, key: str) -> Entry | None:
        """Find out what of `key` is visible; that, if it looks different."""
        before, now = self._visible.get(key), self._top(key)
        was_concealed = key in self._concealed
        if now is CONCEALED:
            # Readers who have something keep it; nobody is told that it is gone.
            self._visible.pop(key, None)
            self._concealed.add(key)
            return None
        self._concealed.discard(key)
        if now is None:
            if before is None and not was_concealed:
                return None
            self._visible.pop(key, None)
        else:
            self._visible[key] = now
            if before is not None and before.revision == now.revision:
                return None
        until = None if was_concealed else before.revision if before is not None else ""
        self._log.append(_Changed(self._sequence, key, until))
        return now or deleted(key)

    def _top(self, key: str) -> Entry | None:
        for layer, held in enumerate(self._held):
            entry = held.get(key)
            if entry is not None:
                return visible(entry)
            if self._unread[layer] and is_below(key, self._unread[layer]):
                return CONCEALED
        return None

    def _unread_now(self) -> frozenset[str]:
        """What is visible of nobody knows what."""
        found = NOTHING.union(*self._unread)
        return found - self._visible.keys() if found else found

    # What the overlay reads.

    @property
    def sequence(self) -> int:
        """How many batches it has taken in."""
        return self._sequence

    def mark(self) -> tuple[str, int]:
        """Position and count, of one moment."""
        with self._lock:
            return self._position, self._sequence

    def state(self, selection: Selects) -> Reading:
        """What is visible of `selection`."""
        with self._lock:
            entries = selected(self._visible, selection)
            unread = self._unread_now()
            return Reading(entries, self._position, complete=True, unread=unread)

    def changes(self, since: str, sequence: int) -> Reading | None:
        """What looks different since a position, which stands for an earlier count.

        None if that is not remembered.
        """
        with self._lock:
            if sequence == self._sequence:
                return Reading((), since, complete=False)
            if not self._floor <= sequence <= self._sequence:
                return None
            before = self._changed_since(sequence)
            entries = [self._now(key) for key in before]
            created = frozenset(key for key, revision in before.items() if revision == "")
            had = {key: revision for key, revision in before.items() if revision}
            reading = Reading(entries, self._position, False, created=created, before=had)
            if sequence + 1 == self._sequence and (self._last.author or self._last.message):
                return reading._replace(author=self._last.author, message=self._last.message)
            return reading

    @contextmanager
    def marking(self) -> Iterator[Mark]:
        """Around asking the layers and `resumed`: what they held now is known until the end."""
        with self._lock:
            mark = Mark(self._sequence, len(self._held))
            self._marks.append(mark)
        try:
            yield mark
        finally:
            with self._lock:
                self._marks.remove(mark)

    def resumed(
        self, mark: Mark, readings: Sequence[Reading], place: Place, *, keep: bool = True
    ) -> Reading | None:
        """What looks different since a position of another table.

        Args:
            mark: from before the layers were asked.
            readings: for each layer, what changed since its cursor in `place`.
            place: the position.
            keep: give it back where nothing differs; else the answer has one of this table.
        """
        changed = [{e.key: e.key in read.created for e in read.entries} for read in readings]
        with self._lock:
            if not self._floor <= mark.sequence <= self._sequence:
                return None
            later = self._changed_since(mark.sequence)
            keys = {key for keys in changed for key in keys}
            news = [key for key in keys if key in later or self._is_news(key, changed, mark)]
            news += [key for key in later if key not in keys]
            created = {key for key in keys if self._held_nothing(key, changed, mark)}
            created.update(k for k, before in later.items() if before == "" and k not in keys)
            entries = [self._now(key) for key in news]
            position = self._position if entries or not keep else spell(*place)
            author, message = self._about(mark.sequence, readings)
            back = list(map(changed_back, readings))
            same = {k for k in keys - later.keys() if self._is_same(k, changed, back, mark)}
            return Reading(
                entries,
                position,
                complete=False,
                author=author,
                message=message,
                created=frozenset(created),
                before={e.key: e.revision for e in entries if e.revision and e.key in same},
            )

    def _about(self, sequence: int, readings: Sequence[Reading]) -> tuple[str, str]:
        """Who made what has changed, and why, if it is one change of one layer.

        A batch that came since the layers were asked may be the very change they told of.
        """
        made = [(reading.author, reading.message) for reading in readings if reading.entries]
        if sequence != self._sequence:
            made.append((self._last.author, self._last.message))
        is_one = made and sequence + 1 >= self._sequence and made.count(made[0]) == len(made)
        return made[0] if is_one else ("", "")

    # What a layer held when it was asked, and had not changed since the cursor, it held at both:
    # that is asked of the mark, since by now it may hold something else.

    def _is_news(self, key: str, changed: Sequence[Mapping[str, bool]], mark: Mark) -> bool:
        """Whether a layer changed `key` that is not hidden by one above that did not."""
        for layer, keys in enumerate(changed):
            if key in keys:
                return True
            if self._held_at(mark, layer, key) is not None:
                return False
        return False

    def _is_same(
        self,
        key: str,
        changed: Sequence[Mapping[str, bool]],
        back: Sequence[Set[str]],
        mark: Mark,
    ) -> bool:
        """Whether the layer that shows `key` has it unchanged, and none above has changed it."""
        for layer, (keys, same) in enumerate(zip(changed, back, strict=True)):
            if key in keys and key not in same:
                return False
            if self._held_at(mark, layer, key) is not None:
                return True
        return False

    def _held_nothing(self, key: str, changed: Sequence[Mapping[str, bool]], mark: Mark) -> bool:
        """Whether nothing of `key` was visible at the cursor."""
        for layer, keys in enumerate(changed):
            held = None if key in keys else self._held_at(mark, layer, key)
            if not keys.get(key, True) or held is not None:
                return held is not None and visible(held) is None
        return True

    def _held_at(self, mark: Mark, layer: int, key: str) -> Entry | None:
        """What a layer held of `key` at a mark."""
        earlier = mark.held[layer]
        return earlier[key] if key in earlier else self._held[layer].get(key)

    def _changed_since(self, sequence: int) -> dict[str, str | None]:
        """The keys that changed since a count, in order, with the revisions visible then."""
        before: dict[str, str | None] = {}
        for changed in reversed(self._log):
            if changed.sequence <= sequence:
                break
            before[changed.key] = changed.before
        return dict(reversed(before.items())) if len(before) > 1 else before

    def _now(self, key: str) -> Entry:
        return self._visible.get(key) or deleted(key)

    def written(self, since: str, sequence: int, entries: Sequence[Entry]) -> Written | None:
        """What a write of this process brought, if nothing else lies between.

        Args:
            since, sequence: where the table was before the write.
            entries: as the write leaves them.
        """
        with self._lock:
            if self._sequence != sequence + 1:
                return None
            revisions = {entry.key: entry.revision for entry in entries}
            for changed in reversed(self._log):
                if changed.sequence <= sequence:
                    break
                if changed.key not in revisions:
                    return None
            seen = self._visible
            for key, revision in revisions.items():
                if revision != (seen[key].revision if key in seen else ""):
                    return None
            last = self._last
            return Written(entries, self._position, since, last.author, last.message)


def covers(mine: Selection, selection: Selects) -> bool:
    """Whether all keys that `selection` selects are keys of `mine`."""
    if mine.everything:
        return True
    if not (selection.keys or selection.prefixes or selection.patterns):
        return False
    return (
        selection.patterns <= mine.patterns
        and selection.prefixes <= mine.prefixes
        and (selection.keys <= mine.keys or all(map(mine.matches, selection.keys)))
    )


def _update(held: dict[str, Entry], batch: Batch) -> Iterator[str]:
    for entry in batch.entries:
        if entry.operation is DELETE:
            held.pop(entry.key, None)
        else:
            held[entry.key] = entry
        yield entry.key
