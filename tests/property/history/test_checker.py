"""The checker itself: it accepts good histories and names the promise that a bad one breaks."""

import pytest

from tests.property.history.checker import (
    DELETE,
    PUT,
    Asked,
    Got,
    GotBatch,
    Line,
    Received,
    Truth,
    check,
    glob_matches,
)

COMMITS = [
    {"a": b"a1"},
    {"x": b"x1", "y": b"y1"},
    {"a": b"a2"},
    {"x": b"x2", "y": b"y2"},
    {"a": None},
    {"k": b"k1"},
    {"k": None},
    {"a": b"a3"},
]
FINAL = {"a": b"a3", "x": b"x2", "y": b"y2"}


def put(key, value):
    return Got(key, PUT, f"r-{value}", value.encode())


def gone(key):
    return Got(key, DELETE)


def first(*entries, reset=False):
    return GotBatch(entries, "c0", initial=True, reset=reset)


def batch(*entries):
    return GotBatch(entries, "c")


def problems(*batches, truth=None, **options):
    truth = truth or Truth([Line(COMMITS)], may_reset=False)
    received = Received("somebody", batches=list(batches), **options)
    return [violation.promise for violation in check(truth, [received])]


def had(**values):
    return {
        "had": {key: f"r-{value}" for key, value in values.items()},
        "had_values": {key: value.encode() for key, value in values.items()},
    }


GOOD = [
    first(put("a", "a1")),
    batch(put("x", "x1"), put("y", "y1")),
    batch(put("a", "a2")),
    batch(put("x", "x2"), put("y", "y2")),
    batch(gone("a")),
    batch(put("k", "k1")),
    batch(gone("k")),
    batch(put("a", "a3")),
]


def test_every_step_of_the_truth_is_a_good_history():
    assert problems(*GOOD, final=True) == []


def test_steps_may_be_left_out():
    assert problems(GOOD[0], batch(put("x", "x2"), put("y", "y2"), put("a", "a3"))) == []


def test_an_empty_first_batch_before_all_commits_is_good():
    assert problems(first(), batch(put("a", "a1")), *GOOD[1:], final=True) == []


def test_a_selection_sees_its_part_of_each_commit():
    batches = [first(), batch(put("x", "x1")), batch(put("x", "x2"))]
    assert problems(*batches, asked=Asked(("x",)), final=True) == []


def test_a_resume_by_cursor_gets_only_what_differs():
    batches = [first(put("x", "x2"), put("y", "y2"), gone("a")), batch(put("a", "a3"))]
    resumed = had(a="a1", x="x1", y="y1")
    assert problems(*batches, since="cursor", **resumed, final=True) == []


def test_a_reset_forgets_what_one_had():
    batches = [first(*(put(k, v.decode()) for k, v in FINAL.items()), reset=True)]
    resumed = had(a="a3", k="k1")
    truth = Truth([Line(COMMITS)], may_reset=True)
    assert problems(*batches, truth=truth, since="cursor", **resumed, final=True) == []


def test_values_that_come_back_are_good():
    truth = Truth([Line([{"a": b"1"}, {"a": b"2"}, {"a": b"1"}])])
    batches = [first(put("a", "1")), batch(put("a", "2")), batch(put("a", "1"))]
    assert problems(*batches, truth=truth, final=True) == []


def test_lines_have_no_order_between_them():
    truth = Truth([Line([{"a": b"1"}, {"a": b"2"}]), Line([{"b": b"1"}, {"b": b"2"}])])
    one = [first(put("a", "2")), batch(put("b", "1")), batch(put("b", "2"))]
    other = [first(put("b", "2")), batch(put("a", "1")), batch(put("a", "2"))]
    assert problems(*one, truth=truth, final=True) == []
    assert problems(*other, truth=truth, final=True) == []


