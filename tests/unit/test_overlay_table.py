"""The table of an overlay: what of its layers is visible, and what has changed."""

import pytest

from datastream import Batch, Entry, Operation, Selection
from datastream._overlay import table as table_module
from datastream._overlay.position import Place, parse, spell
from datastream._overlay.table import Table
from datastream._overlay.tombstone import TOMBSTONE, is_tombstone
from datastream.entry import deleted
from datastream.source import Reading

EVERYTHING = Selection()
ELSEWHERE = Place("other", 7, ("c", "c", "c"))


def entry(key, revision, value=b"v"):
    return Entry(key, value, "str", None, revision)


def state(*entries, cursor="c"):
    return Batch(tuple(entries), cursor, initial=True)


def changes(*entries, cursor="c", **about):
    return Batch(tuple(entries), cursor, **about)


def read(*entries, created=(), **about):
    return Reading(entries, "c", complete=False, created=frozenset(created), **about)


@pytest.fixture
def table():
    table = Table(3, EVERYTHING)
    table.apply(0, state(entry("a", "a0")))
    table.apply(1, state(entry("a", "a1"), entry("b", "b1")))
    table.apply(2, state(entry("b", "b2"), entry("c", "c2")))
    table.begin()
    return table


def shown(table):
    return {e.key: e.revision for e in table.state(EVERYTHING).entries}


def news(table, since, sequence):
    reading = table.changes(since, sequence)
    return [(e.key, e.revision) for e in reading.entries]


def resumed(table, *readings, **options):
    with table.marking() as mark:
        return table.resumed(mark, readings, ELSEWHERE, **options)


def test_the_first_layer_that_holds_a_key_shows_it(table):
    assert shown(table) == {"a": "a0", "b": "b1", "c": "c2"}


def test_what_is_removed_above_shows_what_is_below(table):
    since = table.mark()
    table.apply(0, changes(deleted("a")))
    assert news(table, *since) == [("a", "a1")]
    since = table.mark()
    table.apply(0, changes(entry("a", "a9")))
    assert news(table, *since) == [("a", "a9")]
    assert table.changes(*since).created == frozenset()


def test_what_is_hidden_is_no_news(table):
    since = table.mark()
    table.apply(2, changes(entry("b", "b9")))
    assert news(table, *since) == []
    assert table.changes(*since).position != since[0]
    table.apply(1, changes(deleted("b")))
    assert news(table, *since) == [("b", "b9")]


def test_what_a_batch_changes_is_told_from_position_to_position(table):
    since, _ = table.mark()
    change = table.apply(1, changes(entry("b", "b9"), deleted("a"), entry("n", "n1"), author="Ada"))
    assert [(e.key, e.revision) for e in change.entries] == [("b", "b9"), ("n", "n1")]
    assert (change.since, change.position, change.author) == (since, table.mark()[0], "Ada")
    change = table.apply(0, changes(deleted("a"), deleted("b")))
    assert [(e.key, e.operation) for e in change.entries] == [("a", Operation.DELETE)]


def test_a_hidden_change_moves_the_position_only(table):
    since, _ = table.mark()
    change = table.apply(2, changes(entry("b", "b9")))
    assert (change.entries, change.since, change.position) == ([], since, table.mark()[0])


def test_a_whole_state_is_no_change_to_publish(table):
    assert table.apply(0, state(entry("a", "a9"))) is None
    assert table.apply(0, Batch((), "c", reset=True)) is None


def test_the_revisions_that_were_visible_at_a_position_are_known(table):
    since = table.mark()
    table.apply(0, changes(entry("b", "b0"), entry("c", "c0"), entry("n", "n0")))
    table.apply(0, changes(deleted("b"), deleted("n"), entry("c", "c9")))
    reading = table.changes(*since)
    assert {e.key: e.revision for e in reading.entries} == {"b": "b1", "c": "c9", "n": ""}
    assert reading.before == {"b": "b1", "c": "c2"}


def test_across_tables_those_are_known_that_every_layer_has_changed_back(table):
    readings = [
        read(deleted("b"), deleted("c"), created=["b", "c"]),
        read(entry("b", "b1"), before={"b": "b1"}),
        read(entry("c", "c2")),
    ]
    with table.marking() as mark:
        assert table.resumed(mark, readings, ELSEWHERE).before == {"b": "b1"}
        table.apply(1, changes(entry("b", "b9")))
        assert not table.resumed(mark, readings, ELSEWHERE).before


def test_what_changed_below_the_layer_that_shows_a_key_does_not_count(table):
    readings = [read(deleted("b"), created=["b"]), read(), read(entry("b", "b9"))]
    assert resumed(table, *readings).before == {"b": "b1"}


