"""Subscribers of every kind, which keep what they receive in the words of the checker."""

from __future__ import annotations

import asyncio
import threading
import time

from tests.property.history.checker import DELETE, PUT, Asked, Got, GotBatch, Received


class State:
    """Values and revisions after some batches."""

    def __init__(self, revisions=None, values=None):
        self.revisions = dict(revisions or {})
        self.values = dict(values or {})

    def take(self, batch):
        if batch.reset:
            self.revisions.clear()
            self.values.clear()
        for entry in batch.entries:
            if entry.operation == PUT:
                self.revisions[entry.key] = entry.revision
                self.values[entry.key] = entry.value
            else:
                self.revisions.pop(entry.key, None)
                self.values.pop(entry.key, None)


def got(batch) -> GotBatch:
    """A batch of the library, in the checker's words."""
    entries = tuple(
        Got(e.key, PUT, e.revision, e.value)
        if e.operation.value == "PUT"
        else Got(e.key, DELETE, e.revision)
        for e in batch.entries
    )
    return GotBatch(entries, batch.cursor, batch.initial, batch.reset)


class Subscriber:
    """One watch and what came of it.

    Args:
        store: watched.
        where: its name, for the report.
        resume: (kind, what it had, the cursor), or None.
        acknowledged: writes acknowledged so far.
        delay: seconds it takes for each batch.
    """

    def __init__(self, store, where, asked: Asked, acknowledged, resume=None, delay=0.0):
        self.store, self.where, self.delay = store, where, delay
        self.changed = threading.Condition()
        self.error = None
        self.ended = self.rest = False
        kind, state, cursor = resume or (None, State(), "")
        self.started = State(state.revisions, state.values)
        self.state = State(state.revisions, state.values)
        self.since = {"cursor": cursor, "map": dict(state.revisions)}.get(kind)
        self.received = Received(
            f"{where} {asked.keys or ''}{asked.match or ''} since={kind}",
            asked,
            since=kind,
            had=dict(state.revisions),
            had_values=dict(state.values),
            acknowledged=acknowledged,
        )
        self._disposed = False
        self._end = None

    def start(self):
        asked = self.received.asked
        watch = self.store.watch_batches(*asked.keys, match=asked.match, since=self.since)
        self._end = watch.subscribe(self.take, self.fail, self.complete).dispose
        return self

    def start_async(self, loop):
        future = asyncio.run_coroutine_threadsafe(self._follow(), loop)
        self._end = future.cancel
        return self

    async def _follow(self):
        asked = self.received.asked
        try:
            async with self.store.awatch_batches(
                *asked.keys, match=asked.match, since=self.since
            ) as batches:
                async for batch in batches:
                    self.take(batch)
            self.complete()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.fail(error)

    def take(self, batch):
        with self.changed:
            if self._disposed:
                return
            taken = got(batch)
            self.received.batches.append(taken)
            self.state.take(taken)
            self.changed.notify_all()
        if self.delay and not self.rest:
            time.sleep(self.delay)

    def fail(self, error):
        with self.changed:
            if not self._disposed:
                self.error = error
            self.changed.notify_all()

    def complete(self):
        with self.changed:
            if not self._disposed:
                self.ended = True
            self.changed.notify_all()

    def dispose(self):
        with self.changed:
            self._disposed = True
        if self._end is not None:
            self._end()

    def offered(self, key, value):
        """`key` was put to its store, which was flushed."""
        with self.changed:
            self.received.offered.append((len(self.received.batches), key, value))

    def resume(self, kind, random):
        """How somebody else goes on from here, or from an earlier batch."""
        batches = self.received.batches
        if not batches:
            return None
        count = len(batches) if random.random() < 0.6 else random.randint(1, len(batches))
        state = State(self.started.revisions, self.started.values)
        for batch in batches[:count]:
            state.take(batch)
        return kind, state, batches[count - 1].cursor

    def wait_for(self, wanted, until):
        """Whether it has exactly `wanted` in time."""
        with self.changed:
            while self.state.values != wanted or not self.received.batches:
                left = until - time.monotonic()
                if left <= 0 or self.error or self.ended:
                    return False
                self.changed.wait(left)
        return True


class EventLoop:
    """An event loop in a thread, for those who watch with ``async for``."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="history-loop")
        self._thread.start()

    def close(self):
        asyncio.run_coroutine_threadsafe(_cancel_all(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()


async def _cancel_all():
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
