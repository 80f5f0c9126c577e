"""What a mirror knows of its target: what it left there, what others may have written, how far."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import partial

from datastream._columns import keys_of, matching, revisions_of
from datastream._identity import spoken
from datastream._mirror.entries import same, visible
from datastream._mirror.plan import Conflict, Plan, Refused, Rules, keys_to, resolve, write_of
from datastream._mirror.progress import Place, Progress
from datastream._mirror.target import Target
from datastream.entry import Batch, Entry, deleted
from datastream.errors import DatastreamError
from datastream.selection import is_reserved
from datastream.source import Write

MOST_WRITTEN = 10_000
"""Own writes that the place names; of more, the whole target is compared after a restart."""
MOST_REFUSED = 10_000
"""Keys that the target could not hold which the place names; of more, both stores are compared."""
MOST_EXTRA = 1_000
"""Keys of others beside those of the source, without deletes, that the place names."""
CHUNK = 5_000
"""Keys that are judged at once."""

log = logging.getLogger("datastream")


class Claim(IntEnum):
    """Why what the target holds at a suspected key may be the mirror's own; the greater counts."""

    NONE = 0
    DECIDED = 1
    """This process has decided it: its own, if it is as it was left."""
    REFUSED = 2
    """The target could not hold it until now: its own, unless others are seen to write it."""
    UNREAD = 3
    """It could not be read when both stores were compared, and nobody else has written it."""
    WRITTEN = 4
    """An earlier process may have written it last."""


