from hypothesis import given
from hypothesis import strategies as st

from datastream import Entry, Selection
from datastream._watch.routing import Routes

keys = st.text("ab/", min_size=1, max_size=6).filter(lambda key: key != "/")
patterns = st.text("ab/*?", min_size=1, max_size=6)
selections = st.builds(
    lambda keys, patterns: Selection.of(*keys, match=patterns),
    st.lists(keys, max_size=3),
    st.lists(patterns, max_size=2),
)


@given(st.lists(selections, unique=True), keys)
def test_the_index_finds_what_a_search_through_all_would(wanted, key):
    routes = Routes()
    for selection in wanted:
        routes.add(selection)
    found = [route.selection for route in routes.of(key)]
    assert len(found) == len(set(found))
    assert set(found) == {selection for selection in wanted if selection.matches(key)}
    assert routes.matches(key) == bool(found)


@given(st.lists(selections, unique=True), st.lists(selections, unique=True), keys)
def test_removed_routes_leave_nothing(staying, going, key):
    routes = Routes()
    kept = {routes.add(selection) for selection in staying}
    for route in {routes.add(selection) for selection in going} - kept:
        routes.remove(route)
    assert set(routes.of(key)) == {route for route in kept if route.selection.matches(key)}
    for route in kept:
        routes.remove(route)
    assert not routes
    assert not list(routes.of(key))
    assert routes.keys == routes.prefixes == routes.patterns == frozenset()


@given(st.lists(selections, min_size=1), keys)
def test_the_union_selects_what_any_of_them_does(wanted, key):
    routes = Routes()
    for selection in wanted:
        routes.add(selection)
    union = Selection.of(*routes.keys, *routes.prefixes, match=routes.patterns)
    assert union.matches(key) == any(selection.matches(key) for selection in wanted)


def test_a_batch_is_split_by_route():
    routes = Routes()
    fx, all_ = routes.add(Selection.of("fx/")), routes.add(Selection.of())
    parts = routes.split([Entry("fx/USD"), Entry("other")])
    assert [entry.key for entry in parts[fx]] == ["fx/USD"]
    assert [entry.key for entry in parts[all_]] == ["fx/USD", "other"]
