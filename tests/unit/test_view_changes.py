"""What subscribers of views and bindings have not taken yet, and who is offered what."""

import tracemalloc
from itertools import pairwise

from pydantic import BaseModel

from datastream import Change, ChangeBatch, Entry
from datastream._binding.changes import KEPT, BindingChange, BindingChanges, changed_paths
from datastream._view.changes import ChangeBuffer, Listeners
from datastream._watch.buffer import KEPT_ENTRIES


def batch(number, *keys, initial=False):
    changes = tuple(Change(key, number - 1, number, Entry(key, b"")) for key in keys)
    return ChangeBatch(changes, str(number), initial)


def drain(buffer):
    taken = []
    while (item := buffer.take()) is not None:
        taken.append(item)
    return taken


def test_a_quick_subscriber_gets_every_batch():
    buffer = ChangeBuffer()
    assert not buffer
    for number in range(3):
        buffer.put(batch(number, "a"))
    assert buffer
    assert [item.cursor for item in drain(buffer)] == ["0", "1", "2"]


def test_a_slow_one_gets_the_oldest_old_and_the_newest_new_of_each_key():
    buffer = ChangeBuffer()
    buffer.put(batch(0, "gone", initial=True))
    for number in range(1, KEPT_ENTRIES + 2):
        buffer.put(batch(number, "a"))
    first, *rest = drain(buffer)
    changes = {change.key: change for change in first}
    assert (changes["gone"].old, changes["gone"].new, changes["a"].old) == (-1, 0, 0)
    assert changes["a"].new + len(rest) == KEPT_ENTRIES + 1
    assert first.initial
    assert [change.old for item in rest for change in item] == [
        change.new - 1 for item in rest for change in item
    ]


def test_its_memory_is_bounded_by_the_keys():
    buffer = ChangeBuffer()
    tracemalloc.start()
    try:
        for number in range(20 * KEPT_ENTRIES):
            buffer.put(batch(number, f"k{number % 10}"))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 8 << 20
    buffer.clear()
    assert not buffer


class Heard:
    def __init__(self):
        self.got, self.ended = [], []

    def offer(self, item, before=None):
        self.got.append([change.key for change in item])

    def end(self, error=None):
        self.ended.append(error)


def test_listeners_of_everything_and_of_single_keys():
    listeners = Listeners()
    everything, one, two = Heard(), Heard(), Heard()
    assert not listeners
    listeners.add(everything)
    listeners.add(one, "a")
    listeners.add(two, "a")
    listeners.offer(batch(1, "a", "b"))
    listeners.remove(two, "a")
    listeners.offer(batch(2, "b"))
    listeners.offer(batch(3, "a"))
    assert everything.got == [["a", "b"], ["b"], ["a"]]
    assert (one.got, two.got) == ([["a"], ["a"]], [["a"]])
    listeners.end()
    assert (everything.ended, one.ended, two.ended) == ([None], [None], [])
    listeners.remove(one, "a")
    listeners.remove(everything)
    assert not listeners


class Inner(BaseModel):
    a: int = 0
    b: int = 0


class Outer(BaseModel):
    x: int = 0
    inner: Inner = Inner()


def test_paths_of_a_first_object_are_all_of_it():
    assert changed_paths(None, Outer()) == ("x", "inner.a", "inner.b")
    assert changed_paths(Outer(), Outer(inner=Inner(b=1))) == ("inner.b",)


def test_a_change_is_narrowed_to_what_is_at_or_above_or_below_a_path():
    old, new = Outer(), Outer(inner=Inner(b=1))
    change = BindingChange(old, new, changed_paths(old, new))
    assert change.narrowed(("x",)) is None
    assert change.narrowed(("inner", "a")) is None
    below = change.narrowed(("inner",))
    assert (below.old, below.new, below.paths) == (Inner(), Inner(b=1), ("inner.b",))
    assert change.narrowed(("inner", "b")).new == 1
    whole = BindingChange(old, new, ("inner",))
    assert whole.narrowed(("inner", "b")).old == 0


def test_a_slow_subscriber_of_a_binding_gets_one_change_for_many():
    buffer = BindingChanges()
    objects = [Outer(x=number) for number in range(KEPT + 2)]
    for old, new in pairwise(objects):
        buffer.put(BindingChange(old, new, ("x",)))
    taken = drain(buffer)
    assert len(taken) == 1
    assert (taken[0].old.x, taken[0].new.x, taken[0].paths) == (0, KEPT + 1, ("x",))
