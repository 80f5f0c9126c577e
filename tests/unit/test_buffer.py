import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream import Batch, DatastreamError, Entry
from datastream._watch.buffer import (
    KEPT_BYTES,
    KEPT_ENTRIES,
    CompleteBuffer,
    ConflatingBuffer,
    NewestBuffer,
)
from datastream.entry import deleted


def batch(number, *keys, value=b"", initial=False):
    entries = tuple(Entry(key, value or str(number).encode(), revision=str(number)) for key in keys)
    return Batch(entries, cursor=str(number), initial=initial)


def drain(mailbox):
    taken = []
    while (item := mailbox.take()) is not None:
        taken.append(item)
    return taken


def test_a_quick_subscriber_gets_every_batch():
    mailbox = ConflatingBuffer()
    batches = [batch(n, "a", "b") for n in range(10)]
    for item in batches:
        mailbox.put(item)
    assert drain(mailbox) == batches
    assert not mailbox


def test_what_was_conflated_says_which_keys_held_nothing_before_it():
    mailbox = NewestBuffer()
    mailbox.put(batch(1, "new", "old"), [None, "r0"])
    mailbox.put(batch(2, "new", "newer", "old"), ["1", None, "1"])
    assert mailbox.take().created == {"new", "newer"}


def test_a_slow_one_gets_the_newest_of_each_key_and_the_last_cursor():
    mailbox = ConflatingBuffer()
    first = batch(0, "a", "b", "gone", initial=True)
    mailbox.put(first)
    for number in range(1, 3 * KEPT_ENTRIES):
        mailbox.put(batch(number, f"k{number % 10}", "last"))
    initial, merged = drain(mailbox)
    assert initial == first
    newest = 3 * KEPT_ENTRIES - 1
    assert merged.cursor == str(newest)
    assert not merged.initial
    state = {entry.key: int(entry.value) for entry in merged.entries}
    assert state == {"last": newest} | {f"k{n % 10}": n for n in range(newest - 9, newest + 1)}


def test_large_values_are_merged_early():
    mailbox = ConflatingBuffer()
    for number in range(100):
        mailbox.put(batch(number, "k", value=b"x" * (KEPT_BYTES // 2)))
    assert len(drain(mailbox)) == 1


@pytest.mark.chaos
def test_memory_does_not_grow_with_the_changes():
    mailbox = ConflatingBuffer()
    tracemalloc.start()
    try:
        for number in range(50_000):
            mailbox.put(batch(number, f"k{number % 100}"))
        # Kept, they would be 25 MB; other threads of the process may take some, too.
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())), st.integers(0, 3))
def test_the_state_after_all_batches_is_the_same_however_they_are_taken(changes, every):
    mailbox, state, expected = ConflatingBuffer(), {}, {}

    def take():
        item = mailbox.take()
        for entry in item.entries if item else ():
            state[entry.key] = entry.value

    for number, (key, big) in enumerate(changes):
        mailbox.put(batch(number, key, value=(b"%d" % number) * (KEPT_BYTES // 3 if big else 1)))
        expected[key] = (b"%d" % number) * (KEPT_BYTES // 3 if big else 1)
        if every and number % every == 0:
            take()
    while mailbox:
        take()
    assert state == expected


def test_who_has_caught_up_gets_every_batch_again():
    mailbox = ConflatingBuffer()
    for number in range(KEPT_ENTRIES + 1000):
        mailbox.put(batch(number, "k"))
    drain(mailbox)
    later = [batch(number, "k") for number in range(3)]
    for item in later:
        mailbox.put(item)
    assert drain(mailbox) == later


def change(cursor, *entries):
    return Batch(tuple(entries), cursor)


def test_what_conflation_makes_no_change_is_left_out():
    buffer = NewestBuffer()
    buffer.put(change("1", Entry("new", revision="1"), Entry("a", revision="2")), [None, "1"])
    buffer.put(change("2", deleted("new"), Entry("a", revision="1")), ["1", "2"])
    buffer.put(change("3", Entry("b", revision="2")), ["1"])
    assert [entry.key for entry in buffer.take()] == ["b"]
    assert buffer.take() is None


def test_a_delete_that_was_given_and_a_new_key_that_went_is_given_once():
    buffer = NewestBuffer()
    buffer.put(change("1", deleted("a")), ["1"])
    assert [entry.key for entry in buffer.take()] == ["a"]
    buffer.put(change("2", Entry("a", revision="2")), [None])
    buffer.put(change("3", deleted("a")), ["2"])
    assert buffer.take() is None


def test_a_complete_buffer_keeps_all_up_to_its_bound(monkeypatch):
    monkeypatch.setattr("datastream._watch.buffer.BOUND", 3)
    buffer = CompleteBuffer("watch('a')")
    for number in range(3):
        assert buffer.put(change(str(number), Entry("a", revision=str(number)))) is None
    assert buffer.take().cursor == "0"
    assert buffer.put(change("3", Entry("a", revision="3"))) is None
    error = buffer.put(change("4", Entry("a", revision="4")))
    assert isinstance(error, DatastreamError)
    assert "3 changes" in str(error)
