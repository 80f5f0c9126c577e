"""Writing what a mirror has to write, and finding out what its target cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import eq

from datastream._columns import EntryColumns, revisions_of
from datastream._puts import Puts
from datastream.entry import DELETE, Entry
from datastream.errors import InvalidKey, InvalidValue, shown
from datastream.source import Feature, Write
from datastream.store import Store

MANY = 100_000
"""Keys whose refusal is remembered."""
REMEMBERED = 50_000
"""Keys of which it is remembered what was left there."""


class Target:
    """The store that a mirror writes.

    Args:
        store: the store.
        types: the source keeps types too.
    """

    def __init__(self, store: Store, *, types: bool) -> None:
        self.store = store
        self._types = types
        self._left: dict[str, str] = {}
        self._just: list[EntryColumns] = []
        self.refused: dict[str, str] = {}
        """What the target cannot hold, and why."""
        self.altered: dict[str, str] = {}
        """What the target holds otherwise than it was given, such as JSON in another spelling."""
        self.puts = self.deletes = self.batches = 0

    @property
    def is_atomic(self) -> bool:
        return Feature.ATOMIC in self.store.features

    @property
    def can_expect(self) -> bool:
        return Feature.COMPARE_AND_SET in self.store.features

    @property
    def left(self) -> dict[str, str]:
        """The revisions that this mirror left at keys; "" for those it deleted."""
        # Of very many entries they take as long to make as these to write, and are asked for later.
        while self._just:
            revisions = revisions_of(self._just[0])
            for key in self._left.keys() & revisions.keys():
                del self._left[key]
            self._left.update(revisions)
            del self._just[0]
        return self._left

    def write(self, writes: Sequence[Write], place: Callable[[], Write] | None = None) -> None:
        """Write, in one transaction where the target has them; what it cannot hold is left out.

        Args:
            writes: each key once.
            place: makes what goes with them, once it is known what is left out.

        Raises:
            RevisionConflict: a key is not as the write expects; nothing of the batch was written.
        """
        left_out: set[str] = set()
        while True:
            rest = _without(writes, left_out)
            together = [] if place is None else [place()]
            if not rest and not together:
                return
            try:
                self._write(rest, together)
                return
            except (InvalidKey, InvalidValue) as error:
                if not rest:
                    raise
                self._leave_out(rest, error, left_out)

    def _write(self, writes: Sequence[Write], together: Sequence[Write]) -> None:
        stored = self.store._write([*writes, *together] if together else writes)
        self.batches += 1
        given = writes.entries if isinstance(writes, Puts) else None
        if given and isinstance(stored, EntryColumns) and self._is_just(given, stored):
            self.puts += len(stored)
            self._just.append(stored)
            return
        for write, entry in zip(writes, stored, strict=False):
            self._wrote(write, entry)

    def _is_just(self, given: EntryColumns, stored: EntryColumns) -> bool:
        """Whether all is held as it was given, and was never held otherwise."""
        return (
            not (self.refused or self.altered)
            and all(map(eq, stored.values, given.values))
            and (not self._types or all(map(eq, stored.types, given.types)))
        )

    def _wrote(self, write: Write, entry: Entry) -> None:
        key = write.key
        self.take(key, entry)
        # Of very many, few if any are there.
        if self.refused or self.altered:
            self.refused.pop(key, None)
            self.altered.pop(key, None)
        if entry.operation is DELETE:
            self.deletes += 1
            return
        self.puts += 1
        if entry.value != write.value:
            self.altered[key] = "the target spells the value otherwise"
        elif self._types and entry.value_type != write.value_type:
            self.altered[key] = f"{write.value_type} became {entry.value_type}"

    def _leave_out(self, writes: Sequence[Write], error: Exception, left_out: set[str]) -> None:
        """Find out which write the target refuses: mostly its error names it."""
        named = [write for write in writes if shown(write.key) in str(error)]
        for write in [*named, *(write for write in writes if write not in named)]:
            # Alone, for the sake of the others: a transaction with it would fail again.
            reason = self._try(write) if len(writes) > 1 else str(error)
            left_out.add(write.key)
            if reason:
                self.refuse(write.key, reason)
                return

    def _try(self, write: Write) -> str:
        try:
            self._write([write], [])
        except (InvalidKey, InvalidValue) as error:
            return str(error)
        return ""

    def refuse(self, key: str, reason: str) -> None:
        """Take in that the target cannot hold a key."""
        if len(self.refused) < MANY:
            self.refused[key] = reason

    def forget_gone(self, writes: Sequence[Write]) -> None:
        """Nothing is to be held at the keys that these were to remove, whether they were or not."""
        if self.refused or self.altered:
            for key in [write.key for write in writes if write.value is None]:
                self.refused.pop(key, None)
                self.altered.pop(key, None)

    def is_as_left(self, key: str, entry: Entry | None) -> bool:
        """Whether a key holds what was left there, as far as that is known."""
        return self.left.get(key) == ("" if entry is None else entry.revision)

    def take(self, key: str, entry: Entry | None) -> None:
        """Take what the target holds at a key for what was left there."""
        # The newest last: the oldest are forgotten first.
        if key in self.left:
            del self.left[key]
        self.left[key] = "" if entry is None else entry.revision

    def forget(self, unconfirmed: Collection[str]) -> None:
        """Remember less, if it is much: what a watch has confirmed is asked for again."""
        if len(self.left) > 2 * REMEMBERED:
            for key in list(self.left)[:REMEMBERED]:
                if key not in unconfirmed:
                    del self.left[key]

    @property
    def degraded(self) -> str:
        """What the target does not hold as the source does; "" if it holds all."""
        texts = []
        if self.refused:
            key, reason = next(iter(self.refused.items()))
            texts.append(f"{len(self.refused)} keys cannot be held, such as {shown(key)}: {reason}")
        if self.altered:
            key, reason = next(iter(self.altered.items()))
            texts.append(f"{len(self.altered)} values are held otherwise, {shown(key)}: {reason}")
        return "; ".join(texts)


def _without(writes: Sequence[Write], keys: Collection[str]) -> Sequence[Write]:
    """Those of other keys."""
    if not keys:
        return writes
    return [write for write in writes if write.key not in keys]