class Ledger:
    """The memory of one mirror; used by its thread alone.

    Args:
        target: is written.
        rules: what the mirror may do.
        place: where progress is kept.
        begun: the progress of a mirror that has not done anything.
    """

    def __init__(self, target: Target, rules: Rules, place: Place, begun: Progress) -> None:
        self._target = target
        self._rules = rules
        self._place = place
        self.progress = begun
        self.is_ours = False
        """The target holds what this mirror has put there, perhaps in an earlier process."""
        self._was_ours = False
        """So it was before both stores were compared."""
        self.is_saved = True
        self.suspects: dict[str, Claim] = {}
        """Keys of the target that others may have written, and what speaks for the mirror."""
        self.judged: set[str] = set()
        """Keys of which that was decided. What the source held then may be ahead of its watch,
        which does not tell of a key that came and went since: they are looked at once more."""
        self.theirs: set[str] = set()
        """Keys that were left to others."""
        self.unread: frozenset[str] = frozenset()
        """Keys that one of the stores could not read, and which were left as they were."""
        self.conflicts = 0
        self._was_exact = False
        self._was_pruned = True
        self._loaded = False
        # The revisions that the target had when both stores were compared, until it is watched.
        self._before: dict[str, str] = {}
        # What was written here, and the watch of the target has not shown yet.
        self._written: set[str] = set()
        # What an earlier process could not write, and this one has not looked at.
        self._untried: frozenset[str] = frozenset()
        # Keys and hashes of values whose writes failed: they may have been stored all the same.
        self._tried: set[tuple[str, int]] = set()
        # What is left to others, suspects, and whether the rest is exact, as the place has it; and
        # as it is to have it.
        self._kept_marks = self._intended_marks = self._marks

    def load(self) -> None:
        """Take in what was kept, once.

        Raises:
            Refused: another mirror keeps its progress there.
        """
        if self._loaded:
            return
        kept, mine = self._place.load(), self.progress
        if kept is not None:
            if kept.of != mine.of:
                raise Refused(
                    f"the place is that of a mirror of {spoken(kept.source)} to "
                    f"{spoken(kept.target)}, with other keys or stores; give this mirror another "
                    "name= or place="
                )
            self.progress = kept._replace(origins=mine.origins)
            self.is_ours = self._was_ours = True
            self.theirs = set(kept.theirs)
            if self._rules.on_conflict in (None, "source"):
                # Under these rules nothing is left to others: what was is decided anew.
                self._suspect(kept.theirs)
            # No watch tells of what was written, and undone by others, since that place.
            self._suspect(kept.suspects)
            self._suspect(kept.written, Claim.WRITTEN)
            self._written = set(kept.written)
            self._untried = frozenset(kept.refused)
            self._was_exact, self._was_pruned = kept.is_exact, kept.is_pruned
        self._kept_marks = self._marks
        self._loaded = True

    def begin(self, plan: Plan, target: Sequence[Entry], cursor: str, *, in_pieces: bool) -> None:
        """Both stores were compared: what was known before is of no use.

        Args:
            target: what the target holds.
            cursor: of the target then. What it changes from there on and is not named as written
                here was written by others, also if this process ends before it follows the target.
            in_pieces: not all is written at once, and what is first is not named.
        """
        self.take_in(plan)
        if len(plan.extra) <= MOST_EXTRA:
            self.theirs |= plan.extra
        target_knows = self._target.left, self._target.refused, self._target.altered
        for known in (self._written, self.suspects, self.judged, *target_knows):
            known.clear()
        self._untried = frozenset()
        self._before = revisions_of(target)
        self._was_exact = self._was_pruned = True
        self.progress = self.progress._replace(
            cursor="", target_cursor="" if in_pieces else cursor, suspects=(), written=()
        )
        if in_pieces or not self.is_ours:
            # From here on, what the target holds is what the mirror has put there.
            self.save()
            self.is_ours = True

    def withdraw(self) -> bool:
        """Forget the place, if there was none before this mirror; it has written nothing yet."""
        if self._was_ours or not self.is_ours or self._target.batches:
            return False
        self.is_ours = False
        try:
            self._place.remove()
        except DatastreamError as error:
            log.warning("%s: the place was not removed: %s", self._target.store.name, error)
        return True

    def take_origins(self, origins: tuple[str, ...]) -> None:
        """Take in from which stores the source is mirrored."""
        if origins != self.progress.origins:
            self.progress = self.progress._replace(origins=origins)
            self.is_saved = False

    @property
    def is_comparing(self) -> bool:
        """Both stores have to be compared: what the source had removed before is there yet."""
        return self._rules.delete and not self._was_pruned

    # What others write.

    def not_ours(self, there: Mapping[str, Entry]) -> set[str]:
        """Keys that a comparison has to take for somebody else's if they differ.

        Args:
            there: what the target holds.
        """
        unclaimed = {key for key, claim in self.suspects.items() if claim is Claim.NONE}
        return self.theirs | {key for key in unclaimed if not self._is_tried(key, there.get(key))}

    def _suspect(self, keys: Iterable[str], claim: Claim = Claim.NONE) -> None:
        for key in keys:
            self.suspects[key] = max(claim, self.suspects.get(key, claim))

    def _suspect_news(self, key: str) -> None:
        """Others have written a key, unless what an earlier process wrote is shown only now."""
        claim = self.suspects.get(key, Claim.NONE)
        # What goes with the place, in one transaction, was there before that was read, or never is;
        # and what is there is shown at once, mostly.
        is_late = self._target.store._source.eventually_consistent
        is_certain = self._place.as_write is not None and self._target.is_atomic and not is_late
        is_over = {
            # Where no revisions are expected, none of what could not be held was read.
            Claim.DECIDED: key not in self._target.left,
            Claim.REFUSED: True,
            Claim.WRITTEN: is_certain,
        }
        self.suspects[key] = Claim.NONE if is_over.get(claim) else claim

    def suspect(self, batch: Batch, *, is_news: bool = True) -> None:
        """Find keys of the target that are not as they were left.

        Args:
            is_news: it has changed since this process has followed the target.
        """
        target = self._target
        for entry in batch.entries:
            key = entry.key
            if target.is_as_left(key, entry):
                target.take(key, entry)
                self.is_saved &= key not in self._written
                self._written.discard(key)
            elif is_reserved(key):
                continue
            elif is_news:
                self._suspect_news(key)
            else:
                self._suspect((key,))
        target.forget(self._written)
        self.progress = self.progress._replace(target_cursor=batch.cursor)

    def suspect_others(self, keys: Iterable[str]) -> None:
        """These mirrored keys of the target have changed since it was last followed."""
        for key in keys:
            if key not in self._written:
                self._suspect_news(key)

    def suspect_differing(
        self, source: Sequence[Entry], target: Mapping[str, Entry], changed: Collection[str]
    ) -> None:
        """Where both stores differ, and not because of these keys that the source has changed.

        Where the target never held all that the source did, nobody knows who wrote what differs.
        """
        if not self._was_exact:
            return
        is_left = target.keys() - changed
        self._suspect(is_left - set(keys_of(source)))
        types = self._rules.types
        for entry in matching(source, lambda key: key in is_left):
            if not same(entry, target[entry.key], types=types):
                self._suspect((entry.key,))

    def suspect_overtaken(self, writes: Iterable[Write]) -> None:
        """Others have written the keys of these writes just now."""
        self._suspect(write.key for write in writes)

    def try_again(self) -> None:
        """What the target could not hold until now is looked at, unless others wrote it since."""
        self._suspect(self._untried - self.suspects.keys(), Claim.REFUSED)
        self._untried = frozenset()

    def suspect_unread(self, keys: Collection[str], there: Collection[str]) -> None:
        """These could not be read when both stores were compared, and were left out of that.

        Args:
            there: keys that the target holds.
        """
        for key in keys:
            # What is only missing was written by nobody.
            is_nobodys = self._was_ours or key not in there
            self._suspect((key,), Claim.UNREAD if is_nobodys else Claim.NONE)
        self.is_saved &= not keys

    def check(self, batch: Batch) -> None:
        """Find what others wrote between the comparison and now, from all that there is."""
        left = self._target.left
        expected = {**self._before, **left}
        if "" in expected.values():
            expected = {key: revision for key, revision in expected.items() if revision}
        found = revisions_of(visible(batch.entries))
        # As a whole, since of very many keys hardly ever one differs.
        if found == expected:
            self._written.difference_update(left)
        else:
            keys = found.keys() | expected.keys()
            self._suspect(key for key in keys if found.get(key) != expected.get(key))
            self._written = {key for key in self._written if left.get(key) != found.get(key, "")}
        for key in self._target.refused:
            left.setdefault(key, self._before.get(key, ""))
        self._before = {}
        self.progress = self.progress._replace(target_cursor=batch.cursor)
        self.is_saved = False

    def some_suspects(self) -> list[str]:
        """Keys to be judged next."""
        return sorted(self.suspects)[:CHUNK]

    def judge(
        self, keys: Collection[str], wanted: Mapping[str, Entry], there: Mapping[str, Entry]
    ) -> Plan:
        """What to do with suspected keys, from what both stores hold now."""
        plan = Plan()
        for key in keys:
            self._judge(plan, Conflict(key, wanted.get(key), there.get(key)))
        # They are known to be somebody else's, and are so after a restart.
        self._written.difference_update(conflict.key for conflict in plan.conflicts)
        return plan

    def clear(self, keys: Collection[str], there: Mapping[str, Entry], plan: Plan) -> None:
        """Suspected keys were judged."""
        self.take_in(plan)
        for key in keys:
            self._target.take(key, there.get(key))
            self.suspects.pop(key, None)
        self._written.difference_update(keys)
        self.is_saved = False

    def doubt(self) -> bool:
        """The watches have shown all: suspect what was decided before; False if there is none."""
        doubted, self.judged = self.judged - self.theirs - self._target.refused.keys(), set()
        self._suspect(doubted, Claim.DECIDED)
        self.is_saved &= not doubted
        return bool(doubted)

    def doubt_refused(self) -> None:
        """There may be room now for what the target could not hold."""
        self._suspect(self._target.refused, Claim.DECIDED)

    def take_in(self, plan: Plan) -> None:
        """Take in who keeps which keys."""
        self.conflicts += len(plan.theirs - self.theirs)
        self.theirs.difference_update(write.key for write in plan.writes)
        self.theirs |= plan.theirs
        for key in plan.theirs:
            self._target.refused.pop(key, None)

    def _judge(self, plan: Plan, found: Conflict) -> None:
        key, target = found.key, self._target
        if same(found.source, found.target, types=self._rules.types):
            self.theirs.discard(key)
            target.refused.pop(key, None)
        elif found.source is None and not self._rules.delete:
            # Others may hold more, which is theirs also once the source holds something there.
            is_ours = self._may_be_ours(found) or target.is_as_left(key, found.target)
            if not is_ours and len(self.theirs) < MOST_EXTRA:
                self.theirs.add(key)
        elif self._is_refused(found) or (key not in self.theirs and self._may_be_ours(found)):
            plan.writes.append(write_of(found.source or deleted(key)))
        elif key in self.theirs or not target.is_as_left(key, found.target):
            resolve(plan, found, self._rules)
        # Else it is as it was left, and the watch of the source tells what has changed.

    def _is_refused(self, found: Conflict) -> bool:
        """Whether the target could not hold a key, and others have not written it since."""
        key, there = found.key, found.target
        if key not in self._target.refused:
            return False
        left = self._target.left.get(key)
        if left is None:
            # Where no revisions are expected, none was read: a watch has told of others.
            return self.suspects.get(key, Claim.NONE) is not Claim.NONE
        return there is None or left == there.revision

    def _may_be_ours(self, found: Conflict) -> bool:
        """Whether the mirror may have written what the target holds."""
        key, claim = found.key, self.suspects.get(found.key, Claim.NONE)
        if self._is_tried(key, found.target):
            return True
        if claim is Claim.DECIDED:
            left = self._target.left
            return key not in left or self._target.is_as_left(key, found.target)
        return claim is not Claim.NONE

    def _is_tried(self, key: str, there: Entry | None) -> bool:
        """Whether the target holds what a write was to store that failed."""
        return (key, hash(None if there is None else there.value)) in self._tried

    # What is written here.

    def allowed(self, writes: Sequence[Write]) -> list[Write]:
        """Those that do not concern what belongs to others, or may."""
        if not self._rules.delete:
            writes = [write for write in writes if write.value is not None]
        if not (self.theirs or self.suspects):
            return list(writes)
        if self._rules.on_conflict != "target":
            # It is decided again whenever the source changes.
            self._suspect(write.key for write in writes if write.key in self.theirs)
        return [w for w in writes if w.key not in self.theirs and w.key not in self.suspects]

    def expecting(
        self,
        writes: Sequence[Write],
        read: Callable[[Collection[str]], Mapping[str, Entry]],
        is_outrun: Callable[[], bool],
    ) -> list[Write] | None:
        """The same writes, if the target is as it was left; None if others have just written it.

        Args:
            read: reads keys of the target.
            is_outrun: whether the watch of the target shows more than was taken.
        """
        left = self._target.left
        unknown = [write.key for write in writes if write.key not in left]
        if unknown:
            there = read(unknown)
            # What others wrote before that was read is shown now, and looked at first.
            if is_outrun():
                return None
            for key in unknown:
                self._target.take(key, there.get(key))
        return [
            write._replace(expect=left[write.key])
            for write in writes
            if write.value is not None or left[write.key]
        ]

    def intend(self, writes: Sequence[Write], after: Progress) -> Callable[[], Write] | None:
        """Keep, before anything is written, what will be; what makes the write that does, where
        there is one."""
        self._written.update(keys_to(writes))
        as_write = self._place.as_write
        if as_write is not None and self._target.is_atomic:
            return partial(self._intended, as_write, after)
        if self._rules.on_conflict != "source":
            # With what is in the target by now: a crash repeats this batch, which harms nobody.
            self._place.save(self._kept(self.progress))
        return None

    def _intended(self, as_write: Callable[[Progress], Write], after: Progress) -> Write:
        self._intended_marks = self._marks
        return as_write(self._kept(after))

    def wrote(self, after: Progress, *, with_place: bool) -> None:
        """What was intended is in the target, and with it what `intend` has returned."""
        self.progress, self.is_saved = after, with_place
        if with_place:
            self._kept_marks = self._intended_marks

    def forget_intended(self, writes: Sequence[Write]) -> None:
        """What was intended was not written, where it is all or nothing."""
        if self._target.is_atomic:
            self._written.difference_update(write.key for write in writes)

    def tried(self, writes: Sequence[Write]) -> None:
        """What was intended failed, and may have been stored all the same."""
        self._tried.update((write.key, hash(write.value)) for write in writes)

    def confirm(self) -> None:
        """What was written has been shown by now, or had changed nothing."""
        self._tried.clear()
        if self._written and not self._target.store._source.eventually_consistent:
            self._written.clear()
            self.is_saved = False

    # Keeping it.

    @property
    def _marks(self) -> tuple[frozenset[str], frozenset[str], frozenset[str], bool]:
        suspects, refused = self._named_suspects, self._target.refused
        return frozenset(self.theirs), frozenset(suspects), frozenset(refused), self._is_exact

    @property
    def _named_suspects(self) -> set[str]:
        # What could not be held is named as that.
        return self.judged.union(self.suspects.keys() - self._claimed(Claim.REFUSED))

    def _claimed(self, *claims: Claim) -> set[str]:
        return {key for key, claim in self.suspects.items() if claim in claims}

    @property
    def _is_exact(self) -> bool:
        target = self._target
        is_less = target.refused or target.altered or self.unread or not self._rules.delete
        return self._was_exact and not is_less

    @property
    def is_misleading(self) -> bool:
        """Whether the place says otherwise which keys are others': it may not wait to be saved.

        Who starts from it would overwrite what was left to others, or take what the source has
        changed since a conflict was settled for another one.
        """
        return self._kept_marks != self._marks

    def save(self) -> None:
        """Keep the progress."""
        self._place.save(self._kept(self.progress))
        self.is_saved, self._kept_marks = True, self._marks

    def try_to_save(self) -> None:
        """Keep it, if that can be; else a later process finds out again."""
        try:
            self.save()
        except DatastreamError as error:
            log.warning("%s: the place was not saved: %s", self._target.store.name, error)

    def _kept(self, progress: Progress) -> Progress:
        """The progress with all that a later process needs."""
        refused = self._claimed(Claim.REFUSED).union(self._untried, self._target.refused)
        is_short, is_named = len(self._written) <= MOST_WRITTEN, len(refused) <= MOST_REFUSED
        # A later process must know in any case which suspects may be the mirror's own.
        claims = Claim.DECIDED, Claim.UNREAD, Claim.WRITTEN
        written = self.judged | self._claimed(*claims)
        if is_short:
            written |= self._written
        return progress._replace(
            cursor=progress.cursor if is_named else "",
            target_cursor=progress.target_cursor if is_short else "",
            written=tuple(sorted(written)),
            theirs=tuple(sorted(self.theirs)),
            suspects=tuple(sorted(self._named_suspects)),
            is_exact=self._is_exact,
            refused=tuple(sorted(refused)) if is_named else (),
            is_pruned=self._was_pruned and self._rules.delete,
        )
