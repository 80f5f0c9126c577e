import copy
import itertools
import pickle
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datastream import InvalidKey, Selection, _pattern_index
from datastream._glob import MAX_WILDCARDS, Automaton, compile_glob, parse
from datastream.selection import (
    FEW_PATTERNS,
    MAX_KEY_BYTES,
    MAX_KEYS,
    MAX_PATTERNS,
    _Indexed,
    check_key,
    compile_pattern,
    escape,
    literal_prefix,
    selects_any,
)

MEANING = {
    "**/": "(?:.*/)?",
    "**": ".*",
    "*": "[^/]*",
    "?": "[^/]",
    **{f"[{char}]": re.escape(char) for char in "*?[{"},
}
"""What a glob means, as a regular expression that backtracks."""


def reference(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\[[*?\[{]\]|\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(MEANING.get(part, re.escape(part)) for part in parts), re.DOTALL)


PIECES = ["a", "b", "/", "*", "?", "**", "**/", "/**/", "[*]", "[?]", "[[]", "[{]", "{", "]"]
globs = st.lists(st.sampled_from(PIECES), min_size=1, max_size=9).map("".join)
keys = st.text("ab/*?[{]\n", min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("fx/*", ["fx/USD", "fx/"], ["fx/a/b", "fxx", "xfx/USD"]),
        ("fx/**", ["fx/USD", "fx/a/b"], ["fx", "gx/a"]),
        ("**/DEM", ["DEM", "fx/DEM", "a/b/DEM"], ["DEMO", "xDEM", "DEM/x"]),
        ("a?c", ["abc", "a.c"], ["ac", "a/c", "abbc"]),
        ("*", ["a", "a.b"], ["a/b"]),
        ("**", ["a", "a/b", "a\nb"], []),
        ("fx/*/rate", ["fx/USD/rate"], ["fx/rate", "fx/a/b/rate"]),
        ("*a*b", ["ab", "xaxb", "aab", "abab"], ["ba", "a/b"]),
        ("a**/b", ["ab", "a/b", "axx/b", "a/x/b"], ["axb", "b"]),
        ("a*b**/c", ["abc", "abbc", "ab/c", "axbx/y/c"], ["ab/xc", "abxc"]),
        ("a.b[[]1]", ["a.b[1]"], ["axb[1]", "a.b1"]),
        ("a[*]", ["a*"], ["ab", "a", "a[*]"]),
        ("a[?]b", ["a?b"], ["axb"]),
        ("[{]a,b}", ["{a,b}"], ["a", "b"]),
        ("{id}/*", ["{id}/x"], ["id/x"]),
        ("a]", ["a]"], ["a"]),
        ("a[", ["a["], ["a"]),
    ],
)
def test_patterns(pattern, matching, other):
    selection = Selection.of(match=pattern)
    assert [key for key in matching if not selection.matches(key)] == []
    assert [key for key in other if selection.matches(key)] == []


@given(globs, keys)
@example("**a*b/c*d**/e", "a/ab/cde")
@example("a*b**/c", "abbc")
@example("**/a/**/a/**/b", "a/a/b")
def test_a_pattern_means_what_its_regular_expression_means(pattern, key):
    expected = bool(reference(pattern).fullmatch(key))
    assert bool(compile_glob(parse(pattern)).fullmatch(key)) == expected
    assert Automaton(parse(pattern)).fullmatch(key) == expected


@given(st.lists(st.sampled_from(["a", "b", "/", "*", "?", "**", "**/"]), min_size=1, max_size=12))
def test_a_pattern_means_the_same_on_every_short_key(pieces):
    pattern = "".join(pieces)
    expected, matcher = reference(pattern), compile_glob(parse(pattern))
    for key in map("".join, itertools.product("ab/", repeat=5)):
        assert bool(matcher.fullmatch(key)) == bool(expected.fullmatch(key)), key


LONG = 16_000
HOSTILE = [
    "**a**a**a**",
    "*a*a*a*",
    "**?**?**?",
    "**/a/**/a/**/",
    "**a*",
    "**a*a*a/**",
    "**/*a*",
    "a**a**/",
    "**a**/a**/",
    "*?*?*?*",
    "*/*/*/*/*/*/",
    "**" + "a*" * 60,
    "*" + "a*" * 61,
    "**" + "a**" * 60,
    "**/" + "*/" * 61,
    "**/" + "a/**/" * 60,
    "**/" + "a*a/**/" * 30,
    "**/" + "*a*/" * 30,
    "**/" + "?" * 61,
    "**/" + "a/" * 4_000,
    "*" + "a" * 8_000 + "*",
    "**" + "a" * 8_000 + "**/",
]


@pytest.mark.parametrize("start", HOSTILE, ids=lambda pattern: pattern[:20])
def test_no_pattern_takes_long_on_a_long_key(start):
    # A matcher that backtracks takes minutes for some of these, and for others centuries.
    for unit in ("a", "a/", "/", "ab", "a" * 99 + "/", "aaac/"):
        key = unit * (LONG // len(unit))
        for end in ("x", "y"):
            matched = bool(compile_pattern(f"{start}x").fullmatch(key + end))
            assert matched == Automaton(parse(f"{start}x")).fullmatch(key + end)
            assert not (matched and end == "y")
    assert compile_pattern("**a**a**a**b").fullmatch("a" * LONG + "b")
    assert not compile_pattern("**a**a**a**b").fullmatch("a" * LONG)


class Counted(str):
    """A key that counts how many of its characters were looked at."""

    steps = 0

    def __iter__(self):
        for char in super().__iter__():
            self.steps += 1
            yield char


def test_the_automaton_looks_at_each_character_once():
    key = Counted("a" * LONG)
    assert not Automaton(parse("a**a**/a**a**/b")).fullmatch(key)
    assert key.steps == LONG


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


def test_what_is_excluded_is_never_selected():
    selection = Selection.of("a.tmp", "fx/", match="b*", exclude=["*.tmp", "fx/old/**"])
    found = [k for k in ("a.tmp", "fx/x", "fx/old/x", "b", "b.tmp") if selection.matches(k)]
    assert found == ["fx/x", "b"]
    assert selection.exclude == {"*.tmp", "fx/old/**"}
    assert selection.excludes("a.tmp")
    assert not selection.excludes("c")


def test_everything_but():
    selection = Selection.of(exclude="tmp/**")
    assert selection.everything
    assert selection.matches("a")
    assert not selection.matches("tmp/a")


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800", "k" * (MAX_KEY_BYTES + 1), 5, None, b"k"])
def test_what_can_be_no_key(bad):
    with pytest.raises(InvalidKey):
        check_key(bad)
    with pytest.raises(InvalidKey):
        Selection.of(bad)
    for option in ("match", "exclude"):
        with pytest.raises(InvalidKey):
            Selection.of(**{option: [bad]})


@pytest.mark.parametrize("bad", [5, None, b"fx/*", object()])
def test_what_can_be_no_patterns(bad):
    for option in ("match", "exclude"):
        with pytest.raises(InvalidKey):
            Selection.of(**{option: bad})


def test_a_key_does_not_end_in_a_slash():
    with pytest.raises(InvalidKey, match="prefix"):
        check_key("fx/")


def test_a_long_key_is_shortened_in_the_error():
    with pytest.raises(InvalidKey) as caught:
        check_key("k" * 100_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("key", "meant", "literal"),
    [
        ("fx/*", "match='fx/*'", "match='fx/[*]'"),
        ("**/rate", "match='**/rate'", "match='[*][*]/rate'"),
        ("fx/*/", "match='fx/*/**'", "match='fx/[*]/**'"),
    ],
)
def test_a_bare_glob_given_as_a_key(key, meant, literal):
    with pytest.raises(InvalidKey) as caught:
        Selection.of("a", key)
    assert meant in str(caught.value)
    assert literal in str(caught.value)


def test_a_slash_alone_is_taken_for_no_prefix_and_the_text_says_what_is():
    """Keys may begin with a slash; who writes one alone mostly means all keys."""
    with pytest.raises(InvalidKey, match=r'match="/\*\*"'):
        Selection.of("/")
    below = Selection.of(match="/**")
    assert [key for key in ("a", "/a", "/a/b") if below.matches(key)] == ["/a", "/a/b"]


def test_a_key_that_holds_wildcards_can_be_selected():
    for key in ("a*b", "a?b", "a[b]", "{a,b}", "**", "[*]"):
        selection = Selection.of(match=escape(key))
        assert selection.matches(key)
        assert not selection.matches(key.replace("*", "x").replace("?", "x") + "x")
        assert Selection(frozenset((key,))).matches(key)
    assert Selection.of("a?b", "a[b]", "{a,b}").matches("a?b")


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("fx/{A,B}", "['fx/A', 'fx/B']"),
        ("{A,B}/*", "['A/*', 'B/*']"),
        ("{a,b,c,d}", "['a', 'b', 'c', …]"),
        ("x[ab]y", "['xay', 'xby']"),
        ("x{1..3}", "list the patterns"),
        ("x[a-z]", "list the patterns"),
        ("x[!a]", "list the patterns"),
        ("x[]", "list the patterns"),
        ("a[*][bc]", "['a[*]b', 'a[*]c']"),
        ("fx/", "'fx/**'"),
        ("fx/*/", "'fx/*/**'"),
    ],
)
def test_what_means_something_else_in_a_shell(pattern, meant):
    for option in ("match", "exclude"):
        with pytest.raises(InvalidKey) as caught:
            Selection.of(**{option: pattern})
        assert meant in str(caught.value)
        assert pattern in str(caught.value)
        assert option in str(caught.value) or "list the patterns" in meant
    with pytest.raises(InvalidKey):
        compile_pattern(pattern)


