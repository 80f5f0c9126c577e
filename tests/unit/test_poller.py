"""The poller: one thread while it is wanted, and never two."""

import threading

import pytest

from datastream._watch import poller as module
from datastream._watch.poller import Poller
from datastream.testing import TIMEOUT
from datastream.testing._tools import eventually


class Parts:
    """What a poller is made of, counted."""

    def __init__(self):
        self.polls = 0
        self.wanted = False
        self.failure = None
        self.failed = []
        self.rested = threading.Event()
        self.rest = self.rested.set
        self.awake = threading.Event()
        self.waiting = threading.Event()
        self.threads = set()
        self.poller = Poller(
            "poll under test",
            wanted=lambda: self.wanted,
            poll=self.poll,
            wait=self.wait,
            wake=self.awake.set,
            failed=self.failed.append,
            rest=lambda: self.rest(),
        )

    def start(self, **how):
        self.wanted = True
        self.poller.start(**how)

    def stop(self):
        self.wanted = False
        self.poller.stop()

    def poll(self):
        self.polls += 1
        self.threads.add(threading.get_ident())
        if self.failure is not None:
            raise self.failure

    def wait(self, timeout):
        self.waiting.set()
        assert self.awake.wait(TIMEOUT)
        self.awake.clear()


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(module, "RETRY_FIRST", 0.001)
    monkeypatch.setattr(module, "RETRY_MOST", 0.002)
    parts = Parts()
    yield parts
    parts.stop()
    assert parts.poller.join(TIMEOUT)


def test_it_polls_waits_and_polls_again_when_woken(parts):
    parts.start()
    assert parts.waiting.wait(TIMEOUT)
    assert parts.polls == 1
    parts.poller.wake()
    eventually(lambda: parts.polls == 2, "a poll after the wake event")


def test_stopping_rests_the_source_and_ends_the_thread(parts):
    parts.start()
    assert parts.waiting.wait(TIMEOUT)
    parts.stop()
    assert parts.rested.wait(TIMEOUT)
    assert parts.poller.join(TIMEOUT)


def test_a_start_before_the_end_goes_on_with_the_same_thread(parts):
    parts.start()
    assert parts.waiting.wait(TIMEOUT)
    for _ in range(100):
        parts.stop()
        parts.start()
    eventually(lambda: parts.polls > 1, "it polls on")
    assert threading.active_count() >= 1
    named = [t for t in threading.enumerate() if t.name == "poll under test"]
    assert len(named) == 1


def test_it_goes_on_if_it_is_wanted_when_it_is_stopped(parts):
    """Somebody has come after the one who stops it looked whether anybody watches."""
    parts.start()
    assert parts.waiting.wait(TIMEOUT)
    parts.poller.stop()
    eventually(lambda: parts.polls == 2, "it polls on")
    assert not parts.rested.is_set()


def test_it_goes_on_if_it_is_wanted_again_when_it_has_rested(parts):
    parts.start()
    assert parts.waiting.wait(TIMEOUT)

    def somebody_comes():
        parts.wanted, parts.rest = True, parts.rested.set

    parts.rest = somebody_comes
    parts.stop()
    eventually(lambda: parts.polls == 2, "it polls on")


def test_a_thread_that_waits_for_others_polls_for_who_starts_it_anew(parts):
    parts.start()
    assert parts.waiting.wait(TIMEOUT)
    parts.start()
    assert not parts.awake.is_set()
    parts.start(anew=True)
    eventually(lambda: parts.polls == 2, "a poll for the newcomer")


def test_it_retries_until_it_succeeds_and_reports_each_failure(parts):
    parts.failure = RuntimeError("away")
    parts.start()
    eventually(lambda: len(parts.failed) >= 3, "three attempts")
    assert parts.poller.retries
    parts.failure = None
    assert parts.waiting.wait(TIMEOUT)
    assert not parts.poller.retries


def test_a_success_elsewhere_ends_the_first_pause_only(parts, monkeypatch):
    monkeypatch.setattr(module, "RETRY_FIRST", 1000.0)
    monkeypatch.setattr(module, "RETRY_MOST", 1000.0)
    parts.failure = RuntimeError("away")
    parts.start()
    eventually(lambda: len(parts.failed) == 1, "the first attempt")
    parts.poller.retry_soon()
    eventually(lambda: len(parts.failed) == 2, "the second attempt")
    parts.poller.retry_soon()
    assert len(parts.failed) == 2


def test_a_store_may_close_while_its_poller_starts(parts, monkeypatch):
    class Slow(threading.Thread):
        def start(self):
            assert parts.poller.join(TIMEOUT)
            super().start()

    monkeypatch.setattr(module.threading, "Thread", Slow)
    parts.start()
    assert parts.waiting.wait(TIMEOUT)