def test_a_tombstone_hides_all_below(table):
    since = table.mark()
    table.apply(1, changes(entry("c", "t", TOMBSTONE)))
    assert news(table, *since) == [("c", "")]
    table.apply(0, changes(entry("c", "c0")))
    assert shown(table)["c"] == "c0"
    table.apply(0, changes(deleted("c")))
    assert "c" not in shown(table)
    table.apply(1, changes(deleted("c")))
    assert shown(table)["c"] == "c2"


def test_a_tombstone_may_have_been_written_by_an_editor():
    assert is_tombstone(TOMBSTONE + b"\n")
    assert not is_tombstone(b" " + TOMBSTONE)
    assert not is_tombstone(None)


def test_one_batch_is_applied_as_a_whole_with_what_is_known_of_it(table):
    since = table.mark()
    table.apply(0, changes(entry("x", "1"), entry("y", "1"), author="Ann", message="why"))
    reading = table.changes(*since)
    assert [e.key for e in reading.entries] == ["x", "y"]
    assert (reading.author, reading.message) == ("Ann", "why")
    table.set_unread(0, frozenset())
    assert table.changes(*since).author == "Ann", "a look that finds nothing new changes nothing"
    table.apply(0, changes(entry("z", "1"), author="Bob"))
    assert table.changes(*since).author == "", "two batches have no one author"


def test_keys_that_came_and_went_are_known_to_be_new(table):
    since = table.mark()
    table.apply(0, changes(entry("new", "1")))
    table.apply(0, changes(deleted("new")))
    reading = table.changes(*since)
    assert [(e.key, e.operation) for e in reading.entries] == [("new", Operation.DELETE)]
    assert reading.created == {"new"}


def test_a_state_that_is_given_anew_replaces_the_one_before(table):
    since = table.mark()
    table.apply(1, state(entry("a", "a1")))
    assert news(table, *since) == [("b", "b2")]


def test_what_is_too_long_ago_is_not_remembered(table, monkeypatch):
    monkeypatch.setattr(table_module, "REMEMBERED", 2)
    since = table.mark()
    for number in range(3):
        table.apply(0, changes(entry("a", f"n{number}")))
    assert table.changes(*since) is None
    assert table.changes("", table.sequence + 1) is None


def test_a_write_is_known_if_nothing_else_lies_between(table):
    since, sequence = table.mark()
    table.apply(0, changes(entry("a", "n")))
    written = table.written(since, sequence, [entry("a", "n")])
    assert written is not None
    assert (written.since, written.position) == (since, table.mark()[0])
    assert table.written(since, sequence, [entry("b", "n")]) is None, "another key changed"
    assert table.written(since, sequence, [entry("a", "m")]) is None, "another write did that"
    table.apply(2, changes(entry("c", "n")))
    assert table.written(since, sequence, [entry("a", "n")]) is None


def test_resuming_from_a_position_of_another_process(table):
    same = read()
    nothing = resumed(table, same, same, same)
    assert (nothing.entries, nothing.position) == ([], spell(*ELSEWHERE))
    assert resumed(table, same, same, same, keep=False).position == table.mark()[0]
    # b changed in the lowest layer, which hides nothing and is hidden; a was removed above.
    table.apply(0, changes(deleted("a")))
    reading = resumed(table, read(deleted("a")), same, read(entry("b", "2")))
    assert [(e.key, e.revision) for e in reading.entries] == [("a", "a1")]
    # Came and went in one layer, and no other holds it.
    reading = resumed(table, read(deleted("x"), created={"x"}), same, same)
    assert reading.created == {"x"}


def test_resuming_says_who_made_the_one_change(table):
    same, by_ann = read(), read(entry("z", "1"), author="Ann")
    assert resumed(table, by_ann, same, same).author == "Ann"
    assert resumed(table, by_ann, by_ann._replace(author="Bob"), same).author == ""
    with table.marking() as mark:
        table.apply(0, changes(entry("z", "1"), author="Ann"))
        for readings in ([by_ann, same, same], [same, same, same]):
            reading = table.resumed(mark, readings, ELSEWHERE)
            assert reading.author == "Ann", "asked before or after"
        table.apply(0, changes(entry("z", "2"), author="Ann"))
        assert table.resumed(mark, [same, same, same], ELSEWHERE).author == ""


