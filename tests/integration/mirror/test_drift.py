"""A drift of real stores, kept current."""

import threading

import pytest

import datastream
from datastream import DatastreamError, drift

LONG = 30


class Drifts:
    """What a subscriber was told."""

    def __init__(self, observable):
        self.seen = []
        self.completed = False
        self._changed = threading.Condition()
        self.subscription = observable.subscribe(self._take, on_completed=self._complete)

    def _take(self, found):
        with self._changed:
            self.seen.append({key: difference.kind for key, difference in found.items()})
            self._changed.notify_all()

    def _complete(self):
        with self._changed:
            self.completed = True
            self._changed.notify_all()

    def wait(self, expected):
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen and self.seen[-1] == expected, LONG)

    def wait_completed(self):
        with self._changed:
            assert self._changed.wait_for(lambda: self.completed, LONG)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_it_follows_both_sides(kinds, kind):
    a, b = kinds.open("memory"), kinds.open(kind)
    a.put_many({"a.txt": "1", "x/b.txt": "1"})
    all_of_it, part = Drifts(drift(a, b)), Drifts(drift(a, b, "x/"))
    all_of_it.wait({"a.txt": "only_a", "x/b.txt": "only_a"})
    part.wait({"x/b.txt": "only_a"})
    b.put_many({"a.txt": "2", "x/b.txt": "1"})
    all_of_it.wait({"a.txt": "changed"})
    part.wait({})
    del a["a.txt"]
    all_of_it.wait({"a.txt": "only_b"})
    del b["a.txt"]
    all_of_it.wait({})
    for found in (all_of_it, part):
        found.subscription.dispose()
    a["late.txt"] = "1"
    assert all_of_it.seen[-1] == {}


def test_the_first_item_says_that_both_are_equal(kinds):
    a, b = kinds.open("memory"), kinds.open("memory")
    found = Drifts(drift(a, b))
    found.wait({})
    a.close()
    found.wait_completed()


def test_stores_are_opened_and_closed_with_the_subscription(tmp_path):
    with datastream.open(f"sqlite:{tmp_path}/a.db", create=True) as store:
        store["k"] = 1
    found = Drifts(drift(f"sqlite:{tmp_path}/a.db", "memory:"))
    found.wait({"k": "only_a"})
    found.subscription.dispose()
    with pytest.raises(DatastreamError, match="no source"):
        drift("nosuch:thing", "memory:").run()
