import random
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from datastream import Entry, Selection
from datastream._watch.routing import Routes

keys = st.text("ab/*", min_size=1, max_size=7).filter(lambda key: not key.endswith("/"))
pieces = st.sampled_from(["a", "b", "ab", "/", "*", "?", "**", "**/", "/**/", "[*]"])
patterns = (
    st.lists(pieces, min_size=1, max_size=6)
    .map("".join)
    .filter(lambda pattern: not pattern.endswith("/"))
)
named = st.text("ab/", min_size=1, max_size=6).filter(lambda key: key != "/")
selections = st.builds(
    lambda keys, match, exclude: Selection.of(*keys, match=match, exclude=exclude),
    st.lists(named, max_size=3),
    st.lists(patterns, max_size=3),
    st.lists(patterns, max_size=1),
)


def compare(routes, wanted, key):
    """What `routes` finds for `key`, with a search through all."""
    found = [route.selection for route in routes.of(key)]
    expected = {selection for selection in wanted if selection.matches(key)}
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert routes.matches(key) == routes.union.matches(key) == bool(expected)
    assert {route.selection for route in routes.split([Entry(key)])} == expected


@given(st.lists(selections, unique=True), keys)
def test_the_index_finds_what_a_search_through_all_would(wanted, key):
    routes = Routes()
    for selection in wanted:
        routes.add(selection)
    compare(routes, wanted, key)


@given(st.lists(patterns, min_size=5, max_size=40), st.lists(keys, min_size=5, max_size=5))
def test_many_patterns(wanted, some):
    routes = Routes()
    selections = {Selection.of(match=pattern) for pattern in wanted}
    for selection in selections:
        routes.add(selection)
    for key in some:
        compare(routes, selections, key)


class Model(RuleBasedStateMachine):
    """Routes beside a set of selections, which is asked one by one."""

    def __init__(self):
        super().__init__()
        self.routes = Routes()
        self.model = {}

    @rule(selection=selections)
    def add(self, selection):
        route = self.routes.add(selection)
        assert route.selection == selection
        assert self.model.setdefault(selection, route) is route

    @rule(data=st.data())
    def remove(self, data):
        if self.model:
            selection = data.draw(st.sampled_from(list(self.model)))
            self.routes.remove(self.model.pop(selection))

    @rule(some=st.lists(keys, min_size=1, max_size=4))
    def find(self, some):
        for key in some:
            compare(self.routes, self.model, key)
        expected = {
            route: found
            for selection, route in self.model.items()
            if (found := [Entry(key) for key in some if selection.matches(key)])
        }
        assert self.routes.split([Entry(key) for key in some]) == expected

    @invariant()
    def union(self):
        routes, model = self.routes, self.model
        assert bool(routes) == bool(model)
        assert set(routes.all()) == set(model.values())
        assert all(selection in routes for selection in model)
        everything = any(selection.everything for selection in model)
        for name in ("keys", "prefixes", "patterns"):
            every = frozenset().union(*(getattr(selection, name) for selection in model))
            assert getattr(routes, name) == (frozenset() if everything else every)
        assert routes.union is routes.union
        assert routes.keys is routes.keys


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=40, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)


@given(st.lists(selections, unique=True), keys)
def test_removed_routes_leave_nothing(wanted, key):
    routes = Routes()
    for route in [routes.add(selection) for selection in wanted]:
        routes.remove(route)
    assert not routes
    assert not list(routes.of(key))
    assert routes.keys == routes.prefixes == routes.patterns == frozenset()
    assert routes._by_pattern._root.empty
    assert not routes._by_pattern._whole


@given(st.lists(selections, min_size=1), keys)
def test_the_union_selects_what_any_of_them_does(wanted, key):
    routes = Routes()
    for selection in wanted:
        routes.add(selection)
    union = Selection.of(*routes.keys, *routes.prefixes, match=routes.patterns)
    # It may select what each of them excludes.
    assert union.matches(key) >= any(selection.matches(key) for selection in wanted)


def test_a_union_stays_as_it_was():
    routes = Routes()
    routes.add(Selection.of("a", "b/", match="c*"))
    before, keys = routes.union, routes.keys
    assert keys is before.keys
    everything = routes.add(Selection.of())
    assert routes.union[:3] == (frozenset(),) * 3
    assert before[:3] == ({"a"}, {"b/"}, {"c*"})
    routes.remove(everything)
    assert routes.union[:3] == before[:3]


