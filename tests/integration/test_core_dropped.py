"""What a reading has shown, and nobody was told, is read again: by the poller, at once."""

import threading

import pytest

from datastream import Store
from datastream.testing import Recorder
from tests.integration._core_sources import Listing, opened
from tests.integration._programs.tools import TIMEOUT


class LastRead(Listing):
    """Its `wait` ends when there is something that no read with a position has shown yet."""

    def __init__(self):
        super().__init__()
        self.seen = 0
        self.is_woken = self.is_waiting = False
        self.moved = threading.Condition()
        self.entered, self.go = threading.Event(), threading.Event()
        self.holds = False

    def hold_a_poll(self):
        """Hold the next poll before it reads; returns when it is held."""
        with self.moved:
            assert self.moved.wait_for(lambda: self.is_waiting, TIMEOUT)
            self.holds = True
        self.wake()
        assert self.entered.wait(TIMEOUT)

    def release_all(self):
        self.go.set()

    def read(self, selection, since):
        if self.holds and threading.current_thread().name.startswith("datastream poll"):
            self.holds = False
            self.entered.set()
            assert self.go.wait(TIMEOUT)
        reading = super().read(selection, since)
        if since is not None:
            self.seen = int(reading.position)
        return reading

    def change(self, **values):
        super().change(**values)
        with self.moved:
            self.moved.notify_all()

    def wait(self, timeout):
        with self.moved:
            self.is_waiting = True
            self.moved.notify_all()
            self.moved.wait_for(lambda: self.is_woken or self.version > self.seen, timeout)
            self.is_woken = self.is_waiting = False

    def wake(self):
        with self.moved:
            self.is_woken = True
            self.moved.notify_all()


@pytest.fixture
def source():
    return LastRead()


@pytest.fixture
def store(source):
    with opened(source, Store(source)) as store:
        yield store


def test_a_poll_that_a_newcomers_reading_has_outrun(source, store):
    watcher = Recorder(store, "a")
    watcher.wait_ready()
    source.hold_a_poll()
    source.change(b=b"1")
    # It reads where all others do not stand yet, and publishes that.
    Recorder(store, "b").wait_state({"b": b"1"})
    source.change(a=b"1")
    source.release_all()
    watcher.wait_state({"a": b"1"})


def test_a_poll_that_was_not_asked_for_a_newcomers_keys(source, store):
    Recorder(store, "a").wait_ready()
    source.hold_a_poll()
    newcomer = Recorder(store, "b")
    newcomer.wait_ready()
    source.change(b=b"1")
    source.release_all()
    newcomer.wait_state({"b": b"1"})