@pytest.mark.parametrize("whole", [False, True], ids=["changes", "whole state"])
@pytest.mark.parametrize("layer", [0, 2])
def test_what_changes_in_one_layer_after_it_was_asked_while_another_tells_of_it(
    table, layer, whole
):
    """Layer 1 tells that `n` came, and is asked before or after `n` comes in another layer."""
    readings = [read(), read(entry("n", "n1"), created={"n"}), read()]
    table.apply(1, changes(entry("n", "n1")))
    with table.marking() as mark:
        held = [entry("a", "a0")] if layer == 0 else [entry("b", "b2"), entry("c", "c2")]
        new = entry("n", "new")
        table.apply(layer, state(*held, new) if whole else changes(new))
        reading = table.resumed(mark, readings, ELSEWHERE)
    assert {e.key: e.revision for e in reading.entries} == {"n": "new" if layer == 0 else "n1"}
    assert reading.created == {"n"}


def test_what_hid_a_key_at_the_cursor_and_has_gone_since(table):
    """The first layer was asked before `a` was removed there, the second one tells of `a`."""
    with table.marking() as mark:
        table.apply(0, changes(deleted("a")))
        reading = table.resumed(mark, [read(), read(entry("a", "a1"), created={"a"}), read()],
                                ELSEWHERE)  # fmt: skip
    assert [(e.key, e.revision) for e in reading.entries] == [("a", "a1")]
    assert not reading.created


def test_what_a_tombstone_hid_at_the_cursor_was_not_there(table):
    table.apply(1, changes(entry("c", "t", TOMBSTONE)))
    reading = resumed(table, read(deleted("c"), created={"c"}), read(), read(entry("c", "c2")))
    assert (reading.entries, reading.created) == ([deleted("c")], {"c"})


@pytest.mark.parametrize(
    ("mine", "asked", "covered"),
    [
        (Selection(), Selection.of("a"), True),
        (Selection.of("a"), Selection(), False),
        (Selection.of("a", "fx/"), Selection.of("a"), True),
        (Selection.of("fx/"), Selection.of("fx/USD"), True),
        (Selection.of("fx/"), Selection.of("fx/old/"), False),
        (Selection.of(match="x*"), Selection.of(match="x*"), True),
        (Selection.of(match="x*"), Selection.of(match="y*"), False),
    ],
)
def test_what_a_table_covers(mine, asked, covered):
    assert Table(1, mine).covers(asked) is covered


@pytest.mark.parametrize("cursors", [("",), ("a:1", "3:x:", ""), ("ü²", "9" * 40)])
def test_positions_hold_any_cursor(cursors):
    assert parse(spell("e", 12, cursors), len(cursors)) == Place("e", 12, cursors)
    for extra in ("9", "9" * 9000, "²", ":", "1:"):
        assert parse(spell("e", 12, cursors) + extra, len(cursors)) is None
    assert parse(spell("e", 12, cursors), len(cursors) + 1) is None


@pytest.mark.parametrize("text", ["", ":", "e:", "e:-1:", "e:²:", "e:1:99:x", f"e:{'9' * 5000}:"])
def test_positions_that_were_made_up(text):
    assert parse(text, 1) is None


def test_what_an_upper_layer_cannot_read_is_not_what_a_lower_one_holds():
    table = Table(2, EVERYTHING)
    table.apply(0, Batch((), "c", initial=True, unread=frozenset({"a", "d/"})))
    table.apply(1, state(entry("a", "a1"), entry("b", "b1"), entry("d/x", "x1")))
    table.begin()
    assert shown(table) == {"b": "b1"}
    assert table.state(EVERYTHING).unread == {"a", "d/"}
    since = table.mark()
    table.apply(0, changes(entry("a", "a0")))
    assert news(table, *since) == [("a", "a0")]
    assert table.state(EVERYTHING).unread == {"d/"}
    since = table.mark()
    table.set_unread(0, frozenset())
    assert news(table, *since) == [("d/x", "x1")]
    assert table.state(EVERYTHING).unread == frozenset()


def test_what_cannot_be_read_from_now_on_is_kept_by_those_who_have_it(table):
    since = table.mark()
    table.set_unread(0, frozenset({"a", "b"}))
    reading = table.changes(*since)
    assert not reading.entries, "nobody is told that it is gone"
    # The first layer has an old state of one, and of the other nobody knows anything.
    assert shown(table) == {"a": "a0", "c": "c2"}
    assert table.state(EVERYTHING).unread == {"b"}
    since = table.mark()
    table.apply(0, Batch((entry("a", "a9"),), "c", initial=True))
    assert news(table, *since) == [("a", "a9"), ("b", "b1")]
    assert table.changes(*since).created == frozenset()


def test_a_layer_that_begins_anew_keeps_what_it_cannot_read_any_more(table):
    since = table.mark()
    table.apply(1, Batch((), "c", reset=True, unread=frozenset({"b"})))
    assert news(table, *since) == []
    assert shown(table) == {"a": "a0", "b": "b1", "c": "c2"}
