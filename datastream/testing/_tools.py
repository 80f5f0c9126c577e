"""What the conformance tests are written with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reactivex.abc import DisposableBase

from datastream.entry import Batch, Capability, Entry, Operation
from datastream.selection import Selection, Selects
from datastream.source import Health, Reading, Source, Write, Written
from datastream.store import Store

TIMEOUT = 30.0
"""Seconds after which something that was to happen counts as not happening."""


class Harness:
    """Gives the suite a backend, empty at first; override `source`, and `close` if needed."""

    effort: float = 1.0
    """The share of writes that the long tests make; less for a backend that takes long."""

    def source(self) -> Source:
        """A Source of its own on the backend, as another process would have one."""
        raise NotImplementedError

    def writer(self) -> Store:
        """A store that changes the backend from elsewhere; override it for read-only Sources."""
        return Store(self.source(), name="elsewhere")

    def close(self) -> None:
        """Called after each test."""


class Recorder:
    """Subscribes to a watch and keeps what arrives."""

    def __init__(
        self,
        store: Store,
        *keys: str,
        match: Any = (),
        since: Any = None,
        had: Mapping[str, bytes] | None = None,
    ) -> None:
        self._changed = threading.Condition()
        self.batches: list[Batch] = []
        self.states: list[dict[str, bytes]] = [dict(had or {})]
        """The state after each batch, first what a resuming reader `had`."""
        self.error: Exception | None = None
        self.completed = False
        self.subscription: DisposableBase = store.watch_batches(
            *keys, match=match, since=since
        ).subscribe(self._take, self._fail, self._complete)

    @property
    def entries(self) -> list[Entry]:
        return [entry for batch in list(self.batches) for entry in batch.entries]

    @property
    def live(self) -> list[Entry]:
        """The entries after the initial batch."""
        return [entry for batch in self.batches[1:] for entry in batch.entries]

    @property
    def state(self) -> dict[str, bytes]:
        return self.states[-1]

    @property
    def cursor(self) -> str:
        return self.batches[-1].cursor

    def wait(self, condition: Callable[[Recorder], object], what: str = "") -> None:
        """Wait until `condition` of this recorder is true.

        Raises:
            AssertionError: it is not after `TIMEOUT` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), TIMEOUT):
                raise AssertionError(
                    f"never happened: {what or condition}; got {self.batches[-3:]}"
                )

    def wait_state(self, expected: dict[str, bytes]) -> None:
        self.wait(lambda recorder: recorder.state == expected, f"state {expected}")

    def wait_ready(self) -> None:
        """Wait for the initial batch."""
        self.wait(lambda recorder: recorder.batches, "initial batch")

    def dispose(self) -> None:
        self.subscription.dispose()

    def _take(self, batch: Batch) -> None:
        with self._changed:
            state = {} if batch.reset else dict(self.states[-1])
            for entry in batch.entries:
                if entry.operation is Operation.DELETE:
                    state.pop(entry.key, None)
                else:
                    state[entry.key] = entry.value
            self.batches.append(batch)
            self.states.append(state)
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def _complete(self) -> None:
        with self._changed:
            self.completed = True
            self._changed.notify_all()


class Spy(Source):
    """Passes everything on to another Source, counts the calls, and fails on demand."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.features = source.features
        self.instant = source.instant
        self.thread_safe = source.thread_safe
        self.eventually_consistent = source.eventually_consistent
        self.reads = 0
        self.waiting = threading.Event()
        """Set while a `wait` runs."""
        self.closed = threading.Event()
        self.released = threading.Event()
        self.failure: Exception | None = None
        """What `read` raises, if anything."""
        self.pretend: Reading | None = None
        """What the next `read` answers instead, if anything."""
        self.hanging: threading.Event | None = None
        """What polls wait for before they read, if anything."""
        self.hung = threading.Event()
        """Set once a poll waits for `hanging`."""

    def capabilities(self) -> Sequence[Capability]:
        return self._source.capabilities()

    def read(self, selection: Selects, since: str | None) -> Reading:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        if self.hanging is not None and not isinstance(selection, Selection):
            self.hung.set()
            self.hanging.wait(TIMEOUT)
        pretended, self.pretend = self.pretend, None
        return pretended or self._source.read(selection, since)

    def wait(self, timeout: float | None) -> None:
        self.waiting.set()
        try:
            self._source.wait(timeout)
        finally:
            self.waiting.clear()

    def wake(self) -> None:
        self._source.wake()

    def reach(self) -> None:
        self._source.reach()

    def newcomer(self, since: str | None, *, covered: bool) -> bool:
        return self._source.newcomer(since, covered=covered)

    def compared(self, position: str, *, same: bool) -> None:
        self._source.compared(position, same=same)

    def write(self, writes: Sequence[Write]) -> Written | Sequence[Entry]:
        return self._source.write(writes)

    def get(self, key: str) -> Entry | None:
        if self.failure is not None:
            raise self.failure
        return self._source.get(key)

    def translate(self, error: Exception, key: str | None) -> Exception:
        return self._source.translate(error, key)

    @property
    def health(self) -> Health:  # type: ignore[override]
        return self._source.health

    def release(self) -> None:
        self._source.release()
        self.released.set()

    def close(self) -> None:
        self._source.close()
        self.closed.set()


def together(*actions: Callable[[], object]) -> list[object]:
    """Run the actions in threads at once; their results, an exception where one was raised."""
    results: list[object] = [None] * len(actions)
    start = threading.Barrier(len(actions))

    def run(number: int, action: Callable[[], object]) -> None:
        start.wait(TIMEOUT)
        try:
            results[number] = action()
        except Exception as error:  # noqa: BLE001
            results[number] = error

    threads = [
        threading.Thread(target=run, args=(number, action)) for number, action in enumerate(actions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        # Several times that: where all want one key, each waits for many others.
        thread.join(4 * TIMEOUT)
        assert not thread.is_alive(), "a call never returned"
    return results


def open_handles() -> int:
    """Threads and file descriptors of this process; descriptors count where they can be listed."""
    try:
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        descriptors = 0
    return threading.active_count() + descriptors


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for something that notifies nobody, such as a thread's end."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"never happened: {what}")
