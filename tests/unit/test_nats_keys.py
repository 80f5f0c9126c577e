"""Keys as subjects: every key has one subject, every subject one key, prefixes stay prefixes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastream.selection import Selection
from datastream.sources.nats.filters import ALL, MOST, filters_of
from datastream.sources.nats.keys import prefix_to_subject, to_key, to_subject

TRICKY = "=3D20A/.eu0UFé🔑 *>-_4C\n"


@pytest.mark.parametrize(
    ("key", "subject"),
    [
        ("fx/USD", "fx.USD"),
        ("settings.toml", "settings/toml"),
        ("a key", "a=20key"),
        ("café", "caf=u00E9"),
        ("🔑", "=U01F511"),
        ("a=b", "a=b"),
        ("a=20b", "a=3D20b"),
        ("a=3D20b", "a=3D3D20b"),
        ("/absolute", "=00.absolute"),
        ("a//b", "a.=00.b"),
        ("=00/b", "=3D00.b"),
        ("*/>", "=2A.=3E"),
    ],
)
def test_documented_spellings(key, subject):
    assert to_subject(key) == subject
    assert to_key(subject) == key


@settings(max_examples=40)
@given(st.text(st.sampled_from(TRICKY), min_size=1, max_size=14) | st.text(min_size=1))
def test_every_key_has_a_subject_that_leads_back(key):
    key = key.replace("\0", "").encode(errors="ignore").decode().rstrip("/") or "k"
    subject = to_subject(key)
    assert to_key(subject) == key
    assert all(subject.split("."))
    assert not set(subject) & set("*> \t\r\n\0")


@settings(max_examples=40)
@given(st.text(st.sampled_from("=3D20A/.eu0UF-_4C"), min_size=1, max_size=14))
def test_every_subject_of_plain_tools_has_a_key_that_leads_back(subject):
    subject = ".".join(token or "x" for token in subject.split("."))
    assert to_subject(to_key(subject)) == subject


@settings(max_examples=40)
@given(st.lists(st.text(st.sampled_from(TRICKY.replace("/", "")), max_size=4), min_size=1))
def test_what_lies_below_a_prefix_has_its_subjects(segments):
    prefix = "/".join([*segments, ""])
    below = prefix_to_subject(prefix).removesuffix(">")
    assert to_subject(f"{prefix}name").startswith(below)
    assert not to_subject(f"x{prefix}name").startswith(below)


@pytest.mark.parametrize(
    ("keys", "match", "filters"),
    [
        (["a", "fx/"], (), ["a", "fx.>"]),
        (["fx/USD", "fx/"], (), ["fx.>"]),
        ([], ["fx/*"], ["fx.*"]),
        ([], ["fx/U?D/x"], ["fx.*.x"]),
        ([], ["fx/**"], ["fx.>"]),
        ([], ["**/DEM"], [">"]),
        (["fx/"], ["*/USD"], [">"]),
        (["fx/a/"], ["fx/*/b"], ["fx.>"]),
        ([], ["fx/[*]"], ["fx.*"]),
        ([], [], [">"]),
    ],
)
def test_a_selection_as_subjects_that_do_not_overlap(keys, match, filters):
    assert filters_of(Selection.of(*keys, match=match)) == tuple(filters)


def test_many_keys_are_everything():
    assert filters_of(Selection.of(*(f"{n}{'k' * 2_000}" for n in range(9)))) == ALL
    assert len(filters_of(Selection.of(*(f"k{n}" for n in range(MOST))))) == MOST
    assert filters_of(Selection.of(*(f"k{n}" for n in range(MOST + 1)))) == ALL


PARTS = st.sampled_from(["a", "b", "a b", "=", "*", "x*", "**"])


@settings(max_examples=40)
@given(
    st.lists(st.lists(PARTS, min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "b", "a b", "="]), min_size=1, max_size=4),
)
def test_what_a_selection_matches_its_subjects_match(patterns, segments):
    selection = Selection.of(match=["/".join(parts) for parts in patterns])
    key = "/".join(segments)
    if selection.matches(key):
        assert any(_matches(f.split("."), to_subject(key)) for f in filters_of(selection))


def _matches(tokens, subject):
    parts = subject.split(".")
    for number, token in enumerate(tokens):
        if token == ">":
            return len(parts) > number
        if number >= len(parts) or token not in ("*", parts[number]):
            return False
    return len(parts) == len(tokens)
