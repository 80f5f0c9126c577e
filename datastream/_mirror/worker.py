"""What the thread of a mirror does: compare both stores, then follow them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from random import uniform
from time import monotonic
from typing import NamedTuple

from datastream._mirror.entries import is_reserved, present, same
from datastream._mirror.events import Events, Inbox
from datastream._mirror.feeds import Feeds, First
from datastream._mirror.plan import (
    Conflict,
    Plan,
    Refused,
    Rules,
    TooMany,
    check_conflicts,
    check_deletes,
    in_chunks,
    reconcile,
    resolve,
    write_of,
)
from datastream._mirror.progress import Place, Progress
from datastream._mirror.target import Target
from datastream._watch.status import StatusHolder
from datastream.entry import Batch, Entry, deleted
from datastream.errors import DatastreamError, KeyNotFound, RevisionConflict, StoreClosed
from datastream.selection import Selection
from datastream.source import Health, Write
from datastream.store import Store

CHUNK, CHUNK_BYTES = 5_000, 8 << 20
"""Most writes, and bytes of values, of one batch of a first mirror."""
LONGEST_PAUSE = 10.0
"""Seconds, at most, between two attempts."""
REFUSED_PAUSE = 60.0
"""Seconds after which what was refused is looked at again, if nothing happens."""
SAVE_AFTER = 1.0
"""Seconds without a change after which the place is brought up to date."""
MOST_WRITTEN = 10_000
"""Own writes that the place names; of more, the whole target is compared after a restart."""

log = logging.getLogger("datastream")


class Work(NamedTuple):
    """One batch to be written."""

    writes: Sequence[Write]
    cursor: str | None
    """Of the source, after it; None if more of the same belongs to it."""
    since: float
    """When it was first known, by the monotonic clock."""
    is_first: bool = False
    """Part of a comparison of all: the target was just read."""


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
        self.target = self._target = job.target
        self._place = job.place
        self._status = status
        self._progress = job.begun
        self._dry_run = job.dry_run
        self._stopped = threading.Event()
        self.events = Events()
        self._feeds = Feeds(job.source, job.target.store, job.selection, self.events, self._stopped)
        self.planned: tuple[Write, ...] = ()
        self.conflicts = 0
        self.moved = threading.Condition()
        """Notified after each step."""
        self.attempt = self.failed_attempt = 0
        """Counts the steps; the last one that failed."""
        self._rests = False
        self._offered = 0
        self._joined = self._loaded = self._is_ours = self._unsaved = False
        self._resumes = True
        self._work: deque[Work] = deque()
        # Keys of the target that others may have written.
        self._suspects: set[str] = set()
        self._theirs: set[str] = set()
        # What was written here, and the watch of the target has not shown yet.
        self._written: set[str] = set()
        # What an earlier process may have written last, or others since.
        self._unsure: frozenset[str] = frozenset()
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
        failures = 0
        stop_statuses = self._feeds.start_statuses()
        try:
            while not self._stopped.is_set():
                self.attempt += 1
                self._offered = self.events.offered
                try:
                    self._step()
                    failures = 0
                except StoreClosed as error:
                    self._show(error)
                    return
                except Exception as error:  # noqa: BLE001
                    failures += 1
                    self._pause(error, failures)
                self.notify()
        finally:
            stop_statuses()
            self._save_at_end()
            self._feeds.leave()
            self.notify()

    # One step.

    def _step(self) -> None:
        if not self._joined:
            self._join()
        elif self._suspects:
            self._look_at_suspects()
        elif self._feeds.target:
            # Before anything is written: others may have been there.
            self._suspect(_taken(self._feeds.target))
        elif self._work:
            self._apply(self._work[0])
        elif self._feeds.source:
            self._follow(self._feeds.source)
        else:
            self._rest()

    def _pause(self, error: Exception, failures: int) -> None:
        self._show(error)
        self.failed_attempt = self.attempt
        if self._behind_since is None:
            self._behind_since = monotonic()
        self.notify()
        if isinstance(error, TooMany):
            # What was to be deleted may be back: both are compared anew.
            self._joined = self._resumes = False
        if isinstance(error, Refused):
            self._keep_suspects()
            self.events.wait(REFUSED_PAUSE, self._has_news)
            return
        # At random, as all pauses are, so that those who met once do not meet again.
        seconds = uniform(0.05, min(LONGEST_PAUSE, 0.1 * 2 ** min(failures, 10)))  # noqa: S311
        self.events.wait(seconds, self._has_news)

    def _has_news(self) -> bool:
        """Whether something came since the step began that has failed."""
        return self.events.offered != self._offered

    def _rest(self) -> None:
        """Nothing to do: say so, keep the place, and wait."""
        self._feeds.check()
        self._confirm()
        self._behind_since = None
        self._show(None)
        self._rests = True
        self.notify()
        self.events.wait(SAVE_AFTER if self._unsaved else None, lambda: not self.events.is_empty)
        if self._unsaved and self.is_idle:
            self._save()
        self._rests = False

    def _confirm(self) -> None:
        """What was written has been shown by now, or had changed nothing."""
        self._unsure = frozenset()
        if self._written and not self._target.store._source.eventually_consistent:
            self._written.clear()
            self._unsaved = True

    def _show(self, error: Exception | None) -> None:
        if error is not None:
            self._status.failed(error)
        else:
            texts = [self._feeds.degraded, self._target.degraded]
            self._status.succeeded(Health(degraded="; ".join(filter(None, texts))))

    def notify(self) -> None:
        """Have those look who wait for a step."""
        with self.moved:
            self.moved.notify_all()

    # Joining.

    def _join(self) -> None:
        """Follow both stores, from where the mirror was, or compare all that they hold."""
        self._load()
        self._work.clear()
        progress = self._progress
        resumes = self._resumes and not self._dry_run and progress.cursor and progress.target_cursor
        cursors = (progress.cursor, progress.target_cursor) if resumes else None
        first = self._feeds.join(cursors)
        self._offered = self.events.offered
        if first is not None:
            (self._resume if first.resumed else self._compare)(first)
            self._joined = True

    def _load(self) -> None:
        if self._loaded:
            return
        kept, mine = self._place.load(), self._progress
        if kept is not None:
            if kept.of != mine.of:
                raise Refused(
                    f"the place is that of a mirror of {kept.source} to {kept.target}, with other "
                    "keys or stores; give this mirror another name= or place="
                )
            self._progress = replace(kept, origins=mine.origins)
            self._is_ours = True
            self._theirs = set(kept.theirs)
            self._suspects = set(kept.suspects)
            self._unsure = frozenset(kept.written)
            self._written = set(kept.written)
        self._loaded = True

    def _resume(self, first: First) -> None:
        self._suspect(first.target)
        self._plan_batch(first.source, monotonic())

    def _compare(self, first: First) -> None:
        source, target = present(first.source.entries), present(first.target.entries)
        not_ours = self._theirs | self._suspects
        plan = reconcile(source, target, self._rules, is_ours=self._is_ours, theirs=not_ours)
        check_conflicts(plan.conflicts, self._target.store.name)
        self._check_deletes(plan.deletes, len(target), is_empty=not source)
        if self._dry_run:
            self.planned = tuple(plan.writes)
            self._feeds.leave()
            return
        self._take_in(plan)
        for known in (self._target.left, self._written, self._suspects):
            known.clear()
        self._progress = replace(
            self._progress, cursor="", target_cursor=first.target.cursor, suspects=(), written=()
        )
        if not self._is_ours:
            # From here on, what the target holds is what the mirror has put there.
            self._save()
            self._is_ours = True
        self._plan_writes(plan.writes, first.source.cursor, monotonic())

    def _plan_writes(self, writes: Sequence[Write], cursor: str, since: float) -> None:
        chunks = list(in_chunks(writes, CHUNK, CHUNK_BYTES)) or [[]]
        for chunk in chunks[:-1]:
            self._work.append(Work(chunk, None, since, is_first=True))
        self._work.append(Work(chunks[-1], cursor, since, is_first=True))

    # Following.

    def _follow(self, inbox: Inbox) -> None:
        """Plan what the source has changed."""
        since = inbox.oldest
        batch = _taken(inbox)
        if batch is not None:
            self._behind_since = since
            self._plan_batch(batch, since or monotonic())

    def _plan_batch(self, batch: Batch, since: float) -> None:
        entries = [entry for entry in batch.entries if not is_reserved(entry.key)]
        writes = [write_of(entry) for entry in entries]
        if not self._rules.delete:
            writes = [write for write in writes if write.value is not None]
        deletes = sum(write.value is None for write in writes)
        self._check_deletes(deletes, None, is_empty=False)
        if deletes:
            # They may have made room for what the target could not hold.
            self._suspects.update(self._target.refused)
        self._work.append(Work(writes, batch.cursor, since))

    def _check_deletes(self, deletes: int, held: int | None, *, is_empty: bool) -> None:
        def count() -> int:
            if held is not None:
                return held
            keys = [capability.key for capability in self._target.store.capabilities()]
            return sum(self._selection.matches(key) and not is_reserved(key) for key in keys)

        limit, name = self._rules.delete_limit, self._target.store.name
        check_deletes(deletes, count, limit, name, is_empty=is_empty)

    # What others write.

    def _suspect(self, batch: Batch | None) -> None:
        """Find keys of the target that are not as they were left."""
        if batch is None:
            return
        left = self._target.left
        for entry in batch.entries:
            key = entry.key
            if key in left and left[key].digest == self._target.digest(entry):
                self._target.take(key, entry)
                self._unsaved |= key in self._written
                self._written.discard(key)
            elif not is_reserved(key):
                self._suspects.add(key)
        self._target.forget(self._written)
        self._progress = replace(self._progress, target_cursor=batch.cursor)

    def _look_at_suspects(self) -> None:
        """Read suspected keys of both stores anew: were they written by others?"""
        keys = sorted(self._suspects)[:CHUNK]
        there, wanted = self._read(self._target.store, keys), self._read(self._source, keys)
        plan = Plan()
        for key in keys:
            self._judge(plan, Conflict(key, wanted.get(key), there.get(key)))
        check_conflicts(plan.conflicts, self._target.store.name)
        self._check_deletes(plan.deletes, None, is_empty=False)
        self._take_in(plan)
        for key in keys:
            self._target.take(key, there.get(key))
        queued = {write.key for work in self._work for write in work.writes}
        writes = [write for write in plan.writes if write.key not in queued]
        if writes:
            self._work.appendleft(Work(writes, None, monotonic()))
        self._suspects.difference_update(keys)
        self._written.difference_update(keys)
        self._unsure = self._unsure.difference(keys)
        self._unsaved = True

    def _judge(self, plan: Plan, found: Conflict) -> None:
        key, target = found.key, self._target
        if same(found.source, found.target, types=self._rules.types):
            self._theirs.discard(key)
        elif found.source is None and not self._rules.delete:
            # Others may hold more.
            return
        elif key in target.refused or (key in self._unsure and key not in self._theirs):
            plan.writes.append(write_of(found.source or deleted(key)))
        elif key in self._theirs or not self._is_mine(found):
            resolve(plan, found, self._rules)
        # Else it is as it was left, and the watch of the source tells what has changed.

    def _is_mine(self, found: Conflict) -> bool:
        left = self._target.left.get(found.key)
        return left is not None and left.digest == self._target.digest(found.target)

    def _take_in(self, plan: Plan) -> None:
        self.conflicts += len(plan.theirs - self._theirs)
        self._theirs.difference_update(write.key for write in plan.writes)
        self._theirs |= plan.theirs

    @staticmethod
    def _read(store: Store, keys: Collection[str]) -> dict[str, Entry]:
        return present(store._core.state(Selection(frozenset(keys))).entries)

    # Writing.

    def _apply(self, work: Work) -> None:
        writes = self._allowed(work)
        if writes is None:
            return
        after = self._progress
        if work.cursor is not None:
            after = replace(after, cursor=work.cursor)
        place = self._intend(writes, after) if writes and work.cursor is not None else None
        try:
            if writes:
                self._target.write(writes, place)
        except (RevisionConflict, KeyNotFound):
            self._suspects.update(write.key for write in writes)
            return
        self._work.popleft()
        self._progress = after
        self._unsaved = place is None

    def _allowed(self, work: Work) -> Sequence[Write] | None:
        """What may be written of it; None if it has to be found out first."""
        theirs = [write.key for write in work.writes if write.key in self._theirs]
        if theirs and callable(self._rules.on_conflict) and work.cursor is not None:
            self._theirs.difference_update(theirs)
            self._suspects.update(theirs)
        skipped = {*theirs, *self._suspects} if work.cursor is not None else set()
        writes = [write for write in work.writes if write.key not in skipped]
        if self._rules.on_conflict == "source" or work.is_first or not self._target.can_expect:
            return writes
        return self._expecting(writes)

    def _expecting(self, writes: Sequence[Write]) -> Sequence[Write] | None:
        """The same, if the target is as it was left; None if others have just written it."""
        left = self._target.left
        unknown = [write.key for write in writes if write.key not in left]
        if unknown:
            there = self._read(self._target.store, unknown)
            # What others wrote before that was read is shown now, and looked at first.
            self._target.store._core.catch_up()
            if self._feeds.target:
                return None
            for key in unknown:
                self._target.take(key, there.get(key))
        return [
            write._replace(expect=left[write.key].revision)
            for write in writes
            if write.value is not None or left[write.key].revision
        ]

    def _intend(self, writes: Sequence[Write], after: Progress) -> Write | None:
        """Keep, before anything is written, what will be; the write that does, where it can."""
        self._written.update(write.key for write in writes)
        place = self._place.write(self._kept(after)) if self._target.is_atomic else None
        if place is None and self._rules.on_conflict != "source":
            # With what is in the target by now: a crash repeats this batch, which harms nobody.
            self._place.save(self._kept(self._progress))
        return place

    def _kept(self, progress: Progress) -> Progress:
        """The progress with all that a later process needs."""
        is_short = len(self._written) <= MOST_WRITTEN
        return replace(
            progress,
            target_cursor=progress.target_cursor if is_short else "",
            written=tuple(sorted(self._written)) if is_short else (),
            theirs=tuple(sorted(self._theirs)),
            suspects=tuple(sorted(self._suspects)),
        )

    def _save(self) -> None:
        self._place.save(self._kept(self._progress))
        self._unsaved = False

    def _keep_suspects(self) -> None:
        """So that what was refused is refused after a restart, too."""
        if self._suspects and not self._dry_run:
            try:
                self._save()
            except DatastreamError as error:
                log.warning("%s: %s", self._target.store.name, error)

    def _save_at_end(self) -> None:
        if self._unsaved and not self._dry_run:
            try:
                self._save()
            except DatastreamError as error:
                log.warning("%s: the place was not saved: %s", self._target.store.name, error)


def _taken(inbox: Inbox) -> Batch | None:
    """The next batch; None if what had come is over again.

    Raises:
        StoreClosed: there will be none any more.
    """
    batch = inbox.take()
    if batch is None and inbox.ended:
        raise StoreClosed("a store was closed, which ends its mirror")
    return batch