def test_a_request_is_bounded():
    Selection.of(*map(str, range(MAX_KEYS)))
    with pytest.raises(InvalidKey, match="10000"):
        Selection.of(*map(str, range(MAX_KEYS + 1)))
    Selection.of(match=map(str, range(MAX_PATTERNS - 1)), exclude="x")
    with pytest.raises(InvalidKey, match="1000"):
        Selection.of(match=map(str, range(MAX_PATTERNS)), exclude="x")
    with pytest.raises(InvalidKey, match="1000"):
        Selection.of(exclude=(str(number) for number in itertools.count()))


def test_a_pattern_is_bounded():
    Selection.of(match="a*" * MAX_WILDCARDS)
    with pytest.raises(InvalidKey, match="64"):
        Selection.of(match="a*" * (MAX_WILDCARDS + 1))
    Selection.of(match="a[*]" * 1_000)
    with pytest.raises(InvalidKey, match="bytes"):
        Selection.of(match="k" * MAX_KEY_BYTES + "*")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["[", "{", "[a", "{a", "{a,", "[[]", "]", "}", "a,"])
def test_a_hostile_pattern_is_checked_quickly(piece):
    pattern = piece * (MAX_KEY_BYTES // len(piece))
    assert Selection.of(match=pattern).patterns == {pattern}


def test_equal_selections_are_one_route():
    one, other = (
        Selection.of(*keys, match="x*", exclude=exclude)
        for keys, exclude in ((("a", "b/"), ["y", "z"]), (("b/", "a"), ["z", "y"]))
    )
    assert one.matches("a")
    assert one == other
    assert hash(one) == hash(other)
    assert one != Selection.of("a", "b/", match="x*")


def test_a_selection_made_directly_matches_too():
    selection = Selection(patterns=frozenset({"a*"}), exclude=frozenset({"*b"}))
    assert selection.matches("ax")
    assert not selection.matches("ab")
    assert not selection.matches("c")


@pytest.mark.parametrize("more", [0, 2 * FEW_PATTERNS])
@pytest.mark.parametrize("used", [False, True])
def test_a_selection_can_be_copied(used, more):
    patterns = ["c*", "a**b**/c", *(f"other{number}/*" for number in range(more))]
    selection = Selection.of("a", "b/", match=patterns, exclude="*x")
    if used:
        assert selection.matches("a")
    for twin in (copy.deepcopy(selection), pickle.loads(pickle.dumps(selection))):
        assert twin == selection
        assert twin.matches("ab/c")
        assert not twin.matches("bx")


def test_many_patterns_are_compared_with_a_key_by_an_index(monkeypatch):
    """Else 1,000 patterns on 100,000 keys hold up a server for the better part of a minute."""
    compared = []
    compile_glob = _pattern_index.compile_glob
    monkeypatch.setattr(
        _pattern_index,
        "compile_glob",
        lambda tokens: compared.append(tokens) or compile_glob(tokens),
    )
    selection = Selection.of(match=[f"**/a{number}*b" for number in range(1000)])
    assert selection.matches("x/a17-b")
    assert not selection.matches("x/b17-a")
    assert len(compared) < 20


@given(st.lists(globs, max_size=20), keys)
def test_many_patterns_match_as_each_does(patterns, key):
    expected = any(compile_glob(parse(pattern)).fullmatch(key) for pattern in patterns)
    assert _Indexed(patterns)(key) == expected


@given(
    *(st.frozensets(st.sampled_from(some), max_size=2) for some in (["a", "a/b"], ["a/"])),
    *(st.frozensets(st.sampled_from(["a", "*", "**/b"]), max_size=2) for _ in range(2)),
    st.lists(st.sampled_from(["a", "a/b", "b", "c/b"]), unique=True),
)
def test_one_of_many_is_found_as_each_is_matched(keys, prefixes, patterns, exclude, held):
    selection = Selection(keys, prefixes, patterns, exclude)
    expected = any(map(selection.matches, held))
    assert selects_any(selection, held) == selects_any(selection, dict.fromkeys(held).keys())
    assert selects_any(selection, held) == expected


def test_many_single_keys_are_not_each_searched_for_in_a_list():
    """Else 1,000 keys that are not among 300,000 hold up a store for two seconds."""

    class Searched(list):
        def __contains__(self, key):
            raise AssertionError(f"{key} is searched for")

    selection = Selection.of("a", "b", "c", exclude="c")
    assert selects_any(selection, Searched("xyb"))
    assert not selects_any(selection, Searched("xyc"))


@given(globs, keys)
def test_every_match_begins_with_the_literal_prefix(pattern, key):
    if compile_glob(parse(pattern)).fullmatch(key):
        assert key.startswith(literal_prefix(pattern))


def test_the_literal_prefix_knows_escapes():
    assert literal_prefix("a[*]/b/c*") == "a*/b/"
    assert literal_prefix("a/b[?]") == "a/"
    assert literal_prefix("*/a") == ""
    assert literal_prefix("a/b/c") == "a/b/"
