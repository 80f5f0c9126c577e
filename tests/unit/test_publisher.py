"""The publisher and joining, without threads: who is offered what, and what is read again."""

import pytest

from datastream import Batch, Entry, Operation, Selection
from datastream._columns import EntryColumns
from datastream._watch import confirm_empty, known
from datastream._watch.confirm_empty import Vanished
from datastream._watch.publisher import Publisher
from datastream._watch.steps import Outcome, Step
from datastream._watch.subscription import Join, Subscription
from datastream.entry import deleted
from datastream.source import Reading, Written

ALL = Selection()


class Sink:
    """Keeps what it is offered."""

    def __init__(self):
        self.batches = []
        self.before = []
        self.error = self

    def offer(self, batch, before=None):
        self.batches.append(batch)
        self.before.append(before)

    def end(self, error=None):
        self.error = error

    @property
    def news(self):
        """Key and revision of each entry; None for a DELETE."""
        return [
            [(e.key, None if e.operation is Operation.DELETE else e.revision) for e in batch]
            for batch in self.batches
        ]


def put(key, revision, value=b"v"):
    return Entry(key, value, "bytes", None, revision)


def state(position, **revisions):
    return Reading([put(key, revision) for key, revision in revisions.items()], position, True)


def changes(position, *entries, **revisions):
    found = [put(key, revision) for key, revision in revisions.items()]
    return Reading([*entries, *found], position, False)


def stubs(position, load, **revisions):
    entries = [Entry(key, b"", "", None, rev) for key, rev in revisions.items()]
    return Reading(entries, position, True, load)


@pytest.fixture
def publisher():
    return Publisher(atomic=True, consistent=True)


@pytest.fixture
def listed():
    return Publisher(atomic=False, consistent=True)


def register(publisher, selection=ALL, since=None):
    subscription = Subscription(selection, Sink(), since)
    publisher.register(subscription)
    return subscription


def begin(subscription, reading):
    join = Join(subscription.selection, subscription.since)
    join.begin(reading)
    return join


def joined(publisher, reading, selection=ALL, since=None):
    subscription = register(publisher, selection, since)
    assert publisher.join(subscription, begin(subscription, reading), 0) is Step.DONE
    return subscription


def test_the_first_to_join_sets_the_position(publisher):
    one = joined(publisher, state("p1", a="1"))
    assert publisher.position == "p1"
    assert one.sink.batches == [Batch((put("a", "1"),), "p1", initial=True)]


def test_a_reading_is_news_once(publisher):
    one = joined(publisher, state("p1", a="1"))
    assert publisher.publish(publisher.ticket(), changes("p2", a="2")) is Outcome.PUBLISHED
    assert publisher.publish(publisher.ticket(), changes("p3", a="2")) is Outcome.PUBLISHED
    assert one.sink.news[1:] == [[("a", "2")]]
    assert publisher.position == "p3"


def test_a_delete_of_an_unknown_key_is_no_news_and_twice_neither(publisher):
    one = joined(publisher, state("p1", a="1"))
    publisher.publish(publisher.ticket(), changes("p2", deleted("never"), deleted("a")))
    publisher.publish(publisher.ticket(), changes("p3", deleted("a")))
    assert one.sink.news[1:] == [[("a", None)]]


def test_a_state_at_the_same_position_may_find_what_it_should_have_told(publisher):
    """Such as one that is read for a newcomer which was given another one than the others."""
    joined(publisher, state("p1", a="1"))
    for a, outcome in (("1", Outcome.PUBLISHED), ("2", Outcome.DIFFERENT)):
        ticket = publisher.ticket()._replace(since=None)
        assert publisher.publish(ticket, state("p1", a=a)) is outcome


def test_who_resumes_waits_until_the_source_knows_what_it_should_have_told(publisher):
    joined(publisher, state("p1", a="1"))
    publisher.publish(publisher.ticket(), state("p1", a="2"))
    assert publisher.await_told(0) is None
    publisher.told()
    assert publisher.await_told(0) == 1


def test_a_cursor_used_before_the_source_knew_is_used_again(publisher):
    joined(publisher, state("p1", a="1"))
    two = Subscription(Selection(), Sink(), "p1")
    publisher.register(two)
    join = Join(Selection(), "p1")
    join.resume(changes("p1"))
    publisher.publish(publisher.ticket(), state("p1", a="2"))
    publisher.told()
    assert publisher.join(two, join, 0) is Step.BEGIN_AGAIN
    join.found = publisher.await_told(0)
    assert publisher.join(two, join, 0) is not Step.BEGIN_AGAIN


def test_only_selected_keys_arrive(publisher):
    one = joined(publisher, state("p1"), Selection.of("fx/"))
    publisher.publish(publisher.ticket(), changes("p2", **{"fx/a": "1", "b": "1"}))
    assert one.sink.news[1:] == [[("fx/a", "1")]]


def test_a_reading_that_was_outrun_is_not_published(publisher):
    one = joined(publisher, state("p1", a="1"))
    slow = publisher.ticket()
    publisher.publish(publisher.ticket(), changes("p2", a="3"))
    assert publisher.publish(slow, changes("p1b", a="2")) is Outcome.OUTRUN
    assert one.sink.news[1:] == [[("a", "3")]]


def test_a_full_answer_at_the_same_position_is_a_comparison(publisher):
    one = joined(publisher, state("p1", a="1"))
    assert publisher.publish(publisher.ticket(), state("p1", a="1")) is Outcome.SAME
    assert publisher.publish(publisher.ticket(), state("p1", a="2")) is Outcome.DIFFERENT
    assert publisher.publish(publisher.ticket(), state("p2", a="3")) is Outcome.PUBLISHED
    assert one.sink.news[1:] == [[("a", "2")], [("a", "3")]]


