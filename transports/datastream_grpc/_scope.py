"""What of one request is answered to one principal, as if there were nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

from datastream import Batch, Capability, Store, Unreadable
from datastream.aio import AsyncWatch
from datastream.entry import deleted
from datastream.selection import Selection
from datastream_grpc._limits import Charged
from datastream_grpc._narrow import EVERYTHING, may_hold, narrowed, nothing
from datastream_grpc._principal import NOBODY, Principal

MARK = "~"
"""Parts a store's cursor from what its reader might read: another right is another stream."""


class Scope:
    """What of a request is answered.

    Args:
        keys, match: what is asked for, as `Store.watch` takes it.
        asked: the same; None where nothing is restricted.
        right: what the principal may read of the store; None for nothing.
        principal: who asks.
    """

    def __init__(
        self,
        keys: Sequence[str],
        match: Sequence[str],
        asked: Selection | None = None,
        right: Selection | None = EVERYTHING,
        principal: Principal = NOBODY,
    ) -> None:
        self.asked = asked
        self.principal = principal
        self.is_current = True
        """False once the principal may read something else than when this was made."""
        self.may_write = True
        """Whether the principal may write anything."""
        self._keys, self._match = keys, match
        self._exclude: Collection[str] = ()
        self._right = nothing() if right is None else right
        self._is_exact = True
        self.mark = ""
        """What tells this right from others; "" for everything."""
        if asked is not None and self._right != EVERYTHING:
            self.mark = mark_of(right)
            both, self._is_exact = narrowed(asked, self._right)
            self._keys, self._match = [*both.keys, *both.prefixes], [*both.patterns]
            self._exclude = both.exclude

    def snapshot(self, store: Store, *, partial: bool) -> Batch:
        """The state, as `Store.snapshot_batch` gives it."""
        keys, match, exclude = self._keys, self._match, self._exclude
        if partial or self._is_exact:
            batch = store.snapshot_batch(*keys, match=match, exclude=exclude, partial=partial)
            return self.shown(batch)
        # What may not be read must not make it fail, either.
        batch = self.shown(store.snapshot_batch(*keys, match=match, exclude=exclude, partial=True))
        asked = self.asked or EVERYTHING
        if not batch.entries and any(map(asked.matches, batch.unread)):
            raise Unreadable("nothing of what is selected can be read")
        return batch

    def capabilities(self, store: Store) -> Sequence[Capability]:
        """The keys that may be read."""
        found = store.capabilities()
        if not self.mark:
            return found
        return [one for one in found if self._right.matches(one.key)]

    def may_read(self, key: str) -> bool:
        """Whether the principal may read a key."""
        return not self.mark or self._right.matches(key)

    def watch(
        self,
        store: Store,
        since: str | Mapping[str, str] | None,
        *,
        transient: bool,
        lacking: Collection[str],
        charge: Charged | None = None,
    ) -> AsyncWatch[Batch]:
        """A watch of it; its batches are to be `shown`."""
        return store.awatch_batches(
            *self._keys,
            match=self._match,
            exclude=self._exclude,
            since=since,
            transient=transient,
            lacking=lacking,
            charge=charge,
        )

    def replayed(self, store: Store, since: str | None) -> Iterator[Batch]:
        """The past of it."""
        keys, match, exclude = self._keys, self._match, self._exclude
        batches = store.replayed(*keys, match=match, exclude=exclude, since=since)
        return _with_entries(map(self.shown, batches)) if self.mark else batches

    def cursor_of(self, since: str) -> str | None:
        """The store's cursor of one that was given out for this right; None for another."""
        if not self.mark:
            return since
        return since.removesuffix(self.mark) if since.endswith(self.mark) else None

    def lost(self, revisions: Mapping[str, str]) -> Batch:
        """DELETEs of what somebody has from before, and may not read any more."""
        asked, right = self.asked, self._right
        if asked is None or not self.mark:
            return Batch()
        gone = (key for key in revisions if asked.matches(key) and not right.matches(key))
        return Batch(tuple(map(deleted, gone)))

    def shown(self, batch: Batch) -> Batch:
        """A batch of the store as the principal may see it."""
        if not self.mark:
            return batch
        entries = batch.entries
        if not self._is_exact:
            entries = tuple(entry for entry in entries if self._right.matches(entry.key))
        if not entries:
            # Who made a change that is not shown, and why, is not shown either.
            batch = replace(batch, author="", message="", point="")
        return replace(
            batch,
            entries=entries,
            cursor=batch.cursor and f"{batch.cursor}{self.mark}",
            created=batch.created.intersection(entry.key for entry in entries),
            unread=frozenset(key for key in batch.unread if may_hold(self._right, key)),
        )


def _with_entries(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches less those without entries, whose number would tell of what is not shown.

    The first is a state, and the cursor of the last one is where a watch goes on.
    """
    last: Batch | None = None
    for batch in batches:
        if batch.entries or batch.initial:
            yield batch
            last = None
        else:
            last = batch
    if last is not None:
        yield last


def mark_of(right: Selection | None) -> str:
    """What tells a right from others; "" for everything."""
    if right == EVERYTHING:
        return ""
    parts = [] if right is None else [right.keys, right.prefixes, right.patterns, right.exclude]
    text = repr([sorted(part) for part in parts])
    return MARK + blake2b(text.encode(), digest_size=6).hexdigest()