@pytest.mark.parametrize(
    ("promise", "batches", "options"),
    [
        ("filtered", [first(put("a", "a1"))], {"asked": Asked(("x", "y"))}),
        ("batch", [first(put("a", "a1"), put("a", "a2"))], {}),
        ("initial", [batch(put("a", "a1"))], {}),
        ("initial", [first(), first(put("a", "a1"))], {}),
        ("initial", [first(gone("a"))], had(a="a1")),
        ("initial", [], {"final": True, "asked": Asked(("nothing",))}),
        ("initial", [first(reset=True)], {"asked": Asked(("nothing",))}),
        ("resumable", [first(reset=True)], {"since": "cursor", "asked": Asked(("nothing",))}),
        ("unique", [first(put("a", "a1"))], {"since": "cursor", **had(a="a1")}),
        ("unique", [*GOOD[:3], batch(put("a", "a2"))], {}),
        ("unique", [*GOOD[:5], batch(gone("a"))], {}),
        ("unique", [first(put("a", "a1")), batch(gone("k"))], {}),
        ("unique", [first(gone("k"))], {"since": "map"}),
        ("ordered", [*GOOD[:3], batch(put("a", "a1"))], {"asked": Asked(("a",))}),
        ("ordered", [first(put("a", "never written"))], {"asked": Asked(("a",))}),
        ("ordered", [first(put("x", "x1")), batch(gone("x"))], {"asked": Asked(("x",))}),
        ("atomic", [GOOD[0], batch(put("x", "x1")), batch(put("y", "y1"))], {}),
        ("atomic", [first(put("x", "x2"), put("y", "y1"))], {}),
        ("atomic", [*GOOD[:4], batch(put("k", "k1"))], {}),
        ("converges", GOOD[:7], {"final": True}),
        ("converges", [*GOOD[:6], GOOD[7]], {"final": True, "sees_atomic": False}),
    ],
)
def test_a_broken_promise_is_named(promise, batches, options):
    assert promise in problems(*batches, **options)


def test_a_delete_that_a_newcomer_never_gets_is_found_at_the_next_batch():
    """The key k lived before the newcomer's first batch, which had it, and its end was lost."""
    state = [put("x", "x2"), put("y", "y2"), put("k", "k1")]
    assert problems(first(*state), batch(put("a", "a3"))) == ["atomic"]
    assert problems(first(*state), batch(gone("k")), batch(put("a", "a3")), final=True) == []


def test_a_log_may_name_keys_that_came_and_went_since_a_cursor():
    resumed = {"since": "cursor", **had(a="a2", x="x2", y="y2")}
    batches = [first(gone("a"), gone("k"))]
    assert problems(*batches, **resumed) == ["unique"]
    assert problems(*batches, truth=Truth([Line(COMMITS)], exact_resumes=False), **resumed) == []


def test_a_first_batch_shows_what_was_acknowledged_before():
    truth = Truth([Line(COMMITS)], acknowledged=[("a", b"a1"), ("x", b"x1"), ("y", b"y1")])
    stale = [first(put("a", "a1"))]
    assert problems(*stale, truth=truth, acknowledged=1) == []
    assert problems(*stale, truth=truth, acknowledged=3) == ["initial"]


def test_a_resume_that_is_behind_is_found():
    truth = Truth([Line(COMMITS)], acknowledged=[("a", b"a1"), ("x", b"x1"), ("y", b"y1")])
    options = {"truth": truth, "since": "cursor", "acknowledged": 3, **had(a="a1")}
    assert problems(first(), **options) == ["initial"]
    assert problems(first(put("x", "x1"), put("y", "y1")), **options) == []


def test_what_a_put_returned_for_has_been_offered():
    offered = [(1, "a", b"a1"), (2, "a", b"a2")]
    assert problems(*GOOD[:3], offered=offered[:1]) == []
    assert problems(*GOOD[:3], offered=offered) == ["read your writes"]


def test_keys_of_a_group_are_seen_together_where_moments_are_not_common():
    pair = [commit for commit in COMMITS if "x" in commit]
    truth = Truth([Line(COMMITS, atomic=False)], groups=[Line(pair)])
    beside = first(put("x", "x2"), put("y", "y2"), put("a", "a1"))
    assert problems(beside, batch(put("a", "a3")), truth=truth, final=True) == []
    assert problems(first(put("x", "x2"), put("y", "y1")), truth=truth) == ["atomic"]


@pytest.mark.parametrize(
    ("glob", "key", "matches"),
    [
        ("fx/*", "fx/USD", True),
        ("fx/*", "fx/old/DEM", False),
        ("**/DEM", "fx/old/DEM", True),
        ("**/DEM", "DEM", True),
        ("**/DEM", "xDEM", False),
        ("fx/**", "fx/old/DEM", True),
        ("*/*/D?M", "fx/old/DEM", True),
        ("f?", "f/", False),
        ("*", "a", True),
        ("*", "a/b", False),
    ],
)
def test_globs(glob, key, matches):
    assert glob_matches(glob, key) is matches