def test_a_batch_is_split_by_route():
    routes = Routes()
    fx, all_ = routes.add(Selection.of("fx/")), routes.add(Selection.of())
    parts = routes.split([Entry("fx/USD"), Entry("other")])
    assert [entry.key for entry in parts[fx]] == ["fx/USD"]
    assert [entry.key for entry in parts[all_]] == ["fx/USD", "other"]


def test_an_excluded_key_has_no_route():
    routes = Routes()
    routes.add(Selection.of("fx/a.tmp", "fx/", match="fx/*", exclude="**.tmp"))
    routes.add(Selection.of(exclude="fx/**"))
    assert not routes.matches("fx/a.tmp")
    assert not routes.split([Entry("fx/a.tmp")])
    assert len(routes.of("fx/a")) == 1
    assert len(routes.of("b.tmp")) == 1


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("a/{}/*", "a/17/b"),
        ("a/*/{}", "a/b/17"),
        ("*/{}/*", "a/17/b"),
        ("**/{}", "a/b/17"),
        ("**/{}/**", "a/17/b"),
        ("a/**/{}/*", "a/b/17/c"),
        ("a/{}-*", "a/17-b"),
        ("*.{}", "a.17"),
        ("*/*-{}-*", "a/x-17-y"),
        ("long-*-{}-*-suffix", "long-a-17-b-suffix"),
        ("a**-{}", "ab/c-17"),
        ("a/{}**/b", "a/17/b"),
    ],
)
def test_of_many_patterns_few_are_compared(pattern, key, monkeypatch):
    compared = []
    monkeypatch.setattr(
        "datastream._pattern_index.compile_glob", lambda tokens: compared.append(tokens) or No
    )
    routes = Routes()
    for number in range(1_000):
        routes.add(Selection.of(match=pattern.format(number)))
    routes.of(key)
    assert len(compared) <= 5


class No:
    """A matcher that nothing matches."""

    fullmatch = staticmethod(lambda text: None)


def test_many_patterns_are_found_and_removed():
    routes = Routes()
    shapes = ["a/*/{}", "x-{}-*", "*-{}-*", "a**{}", "{}/**"]
    made = {n: [routes.add(Selection.of(match=s.format(n))) for s in shapes] for n in range(300)}
    assert len(routes.patterns) == 1_500
    for number, mine in made.items():
        for route, key in zip(mine, ["a/b/{}", "x-{}-y", "y-{}-z", "ab/{}", "{}/b/c"], strict=True):
            assert route in routes.of(key.format(number))
            routes.remove(route)
            assert route not in routes.of(key.format(number))
    assert not routes


def test_a_source_asks_while_routes_come_and_go():
    routes = Routes()
    staying = Selection.of("stay", "stay/", match=["st*y", "*-st**y"])
    routes.add(staying)
    stop, faults = threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                union = routes.union
                keys, prefixes, patterns, _ = union
                everything = not (keys or prefixes or patterns)
                covered = (
                    staying.keys <= keys
                    and staying.prefixes <= prefixes
                    and staying.patterns <= patterns
                )
                if not (everything or covered):
                    faults.append(union)
                if not all(map(routes.matches, ["stay", "stay/a", "stxy", "a-st/y"])):
                    faults.append("missed")
            except Exception as error:
                faults.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reader = threading.Thread(target=ask)
    reader.start()
    try:
        change_often(routes)
    finally:
        stop.set()
        reader.join()
        sys.setswitchinterval(interval)
    assert faults == []


def change_often(routes):
    chance = random.Random(5)
    live = []
    for number in range(3_000):
        keys = [f"k{number}"] if chance.random() < 0.9 else []
        match = chance.sample([f"st*{number}", f"*{number % 9}*", f"s**{number}", "**/a/*"], 2)
        exclude = ["x/**"] if chance.random() < 0.1 else []
        selection = Selection.of(*keys, match=match if keys else (), exclude=exclude)
        if selection not in routes:
            live.append(routes.add(selection))
        if len(live) > 20:
            routes.remove(live.pop(chance.randrange(len(live))))