def test_a_write_is_published_from_its_own_position(publisher):
    one = joined(publisher, state("p1", a="1"))
    assert publisher.publish_written(Written([put("a", "2")], "p2", "p1"), publisher.version)
    assert (publisher.position, one.sink.news[1:]) == ("p2", [[("a", "2")]])


def test_a_write_from_another_position_has_to_be_read(publisher):
    one = joined(publisher, state("p1", a="1"))
    assert not publisher.publish_written(Written([put("a", "3")], "p3", "p2"), publisher.version)
    assert one.sink.news[1:] == []


def test_a_change_that_the_source_brings_is_published_without_a_read(publisher):
    one = joined(publisher, state("p1", a="1"))
    assert publisher.publish_change(Written([deleted("a"), put("b", "2")], "p2", "p1", "Ada"))
    assert (publisher.position, one.sink.news[1:]) == ("p2", [[("a", None), ("b", "2")]])
    assert one.sink.batches[-1].author == "Ada"


def test_a_change_of_what_nobody_sees_moves_the_position(publisher):
    one = joined(publisher, state("p1", a="1"))
    assert publisher.publish_change(Written([], "p2", "p1"))
    assert (publisher.position, one.sink.news[1:]) == ("p2", [])


def test_a_change_that_begins_elsewhere_has_to_be_read(publisher):
    one = joined(publisher, state("p1", a="1"))
    assert not publisher.publish_change(Written([put("a", "3")], "p3", "p2"))
    assert (publisher.position, one.sink.news[1:]) == ("p1", [])


def test_a_change_before_anybody_has_joined_has_to_be_read(publisher):
    """Who joins next may have read its state before."""
    two = register(publisher)
    assert not publisher.publish_change(Written([put("a", "2")], "p2", "p1"))
    assert publisher.join(two, begin(two, state("p1", a="1")), 0) is Step.DONE


def test_a_change_reaches_who_joins_just_now(publisher):
    joined(publisher, state("p1", a="1"))
    two = register(publisher)
    join = begin(two, state("p1", a="1"))
    assert publisher.publish_change(Written([put("a", "2")], "p2", "p1"))
    assert publisher.join(two, join, 0) is Step.CATCH_UP
    ticket = publisher.ticket()
    assert publisher.publish(ticket, changes("p2")) is Outcome.PUBLISHED
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[("a", "2")]]


def test_a_change_of_all_that_was_asked_for_is_published(publisher):
    one = joined(publisher, state("p1", a="1"))
    asked = publisher.ticket().union
    assert publisher.publish_change(Written([put("a", "2")], "p2", "p1"), asked)
    assert one.sink.news[1:] == [[("a", "2")]]


def test_a_change_of_less_than_is_watched_has_to_be_read(publisher):
    """It would move the position past what nobody has told the newcomer."""
    a, b = Selection(frozenset("a")), Selection(frozenset("b"))
    one = joined(publisher, state("p1", a="1"), a)
    asked = publisher.ticket().union
    two = joined(publisher, state("p1", b="1"), b)
    change = Written([put("a", "2")], "p2", "p1")
    assert not publisher.publish_change(change, asked)
    assert (publisher.position, one.sink.news[1:]) == ("p1", [])
    publisher.leave(two)
    assert not publisher.publish_change(change, asked), "it has not been asked for since"
    assert publisher.publish_change(change, publisher.ticket().union)


def test_a_change_of_a_stream_has_to_be_read_while_somebody_joins(publisher):
    joined(publisher, state("p1", a="1"))
    two = register(publisher)
    asked, change = publisher.ticket().union, Written([put("a", "2")], "p2", "p1")
    assert not publisher.publish_change(change, asked)
    assert publisher.join(two, begin(two, state("p1", a="1")), 0) is Step.DONE
    assert publisher.publish_change(change, asked)
    assert two.sink.news[1:] == [[("a", "2")]]


def test_a_change_outruns_a_read_that_began_before(publisher):
    one = joined(publisher, state("p1", a="1"))
    slow = publisher.ticket()
    assert publisher.publish_change(Written([put("a", "3")], "p3", "p1"))
    assert publisher.publish(slow, changes("p2", a="2")) is Outcome.OUTRUN
    assert one.sink.news[1:] == [[("a", "3")]]


def test_a_write_from_any_position_must_not_go_back(listed):
    one = joined(listed, state("p1", a="1"))
    version = listed.version
    listed.publish(listed.ticket(), state("p2", a="3"))
    assert not listed.publish_written(Written([put("a", "2")], "w1"), version)
    assert listed.publish_written(Written([put("b", "1")], "w2"), version)
    assert one.sink.news[1:] == [[("a", "3")], [("b", "1")]]


def test_a_slow_listing_is_published_without_what_was_written_meanwhile(listed):
    one = joined(listed, state("p1", a="1", b="1"))
    slow = listed.ticket()
    listed.publish_written(Written([put("a", "3")], "w1"), listed.version)
    assert listed.publish(slow, state("p2", a="1", b="2")) is Outcome.PUBLISHED
    assert one.sink.news[1:] == [[("a", "3")], [("b", "2")]]
    assert listed.position == "w1", "what was left out has to be read again"


def test_a_slow_listing_brings_back_nothing_that_was_deleted_meanwhile(listed, monkeypatch):
    """More keys than are remembered: then it is dropped as a whole."""
    monkeypatch.setattr(known, "REMEMBERED", 1)
    one = joined(listed, state("p1", a="1", b="1", c="1", d="1"))
    slow = listed.ticket()
    for number, key in enumerate("bcd"):
        listed.publish_written(Written([deleted(key)], f"w{number}"), listed.version)
    assert listed.publish(slow, state("p1", a="1", b="1", c="1", d="1")) is Outcome.OUTRUN
    assert one.sink.news[1:] == [[(key, None)] for key in "bcd"]


