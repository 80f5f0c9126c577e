"""Watches of values: old and new, and what does not decode."""

import logging

from datastream import Batch, Change, Entry
from datastream._watch.values import ValueChanges
from datastream.entry import deleted


def put(key, value, revision):
    return Entry(key, value, "float", None, revision)


def batch(*entries, **marks):
    return Batch(entries, **marks)


def short(changes):
    return [(change.key, change.old, change.new) for change in changes]


def test_old_and_new():
    changes = ValueChanges(None, "watch", initial=True)
    assert short(changes(batch(put("a", b"1", "1"), initial=True))) == [("a", None, 1.0)]
    assert short(changes(batch(put("a", b"2", "2")))) == [("a", 1.0, 2.0)]
    gone = deleted("a")
    assert list(changes(batch(gone))) == [Change("a", 2.0, None, gone)]


def test_a_value_that_does_not_decode_leaves_the_last_good_one(caplog):
    changes = ValueChanges(None, "watch('a')", initial=True)
    list(changes(batch(put("a", b"1", "1"))))
    with caplog.at_level(logging.WARNING, "datastream"):
        assert list(changes(batch(put("a", b"one\n", "2"), put("b", b"3", "3")))) != []
    assert "watch('a')" in caplog.text
    assert "'a' at revision '2'" in caplog.text
    assert short(changes(batch(put("a", b"4", "4")))) == [("a", 1.0, 4.0)]


def test_what_convert_refuses_is_left_out(caplog):
    def positive(value):
        if value < 0:
            raise ValueError("negative")
        return int(value)

    changes = ValueChanges(positive, "watch", initial=True)
    assert short(changes(batch(put("a", b"1.5", "1")))) == [("a", None, 1)]
    assert short(changes(batch(put("a", b"-1", "2")))) == []
    assert "negative" in caplog.text


def test_without_initial_the_first_state_is_known_but_no_news():
    changes = ValueChanges(None, "watch", initial=False)
    assert list(changes(batch(put("a", b"1", "1"), initial=True))) == []
    assert short(changes(batch(put("a", b"2", "2")))) == [("a", 1.0, 2.0)]


def test_a_reset_removes_what_is_not_in_it():
    changes = ValueChanges(None, "watch", initial=True)
    list(changes(batch(put("a", b"1", "1"), put("b", b"1", "1"))))
    assert short(changes(batch(put("a", b"1", "1"), reset=True))) == [
        ("b", 1.0, None),
        ("a", 1.0, 1.0),
    ]
