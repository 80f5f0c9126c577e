"""Tasks by key, without any thread but the test's own."""

import threading

import pytest

from datastream import Entry
from datastream._consume import queue
from datastream._consume.ledger import Ledger
from datastream._consume.progress import MemoryPlace
from datastream._consume.queue import Step, Task, TaskQueue
from datastream.entry import deleted
from datastream.selection import Selection


def task(key, number, step=None):
    entry = Entry(key, b"", revision=str(number))
    return Task(key, entry, (entry,), step or Step("c", 1))


def taken(tasks, number):
    found = [tasks.take() for _ in range(number)]
    return [(one.key, one.item.revision) for one in found], found


def test_tasks_of_one_key_are_given_one_after_the_other():
    tasks = TaskQueue()
    for key, number in [("a", 1), ("a", 2), ("b", 1), ("a", 3)]:
        assert tasks.put(task(key, number))
    first, running = taken(tasks, 2)
    assert first == [("a", "1"), ("b", "1")]
    for one in running:
        tasks.done(one)
    second, running = taken(tasks, 1)
    assert second == [("a", "2")]
    assert len(tasks) == 2
    tasks.done(running[0])
    assert taken(tasks, 1)[0] == [("a", "3")]


def test_a_full_queue_makes_wait(monkeypatch):
    monkeypatch.setattr(queue, "CAPACITY", 2)
    tasks, put = TaskQueue(), []
    for number in range(2):
        tasks.put(task("a", number))
    thread = threading.Thread(target=lambda: put.append(tasks.put(task("a", 2))))
    thread.start()
    assert not put
    tasks.done(tasks.take())
    thread.join(30)
    assert put == [True]


def test_a_closed_queue_gives_and_takes_nothing():
    tasks = TaskQueue()
    tasks.put(task("a", 1))
    running = tasks.take()
    tasks.put(task("a", 2))
    tasks.close()
    assert not tasks.put(task("b", 1))
    assert tasks.take() is None
    tasks.done(running)
    assert not tasks.join(0)


def test_the_cursor_follows_the_oldest_step_that_is_open():
    place = MemoryPlace(Selection())
    ledger = Ledger(place)
    first, second = Step("c1", 1), Step("c2", 2)
    ledger.begin(first, [Entry("a")])
    ledger.begin(second, [Entry("b"), Entry("c")])
    assert not ledger.done(task("b", "b1", second))
    assert not ledger.done(task("c", "c1", second))
    ledger.save()
    assert not place.progress.begun
    assert place.progress.revisions == {"b": "b1", "c": "c1"}
    # Nothing else is handled any more.
    assert ledger.done(task("a", "a1", first))
    ledger.save()
    assert place.progress.cursor == "c2"
    assert ledger.oldest is None


def test_what_could_not_be_saved_is_saved_next():
    class Full(MemoryPlace):
        is_full = True

        def save(self, handled, cursor, *, durable=True):
            if self.is_full:
                raise OSError("full")
            super().save(handled, cursor)

    place = Full(Selection())
    ledger, step = Ledger(place), Step("c", 1)
    ledger.begin(step, [Entry("a")])
    ledger.done(task("a", "1", step))
    try:
        ledger.save()
    except OSError:
        place.is_full = False
    step = Step("d", 1)
    ledger.begin(step, [Entry("a")])
    ledger.done(task("a", "2", step))
    ledger.save()
    assert (place.progress.cursor, place.progress.revisions) == ("d", {"a": "2"})


@pytest.mark.parametrize("order", ["put comes first", "delete is handled first", "and saved"])
def test_a_key_that_may_have_been_handled_is_never_unknown_to_the_place(order):
    """Killed after its PUT was handled and before that is saved, its end has to be told."""
    place = MemoryPlace(Selection())
    place.save({"a": "r1"}, "c0")
    ledger, gone, again = Ledger(place), Step("c1", 1), Step("c2", 1)
    removed, made = deleted("a"), Entry("a", revision="r2")
    ledger.begin(gone, [removed])
    ledger.announce([removed], durable=True)
    if order != "put comes first":
        ledger.done(Task("a", removed, (removed,), gone))
    if order == "and saved":
        ledger.save()
        assert place.progress.revisions == {}
    ledger.begin(again, [made])
    ledger.announce([made], durable=True)
    if order == "put comes first":
        ledger.done(Task("a", removed, (removed,), gone))
    ledger.save()
    assert place.progress.is_news(made)
    assert "a" in place.progress.revisions
    ledger.done(Task("a", made, (made,), again))
    ledger.save()
    assert place.progress.revisions == {"a": "r2"}