def test_a_listing_older_than_a_published_one_is_dropped(listed):
    one = joined(listed, state("p1", a="1"))
    old, new = listed.ticket(), listed.ticket()
    listed.publish(new, state("p2", a="2"))
    assert listed.publish(old, state("p1", a="1")) is Outcome.OUTRUN
    assert one.sink.news[1:] == [[("a", "2")]]


def test_values_are_loaded_for_news_only(listed):
    one = joined(listed, state("p1", a="1", b="1"))
    reading = stubs("p2", None, a="1", b="2")._replace(load=lambda entries: entries)
    ticket = listed.ticket()
    missing = listed.publish(ticket, reading)
    assert [entry.key for entry in missing] == ["b"]
    value = put("b", "2", b"loaded")
    assert listed.publish(ticket, reading, {"b": value}) is Outcome.PUBLISHED
    assert one.sink.batches[1].entries == (value,)


def test_all_gone_is_believed_after_a_second_look_a_real_time_later(publisher, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(confirm_empty, "monotonic", lambda: now[0])
    one = joined(publisher, state("p1", a="1", b="1"))
    for moment in (0.0, 0.0, confirm_empty.CONFIRM_AFTER * 0.9):
        now[0] = moment
        with pytest.raises(Vanished, match="2 watched keys"):
            publisher.publish(publisher.ticket(), state("p2"))
    now[0] = confirm_empty.CONFIRM_AFTER
    publisher.publish(publisher.ticket(), state("p2"))
    assert one.sink.news[1:] == [[("a", None), ("b", None)]]


def test_an_answer_that_is_not_empty_ends_the_suspicion(publisher, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(confirm_empty, "monotonic", lambda: now[0])
    joined(publisher, state("p1", a="1"))
    with pytest.raises(Vanished):
        publisher.publish(publisher.ticket(), state("p2"))
    publisher.publish(publisher.ticket(), state("p3", a="1"))
    now[0] = 10.0
    with pytest.raises(Vanished):
        publisher.publish(publisher.ticket(), state("p4"))


def test_own_deletes_raise_no_suspicion_but_hide_no_other(publisher):
    one = joined(publisher, state("p1", a="1", b="1"))
    with publisher.deleted(["a"]), pytest.raises(Vanished):
        publisher.publish(publisher.ticket(), state("p2"))
    with publisher.deleted(["a", "b"]):
        publisher.publish(publisher.ticket(), state("p2"))
    assert one.sink.news[1:] == [[("a", None), ("b", None)]]


def test_a_log_that_says_so_is_believed_at_once(publisher):
    one = joined(publisher, state("p1", a="1"))
    publisher.publish(publisher.ticket(), changes("p2", deleted("a")))
    assert one.sink.news[1:] == [[("a", None)]]


# Joining.


def test_a_newcomer_is_told_of_a_delete_that_nobody_else_could_know(publisher):
    """The key came and went between two polls; only the newcomer's own read has seen it."""
    joined(publisher, state("p1"))
    two = register(publisher)
    join = begin(two, state("p2", k="1"))
    assert publisher.join(two, join, 0) is Step.CATCH_UP
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p3", deleted("k")))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[]]


def test_a_newcomer_is_not_told_twice(publisher):
    one = joined(publisher, state("p1", k="1"))
    two = register(publisher)
    join = begin(two, state("p2", k="2"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p2", k="2"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    publisher.publish(publisher.ticket(), changes("p3", k="2"))
    assert one.sink.news == [[("k", "1")], [("k", "2")]]
    assert two.sink.news == [[("k", "2")]]


def test_a_newcomer_at_the_common_position_needs_no_other_read(publisher):
    joined(publisher, state("p1", k="1"))
    two = register(publisher, Selection.of("k"))
    assert publisher.join(two, begin(two, state("p1", k="1")), 0) is Step.DONE


def test_a_catch_up_that_began_before_the_state_was_read_does_not_do(publisher):
    joined(publisher, state("p1", k="1"))
    early = publisher.ticket()
    two = register(publisher)
    join = begin(two, state("p3", k="3"))
    publisher.publish(early, changes("p2", k="2"))
    late = publisher.ticket()
    assert publisher.join(two, join, late.number) is Step.CATCH_UP
    publisher.publish(late, changes("p3", k="3"))
    assert publisher.join(two, join, late.number) is Step.DONE
    assert two.sink.news == [[("k", "3")]]


def test_a_read_that_began_before_a_newcomer_came_counts_for_it_too(publisher):
    joined(publisher, state("p1", k="1"))
    slow = publisher.ticket()
    two = register(publisher)
    join = begin(two, state("p2", k="1"))
    publisher.publish(slow, changes("p3", k="3"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p4"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[("k", "3")]]


def test_two_who_join_an_idle_publisher_do_not_miss_what_lies_between_their_reads(publisher):
    one, two = register(publisher), register(publisher)
    early = begin(two, state("p1", k="1"))
    assert publisher.join(one, begin(one, state("p2", k="2")), 0) is Step.DONE
    assert publisher.join(two, early, 0) is Step.BEGIN_AGAIN
    assert publisher.join(two, begin(two, state("p2", k="2")), 0) is Step.DONE
    assert two.sink.news == [[("k", "2")]]


def told_in_part(publisher, selection, reading, since=None):
    """One that joins with a state, of a backend whose log only compares two states."""
    subscription = register(publisher, selection, since)
    join = Join(selection, since, is_told_all=False)
    join.begin(reading)
    return subscription, join


def test_what_came_and_went_before_a_newcomer_joined_is_not_kept_by_it(publisher):
    joined(publisher, state("p5"), Selection.of("b/"))
    two, join = told_in_part(publisher, Selection.of("a/"), state("p7", **{"a/flash": "6"}))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p9"))
    assert publisher.join(two, join, ticket.number) is Step.CATCH_UP
    ticket = publisher.ticket()
    assert ticket.since is None, "only the state tells that it is gone"
    publisher.publish(ticket, state("p10"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[]]
    assert publisher.ticket().since == "p10"


@pytest.mark.parametrize("at", ["p5", "p8", "p9"])
def test_a_newcomer_whose_state_is_one_that_was_published_needs_no_other(publisher, at):
    joined(publisher, state("p5"), Selection.of("b/"))
    two, join = told_in_part(publisher, Selection.of("a/"), state(at, **{"a/x": "1"}))
    publisher.publish(publisher.ticket(), changes("p8"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p9"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[("a/x", "1")]]


def test_of_a_backend_with_a_log_no_state_is_published_in_part():
    """Who resumes from its cursor would not be told the end of what came after it."""
    publisher = Publisher(atomic=True, consistent=True, has_log=True)
    one = joined(publisher, state("p1"), Selection.of("a/"))
    ticket = publisher.ticket()
    register(publisher, Selection.of("b/"))
    assert publisher.publish(ticket, state("p2", **{"a/flash": "2"})) is Outcome.OUTRUN
    assert one.sink.news == [[]]


def test_a_state_to_which_something_was_applied_is_at_no_position(publisher):
    joined(publisher, state("p5", **{"b/x": "1"}), Selection.of("b/"))
    two, join = told_in_part(publisher, Selection.of("b/"), state("p9", **{"b/x": "9"}))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p8", **{"b/x": "8"}))
    assert publisher.join(two, join, ticket.number) is Step.CATCH_UP
    ticket = publisher.ticket()
    publisher.publish(ticket, state("p9", **{"b/x": "9"}))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[("b/x", "9")]]


def test_after_a_state_that_was_published_in_part_the_next_read_is_of_the_state_too(publisher):
    """It moves no position: a log that begins there never tells the end of what came after it."""
    one = joined(publisher, state("p1"), Selection.of("a/"))
    ticket = publisher.ticket()
    register(publisher, Selection.of("b/"))
    part = state("p2", **{"a/flash": "2"})
    assert publisher.publish(ticket, part) is Outcome.PART
    assert publisher.position == "p1"
    ticket = publisher.ticket()
    assert ticket.since is None
    publisher.publish(ticket, state("p3", **{"a/b": "3"}))
    assert publisher.ticket().since == "p3"
    assert one.sink.news[1:] == [[("a/flash", "2")], [("a/flash", None), ("a/b", "3")]]


def test_keys_of_a_newcomer_are_not_gone_because_a_reading_did_not_ask_for_them(listed):
    joined(listed, state("p1", a="1"), Selection.of("a"))
    ticket = listed.ticket()
    two = register(listed, Selection.of("b"))
    assert listed.join(two, begin(two, state("p1", b="1")), 0) is Step.DONE
    assert listed.publish(ticket, state("p2", a="2")) is Outcome.PART
    assert two.sink.news == [[("b", "1")]]
    assert listed.position == "p1", "what the newcomer missed has to be read again"


def test_since_revisions_sends_only_what_differs_in_the_end(publisher):
    joined(publisher, state("p1", a="1", b="1"))
    two = register(publisher, since={"a": "1", "b": "0", "gone": "1"})
    join = begin(two, state("p2", a="2", b="1"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p3", a="1"))
    publisher.join(two, join, ticket.number)
    assert two.sink.news == [[("gone", None), ("b", "1")]]


def test_since_a_cursor_sends_what_changed_after_it(publisher):
    two = register(publisher, since="p0")
    join = begin(two, state("p2", a="2", same="1"))
    join.resume(changes("p2", deleted("gone"), a="2"))
    assert publisher.join(two, join, 0) is Step.DONE
    assert sorted(two.sink.news[0], key=str) == [("a", "2"), ("gone", None)]
    assert not two.sink.batches[0].reset


def test_what_came_and_went_after_the_cursor_is_not_sent(publisher):
    two = register(publisher, since="p0")
    join = begin(two, state("p2", a="2"))
    reading = changes("p2", deleted("transient"), a="2")
    join.resume(reading._replace(created=frozenset(["transient"])))
    publisher.join(two, join, 0)
    assert two.sink.news == [[("a", "2")]]


def test_what_changed_after_the_cursor_and_back_is_not_sent(publisher):
    joined(publisher, state("p2", same="1", later="1", back="2", other="2"))
    two = register(publisher, since="p0")
    join = Join(ALL, "p0")
    reading = changes("p2", same="1", later="1", back="2", other="2")
    join.resume(reading._replace(before={"same": "1", "later": "1", "back": "1", "other": "1"}))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p3", later="3", back="1"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert sorted(two.sink.news[0]) == [("later", "3"), ("other", "2")]
    publisher.publish(publisher.ticket(), changes("p4", same="4"))
    assert two.sink.news[1:] == [[("same", "4")]]


def replaced(publisher, position, *entries):
    """A write of this store, which publishes from position to position."""
    assert publisher.publish_written(Written(entries, position, publisher.position), 0)


def resuming(publisher, **revisions):
    """One that resumes, where nothing has changed between its cursor and "p1"."""
    joined(publisher, state("p1", **revisions))
    two = register(publisher, since="p0")
    join = Join(ALL, "p0")
    join.resume(changes("p1"))
    return two, join


def test_what_changes_and_changes_back_while_one_resumes_is_not_sent(publisher):
    two, join = resuming(publisher, back="1", other="1")
    replaced(publisher, "p2", put("back", "2"), put("other", "2"))
    replaced(publisher, "p3", put("back", "1"), put("new", "1"))
    replaced(publisher, "p4", put("other", "4"), put("new", "2"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p4"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert sorted(two.sink.news[0]) == [("new", "2"), ("other", "4")]


def test_what_a_poll_finds_changed_back_while_one_resumes_is_not_sent(publisher):
    two, join = resuming(publisher, back="1")
    publisher.publish(publisher.ticket(), changes("p2", back="2"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p3", back="1"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[]]


def test_a_relay_is_sent_also_what_changed_back(publisher):
    """One of its readers may have read the key in between."""
    two = register(publisher, since="p0")
    join = begin(two, state("p2", same="1"))
    reading = changes("p2", same="1")._replace(before={"same": "1"})
    join.resume(reading, transient=True)
    publisher.join(two, join, 0)
    assert two.sink.news == [[("same", "1")]]


def test_a_relay_is_told_of_what_was_created_while_it_resumed(publisher):
    """One of its readers would take the end of that for news, with a cursor from before."""
    joined(publisher, state("p1", a="1"))
    two = register(publisher, since="p1")
    join = Join(ALL, "p1")
    join.resume(changes("p2", a="2"), transient=True)
    ticket = publisher.ticket()
    # What was published passes "p2" by.
    came = changes("p3", a="2", k="1")._replace(created=frozenset(["k"]))
    publisher.publish(ticket, came)
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[("a", "2"), ("k", "1")]]
    assert two.sink.batches[0].created == {"k"}


def test_a_delete_of_what_may_have_come_after_the_cursor_is_not_sent(publisher):
    """Its creation was published before the resume registered; both were over when it read."""
    joined(publisher, state("p1", a="1"))
    publisher.publish(publisher.ticket(), changes("p2", transient="1"))
    two = register(publisher, since="p1")
    join = Join(ALL, "p1")
    join.resume(changes("p3", a="2"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p4", deleted("transient"), a="3"))
    assert publisher.join(two, join, ticket.number) is Step.BEGIN_AGAIN
    assert two.needs_state
    join = begin(two, state("p4", a="3"))
    join.resume(changes("p4", a="3"))
    assert publisher.join(two, join, 0) is Step.DONE
    assert two.sink.news == [[("a", "3")]]


@pytest.mark.parametrize(
    ("had", "told"), [({"back": "1"}, [("back", None)]), ({}, [])], ids=["had it", "had it not"]
)
def test_what_a_log_does_not_mention_may_have_gone_and_come_back(publisher, had, told):
    """A backend that compares two states says nothing of a key that is again what it was."""
    joined(publisher, state("p1"))
    two = register(publisher, since="p0")
    join = Join(ALL, "p0", is_told_all=False)
    # Read after the key had come back, or after it had come, and gone.
    join.resume(changes("p3"))
    came = changes("p2", back="1")._replace(created=frozenset(["back"]))
    publisher.publish(publisher.ticket(), came)
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p4", deleted("back")))
    assert publisher.join(two, join, ticket.number) is Step.BEGIN_AGAIN
    join = begin(two, state("p3", **had))
    join.resume(changes("p3"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p5", back="5")._replace(created=frozenset(["back"])))
    publisher.publish(ticket := publisher.ticket(), changes("p6", deleted("back")))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [told]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ([deleted("k")], [("a", "2"), ("k", None)]),
        ([], [("a", "2")]),
        ([put("k", "9")], [("a", "2")]),
    ],
    ids=["had it", "had it not", "created anew"],
)
def test_what_was_there_only_between_two_reads_is_asked_for_once_more(publisher, named, told):
    """The state was read at "p2", what changed since the cursor at "p3": `k` was gone then."""
    joined(publisher, state("p1", a="1"))
    two, join = told_in_part(publisher, ALL, state("p2", a="1", k="2"), since="p1")
    join.resume(changes("p3", a="2"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p4", a="2"))
    assert publisher.join(two, join, ticket.number) is Step.CATCH_UP
    ticket = publisher.ticket()
    publisher.publish(ticket, state("p4", a="2"))
    assert publisher.join(two, join, ticket.number) is Step.CONFIRM
    created = frozenset(["k"]) if told == [("a", "2")] else frozenset()
    join.confirm(changes("p5", *named)._replace(created=created))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert sorted(two.sink.news[0]) == told


def test_the_first_whose_state_is_of_two_moments_is_told_by_the_complete_state(publisher):
    """An overlay spells no two positions alike, and somebody has to begin."""
    one, join = told_in_part(publisher, ALL, state("p2", a="1", k="2"), since="p1")
    join.resume(changes("p3", a="2"))
    assert publisher.join(one, join, 0) is Step.DONE
    assert one.sink.news == [[("a", "2")]]
    ticket = publisher.ticket()
    assert ticket.since is None
    publisher.publish(ticket, state("p3", a="2"))
    assert one.sink.news[1:] == [[("k", None)]]
    assert publisher.ticket().since == "p3"


def test_what_came_and_went_after_the_changes_were_read_needs_no_state(publisher):
    joined(publisher, state("p1"))
    two = register(publisher, since="p0")
    join = Join(ALL, "p0")
    join.resume(changes("p1"))
    came = changes("p2", flash="1")._replace(created=frozenset(["flash"]))
    publisher.publish(publisher.ticket(), came)
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p3", deleted("flash")))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[]]


def test_a_cursor_that_is_not_honoured_resets(publisher):
    two = register(publisher, since="another epoch")
    join = begin(two, state("p1", a="1"))
    join.resume(state("p1", a="1"))
    publisher.join(two, join, 0)
    assert two.sink.batches == [Batch((put("a", "1"),), "p1", initial=True, reset=True)]


def test_a_resume_where_others_know_the_state_needs_no_read_of_it(publisher):
    joined(publisher, state("p1", a="1", b="1"))
    two = register(publisher, since="p0")
    assert publisher.is_covered(two)
    join = Join(ALL, "p0")
    join.resume(changes("p1", a="1"))
    assert publisher.join(two, join, 0) is Step.DONE
    publisher.publish(publisher.ticket(), changes("p2", b="2"))
    assert two.sink.news == [[("a", "1")], [("b", "2")]]


def test_a_newcomer_loads_what_it_needs_and_nothing_it_had(listed):
    two = register(listed, since={"a": "1"})
    asked = []

    def load(entries):
        asked.append([entry.key for entry in entries])
        return [put(entry.key, entry.revision, b"loaded") for entry in entries]

    join = begin(two, stubs("p1", load, a="1", b="1"))
    assert listed.join(two, join, 0) is Step.LOAD
    assert not join.load()
    assert listed.join(two, join, 0) is Step.DONE
    assert asked == [["b"]]
    assert two.sink.batches[0].entries == (put("b", "1", b"loaded"),)


def test_a_value_that_moved_on_while_it_was_loaded_needs_another_look(listed):
    two = register(listed)
    join = begin(two, stubs("p1", lambda entries: [put("a", "2")], a="1"))
    assert listed.join(two, join, 0) is Step.LOAD
    assert join.load()


def test_a_newcomer_that_was_given_more_than_was_published_is_not_told_again(listed):
    """Its catch-up left out a key that was being written: it knows better than the others."""
    one = joined(listed, state("p1", k="1", x="1"))
    two = register(listed)
    join = begin(two, state("p2", x="2"))
    ticket = listed.ticket()
    listed.publish_written(Written([put("k", "2")], "w1"), listed.version)
    listed.publish_written(Written([put("x", "2")], "w2"), listed.version)
    two.buffer.clear()
    assert listed.publish(ticket, state("p2", x="2")) is Outcome.PUBLISHED
    assert listed.join(two, join, ticket.number) is Step.DONE
    listed.publish(listed.ticket(), state("p3", x="3"))
    assert one.sink.news[-1] == [("k", None), ("x", "3")]
    assert two.sink.news == [[("x", "2")], [("x", "3")]]


@pytest.fixture
def lagging():
    """What is published comes through a stream that lags behind the reads."""
    return Publisher(atomic=True, consistent=False)


def newcomer(publisher, reading):
    """One that joins by its own read of `reading`, of which nothing was published yet."""
    subscription = register(publisher)
    join = begin(subscription, reading)
    ticket = publisher.ticket()
    publisher.publish(ticket, changes(publisher.position))
    assert publisher.join(subscription, join, ticket.number) is Step.DONE
    return subscription


def test_a_newcomer_is_told_of_the_delete_of_what_only_it_was_given(lagging):
    """The stream says of a key that came and went only that it is gone."""
    one = joined(lagging, state("p1", a="1"))
    two = newcomer(lagging, state("p3", a="1", k="2"))
    lagging.publish(lagging.ticket(), changes("p4", deleted("k")))
    assert one.sink.news == [[("a", "1")]]
    assert two.sink.news == [[("a", "1"), ("k", "2")], [("k", None)]]


def test_one_that_stands_apart_is_told_with_the_revisions_it_had(lagging):
    """So that what comes and goes before it is taken is left out, as it is for others."""
    one = joined(lagging, state("p1", a="1", gone="1", k="1"))
    two = newcomer(lagging, state("p2", a="2", gone="2"))
    lagging.publish(lagging.ticket(), state("p3", a="3", k="3"))
    assert two.sink.news[1:] == [[("gone", None), ("a", "3"), ("k", "3")]]
    assert two.sink.before[1:] == [["2", "2", None]]
    assert two.sink.batches[1].created == {"k"}
    assert one.sink.before[-1] == ["1", "1", "1"]


def test_a_first_batch_is_of_one_moment_though_a_key_came_and_went_before_it(lagging):
    """What is published since then names other keys: laid over the state, it would be of two."""
    one = joined(lagging, state("p1", a="1", b="1"))
    two = register(lagging)
    join = begin(two, state("p2", a="1", b="1", k="1"))
    ticket = lagging.ticket()
    assert lagging.publish(ticket, changes("p3", a="2", b="2")) is Outcome.PUBLISHED
    assert lagging.join(two, join, ticket.number) is Step.CATCH_UP
    ticket = lagging.ticket()
    assert ticket.since is None
    assert lagging.publish(ticket, state("p4", a="3", b="3")) is Outcome.PUBLISHED
    assert lagging.join(two, join, ticket.number) is Step.DONE
    assert two.sink.news == [[("a", "3"), ("b", "3")]]
    assert one.sink.news[1:] == [[("a", "2"), ("b", "2")], [("a", "3"), ("b", "3")]]
    assert not lagging.stands_apart(two)
    assert lagging.ticket().since == "p4"


def test_who_leaves_while_its_state_is_read_again_costs_nothing_more(lagging):
    joined(lagging, state("p1", a="1"))
    two = register(lagging)
    join = begin(two, state("p2", a="1", k="1"))
    ticket = lagging.ticket()
    lagging.publish(ticket, changes("p3", a="2"))
    assert lagging.join(two, join, ticket.number) is Step.CATCH_UP
    lagging.leave(two)
    assert lagging.ticket().since == "p3"


def test_a_newcomer_is_told_of_what_is_again_as_it_was_for_the_others(lagging):
    one = joined(lagging, state("p1", a="A", b="1"))
    two = newcomer(lagging, state("p3", a="B"))
    lagging.publish(lagging.ticket(), changes("p4", a="A", b="1"))
    assert one.sink.news == [[("a", "A"), ("b", "1")]]
    assert two.sink.news == [[("a", "B")], [("a", "A"), ("b", "1")]]


def test_a_newcomer_is_told_what_a_complete_reading_lacks_of_its_own(lagging):
    one = joined(lagging, state("p1", a="1"))
    two = newcomer(lagging, state("p3", a="1", k="2"))
    lagging.publish(lagging.ticket(), state("p4", a="1"))
    lagging.publish(lagging.ticket(), state("p5", a="1"))
    assert one.sink.news == [[("a", "1")]]
    assert two.sink.news[1:] == [[("k", None)]]


def test_who_was_given_what_is_over_is_told_by_the_complete_state(publisher):
    """A backend without a log says of a key that came and went that nothing has changed."""
    one = joined(publisher, state("p1", a="1"))
    two = register(publisher)
    join = begin(two, state("p2", a="1", k="2"))
    ticket = publisher.ticket()
    assert publisher.publish(ticket, changes("p1")) is Outcome.PUBLISHED
    assert publisher.join(two, join, ticket.number) is Step.DONE
    assert publisher.stands_apart(two)
    ticket = publisher.ticket()
    assert ticket.since is None
    assert publisher.publish(ticket, state("p1", a="1")) is Outcome.PUBLISHED
    assert publisher.ticket().since == "p1"
    assert one.sink.news == [[("a", "1")]]
    assert two.sink.news == [[("a", "1"), ("k", "2")], [("k", None)]]


def test_who_resumes_is_told_no_end_of_what_it_was_never_told(publisher):
    """The state was read while a key was there for a moment, what changed since after that."""
    joined(publisher, state("p1", a="1"))
    two = register(publisher, since="p1")
    join = begin(two, state("p2", a="1", k="2"))
    join.resume(changes("p1"))
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p1"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    publisher.publish(publisher.ticket(), state("p1", a="1"))
    assert two.sink.news == [[]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changes("p2", b="1"), [[("b", "1")], [("b", None)]]),
        (changes("p2", deleted("a")), [[("a", None)], [("a", "1")]]),
        (changes("p2", a="2"), [[("a", "2")], [("a", "1")]]),
    ],
    ids=["created", "gone", "changed"],
)
def test_who_resumed_with_what_has_changed_back_is_told(publisher, change, told):
    """Without a log, the position is the same again, and nothing has changed since it."""
    joined(publisher, state("p1", a="1"))
    two = register(publisher, since="p0")
    join = Join(ALL, "p0")
    join.resume(change)
    ticket = publisher.ticket()
    publisher.publish(ticket, changes("p1"))
    assert publisher.join(two, join, ticket.number) is Step.DONE
    publisher.publish(publisher.ticket(), state("p1", a="1"))
    assert two.sink.news == told


def test_the_state_of_who_resumes_is_brought_to_the_position_of_the_changes():
    join = Join(ALL, "p1")
    join.begin(state("p2", a="1", k="2"))
    join.advance(changes("p3", deleted("k")))
    assert (join.position, join.revisions()) == ("p3", {"a": "1"})
    join.resume(changes("p3"))
    assert not join.batch("p3").entries


def test_values_that_only_a_newcomer_needs_are_loaded():
    publisher = Publisher(atomic=False, consistent=False)
    joined(publisher, state("p1", a="A"))
    two = newcomer(publisher, state("p2", a="B"))
    ticket, reading = publisher.ticket(), stubs("p3", lambda entries: entries, a="A")
    assert [entry.key for entry in publisher.publish(ticket, reading)] == ["a"]
    loaded = {"a": put("a", "A", b"loaded")}
    assert publisher.publish(ticket, reading, loaded) is Outcome.PUBLISHED
    assert two.sink.batches[-1].entries == (loaded["a"],)


def test_everybody_who_selects_a_key_is_told_the_revision_before(publisher):
    many = [joined(publisher, state("p1", a="1"), s) for s in (ALL, Selection.of("a"), ALL)]
    publisher.publish_written(Written([put("a", "2")], "p2", "p1"), publisher.version)
    publisher.publish(publisher.ticket(), changes("p3", deleted("a")))
    for one in many:
        assert [list(before) for before in one.sink.before[1:]] == [["1"], ["2"]]


def test_a_batch_comes_with_the_revisions_before_it(publisher):
    one = joined(publisher, state("p1", a="1", b="1"))
    publisher.publish(publisher.ticket(), changes("p2", deleted("b"), a="2", c="1"))
    assert one.sink.before == [None, ["1", "1", None]]


def test_a_position_whose_values_moved_on_while_they_were_loaded_equals_no_other(listed):
    """The newcomer's read lists the same, and holds the older value."""
    one = joined(listed, state("p1", a="1"))
    reading = stubs("p2", lambda entries: entries, a="2")
    listed.publish(listed.ticket(), reading, {"a": put("a", "3")})
    two = register(listed)
    join = begin(two, state("p2", a="2"))
    assert listed.join(two, join, 0) is Step.CATCH_UP
    ticket = listed.ticket()
    listed.publish(ticket, state("p3", a="3"))
    assert listed.join(two, join, ticket.number) is Step.DONE
    assert (one.sink.news[-1], two.sink.news[-1]) == ([("a", "3")], [("a", "3")])


def test_a_newcomer_whose_value_moved_on_is_at_no_position(listed):
    joined(listed, state("p1", a="1"))
    two = register(listed)
    join = begin(two, stubs("p1", lambda entries: [deleted("a")], a="1"))
    assert listed.join(two, join, 0) is Step.LOAD
    assert join.load()
    assert listed.join(two, join, 0) is Step.CATCH_UP


# Leaving.


def test_the_last_to_leave_lets_the_publisher_rest(publisher):
    one, two = joined(publisher, state("p1", a="1")), joined(publisher, state("p1", a="1"))
    assert not publisher.leave(one)
    assert publisher.leave(two)
    assert publisher.position is None
    assert publisher.ticket() is None
    assert not publisher.leave(two)


def test_keys_that_nobody_watches_any_more_are_forgotten(publisher):
    one = joined(publisher, state("p1", a="1"), Selection.of("a"))
    joined(publisher, state("p1", b="1"), Selection.of("b"))
    publisher.leave(one)
    again = joined(publisher, state("p1", a="2"), Selection.of("a"))
    publisher.publish(publisher.ticket(), changes("p2", a="2"))
    assert again.sink.news == [[("a", "2")]]


def test_one_who_leaves_while_joining_gets_nothing(publisher):
    one = register(publisher)
    join = begin(one, state("p1", a="1"))
    publisher.leave(one)
    assert publisher.join(one, join, 0) is Step.DONE
    assert one.sink.batches == []
    assert publisher.position is None


def test_a_joining_subscription_outlives_the_last_joined_one(publisher):
    one = joined(publisher, state("p1", a="1"))
    two = register(publisher)
    join = begin(two, state("p2", a="2"))
    publisher.leave(one)
    three = register(publisher)
    assert publisher.join(three, begin(three, state("p3", a="3")), 0) is Step.DONE
    assert publisher.join(two, join, 0) is Step.BEGIN_AGAIN


def test_closing_gives_all_sinks_and_publishes_nothing_more(publisher):
    one, two = joined(publisher, state("p1")), register(publisher)
    assert publisher.close() == [one.sink, two.sink]
    assert publisher.publish_written(Written([put("a", "1")], "p2", "p1"), 0)
    assert one.sink.news == [[]]


@pytest.fixture
def asked():
    """The values whose revisions were asked for."""
    return []


@pytest.fixture
def columns(asked):
    """A state of many keys, whose revisions are made when they are asked for."""

    def revise(values, types, marks):
        asked.extend(values)
        return [f"r{mark}" for mark in marks]

    number = 3000
    keys = [f"k{n}" for n in range(number)]
    values = [b"%d" % n for n in range(number)]
    marks = list(range(number))
    return EntryColumns(keys, values, ["int"] * number, [None] * number, marks, revise=revise)


def test_joining_asks_for_no_revisions_of_columns(publisher, columns, asked):
    subscription = register(publisher)
    join = begin(subscription, Reading(columns, "p1", True))
    assert publisher.join(subscription, join, 0) is Step.DONE
    assert publisher.publish(publisher.ticket(), changes("p1")) is Outcome.PUBLISHED
    assert asked == []
    publisher.learn()
    assert len(asked) == 3000
    publisher.learn()
    assert len(asked) == 3000
    assert publisher.knows("k7")
    publisher.publish(publisher.ticket(), changes("p2", k7="r7", k8="new"))
    assert subscription.sink.news[1:] == [[("k8", "new")]]


def test_what_a_read_does_not_find_asks_for_no_revisions(publisher, columns, asked):
    """As a mirror looks who else writes its source, once it has joined."""
    subscription = register(publisher)
    publisher.join(subscription, begin(subscription, Reading(columns, "p1", True)), 0)
    assert publisher.knows_any(Selection.of("k7", "x"))
    assert not publisher.knows_any(Selection.of("x", "k/"))
    assert asked == []
    publisher.learn()
    assert publisher.knows_any(Selection.of("k7", "x"))
    assert not publisher.knows_any(Selection.of("x", "k/"))


def test_revisions_that_are_needed_before_are_asked_for_at_once(publisher, columns):
    subscription = register(publisher)
    publisher.join(subscription, begin(subscription, Reading(columns, "p1", True)), 0)
    publisher.publish(publisher.ticket(), changes("p2", k7="r7", k8="new", x="r"))
    assert subscription.sink.news[1:] == [[("k8", "new"), ("x", "r")]]
    publisher.learn()
    assert publisher.knows("x")


def test_revisions_that_are_compared_are_made_before_the_lock_is_taken(listed):
    held = []

    def revise(values, types, marks):
        held.append(listed._lock.locked())
        return marks

    def of(position, *revisions):
        keys, number = [f"k{n}" for n in range(len(revisions))], len(revisions)
        same = [b""] * number, ["bytes"] * number, [None] * number
        return Reading(EntryColumns(keys, *same, revisions, revise=revise), position, True)

    first, second = register(listed), register(listed, Selection.of("k1", "k2"))
    assert listed.join(first, begin(first, of("p1", "r1", "r2")), 0) is Step.DONE
    listed.learn()
    assert listed.publish(listed.ticket(), of("p2", "r1", "r3")) is Outcome.PUBLISHED
    assert first.sink.news[1:] == [[("k1", "r3")]]
    assert listed.join(second, begin(second, of("p2", "r1", "r3")), 1) is Step.DONE
    assert held
    assert not any(held)


def test_revisions_are_forgotten_with_the_last_subscription(publisher, columns, asked):
    subscription = register(publisher)
    publisher.join(subscription, begin(subscription, Reading(columns, "p1", True)), 0)
    publisher.leave(subscription)
    publisher.learn()
    assert asked == []
    assert not publisher.knows("k7")
