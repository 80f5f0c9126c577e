"""A consumer at work: one thread brings the changes, others handle them."""

from __future__ import annotations

import logging
import random
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from datastream._consume.calling import Caller, Failed, Retry, Stopped
from datastream._consume.feed import Feed, Given, feed_of
from datastream._consume.file_place import Taken
from datastream._consume.ledger import Ledger
from datastream._consume.letters import letter, letter_keys, post
from datastream._consume.progress import Place
from datastream._consume.queue import Step, Task, TaskQueue
from datastream._watch import reaper
from datastream.entry import Batch, Entry
from datastream.errors import DatastreamError, StoreClosed, shown
from datastream.selection import Selection
from datastream.source import Feature

if TYPE_CHECKING:
    from datastream.store import Store

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds, at most, before the place is kept, or the store is read, once more."""
HANGS_AFTER = 20.0
"""Seconds after which the status says that a handler has not returned."""

log = logging.getLogger("datastream")


class Plan(NamedTuple):
    """What a consumer was asked to do."""

    store: Store
    selection: Selection
    handler: Callable[[Any], object]
    loop: AbstractEventLoop | None
    """Where coroutines run; None for a loop of the consumer's own."""
    name: str
    what: str
    retry: Retry
    on_failure: Literal["stop", "skip"] | Store
    whole: bool
    """The handler takes batches."""
    initial: bool
    conflate: bool
    concurrency: int


class ConsumerCounts(NamedTuple):
    """What became of changes since the consumer was started."""

    handled: int = 0
    """Changes for which the handler returned."""
    retried: int = 0
    """Calls of the handler that raised and were followed by another one."""
    skipped: int = 0
    """Changes given up, with ``on_failure="skip"``."""
    dead: int = 0
    """Changes given up, and put into the dead-letter store."""


class Trouble(NamedTuple):
    """What goes wrong just now and is tried again."""

    since: datetime
    error: Exception
    attempts: int


