"""Sources that hang, fail or change at the worst moment, for the tests of the core."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager

from datastream.entry import Capability, Entry, deleted
from datastream.selection import Selection
from datastream.source import WRITING, Reading, Source, check_expected
from datastream.sources.memory import MemorySource
from datastream.testing import Spy
from tests.integration._programs.tools import TIMEOUT


class Gated(MemorySource):
    """Memory whose calls block or fail on demand, by name: poll, read, get, write, wait.

    A poll is a `read` with a position, made by the thread that waits.
    """

    instant = False

    def __init__(self, name=""):
        super().__init__(name)
        self.go = threading.Event()
        self.go.set()
        self.held = set()
        self.entered = threading.Semaphore(0)
        self.failures = {}
        self.calls = Counter()
        self.closed = 0
        self._poller = None

    def hold(self, *names):
        """From now on these calls do not return, until `release_all`."""
        self.go.clear()
        self.held = set(names)

    def release_all(self):
        self.held = set()
        self.go.set()

    def await_held(self):
        """Until a call is held."""
        assert self.entered.acquire(timeout=TIMEOUT), "no such call was made"

    def _pass(self, name):
        self.calls[name] += 1
        if name in self.held:
            self.entered.release()
            assert self.go.wait(2 * TIMEOUT), "nobody let it go"
        failure = self.failures.get(name)
        if failure is not None:
            raise failure

    def read(self, selection, since):
        is_poll = since is not None and threading.current_thread() is self._poller
        self._pass("poll" if is_poll else "read")
        return super().read(selection, since)

    def get(self, key):
        self._pass("get")
        return super().get(key)

    def capabilities(self):
        self._pass("capabilities")
        return super().capabilities()

    def write(self, writes):
        self._pass("write")
        return super().write(writes)

    def wait(self, timeout):
        self._poller = threading.current_thread()
        self._pass("wait")
        super().wait(timeout)

    def close(self):
        self.closed += 1
        super().close()


class Held(Spy):
    """Holds the reads of newcomers on demand."""

    def __init__(self, source):
        super().__init__(source)
        self.go, self.reading = threading.Event(), threading.Event()
        self.go.set()

    def read(self, selection, since):
        if since is None and isinstance(selection, Selection) and not self.go.is_set():
            self.reading.set()
            assert self.go.wait(TIMEOUT)
        return super().read(selection, since)


class Listing(Source):
    """The simplest third-party source: a dictionary, no log, and on demand empty for no reason."""

    features = WRITING

    def __init__(self):
        self.data = {}
        self.version = 0
        self.is_empty = False
        self.reads = 0
        self.lock = threading.Lock()
        self.changed = threading.Event()

    def change(self, **values):
        """What another program does."""
        with self.lock:
            for key, value in values.items():
                self.version += 1
                if value is None:
                    self.data.pop(key, None)
                else:
                    self.data[key] = (value, self.version)
        self.changed.set()

    def entry(self, key):
        value, version = self.data[key]
        return Entry(key, value, "bytes", None, str(version))

    def capabilities(self):
        with self.lock:
            return [Capability(key, "bytes") for key in self.data]

    def read(self, selection, since):
        with self.lock:
            self.reads += 1
            if self.is_empty:
                return Reading([], f"empty {self.reads}", True)
            keys = [key for key in self.data if selection.matches(key)]
            return Reading([self.entry(key) for key in keys], f"{self.version}", True)

    def write(self, writes):
        with self.lock:
            for write in writes:
                current = self.entry(write.key).revision if write.key in self.data else None
                check_expected(write, current)
            for write in writes:
                self.version += 1
                if write.value is None:
                    self.data.pop(write.key, None)
                else:
                    self.data[write.key] = (write.value, self.version)
            return [self.entry(w.key) if w.value is not None else deleted(w.key) for w in writes]

    def wait(self, timeout):
        self.changed.wait(timeout)
        self.changed.clear()

    def wake(self):
        self.changed.set()

    def close(self):
        pass


class Call:
    """A call in a thread of its own."""

    def __init__(self, function, *arguments):
        self.result = self.error = None
        self._function, self._arguments = function, arguments
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.result = self._function(*self._arguments)
        except Exception as error:
            self.error = error

    def ends(self, what="the call", within=TIMEOUT):
        """Its result; fails if it does not return."""
        self.thread.join(within)
        assert not self.thread.is_alive(), f"{what} waits for somebody else's I/O"
        if self.error is not None:
            raise self.error
        return self.result


@contextmanager
def opened(source, store):
    """`store` over `source`, whose calls are let go at the end, whatever happened."""
    try:
        with store:
            yield store
    finally:
        source.release_all()


def together(*actions, within=TIMEOUT):
    """Run the actions in threads at once; their results, an exception where one was raised.

    Args:
        within: seconds; more for actions that have much to do.
    """
    start = threading.Barrier(len(actions))

    def run(action):
        start.wait(TIMEOUT)
        try:
            return action()
        except Exception as error:
            return error

    calls = [Call(run, action) for action in actions]
    return [call.ends(within=within) for call in calls]
