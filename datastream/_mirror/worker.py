"""What the thread of a mirror does: compare both stores, then follow them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from random import uniform
from time import monotonic, sleep
from typing import NamedTuple

from datastream._columns import by_key, keys_of
from datastream._mirror.entries import present, readable, visible
from datastream._mirror.events import Events, Inbox
from datastream._mirror.feeds import Feeds, First
from datastream._mirror.ledger import Ledger
from datastream._mirror.loops import Loop
from datastream._mirror.plan import (
    Refused,
    Rules,
    TooMany,
    as_found,
    as_writes,
    check_conflicts,
    check_deletes,
    check_readable,
    has_deletes,
    in_chunks,
    is_expected,
    reconcile,
    write_of,
)
from datastream._mirror.progress import MIRRORS, Place, Progress
from datastream._mirror.target import Target
from datastream._watch.diff import changed_back
from datastream._watch.status import StatusHolder
from datastream.entry import DELETE, Batch, Entry
from datastream.errors import DatastreamError, KeyNotFound, RevisionConflict, StoreClosed
from datastream.selection import RESERVED, Selection, is_reserved
from datastream.source import Feature, Health, Reading, Write, is_below
from datastream.store import Store

CHUNK, CHUNK_BYTES = 20_000, 8 << 20
"""Most writes, and bytes of values, of one batch of a first mirror: each is flushed to the disk."""
MOST_EXPECTED = 1_000
"""Writes of a comparison that carry revisions: PostgreSQL looks at each such key by itself."""
LONGEST_PAUSE = 10.0
"""Seconds, at most, between two attempts."""
REFUSED_PAUSE = 60.0
"""Seconds after which what was refused is looked at again, if nothing happens."""
FOLDS_AFTER = 3
"""Attempts in a row that failed, after which what waits is joined with what fails."""
SAVE_AFTER = 1.0
"""Seconds without a change after which the place is brought up to date."""


class Work(NamedTuple):
    """One batch to be written."""

    writes: Sequence[Write] | Sequence[Entry]
    """Entries are to be put as they are."""
    cursor: str | None
    """Of the source, after it; None if more of the same belongs to it."""
    since: float
    """When it was first known, by the monotonic clock."""
    is_first: bool = False
    """Part of a comparison of all: the target was just read."""
    is_judged: bool = False
    """It was decided what becomes of these keys."""


class Job(NamedTuple):
    """What a mirror was asked to do."""

    source: Store
    target: Target
    selection: Selection
    rules: Rules
    place: Place
    """Where progress is kept."""
    begun: Progress
    """That of a mirror which has not done anything."""
    look_round: Callable[[], tuple[str, ...]]
    """Says from which stores the source is mirrored; raises `Loop` if the target is one of them."""
    dry_run: bool
    """Plan, and write nothing."""


class Worker:
    """Keeps a target like its source.

    Args:
        job: what is to be done.
        status: takes how it goes.
    """

    def __init__(self, job: Job, status: StatusHolder) -> None:
        self._source, self._selection, self._rules = job.source, job.selection, job.rules
        # Its own keys, and those of others, are left out.
        own = f"{RESERVED}**"
        self._mirrored = replace(job.selection, exclude=job.selection.exclude | {own})
        self.target = self._target = job.target
        self._dry_run = job.dry_run
        self._look_round = job.look_round
        self._status = status
        self.ledger = self._ledger = Ledger(job.target, job.rules, job.place, job.begun)
        self.events = Events()
        self._stopped = threading.Event()
        self._feeds = Feeds(job.source, job.target.store, job.selection, self.events, self._stopped)
        self.planned: tuple[Write, ...] = ()
        self.moved = threading.Condition()
        """Notified whenever the status, or whether all is done, may have changed."""
        self.attempt = self.failed_attempt = 0
        """Counts the steps; the last one that failed."""
        self._failures = 0
        self._was_back = False
        """The last attempt was made because a store had become READY."""
        self._joined = self._rests = False
        self._resumes = True
        self._fed_by: set[str] = set()
        """The places in the source of mirrors that write it, as far as they were looked at."""
        self._is_fed_anew = False
        """There may be others."""
        self._unread_of: str | None = None
        """What the stores said of themselves when what cannot be read was looked at last: no watch
        tells that it has gone."""
        self._offered = 0
        self._work: deque[Work] = deque()
        self._behind_since: float | None = monotonic()

    # For other threads.

    @property
    def lag(self) -> float:
        """For how many seconds the target has been behind."""
        since, inbox = self._behind_since, self._feeds.source
        waiting = inbox.oldest if inbox is not None else None
        known = [at for at in (since, waiting) if at is not None]
        return max(0.0, monotonic() - min(known)) if known else 0.0

    @property
    def is_idle(self) -> bool:
        """All that is known of is done."""
        # The thread takes from an inbox only after it has said that it does not rest any more.
        return self.events.is_empty and self._rests

    def catch_up(self) -> None:
        """Have both watches show all that is there now."""
        for store in (self._source, self._target.store):
            store._core.catch_up()
        self.events.wake()

    def refresh(self) -> None:
        """Have both stores looked at, and end a pause."""
        for store in (self._source, self._target.store):
            store.refresh()
        self.events.wake()

    def stop(self) -> None:
        """End soon."""
        self._stopped.set()
        self.events.wake()

    def run(self) -> None:
        """Until it is stopped."""
        stop_statuses = self._feeds.start_statuses()
        try:
            while not self._stopped.is_set():
                self.attempt += 1
                self._offered = self.events.offered
                try:
                    self._step()
                    self._failures = 0
                except StoreClosed as error:
                    self._show(error)
                    return
                except Exception as error:  # noqa: BLE001
                    self._failures += 1
                    self._pause(error)
        finally:
            stop_statuses()
            self._end()

    def _end(self) -> None:
        # What was written last is known as that, and what others write from here on is not.
        while self._feeds.target and (batch := self._feeds.target.take()) is not None:
            self._ledger.suspect(batch)
        if not (self._ledger.is_saved or self._dry_run):
            self._ledger.try_to_save()
        self._feeds.leave()
        self.notify()

    # One step.

    def _step(self) -> None:
        """What is most urgent."""
        work, feeds, writes = self._work, self._feeds, not self._dry_run
        if self._is_fed_anew:
            self._refuse_circles()
        elif not self._joined:
            self._join()
        elif work and work[0].is_first:
            self._apply(work[0])
        elif feeds.target is None and writes:
            self._follow_target()
        elif self._ledger.suspects and writes:
            self._look_at_suspects()
        elif feeds.target:
            # Before anything is written: others may have been there.
            self._suspect(feeds.target)
        elif work:
            self._write_next()
        elif feeds.source:
            self._follow(feeds.source)
        else:
            self._rest()

    def _pause(self, error: Exception) -> None:
        self._show(error)
        self.failed_attempt = self.attempt
        if self._behind_since is None:
            self._behind_since = monotonic()
        self.notify()
        if isinstance(error, TooMany):
            # What was to be deleted may be back: both are compared anew.
            self._joined = self._resumes = False
        if isinstance(error, Refused):
            if self._ledger.suspects and not self._dry_run:
                # So that it is refused after a restart, too.
                self._ledger.try_to_save()
            self.events.wait(REFUSED_PAUSE, lambda: self.events.offered != self._offered)
            return
        # At random, as all pauses are, so that those who met once do not meet again.
        seconds = uniform(0.05, min(LONGEST_PAUSE, 0.1 * 2 ** min(self._failures, 10)))  # noqa: S311
        # A store that can be read is READY, though its disk be full: once, and not for ever.
        self._was_back = self.events.pause(seconds, until_back=not self._was_back)

    def _rest(self) -> None:
        """Nothing to do: say so, keep the place, and wait."""
        self._feeds.check()
        if self._ledger.doubt() or self._finds_unread():
            return
        self._ledger.confirm()
        if self._ledger.is_misleading and not self._dry_run:
            self._ledger.try_to_save()
        self._behind_since = None
        self._show(None)
        self._rests = True
        self.notify()
        is_saved = self._ledger.is_saved or self._dry_run
        self.events.wait(None if is_saved else SAVE_AFTER, lambda: not self.events.is_empty)
        if not is_saved and self.is_idle:
            self._ledger.save()
        self._rests = False

    def _finds_unread(self) -> bool:
        """Suspect what can be read by now, or has gone; False if there is nothing of that."""
        text, unread = self._feeds.degraded, self._ledger.unread
        if not unread or text == self._unread_of:
            return False
        named = frozenset(key for key in unread if not key.endswith("/"))
        selection = Selection(named, unread - named)
        stores = self._source, self._target.store
        states = [store._core.state(selection) for store in stores]
        unread, self._unread_of = states[0].unread | states[1].unread, text
        keys = named.union(*(keys_of(state.entries) for state in states))
        told = {key for key in keys if not is_below(key, unread) and self._is_mirrored(key)}
        self._ledger.unread = unread
        self._ledger.suspect_unread(told, present(states[1].entries))
        return bool(self._ledger.suspects)

    def _show(self, error: Exception | None) -> None:
        if error is not None:
            self._status.failed(error)
        else:
            texts = [self._feeds.degraded, self._target.degraded]
            health = Health(degraded="; ".join(filter(None, texts)))
            if not (self._status.well and health == self._status.health):
                self._status.succeeded(health)

    def notify(self) -> None:
        """Have those look who wait for a step."""
        with self.moved:
            self.moved.notify_all()

    # Joining.

    def _refuse_circles(self) -> None:
        """Look whether the source is fed by the target, through a mirror that others started.

        Raises:
            Loop: it is.
        """
        ledger = self._ledger
        try:
            origins = self._look_round()
        except Loop:
            if ledger.withdraw():
                # Else neither of two that were started at once could ever be started again.
                self._joined = False
            raise
        self._is_fed_anew = False
        ledger.take_origins(origins)

    def _join(self) -> None:
        """Follow both stores, from where the mirror was, or compare all that they hold."""
        self._ledger.load()
        self._work.clear()
        at = self._ledger.progress
        resumes = self._resumes and not (self._dry_run or self._ledger.is_comparing)
        cursors = (at.cursor, at.target_cursor)
        first = self._feeds.join(cursors if resumes and all(cursors) else None)
        self._offered = self.events.offered
        if first is not None:
            self._unread_of = None
            self._ledger.unread = first.source.unread | first.target.unread
            (self._resume if first.resumed else self._compare)(first)
            # Now that the place is there: two that look before that would miss each other.
            self._joined = self._is_fed_anew = True

    def _resume(self, first: First) -> None:
        self._ledger.suspect(first.target, is_news=False)
        self._ledger.try_again()
        self._plan_batch(first.source, monotonic())

    def _suspect_others(self, source: Sequence[Entry], target: Mapping[str, Entry]) -> None:
        """Find what others wrote since the target was last followed: comparing does not tell."""
        ledger, at = self._ledger, self._ledger.progress
        told = self._changes(self._target.store, at.target_cursor)
        if told is not None:
            news = set(keys_of(told.entries)) - changed_back(told)
            ledger.suspect_others(filter(self._is_mirrored, news))
            return
        # Without a cursor, not all that was written is named; such a log tells of it all the same.
        is_told_all = at.target_cursor or Feature.TRANSIENT in self._source.features
        own = self._changes(self._source, at.cursor) if is_told_all else None
        if own is not None:
            ledger.suspect_differing(source, target, set(keys_of(own.entries)))

    def _changes(self, store: Store, since: str) -> Reading | None:
        """What changed since a cursor; None where nobody knows."""
        if not since or Feature.LOG not in store.features:
            return None
        changed = store._core.read_changes(self._selection, since)
        return None if changed.complete else changed

    def _compare(self, first: First) -> None:
        source, target = visible(first.source.entries), visible(first.target.entries)
        ledger, name = self._ledger, self._target.store.name
        # What cannot be read is neither missing here nor free there.
        known, there = readable(source, ledger.unread), by_key(readable(target, ledger.unread))
        self._suspect_others(known, there)
        is_ours, not_ours = ledger.is_ours, ledger.not_ours(there)
        plan = reconcile(known, there, self._rules, is_ours=is_ours, theirs=not_ours)
        check_conflicts(plan.conflicts, name)
        limit = self._rules.delete_limit
        check_deletes(plan.deletes, lambda: len(target), limit, name, is_empty=not source)
        if self._dry_run:
            self.planned = (*plan.writes, *as_writes(plan.missing))
            self._feeds.leave()
            return
        since = monotonic()
        chunks: list[Sequence[Write] | Sequence[Entry]] = []
        if len(plan.writes) + len(plan.missing) <= MOST_EXPECTED:
            writes = [*plan.writes, *as_writes(plan.missing)]
            given = as_found(writes, there) if self._expects else writes
            chunks += in_chunks(given, CHUNK, CHUNK_BYTES)
        else:
            chunks += in_chunks(plan.writes, CHUNK, CHUNK_BYTES)
            chunks += in_chunks(plan.missing, CHUNK, CHUNK_BYTES)
        *chunks, last = chunks or [()]
        ledger.begin(plan, target, first.target.cursor, in_pieces=bool(chunks))
        self._work.extend(Work(chunk, None, since, is_first=True) for chunk in chunks)
        self._work.append(Work(last, first.source.cursor, since, is_first=True))

    # Following.

    def _follow(self, inbox: Inbox) -> None:
        """Plan what the source has changed."""
        since = inbox.oldest
        batch = _taken(inbox)
        if batch is not None:
            self._behind_since = since
            self._plan_batch(batch, since or monotonic())

    def _plan_batch(self, batch: Batch, since: float) -> None:
        places = {key for key in keys_of(batch.entries) if key.startswith(MIRRORS)}
        self._is_fed_anew |= not places <= self._fed_by
        self._fed_by |= places
        writes = [write_of(entry) for entry in batch.entries if not is_reserved(entry.key)]
        if self._rules.delete:
            self._check_deletes(writes)
        self._work.append(Work(writes, batch.cursor, since))

    def _fold(self, inbox: Inbox) -> None:
        """Join what waits with what fails: it may undo that, or make room by deletes."""
        behind_since = self._behind_since
        while inbox:
            self._follow(inbox)
        self._behind_since = behind_since
        if not any(work.is_first or work.is_judged for work in self._work):
            newest = {write.key: write for work in self._work for write in as_writes(work.writes)}
            writes = sorted(newest.values(), key=lambda write: write.value is not None)
            self._work = deque([self._work[-1]._replace(writes=writes, since=self._work[0].since)])

    def _check_deletes(self, writes: Iterable[Write]) -> None:
        keys = [write.key for write in writes if write.value is None]
        limit, name = self._rules.delete_limit, self._target.store.name
        # One key may well be the last; several at once look like a directory that is unmounted.
        is_empty = len(keys) > 1 and not self._source._core.knows_any(self._mirrored)
        try:
            check_deletes(len(keys), lambda: len(self._held()), limit, name, is_empty=is_empty)
        except TooMany:
            # Some may be of what was never written, because the target is full.
            held = self._held()
            there = sum(key in held for key in keys)
            check_deletes(there, lambda: len(held), limit, name, is_empty=is_empty)

    def _held(self) -> set[str]:
        """The keys of the target that the mirror may delete."""
        return {c.key for c in self._target.store.capabilities() if self._is_mirrored(c.key)}

    def _is_mirrored(self, key: str) -> bool:
        return self._mirrored.matches(key)

    def _follow_target(self) -> None:
        if not self._work:
            # All is written; whether others wrote meanwhile is found out by reading it back.
            self._show(None)
            self.notify()
        batch = self._feeds.follow_target()
        if batch is not None:
            self._ledger.check(batch)

    def _suspect(self, inbox: Inbox) -> None:
        batch = _taken(inbox)
        if batch is not None:
            self._ledger.suspect(batch)

    def _look_at_suspects(self) -> None:
        """Read suspected keys of both stores anew: were they written by others?"""
        ledger = self._ledger
        keys, offered = ledger.some_suspects(), self._taken_of_source()
        left = self._read(self._target.store, keys)
        check_readable(keys, left.unread, self._target.store.name)
        there = present(left.entries)
        self._take_news(there, keys)
        # After all of the target: what others took from the source is held by that by now.
        found = self._read(self._source, keys)
        wanted = present(found.entries)
        judged = [key for key in keys if not is_below(key, found.unread)]
        plan = ledger.judge(judged, wanted, there)
        check_conflicts(plan.conflicts, self._target.store.name)
        self._check_deletes(plan.writes)
        ledger.clear(keys, there, plan)
        self._drop_decided(frozenset(judged))
        queued = {write.key for work in self._work for write in work.writes}
        writes = [write for write in plan.writes if write.key not in queued]
        self._source._core.catch_up()
        is_ahead = offered is None or offered != self._taken_of_source()
        ledger.judged.update(keys if is_ahead else (write.key for write in writes))
        if writes:
            self._work.appendleft(Work(writes, None, monotonic(), is_judged=True))

    def _take_news(self, there: dict[str, Entry], keys: Collection[str]) -> None:
        """Take what the watch of the target tells, as far as a read has shown it: who wrote it.

        Args:
            there: what was read at `keys`; brought up to date.
        """
        self._target.store._core.catch_up()
        read = frozenset(keys)
        while self._feeds.target and (batch := _taken(self._feeds.target)) is not None:
            self._ledger.suspect(batch)
            for entry in batch.entries:
                if entry.key not in read:
                    continue
                if entry.operation is DELETE:
                    there.pop(entry.key, None)
                else:
                    there[entry.key] = entry

    def _drop_decided(self, keys: Collection[str]) -> None:
        """Forget what was decided of keys before others wrote them once more."""
        for number, work in enumerate(self._work):
            if work.is_judged:
                writes = [write for write in as_writes(work.writes) if write.key not in keys]
                self._work[number] = work._replace(writes=writes)

    def _taken_of_source(self) -> int | None:
        """How often the watch of the source told something; None while that was not all taken."""
        inbox = self._feeds.source
        return None if inbox is None or inbox else inbox.offered

    @staticmethod
    def _read(store: Store, keys: Collection[str]) -> Batch:
        return store._core.state(Selection(frozenset(keys)))

    # Writing.

    def _write_next(self) -> None:
        if self._failures >= FOLDS_AFTER and self._feeds.source:
            self._fold(self._feeds.source)
        self._apply(self._work[0])

    def _apply(self, work: Work) -> None:
        ledger = self._ledger
        planned = as_writes(work.writes)
        # What a comparison plans was decided by it, also where others have written.
        is_decided = work.is_judged or work.is_first
        writes: Sequence[Write] | None = planned if is_decided else ledger.allowed(planned)
        if writes and not work.is_first and self._expects:
            writes = ledger.expecting(writes, self._read_target, self._is_outrun)
        if writes is None:
            return
        after = ledger.progress
        if work.cursor is not None:
            after = after._replace(cursor=work.cursor)
        # Else a later process, with other rules, would take what is put back for others'.
        is_named = work.cursor is not None or work.is_judged
        place = ledger.intend(writes, after) if writes and is_named else None
        try:
            if writes:
                self._target.write(writes, place)
        except (RevisionConflict, KeyNotFound):
            if not self._suspect_overtaken(work, writes):
                raise
            return
        except DatastreamError:
            ledger.tried(writes)
            raise
        # Those who watch the target run first: what is left to do here can wait.
        sleep(0)
        self._work.popleft()
        self._target.forget_gone(planned)
        if has_deletes(writes):
            # They may have made room for what the target could not hold.
            ledger.doubt_refused()
        ledger.wrote(after, with_place=place is not None)

    def _suspect_overtaken(self, work: Work, writes: Sequence[Write]) -> bool:
        """Others have written a key of a batch just now; False if nobody has."""
        changed = writes
        if work.is_first:
            # Which ones is known, so that both stores are compared anew.
            there = self._read_target({write.key for write in writes})
            changed = [write for write in writes if not is_expected(write, there.get(write.key))]
            self._ledger.forget_intended(writes)
            self._joined = self._resumes = False
        self._ledger.suspect_overtaken(changed)
        return bool(changed)

    @property
    def _expects(self) -> bool:
        """What others write meanwhile must not be overwritten."""
        return self._rules.on_conflict != "source" and self._target.can_expect

    def _read_target(self, keys: Collection[str]) -> dict[str, Entry]:
        return present(self._read(self._target.store, keys).entries)

    def _is_outrun(self) -> bool:
        self._target.store._core.catch_up()
        return bool(self._feeds.target)


def _taken(inbox: Inbox) -> Batch | None:
    """The next batch; None if what had come is over again.

    Raises:
        StoreClosed: there will be none any more.
    """
    batch = inbox.take()
    if batch is None and inbox.ended:
        raise StoreClosed("a store was closed, which ends its mirror")
    return batch
