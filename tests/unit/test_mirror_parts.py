"""Loops, progress, events and the table of a drift: memory only."""

import threading

import pytest

import datastream
from datastream import Batch, DatastreamError, Entry, Selection, Store
from datastream._columns import EntryColumns
from datastream._mirror.drift import Table
from datastream._mirror.events import Events
from datastream._mirror.ledger import Ledger
from datastream._mirror.loops import Edge, Loop, check, identity, overlap
from datastream._mirror.plan import Rules
from datastream._mirror.progress import InFile, Progress
from datastream._mirror.target import Target
from datastream._puts import Puts
from datastream.entry import deleted
from datastream.sources.memory import MemorySource

ALL = Selection()


def edges(*pairs):
    return [Edge(one, other, ALL) for one, other in pairs]


@pytest.mark.parametrize(
    ("new", "others"),
    [
        (("a", "a"), []),
        (("b", "a"), [("a", "b")]),
        (("c", "a"), [("a", "b"), ("b", "c")]),
        (("c", "a"), [("b", "c"), ("x", "y"), ("a", "b")]),
    ],
)
def test_a_circle_is_refused(new, others):
    with pytest.raises(Loop):
        check(Edge(*new, ALL), edges(*others))


def test_what_is_no_circle_is_allowed():
    check(Edge("a", "b", ALL), edges(("a", "c"), ("c", "d"), ("b", "e")))
    check(Edge("b", "a", Selection.of("x/")), [Edge("a", "b", Selection.of("y/"))])
    with pytest.raises(Loop):
        check(Edge("b", "a", Selection.of("x/")), [Edge("a", "b", Selection.of("x/y/"))])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({}, {"keys": ("a",)}, True),
        ({"keys": ("a/",)}, {"keys": ("a/b",)}, True),
        ({"keys": ("a/",)}, {"keys": ("b/",)}, False),
        ({"match": "a/*"}, {"match": "a/b/**"}, True),
        ({"match": "a/*"}, {"match": "b/*"}, False),
        ({"exclude": "a/**"}, {"keys": ("a/",)}, False),
        ({"exclude": "a/**"}, {"keys": ("a/b/", "a/c")}, False),
        ({"exclude": "a/**"}, {"match": "a/*.txt"}, False),
        ({"exclude": "a/**"}, {"keys": ("a/", "b/")}, True),
        ({"exclude": "a/**"}, {"keys": ("ab/",)}, True),
        ({"exclude": "a/**"}, {}, True),
        ({"exclude": "a/*"}, {"keys": ("a/",)}, True),
        ({"exclude": "*/**"}, {"keys": ("a/",)}, True),
    ],
)
def test_selections_that_may_have_a_key_in_common(one, other, expected):
    first, second = (
        Selection.of(*s.get("keys", ()), match=s.get("match", ()), exclude=s.get("exclude", ()))
        for s in (one, other)
    )
    assert overlap(first, second) is overlap(second, first) is expected


def test_which_store_is_which():
    with Store(MemorySource()) as one, Store(MemorySource()) as other:
        assert identity(one) == identity(one) != identity(other)
    with Store(MemorySource(), name="sqlite:x/../a.db?table=t") as store:
        assert identity(store).startswith("sqlite:/")
        assert identity(store).endswith("/a.db?table=t")


def test_how_a_store_is_opened_does_not_make_it_another_one(tmp_path):
    def of(options):
        with datastream.open(f"sqlite:{tmp_path}/a.db{options}") as store:
            return identity(store)

    plain = of("?create=true")
    assert of("") == of("?interval=1&timeout=3") == of("?table=data") == plain
    assert of("?table=other&create=true") != plain


def test_progress_is_kept_as_it_is(tmp_path):
    progress = Progress("a", "b", ((), ("x/",), (), ()), "cursor", "other", ("k",), ("l",), ("m",))
    place = InFile(tmp_path / "place")
    assert place.load() is None
    place.save(progress)
    assert place.load() == progress
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"format":2}', b'{"format":1,"x":1}'])
def test_a_damaged_place_is_said(tmp_path, text):
    (tmp_path / "place").write_bytes(text)
    with pytest.raises(DatastreamError, match="no place of a mirror"):
        InFile(tmp_path / "place").load()
    with pytest.raises(DatastreamError, match="directory does not exist"):
        InFile(tmp_path / "no" / "place")


