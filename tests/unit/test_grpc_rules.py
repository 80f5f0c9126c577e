"""What a table of rules allows, and what of a request that leaves."""

from __future__ import annotations

import pytest
from datastream_grpc._narrow import may_hold, narrowed, nothing, rights_of
from datastream_grpc._rules import Table
from hypothesis import given
from hypothesis import strategies as st

from datastream import DatastreamError, InvalidKey, Selection

SEGMENTS = st.sampled_from(["a", "b", "c"])
KEYS = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join)
PREFIXES = KEYS.map(lambda key: f"{key}/")
GLOBS = st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=3).map("/".join)
PATTERNS = GLOBS.filter(lambda glob: "*" in glob)
PLACES = st.lists(st.one_of(KEYS, PREFIXES, PATTERNS), max_size=4)
ALL_KEYS = [
    "/".join(parts)
    for one in "abc"
    for parts in [
        (one,),
        *((one, two) for two in "abc"),
        *((one, t, u) for t in "abc" for u in "abc"),
    ]
]


@given(asked=PLACES, places=PLACES, denied=PLACES)
def test_what_is_left_of_a_request(asked, places, denied):
    keys = [place for place in asked if "*" not in place]
    wanted = Selection.of(*keys, match=[place for place in asked if "*" in place])
    allowed = rights_of(places, denied)
    if allowed is None:
        assert not places
        return
    both, is_exact = narrowed(wanted, allowed)
    for key in ALL_KEYS:
        wants = wanted.matches(key) and allowed.matches(key)
        assert both.matches(key) >= wants
        assert (both.matches(key) and allowed.matches(key)) <= wanted.matches(key)
        if is_exact:
            assert both.matches(key) == wants
        if allowed.matches(key):
            assert may_hold(allowed, key)
            assert all(may_hold(allowed, key[: at + 1]) for at, c in enumerate(key) if c == "/")


def test_nothing_selects_nothing():
    assert not any(nothing().matches(key) for key in [*ALL_KEYS, "nothing"])
    both, is_exact = narrowed(Selection.of("x"), Selection.of("fx/"))
    assert is_exact
    assert not both.everything
    assert not any(both.matches(key) for key in [*ALL_KEYS, "x", "fx/USD"])


def allowed(leaves, name, action="read"):
    found = Table.of(leaves).allowed(name, action)
    return [] if found is None else [key for key in ALL_KEYS if found.matches(key)]


def test_a_table():
    table = {
        "*/read": ["c/"],
        "web/read": ["a/", "b"],
        "web/write": "a/b",
        "web/deny": ["a/c", "a/b/"],
        "admin/read": ["**"],
        "admin/deny": [],
        "CN=x/y/read": ["b"],
    }
    assert allowed(table, "nobody") == allowed(table, "") == [k for k in ALL_KEYS if k[:2] == "c/"]
    web = [key for key in ALL_KEYS if key[:2] in ("c/", "a/") or key == "b"]
    assert allowed(table, "web") == [k for k in web if k != "a/c" and k[:4] != "a/b/"]
    assert allowed(table, "web", "write") == ["a/b"]
    assert allowed(table, "admin") == ALL_KEYS
    assert allowed(table, "admin", "write") == []
    assert "b" in allowed(table, "CN=x/y")
    assert allowed({}, "web") == allowed({"*/deny": ["a/"]}, "web") == []


@pytest.mark.parametrize(
    "leaves",
    [{"web/reed": ["a"]}, {"read": ["a"]}, {"web/read": 3}, {"web/read": [""]}, {"web/read": [1]}],
)
def test_a_table_that_is_wrong(leaves):
    with pytest.raises(DatastreamError):
        Table.of(leaves)


def test_a_pattern_that_is_wrong():
    with pytest.raises(InvalidKey):
        Table.of({"web/read": ["a/{b,c}*"]})
