"""What holds something that cannot be read: nobody is told that it is gone, nor of half of it."""

import pytest

from datastream import Entry, Selection
from datastream._watch.publisher import Publisher
from datastream._watch.steps import Outcome, Step
from datastream._watch.subscription import Join
from datastream.entry import deleted
from datastream.source import Reading
from tests.unit.test_publisher import changes, joined, put, register, state


@pytest.fixture
def publisher():
    return Publisher(atomic=True, consistent=True)


def without(reading, *keys):
    return reading._replace(unread=frozenset(keys))


def publish(publisher, reading):
    assert publisher.publish(publisher.ticket(), reading) is Outcome.PUBLISHED


def test_a_key_below_a_place_that_cannot_be_read():
    reading = Reading((), "p", True, unread=frozenset(("a", "d/")))
    assert [key for key in ("a", "a/b", "d", "d/x", "d/e/y") if reading.is_unread(key)] == [
        *("a", "d/x", "d/e/y")
    ]


@pytest.mark.parametrize("unread", ["d/a", "d/"])
def test_what_cannot_be_read_is_not_gone_and_the_others_go_on(publisher, unread):
    one = joined(publisher, state("p1", **{"d/a": "1", "b": "1", "c": "1"}))
    publish(publisher, without(state("p2", b="2", c="1"), unread))
    publish(publisher, without(state("p3", c="1"), unread))
    assert one.sink.news[1:] == [[("b", "2")], [("b", None)]]


def test_all_that_is_watched_cannot_be_read(publisher):
    one = joined(publisher, state("p1", a="1"))
    publish(publisher, without(state("p2"), "a"))
    publish(publisher, state("p3", a="1"))
    publish(publisher, state("p4", a="2"))
    assert one.sink.news[1:] == [[("a", "2")]]


def test_a_newcomer_is_given_later_what_others_have_and_none_twice(publisher):
    one = joined(publisher, state("p1", a="1"))
    two = joined(publisher, without(state("p1"), "a"))
    assert two.sink.news == [[]]
    publish(publisher, state("p2", a="1"))
    publish(publisher, state("p3", a="1"))
    publish(publisher, changes("p4", deleted("a")))
    assert one.sink.news[1:] == [[("a", None)]]
    assert two.sink.news[1:] == [[("a", "1")], [("a", None)]]


def test_a_newcomer_is_not_told_that_what_it_never_had_is_gone(publisher):
    joined(publisher, state("p1", a="1", b="1"))
    two = joined(publisher, without(state("p1", b="1"), "a"))
    publish(publisher, state("p2", b="1"))
    publish(publisher, state("p3", a="3", b="1"))
    assert two.sink.news[1:] == [[("a", "3")]]


@pytest.mark.parametrize("others_have", [None, "1", "2"])
def test_who_resumes_keeps_what_cannot_be_read_and_hears_when_it_goes(publisher, others_have):
    others = {"a": others_have} if others_have else {}
    other = joined(publisher, without(state("p1", b="1", **others), "" if others_have else "a"))
    two = joined(publisher, without(state("p1", b="1"), "a"), since={"a": "1", "b": "0"})
    assert two.sink.news == [[("b", "1")]]
    publish(publisher, state("p2", a="2", b="1"))
    assert two.sink.news[1:] == [[("a", "2")]]
    publish(publisher, state("p3", b="1"))
    assert two.sink.news[2:] == [[("a", None)]]
    assert other.sink.news[-1] == [("a", None)]


def test_it_can_be_read_again_and_is_what_one_resumed_with(publisher):
    other = joined(publisher, without(state("p1"), "a"))
    two = joined(publisher, without(state("p1"), "a"), since={"a": "1"})
    publish(publisher, state("p2", a="1"))
    publish(publisher, state("p3", a="2"))
    assert two.sink.news == [[], [("a", "2")]]
    assert other.sink.news == [[], [("a", "1")], [("a", "2")]]


def test_one_who_left_is_owed_nothing(publisher):
    joined(publisher, state("p1", a="1"))
    two = joined(publisher, without(state("p1"), "a"))
    publisher.leave(two)
    publish(publisher, state("p2", a="1"))
    assert two.sink.news == [[]]


def test_what_turns_out_unreadable_while_it_is_loaded_is_left_out(publisher):
    def load(entries):
        return [put(entry.key, entry.revision) for entry in entries if entry.key != "a"]

    entries = [Entry(key, b"", "", None, "1") for key in ("a", "b")]
    subscription = register(publisher)
    join = Join(Selection(), None)
    join.begin(Reading(entries, "p1", True, load))
    assert publisher.join(subscription, join, 0) is Step.LOAD
    join.load()
    assert publisher.join(subscription, join, 0) is Step.DONE
    assert subscription.sink.batches[0].entries == (put("b", "1"),)


def test_it_becomes_unreadable_while_somebody_joins(publisher):
    joined(publisher, state("p1", a="1", b="1"))
    two = register(publisher)
    join = Join(Selection(), None)
    join.begin(state("p0", a="1", b="1"))
    assert publisher.join(two, join, 0) is Step.CATCH_UP
    ticket = publisher.ticket()
    publisher.publish(ticket, without(state("p2", b="2"), "a"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[("a", "1"), ("b", "2")]]