class Run:
    """A consumer from its start to its end.

    Args:
        plan: what to do.
        place: where it stands; closed here.
        moved: called when the status may have changed.
    """

    def __init__(self, plan: Plan, place: Place, moved: Callable[[], object]) -> None:
        self.plan = plan
        self.counts = ConsumerCounts()
        self.error: Exception | None = None
        """Why it ended, if not because it was asked to."""
        self.stopped = threading.Event()
        self.ended = threading.Event()
        self.ended_at: datetime | None = None
        self.is_forked = False
        self._rests = threading.Condition()
        """Notified when there may be nothing left to handle, and at the end."""
        self._moved = moved
        self._lock = threading.Lock()
        self._troubles: dict[int, Trouble] = {}
        self._calls: dict[int, tuple[float, Task]] = {}
        self._hung = ""
        self._queue = TaskQueue()
        self._place = place
        self._ledger = Ledger(place)
        self._progress = place.progress
        self._caller = Caller(plan.handler, plan.loop, plan.retry, self.stopped, self._retried)
        self._has_log = Feature.LOG in plan.store.features
        self._feed: Feed = feed_of(plan.store, conflate=plan.conflate, whole=plan.whole)(
            plan.store,
            plan.selection,
            place.progress,
            self,
            plan.what,
            initial=plan.initial,
            conflate=plan.conflate,
        )
        self._alive = 0

    # From outside.

    def start(self) -> None:
        """Subscribe, and begin.

        Raises:
            DatastreamError: what `Store.watch` raises.
        """
        try:
            self._feed.open()
        except BaseException:
            self._ledger.close()
            raise
        targets = [self._bring, *[self._work] * self.plan.concurrency]
        self._alive = len(targets)
        name = f"datastream consume {self.plan.name}"
        for target in targets:
            threading.Thread(target=target, name=name, daemon=True).start()
        reaper.watch(self)

    def end(self) -> None:
        """Bring no more changes, and begin to handle none; memory work only."""
        self.stopped.set()
        self._feed.close()
        self._queue.close()

    def keep(self) -> None:
        """Save what was handled, though a handler still runs."""
        try:
            self._ledger.save()
        except Exception as error:  # noqa: BLE001
            log.warning("%s: the place was not kept: %s", self.plan.what, error)

    def cancel(self) -> bool:
        """Cancel async handlers that still run; whether there were any."""
        return self._caller.cancel()

    def is_inside(self) -> bool:
        """Whether a handler asks."""
        return threading.get_ident() in self._calls

    @property
    def trouble(self) -> Trouble | None:
        """The oldest one."""
        return min(list(self._troubles.values()), default=None)

    @property
    def waiting(self) -> int:
        """Changes that came and are not handled."""
        return self._feed.waiting + len(self._queue)

    @property
    def oldest(self) -> float | None:
        """Since when, by `monotonic`, a change that was taken is not handled."""
        return self._ledger.oldest

    @property
    def hung(self) -> str:
        """Which handler has not returned for long, "" if none."""
        calls = list(self._calls.values())
        began, task = min(calls, key=lambda call: call[0], default=(monotonic(), None))
        if task is None or monotonic() - began < HANGS_AFTER:
            return ""
        which = _described(task.item)
        return f"the handler has not returned for over {HANGS_AFTER:g} s: {which}"

    def flush(self, timeout: float | None) -> bool:
        """Wait until all that was offered is handled and saved; False if it ends before."""
        with self._rests:
            self._rests.wait_for(lambda: self._is_idle() or self.ended.is_set(), timeout)
        # One that ended at a failure has a change left, although nothing waits any more.
        return self._is_idle() and self.error is None

    def rested(self) -> None:
        """The feed has given all, or the workers have handled all."""
        with self._rests:
            self._rests.notify_all()

    def _is_idle(self) -> bool:
        # In this order: what leaves the feed is in the queue before.
        return not self._feed.waiting and not len(self._queue)

    def check_hangs(self) -> None:
        """Say so if a handler has not returned for long."""
        before, self._hung = self._hung, self.hung
        if before != self._hung:
            if self._hung:
                log.warning("%s: %s", self.plan.what, self._hung)
            self._moved()

    def forked(self) -> None:
        """In a child process: the threads are the parent's, and so is the place."""
        self.is_forked = True
        # Or the child would hold its lock for as long as it lives.
        with suppress(OSError):
            self._place.close()

    # For the feed.

    def persist(self, call: Callable[[], T]) -> T:
        """What `call` returns, tried until it does not raise.

        Raises:
            Stopped: the consumer was stopped before.
            Taken, StoreClosed: trying again is of no use.
        """
        while True:
            try:
                result = call()
            except (Taken, StoreClosed):
                raise
            except (OSError, DatastreamError) as error:
                self.pause(error)
            else:
                self._over()
                return result

    def pause(self, error: Exception) -> None:
        """Say what went wrong, and wait before it is tried again."""
        attempts = self._in_trouble(error)
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempts)
        if self.stopped.wait(random.uniform(0, longest)):  # noqa: S311
            raise Stopped

    def drain(self) -> None:
        """Wait until all that was brought is handled and saved."""
        if not self._queue.join():
            raise Stopped
        self.persist(self._ledger.save)

    # The thread that brings changes.

    def _bring(self) -> None:
        try:
            for given in self._feed.given():
                self._over()
                self._begin(given)
        except (Stopped, StoreClosed):
            pass
        except Exception as error:  # noqa: BLE001
            self._fail(error)
        finally:
            self.end()
            self._left()

    def _begin(self, given: Given) -> None:
        entries = given.entries
        if given.is_start:
            self.persist(lambda: self._ledger.stand(given.batch))
            return
        items = self._items(given)
        step = Step(given.cursor, len(items))
        self._ledger.begin(step, entries)
        self.persist(lambda: self._ledger.announce(entries, durable=not self._has_log))
        for item in items:
            self._queue.put(self._task(item, step))

    def _task(self, item: Entry | Batch, step: Step) -> Task:
        if isinstance(item, Batch):
            return Task(None, item, item.entries, step)
        # One worker handles all keys in the order in which they came.
        return Task(item.key if self.plan.concurrency > 1 else None, item, (item,), step)

    def _items(self, given: Given) -> list[Entry | Batch]:
        if not self.plan.whole:
            return list(given.entries)
        if not given.entries:
            return []
        if len(given.entries) == len(given.batch.entries):
            return [given.batch]
        return [replace(given.batch, entries=tuple(given.entries))]

    # The threads that handle them.

    def _work(self) -> None:
        try:
            while (task := self._queue.take()) is not None:
                try:
                    self._handle(task)
                finally:
                    self._queue.done(task)
                    if not len(self._queue):
                        self.rested()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
        finally:
            # Stopped, it may be, since the event loop of its handler has ended.
            self.end()
            self._left()

    def _handle(self, task: Task) -> None:
        me = threading.get_ident()
        self._calls[me] = (monotonic(), task)
        try:
            self._caller(task.item)
            self._count(handled=len(task.entries))
        except Failed as failed:
            self._give_up(task, failed)
        finally:
            del self._calls[me]
        self._over()
        if self._ledger.done(task):
            self.persist(self._ledger.save)

    def _give_up(self, task: Task, failed: Failed) -> None:
        on_failure = self.plan.on_failure
        if on_failure == "stop":
            self._fail(self._explained(task, failed))
            raise Stopped
        if on_failure == "skip":
            log.warning("%s", self._explained(task, failed, "it is skipped"))
            self._count(skipped=len(task.entries))
            return
        for entry in task.entries:
            content = letter(self.plan.name, entry, failed.error, failed.attempts)
            keys = letter_keys(self.plan.name, entry)
            key = self.persist(partial(post, on_failure, keys, content))
            log.warning("%s", self._explained(task, failed, f"it is kept as {shown(key)}"))
            self._count(dead=1)

    def _explained(self, task: Task, failed: Failed, so: str = "") -> DatastreamError:
        error, calls = failed.error, failed.attempts
        so = so or "it comes first when the consumer is started again"
        text = (
            f"{self.plan.what}: {_described(task.item)} was not handled in {calls} "
            f"call{'s' * (calls > 1)}, {so}: {type(error).__name__}: {error}"
        )
        explained = DatastreamError(text)
        explained.__cause__ = error
        return explained

    def _retried(self, item: object, error: Exception, attempts: int) -> None:
        self._count(retried=1)
        self._in_trouble(error)
        log.info("%s: call %s for %s raised: %s", self.plan.what, attempts, _described(item), error)

    # How it stands.

    def _count(self, **more: int) -> None:
        with self._lock:
            counts = self.counts._asdict()
            self.counts = ConsumerCounts(
                **{name: n + more.get(name, 0) for name, n in counts.items()}
            )

    def _in_trouble(self, error: Exception) -> int:
        """Take in an error; how many there were in a row."""
        me = threading.get_ident()
        before = self._troubles.get(me)
        since = before.since if before else datetime.now(UTC)
        attempts = before.attempts + 1 if before else 1
        self._troubles[me] = Trouble(since, error, attempts)
        if before is None or str(before.error) != str(error):
            log.warning("%s: tried again: %s: %s", self.plan.what, type(error).__name__, error)
            self._moved()
        return attempts

    def _over(self) -> None:
        if self._troubles and self._troubles.pop(threading.get_ident(), None) is not None:
            self._moved()

    # The end.

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self.error is None:
                self.error = error if isinstance(error, Exception) else DatastreamError(
                    f"{self.plan.what}: the handler raised {error!r}"
                )  # fmt: skip
        log.error("%s: stopped: %s", self.plan.what, self.error)
        self.end()

    def _left(self) -> None:
        with self._lock:
            self._troubles.pop(threading.get_ident(), None)
            self._alive -= 1
            if self._alive:
                return
        self._finish()

    def _finish(self) -> None:
        reaper.unwatch(self)
        self.keep()
        self._caller.close()
        self._ledger.close()
        self.ended_at = datetime.now(UTC)
        self.ended.set()
        self.rested()
        self._moved()


def _described(item: object) -> str:
    if isinstance(item, Batch):
        more = f" and {len(item) - 1} more" * (len(item) > 1)
        return _described(item.entries[0]) + more
    if isinstance(item, Entry):
        revision = f" at revision {shown(item.revision)}" if item.revision else ""
        return f"{item.operation} of {shown(item.key)}{revision}"
    return type(item).__name__
