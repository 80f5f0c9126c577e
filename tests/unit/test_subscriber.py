"""`Subscriber` without threads: it is born busy, and `start` delivers on the thread that calls."""

import pytest
from reactivex import Observer

from datastream import Batch, Entry
from datastream._watch.buffer import buffer_for
from datastream._watch.subscriber import SLICE, TOGETHER, Overflow, Subscriber


class NoDispatcher:
    """Keeps what was submitted."""

    def __init__(self):
        self.jobs = []

    def submit(self, job, delay=0.0):
        self.jobs.append(job)


class Watcher:
    """Notes what it is called with; may do something at each call."""

    def __init__(self, conflate="slow", each=lambda entry: None):
        self.each = each
        self.got = []
        self.ended = []
        observer = Observer(self._take, self.ended.append, lambda: self.ended.append(None))
        self.dispatcher = NoDispatcher()
        buffer = buffer_for(conflate, "watch(k)")
        self.subscriber = Subscriber(
            observer, lambda batch: batch.entries, buffer, self.dispatcher, "watch(k)"
        )

    def _take(self, entry):
        self.got.append(int(entry.value))
        self.each(entry)

    def offer(self, *numbers):
        for number in numbers:
            entry = Entry("k", str(number).encode(), revision=str(number))
            self.subscriber.offer(Batch((entry,), cursor=str(number)), [str(number - 1)])


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless `clock[0]` is changed."""
    now = [0.0]
    monkeypatch.setattr("datastream._watch.subscriber.monotonic", lambda: now[0])
    return now


NUMBERS = range(2 * TOGETHER + 3)


def test_all_that_waits_is_delivered_in_order(clock):
    watcher = Watcher()
    watcher.offer(*NUMBERS)
    watcher.subscriber.start()
    assert watcher.got == [*NUMBERS]
    assert not watcher.dispatcher.jobs
    watcher.offer(1000)
    assert watcher.dispatcher.jobs == [watcher.subscriber]


@pytest.fixture
def late(clock):
    """Takes longer for each entry than a turn lasts."""

    def each(entry):
        clock[0] += SLICE * 2

    return each


def test_one_that_leaves_in_its_own_call_gets_nothing_more(clock):
    watcher = Watcher(each=lambda entry: watcher.subscriber.close())
    watcher.offer(*NUMBERS)
    watcher.subscriber.start()
    assert watcher.got == [0]


def test_one_that_leaves_between_two_turns_gets_nothing_more(late):
    watcher = Watcher(each=late)
    watcher.offer(*NUMBERS)
    watcher.subscriber.start()
    watcher.subscriber.close()
    assert not watcher.subscriber.deliver()
    assert watcher.got == [0]


def test_a_turn_that_is_over_goes_on_where_it_ended(late):
    watcher = Watcher(each=late)
    watcher.offer(*NUMBERS)
    watcher.subscriber.start()
    assert watcher.got == [0]
    while watcher.subscriber.deliver():
        pass
    assert watcher.got == [*NUMBERS]


def test_what_it_was_offered_comes_before_the_end(clock):
    watcher = Watcher()
    watcher.offer(*NUMBERS)
    watcher.subscriber.end()
    watcher.subscriber.start()
    assert (watcher.got, watcher.ended) == ([*NUMBERS], [None])


def test_what_was_taken_is_delivered_and_all_else_conflated(clock, monkeypatch):
    monkeypatch.setattr("datastream._watch.buffer.KEPT_ENTRIES", 2 * len(NUMBERS))
    later = range(1000, 1000 + 3 * len(NUMBERS))

    def more(entry):
        if entry.value == b"0":
            watcher.offer(*later)

    watcher = Watcher(each=more)
    watcher.offer(*NUMBERS)
    watcher.subscriber.start()
    assert watcher.got == [*NUMBERS[:TOGETHER], later[-1]]


def test_a_watch_that_leaves_nothing_out_ends_when_too_much_waits(clock, monkeypatch):
    monkeypatch.setattr("datastream._watch.buffer.BOUND", 10)
    watcher = Watcher("never")
    watcher.offer(*NUMBERS)
    watcher.subscriber.start()
    (error,) = watcher.ended
    assert isinstance(error, Overflow)
