import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream import InvalidKey, Selection
from datastream.selection import MAX_KEY_BYTES, check_key, literal_prefix


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("fx/*", ["fx/USD", "fx/"], ["fx/a/b", "fxx", "xfx/USD"]),
        ("fx/**", ["fx/USD", "fx/a/b"], ["fx", "gx/a"]),
        ("**/DEM", ["DEM", "fx/DEM", "a/b/DEM"], ["DEMO", "xDEM", "DEM/x"]),
        ("a?c", ["abc", "a.c"], ["ac", "a/c", "abbc"]),
        ("*", ["a", "a.b"], ["a/b"]),
        ("**", ["a", "a/b", "a\nb"], []),
        ("a.b[1]", ["a.b[1]"], ["axb1", "a.b1"]),
        ("fx/*/rate", ["fx/USD/rate"], ["fx/rate", "fx/a/b/rate"]),
    ],
)
def test_patterns(pattern, matching, other):
    selection = Selection.of(match=pattern)
    assert [key for key in matching if not selection.matches(key)] == []
    assert [key for key in other if selection.matches(key)] == []


def test_keys_prefixes_and_patterns_are_joined_by_or():
    selection = Selection.of("a", "fx/", match=["b*", "c/*"])
    assert [
        key for key in ("a", "aa", "fx/x", "fx", "bb", "c/d", "c") if selection.matches(key)
    ] == [
        "a",
        "fx/x",
        "bb",
        "c/d",
    ]


def test_nothing_selected_selects_everything():
    assert Selection.of().everything
    assert Selection.of().matches("anything/at all")
    assert not Selection.of("a").everything


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800", "k" * (MAX_KEY_BYTES + 1), 5, None, b"k"])
def test_what_can_be_no_key(bad):
    with pytest.raises(InvalidKey):
        check_key(bad)
    with pytest.raises(InvalidKey):
        Selection.of(bad)


def test_a_key_does_not_end_in_a_slash():
    with pytest.raises(InvalidKey, match="prefix"):
        check_key("fx/")


def test_a_long_key_is_shortened_in_the_error():
    with pytest.raises(InvalidKey) as caught:
        check_key("k" * 100_000)
    assert len(str(caught.value)) < 200


def test_equal_selections_are_one_route():
    one, other = (Selection.of(*keys, match="x*") for keys in (("a", "b/"), ("b/", "a")))
    assert one == other
    assert hash(one) == hash(other)


@given(st.text("ab/*?", min_size=1), st.text("ab/", min_size=1))
def test_every_match_begins_with_the_literal_prefix(pattern, key):
    if Selection.of(match=pattern).matches(key):
        assert key.startswith(literal_prefix(pattern))