def test_a_wait_ends_with_what_came_before_it_began():
    events = Events()
    inbox = events.inbox(batches=True)
    inbox.offer(Batch((Entry("k"),), "1"))
    events.wait(None, lambda: bool(inbox))
    assert not events.is_empty
    assert inbox.take().cursor == "1"
    assert events.is_empty
    assert inbox.oldest is None


def test_a_wait_ends_when_somebody_wakes_it():
    events = Events()
    threading.Timer(0.01, events.wake).start()
    events.wait(None, lambda: False)
    inbox = events.inbox(batches=False)
    inbox.end()
    events.wait(None, lambda: bool(inbox))
    assert inbox.ended


def batch(*entries, initial=False):
    return Batch(entries, "", initial=initial)


def test_a_drift_is_known_when_both_have_given_their_state():
    table = Table(types=True)
    assert not table.apply(0, batch(Entry("a", b"1"), Entry("b", b"1"), initial=True))
    assert table.apply(1, batch(Entry("b", b"2"), Entry("_datastream/x", b""), initial=True))
    assert {key: d.kind for key, d in table.differences.items()} == {"a": "only_a", "b": "changed"}


def test_a_drift_changes_as_either_side_moves():
    table = Table(types=True)
    for side in (0, 1):
        table.apply(side, batch(Entry("a", b"1"), initial=True))
    assert not table.differences
    assert table.apply(0, batch(Entry("a", b"2")))
    assert table.differences["a"].a.value == b"2"
    assert not table.apply(1, batch(Entry("_datastream/x", b"1")))
    assert table.apply(1, batch(deleted("a")))
    assert table.differences["a"].kind == "only_a"
    assert table.apply(0, batch(deleted("a")))
    assert not table.differences
    assert not table.apply(0, batch(deleted("a")))


def test_a_table_says_nothing_of_what_lies_below_a_place_that_cannot_be_read():
    table = Table(types=True)
    table.apply(0, Batch((Entry("a/x"), Entry("b")), initial=True))
    table.apply(1, Batch((), initial=True, unread=frozenset({"a/"})))
    assert list(table.differences) == ["b"]
    assert table.is_partial(1)
    assert table.apply(1, Batch((Entry("a/x", b"2"),)))
    assert table.differences["a/x"].kind == "changed"
    # It had this one, and keeps it; the other one is told once the place can be read.
    assert not table.apply(1, Batch((), initial=True, unread=frozenset({"a/"})))
    assert table.apply(1, Batch((), initial=True))
    assert table.differences["a/x"].kind == "only_a"
    assert not table.is_partial(1)


def test_a_suspect_that_may_be_the_mirrors_own_is_so_after_a_restart(tmp_path):
    """It is looked at again while others have written, too, and the source goes on meanwhile."""
    with datastream.open("memory:") as store:

        def begun():
            target, place = Target(store, types=True), InFile(tmp_path / "place")
            ledger = Ledger(target, Rules(), place, Progress("source", "target"))
            ledger.load()
            return ledger

        ledger = begun()
        ledger.judged.add("own")
        assert ledger.doubt()
        ledger.suspect_others(["others"])
        ledger.save()
        keys = "own", "others"
        new = {key: Entry(key, b"2", "int", revision="2") for key in keys}
        old = {key: Entry(key, b"1", "int", revision="1") for key in keys}
        plan = begun().judge(keys, new, old)
        assert [write.key for write in plan.writes] == ["own"]
        assert [conflict.key for conflict in plan.conflicts] == ["others"]


def test_what_many_new_rows_leave_is_known_when_it_is_asked_for():
    """They are told apart from what was left before, and count as the newest."""
    values = [b"1", b"2"], ["int"] * 2, [None] * 2
    stored = EntryColumns(["a", "b"], *values, ["r1", "r2"])
    with datastream.open("memory:") as store:
        target = Target(store, types=True)
        for key in ("a", "z"):
            target.take(key, Entry(key, b"0", revision="r0"))
        store._write = lambda writes: stored
        target.write(Puts.of(stored))
        assert target.left == {"z": "r0", "a": "r1", "b": "r2"}
        assert list(target.left) == ["z", "a", "b"]
        assert target.puts == 2
        assert target.is_as_left("a", stored[0])
