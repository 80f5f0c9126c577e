"""`EntryColumns` is the sequence of entries that its columns stand for."""

from datetime import UTC, datetime

import pytest

from datastream import Batch, Entry, Operation
from datastream._columns import (
    FEW,
    EntryColumns,
    Gathered,
    by_key,
    differing,
    held,
    keys_of,
    matching,
)
from datastream.entry import deleted

TIME = datetime(2026, 11, 26, tzinfo=UTC)
ENTRIES = [
    Entry("b", b"2", "int", TIME, "r2"),
    Entry("a", b"", "str", None, "r1"),
    Entry("c/d", b"x" * 200, "bytes", TIME, "r3"),
]


def late(entries):
    """Columns whose revisions are made of the other columns once somebody asks for them."""
    keys, values, types, times, revisions, _ = zip(*entries, strict=True)
    marks = [f"mark {revision}" for revision in revisions]

    def revise(some, types_, marks_):
        assert len(some) == len(types_) == len(marks_)
        return [mark.removeprefix("mark ") for mark in marks_]

    return EntryColumns(keys, values, types, times, marks, revise=revise)


def gathered(*parts):
    """Parts put together."""
    whole = Gathered()
    for part in parts:
        whole.add(part)
    return whole.entries()


@pytest.fixture(params=[EntryColumns.of, late])
def columns(request):
    return request.param(ENTRIES)


def test_it_is_a_sequence_of_its_entries(columns):
    assert list(columns) == ENTRIES
    assert {type(entry) for entry in columns} == {type(columns[0])} == {Entry}
    assert [columns[n] for n in range(3)] == ENTRIES
    assert columns[-1].operation is Operation.PUT
    assert columns[1:] == ENTRIES[1:]
    assert isinstance(columns[1:], EntryColumns)
    assert len(columns) == 3
    assert ENTRIES[1] in columns
    with pytest.raises(IndexError):
        columns[3]


def test_it_is_equal_to_a_tuple_of_the_same_and_looks_like_it(columns):
    same = tuple(ENTRIES)
    assert columns == same
    assert same == columns
    assert columns == list(same)
    assert columns != same[:2]
    assert columns != "abc"
    assert hash(columns) == hash(same)
    assert repr(columns) == repr(same)
    assert Batch(columns, "c") == Batch(same, "c")


def test_none_is_made_of_a_delete():
    assert EntryColumns.of([*ENTRIES, deleted("z")]) is None


def test_there_may_be_none_at_all():
    empty = EntryColumns.of(())
    assert not empty
    assert list(empty) == []
    assert empty == () == empty.unique().by_revision().matching(str.isupper)
    assert gathered() == gathered(empty, empty) == ()


def test_of_a_key_that_comes_twice_the_last_is_kept(columns):
    later = ENTRIES[0]._replace(value=b"3", revision="r0")
    twice = gathered(columns, EntryColumns.of([later]))
    assert isinstance(twice, EntryColumns)
    assert twice == [*ENTRIES, later]
    assert twice.unique() == [later, *ENTRIES[1:]]
    assert twice.by_revision() == [later, ENTRIES[1], ENTRIES[0], ENTRIES[2]]
    assert twice.by_revision().unique() == [ENTRIES[0], ENTRIES[1], ENTRIES[2]]


@pytest.mark.parametrize("made", [list, EntryColumns.of, late])
def test_entries_and_columns_of_them_are_asked_alike(made):
    some = made(ENTRIES)
    assert list(keys_of(some)) == ["b", "a", "c/d"]
    assert by_key(some) == {entry.key: entry for entry in ENTRIES}
    assert list(matching(some, str.isalpha)) == ENTRIES[:2]
    assert list(matching(some, bool)) == ENTRIES
    assert list(differing(some, {"a": "r1", "b": "other"})) == [ENTRIES[0], ENTRIES[2]]
    assert held(some) == tuple(ENTRIES)


def test_parts_are_gathered_in_columns_only_if_all_are(columns):
    assert type(gathered(columns, columns)) is EntryColumns
    assert gathered(columns, [deleted("z")]) == [*ENTRIES, deleted("z")]
    assert gathered([deleted("z")], ENTRIES) == [deleted("z"), *ENTRIES]


def test_of_a_key_that_comes_twice_the_last_entry_is_kept(columns):
    twice = gathered(columns[:2], columns[1:])
    assert twice.unique() == [ENTRIES[0], *ENTRIES[1:]]
    again = gathered(columns, EntryColumns.of([ENTRIES[0]._replace(value=b"3")]))
    assert again.unique() == [ENTRIES[0]._replace(value=b"3"), *ENTRIES[1:]]
    ordered = columns[1:]
    assert ordered.unique() is ordered


def test_entries_are_unpacked_a_few_at_a_time():
    many = [Entry(f"{n}", b"", "str", None, f"r{n}") for n in range(2 * FEW + 1)]
    assert EntryColumns.of(many) == many
    assert EntryColumns.of([*many, deleted("z")]) is None


def test_who_takes_entries_one_by_one_does_not_wait_for_all_revisions():
    asked = []

    def revise(values, types, marks):
        asked.append(len(values))
        return list(map(str, marks))

    number = 5000
    keys = [f"k{n}" for n in range(number)]
    same = [b""] * number, ["bytes"] * number, [None] * number
    columns = EntryColumns(keys, *same, range(number), revise=revise)
    entries = iter(columns)
    assert asked == []
    assert next(entries) == Entry("k0", b"", "bytes", None, "0")
    assert len(asked) == 1
    assert asked[0] < number / 4
    assert [entry.revision for entry in entries] == [str(n) for n in range(1, number)]
    assert sum(asked) == number


def test_revisions_are_made_once_and_only_those_that_are_asked_for():
    asked = []

    def revise(values, types, marks):
        asked.append(list(values))
        return [f"r{mark}" for mark in marks]

    columns = EntryColumns(
        "abc", [b"1", b"2", b"3"], ["int"] * 3, [None] * 3, [1, 2, 3], revise=revise
    )
    assert list(columns.keys) == ["a", "b", "c"]
    some = columns[:2].matching("b".__eq__)
    assert asked == []
    assert some == [Entry("b", b"2", "int", None, "r2")]
    assert columns[-1].revision == "r3"
    assert asked == [[b"2"], [b"3"]]
    assert columns.revisions is columns.revisions
    assert columns[:1].revisions == ["r1"]
    assert asked == [[b"2"], [b"3"], [b"1", b"2", b"3"]]
