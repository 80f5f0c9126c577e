"""What of a store cannot be read, and when it is tried again."""

import pytest

from datastream.sources._common import unread as _unread
from datastream.sources._common.unread import LOGGED, Unread


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(_unread, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def unread():
    return Unread("a place")


def test_it_is_left_alone_for_pauses_that_grow(unread, clock):
    pauses = []
    for _ in range(12):
        unread.add("a", "denied")
        unread.tried({"a": 1})
        began = clock[0]
        while unread.skips("a", 1):
            clock[0] += 5
        pauses.append(clock[0] - began)
    assert pauses[:3] == [10, 20, 40]
    assert pauses[-2:] == [3600, 3600]


def test_what_has_changed_is_tried_at_once(unread, clock):
    unread.add("a", "denied")
    unread.tried({"a": 1})
    assert unread.skips("a", 1)
    assert not unread.skips("a", 2)
    assert not unread.skips("b", 1)
    unread.tried({"a": 2})
    assert unread.skips("a", 1), "it was not tried again"


def test_where_nothing_tells_of_changes_each_look_tries(unread, clock):
    unread.add("a", "denied")
    unread.tried({"a": None})
    assert not unread.skips("a", None)


def test_the_status_names_some_and_counts_the_others(unread):
    assert (unread.degraded, bool(unread)) == ("", False)
    for key in ("c\n", "a", "d", "b"):
        unread.add(key, f"no {key}")
    assert unread.degraded == (
        r"left out, as it cannot be read: 'a' (no a), 'b' (no b), 'c\n' (no c\n) and 1 more"
    )
    unread.keep({"a", "x"}, lambda key: key != "d")
    unread.discard("d")
    assert unread.degraded == "left out, as it cannot be read: 'a' (no a)"
    unread.discard("a")
    assert unread.degraded == ""


def test_thousands_are_no_thousands_of_lines(unread, caplog):
    for _ in range(2):
        for number in range(1000):
            unread.add(f"k{number}", "archived")
    assert len(caplog.records) == LOGGED + 1
    assert "997 more" in unread.degraded
