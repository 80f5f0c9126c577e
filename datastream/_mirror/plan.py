"""What a mirror has to write, worked out from what two stores hold: pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, NamedTuple, TypeVar

from datastream._columns import EntryColumns, keys_of, matching
from datastream._mirror.entries import same
from datastream._puts import Puts
from datastream.entry import DELETE, PUT, Entry
from datastream.errors import DatastreamError, InvalidValue, shown
from datastream.source import Write, is_below

T = TypeVar("T", Write, Entry)
ALWAYS = 10
"""So few deletes are no catastrophe, whatever share of the keys they are."""


class Conflict(NamedTuple):
    """A key that others have written in the target of a mirror."""

    key: str
    source: Entry | None
    """What the source holds; None if nothing."""
    target: Entry | None
    """What the target holds, after others wrote."""


Winner = Literal["source", "target"]
_WINNERS: Mapping[str, Winner] = {"source": "source", "target": "target"}
Decide = Callable[[Conflict], str | Entry]
OnConflict = Winner | Decide | None


class Refused(DatastreamError):
    """A mirror will not do that unless it is told to."""


class TooMany(Refused):
    """It would delete more than it may."""


@dataclass(frozen=True)
class Rules:
    """How a mirror was asked to work.

    Args:
        delete: what the source does not hold is removed from the target.
        on_conflict: who wins where others have written; None refuses.
        delete_limit: most deletes at once: a number of keys, or a share of those in the target.
        types: both stores keep types.
    """

    delete: bool = True
    on_conflict: OnConflict = None
    delete_limit: int | float = 0.5
    types: bool = True


@dataclass
class Plan:
    """What has to be written, and what was found that speaks against it."""

    writes: list[Write] = field(default_factory=list)
    missing: Sequence[Entry] = ()
    """What the target lacks, to be put as it is: the most of a first mirror, of which each becomes
    a `Write` when its turn comes."""
    conflicts: list[Conflict] = field(default_factory=list)
    """Those that nobody has decided."""
    theirs: set[str] = field(default_factory=set)
    """Keys that stay as others have written them."""
    extra: set[str] = field(default_factory=set)
    """Keys of others that the source does not hold, and which may stay."""

    @property
    def deletes(self) -> int:
        return sum(write.value is None for write in self.writes)


def reconcile(
    source: Sequence[Entry],
    target: Mapping[str, Entry],
    rules: Rules,
    *,
    is_ours: bool,
    theirs: Collection[str] = (),
) -> Plan:
    """What makes `target` like `source`; deletes come first, since they make room.

    Args:
        is_ours: the mirror has written this target before, so that what differs is what the source
            has changed since; else it is somebody's.
        theirs: keys that were left to others before.
    """
    plan = Plan()
    if not (target or theirs):
        # Nothing to compare with.
        plan.missing = source
        return plan
    beyond = target.keys() - keys_of(source)
    if not rules.delete:
        plan.extra = beyond.intersection(theirs) if is_ours else beyond
    for key in beyond if rules.delete else ():
        _plan_one(plan, Conflict(key, None, target[key]), rules, is_ours and key not in theirs)
    for entry in matching(source, lambda key: key in target or key in theirs):
        there = target.get(entry.key)
        if not same(entry, there, types=rules.types):
            # What is only missing was written by nobody.
            mine = (is_ours or there is None) and entry.key not in theirs
            _plan_one(plan, Conflict(entry.key, entry, there), rules, mine)
    plan.missing = matching(source, lambda key: key not in target and key not in theirs)
    return plan


def resolve(plan: Plan, conflict: Conflict, rules: Rules) -> None:
    """Take in a key that others have written."""
    _plan_one(plan, conflict, rules, mine=False)


def _plan_one(plan: Plan, found: Conflict, rules: Rules, mine: bool) -> None:
    decision = "source" if mine else decide(found, rules.on_conflict)
    if decision is None:
        plan.conflicts.append(found)
    elif decision == "target":
        plan.theirs.add(found.key)
    else:
        entry = found.source if decision == "source" else decision
        if decision != "source":
            plan.theirs.add(found.key)
        if isinstance(entry, Entry) and entry.operation is PUT:
            if not same(entry, found.target, types=rules.types):
                plan.writes.append(put_of(entry, found.key))
        elif found.target is not None:
            plan.writes.append(Write(found.key, None))


def decide(conflict: Conflict, on_conflict: OnConflict) -> Winner | Entry | None:
    """Who wins; None if nobody was told.

    Raises:
        InvalidValue: a callable said something else.
    """
    if not callable(on_conflict):
        return on_conflict
    decision = on_conflict(conflict)
    winner = decision if isinstance(decision, Entry) else _WINNERS.get(decision)
    if winner is not None:
        return winner
    raise InvalidValue(
        f'on_conflict of {shown(conflict.key)} returned {decision!r}; give "source", "target" or '
        "an Entry"
    )


def put_of(entry: Entry, key: str = "") -> Write:
    """The write that stores what an entry holds."""
    return Write(key or entry.key, entry.value, entry.value_type, None, entry.updated_at)


def as_writes(planned: Sequence[Write] | Sequence[Entry]) -> Sequence[Write]:
    """Writes, or entries to be put as they are; of columns, in the order of their keys."""
    if isinstance(planned, EntryColumns):
        return Puts.of(planned)
    return [put_of(item) if isinstance(item, Entry) else item for item in planned]


def keys_to(writes: Sequence[Write]) -> Sequence[str]:
    """The keys that are written."""
    return writes.entries.keys if isinstance(writes, Puts) else [write.key for write in writes]


def as_found(writes: Iterable[Write], there: Mapping[str, Entry]) -> list[Write]:
    """The same writes, if their keys are as they were found."""
    return [write._replace(expect=_revision_of(there.get(write.key))) for write in writes]


def is_expected(write: Write, found: Entry | None) -> bool:
    """Whether a key is as its write expects it."""
    return write.expect == _revision_of(found)


def _revision_of(entry: Entry | None) -> str:
    return "" if entry is None else entry.revision


def has_deletes(writes: Sequence[Write]) -> bool:
    """Whether one of them removes a key."""
    return not isinstance(writes, Puts) and any(write.value is None for write in writes)


def write_of(entry: Entry) -> Write:
    """The write that does what an entry of a watch tells."""
    return Write(entry.key, None) if entry.operation is DELETE else put_of(entry)


def check_conflicts(conflicts: Collection[Conflict], where: str) -> None:
    """Refuse to overwrite what others have written.

    Raises:
        Refused: there is such a thing.
    """
    if conflicts:
        first = next(iter(conflicts))
        more = f" and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
        raise Refused(
            f"{where} holds {shown(first.key)}{more}, which others wrote and the source holds "
            'otherwise; nothing of it was overwritten: give on_conflict="source" or "target", or '
            "another target"
        )


def check_readable(keys: Collection[str], unread: frozenset[str], where: str) -> None:
    """Refuse to write over what cannot be read: nobody knows whose it is.

    Raises:
        Refused: the target holds such a thing at one of these keys.
    """
    for key in keys:
        if is_below(key, unread):
            raise Refused(
                f"{where} holds {shown(key)}, which cannot be read, so it was not overwritten; see "
                "the status of that store, or remove the key there"
            )


def check_deletes(
    deletes: int, held: Callable[[], int], limit: int | float, where: str, *, is_empty: bool
) -> None:
    """Refuse to delete more than a mirror may.

    Args:
        deletes: how many are planned.
        held: asks how many keys the target holds.
        limit: as in `Rules`.
        is_empty: the source holds nothing at all.

    Raises:
        TooMany: it is more.
    """
    if not deletes or (isinstance(limit, float) and deletes <= ALWAYS and not is_empty):
        return
    total = held()
    allowed = total * limit if isinstance(limit, float) else limit
    if deletes > allowed or (is_empty and deletes == total > allowed):
        emptied = "the source is empty, and " if is_empty else ""
        raise TooMany(
            f"{emptied}{deletes} of the {total} keys of {where} would be deleted, which is more "
            f"than delete_limit={limit} allows; nothing was deleted: look at the source, or give "
            "a higher limit (1.0 is all)"
        )


def in_chunks(writes: Sequence[T], most: int, most_bytes: int) -> Iterator[Sequence[T]]:
    """Writes, or entries to be put, in pieces of a bounded size, one of them at least."""
    ends, begin, before = list(accumulate(_sizes(writes))), 0, 0
    while begin < len(ends):
        fits = bisect_right(ends, before + most_bytes, begin)
        end = max(begin + 1, min(fits, begin + most))
        yield writes[begin:end]
        begin, before = end, ends[end - 1]


def _sizes(writes: Sequence[Write | Entry]) -> Iterator[int]:
    if isinstance(writes, EntryColumns):
        return map(len, writes.values)
    return (len(write.value or b"") for write in writes)
