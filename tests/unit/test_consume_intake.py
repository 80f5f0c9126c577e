"""What a consumer has taken in, and still owes its handler."""

from datastream import Batch, Entry
from datastream._consume.feed import Intake


def batch(*keys, initial=False):
    return Batch(tuple(Entry(key) for key in keys), "c", initial=initial)


def test_it_rests_when_all_that_was_offered_was_taken_and_given():
    rests = []
    intake = Intake("store", lambda: rests.append(intake.waiting), conflate=False)
    intake.offer(batch("a", "b"))
    intake.offer(batch("c"))
    assert intake.take() is not None
    assert intake.take() is not None
    assert (intake.waiting, rests) == (1, [])
    intake.end()
    assert intake.take() is None
    assert rests == [0]


def test_what_was_lost_is_owed_until_the_state_comes(monkeypatch):
    monkeypatch.setattr("datastream._watch.buffer.BOUND", 1)
    rests = []
    intake = Intake("store", lambda: rests.append(1), conflate=False)
    intake.offer(batch("a", "b"))
    intake.offer(batch("c"))
    assert intake.take() is not None
    assert intake.take() is None
    assert (intake.has_lost, intake.waiting, rests) == (True, 1, [])
    after = Intake("store", lambda: rests.append(1), conflate=False)
    after.owe()
    after.offer(batch("a", initial=True))
    assert after.take() is not None
    assert rests == []
    after.end()
    assert after.take() is None
    assert (after.waiting, rests) == (0, [1])
