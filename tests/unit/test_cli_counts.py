"""How often keys change: pure."""

from datastream import Batch, Entry
from datastream.cli._counts import WINDOW, Counts


def batch(*keys, **marks):
    return Batch(tuple(Entry(key, b"", "int", None, "r") for key in keys), **marks)


def test_what_was_there_is_no_change():
    counts = Counts(0)
    counts.take(batch("a", "b", initial=True), 0)
    assert counts.lines(1) == []


def test_those_that_change_most_come_first():
    counts = Counts(0)
    for second in range(5):
        counts.take(batch("a", "b"), second)
        counts.take(batch("b"), second)
    assert counts.lines(5) == [("b", 2.0, 10), ("a", 1.0, 5)]
    assert counts.rate(5) == 3.0


def test_rates_are_of_the_last_seconds_and_totals_of_all():
    counts = Counts(0)
    counts.take(batch("a"), 1)
    counts.take(batch("b"), 1 + WINDOW)
    assert counts.lines(1.5 + WINDOW) == [("b", 1 / WINDOW, 1), ("a", 0.0, 1)]


def test_only_what_changed_since_the_last_look_is_told():
    counts = Counts(0)
    counts.take(batch("a", "b"), 1)
    assert [line.key for line in counts.changed(2)] == ["a", "b"]
    counts.take(batch("b"), 3)
    assert [line.key for line in counts.changed(4)] == ["b"]
    assert counts.changed(5) == []
