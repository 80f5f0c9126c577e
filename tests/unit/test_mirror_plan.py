"""What a mirror plans to write: pure."""

import pytest

from datastream import Conflict, DatastreamError, Entry, InvalidValue, Write
from datastream._mirror.plan import (
    Plan,
    Rules,
    TooMany,
    as_writes,
    check_conflicts,
    check_deletes,
    decide,
    in_chunks,
    reconcile,
    resolve,
)


def held(**values):
    return {key: Entry(key, value.encode(), "str") for key, value in values.items()}


def written(plan):
    writes = as_writes([*plan.writes, *plan.missing])
    return {write.key: write.value and write.value.decode() for write in writes}


SOURCE, TARGET = held(a="1", b="2", c="3"), held(b="2", c="other", d="4")


def test_what_this_mirror_left_is_brought_up_to_date():
    plan = reconcile([*SOURCE.values()], TARGET, Rules(), is_ours=True)
    assert written(plan) == {"d": None, "a": "1", "c": "3"}
    assert plan.writes[0].key == "d", "deletes make room"
    assert (plan.conflicts, plan.deletes) == ([], 1)


def test_what_is_somebody_elses_is_a_conflict_except_where_it_is_only_missing():
    plan = reconcile([*SOURCE.values()], TARGET, Rules(), is_ours=False)
    assert written(plan) == {"a": "1"}
    assert {found.key for found in plan.conflicts} == {"c", "d"}


def test_without_deletes_the_target_may_hold_more():
    plan = reconcile([*SOURCE.values()], TARGET, Rules(delete=False), is_ours=False)
    assert {found.key for found in plan.conflicts} == {"c"}
    assert written(reconcile([*SOURCE.values()], TARGET, Rules(delete=False), is_ours=True)) == {
        "a": "1",
        "c": "3",
    }


def test_who_wins():
    plan = reconcile([*SOURCE.values()], TARGET, Rules(on_conflict="source"), is_ours=False)
    assert written(plan) == {"a": "1", "c": "3", "d": None}
    plan = reconcile([*SOURCE.values()], TARGET, Rules(on_conflict="target"), is_ours=False)
    assert (written(plan), plan.theirs) == ({"a": "1"}, {"c", "d"})


def test_what_was_left_to_others_stays_theirs():
    plan = reconcile(
        [*SOURCE.values()], TARGET, Rules(on_conflict="target"), is_ours=True, theirs={"c"}
    )
    assert (written(plan), plan.theirs) == ({"d": None, "a": "1"}, {"c"})


def test_a_callable_decides_key_by_key():
    def choose(conflict):
        return Entry("c", b"both", "str") if conflict.key == "c" else "source"

    plan = reconcile([*SOURCE.values()], TARGET, Rules(on_conflict=choose), is_ours=False)
    assert (written(plan), plan.theirs) == ({"a": "1", "c": "both", "d": None}, {"c"})
    with pytest.raises(InvalidValue, match="returned 'both'"):
        decide(Conflict("k", None, None), lambda _: "both")


def test_types_count_only_where_both_keep_them():
    one, other = held(a="1"), {"a": Entry("a", b"1", "int")}
    assert written(reconcile([*one.values()], other, Rules(), is_ours=True)) == {"a": "1"}
    assert reconcile([*one.values()], other, Rules(types=False), is_ours=True).writes == []


def test_a_decision_that_changes_nothing_writes_nothing():
    plan = Plan()
    resolve(plan, Conflict("k", None, None), Rules(on_conflict="source"))
    same = Entry("k", b"1", "str")
    resolve(plan, Conflict("k", None, same), Rules(on_conflict=lambda _: same))
    assert plan.writes == []


def test_conflicts_are_named_but_not_all_of_them():
    check_conflicts([], "x")
    with pytest.raises(DatastreamError, match=r"holds 'k' and 1 more, which others wrote"):
        check_conflicts([Conflict("k", None, None), Conflict("l", None, None)], "target")


@pytest.mark.parametrize(
    ("deletes", "held", "limit", "is_empty", "allowed"),
    [
        (0, 0, 0.5, True, True),
        (10, 12, 0.5, False, True),
        (11, 20, 0.5, False, False),
        (11, 22, 0.5, False, True),
        (3, 3, 0.5, True, False),
        (3, 3, 1.0, True, True),
        (500, 500, 1.0, True, True),
        (3, 500, 2, False, False),
        (2, 500, 2, False, True),
        (3, 3, 3, True, True),
        (1, 9, 0, False, False),
        (1, 9, 0.0, False, True),
    ],
)
def test_how_much_may_be_deleted_at_once(deletes, held, limit, is_empty, allowed):
    def check():
        check_deletes(deletes, lambda: held, limit, "target", is_empty=is_empty)

    if allowed:
        check()
        return
    with pytest.raises(TooMany, match=f"{deletes} of the {held} keys"):
        check()


def test_chunks_are_bounded_by_number_and_size():
    writes = [Write(str(n), b"x" * n) for n in (1, 2, 3, 9, 1)]
    sizes = [[len(write.value or b"") for write in chunk] for chunk in in_chunks(writes, 2, 5)]
    assert sizes == [[1, 2], [3], [9], [1]]
    assert list(in_chunks([], 2, 5)) == []
