"""When a commit is suspected to have left no line in the log of SQLite."""

import pytest

from datastream.sources.sqlite.unlogged import Suspicion

OLD, NEW, NEWER = "old", "new", "newer"


@pytest.fixture
def suspicion():
    """Of a file whose log was read once."""
    suspicion = Suspicion()
    suspicion.begin(OLD)
    return suspicion


def see_commit(suspicion):
    suspicion.saw_commit()
    suspicion.arise(is_bare=suspicion.is_line_owed)


def test_a_commit_without_a_line_is_left(suspicion):
    see_commit(suspicion)
    suspicion.weigh(OLD, explains=True)
    assert suspicion.is_left


def test_a_line_explains_the_commit_seen_before(suspicion):
    see_commit(suspicion)
    suspicion.weigh(NEW, explains=True)
    assert not suspicion.is_left
    assert not suspicion.is_pending


def test_a_line_explains_the_commit_seen_after_it(suspicion):
    """A reader was there before the poller."""
    suspicion.weigh(NEW, explains=True)
    see_commit(suspicion)
    assert not suspicion.is_left
    assert suspicion.is_pending, "it is compared all the same"


@pytest.mark.parametrize("is_seen_first", [True, False])
def test_a_line_explains_one_commit(suspicion, is_seen_first):
    if is_seen_first:
        see_commit(suspicion)
        suspicion.weigh(NEW, explains=True)
    else:
        suspicion.weigh(NEW, explains=True)
        see_commit(suspicion)
    see_commit(suspicion)
    assert suspicion.is_left
    suspicion.weigh(NEWER, explains=True)
    assert not suspicion.is_left


def test_what_is_committed_after_a_comparison_began_outlasts_it(suspicion):
    see_commit(suspicion)
    suspicion.begin_comparison(whole=True)
    see_commit(suspicion)
    suspicion.end()
    assert suspicion.is_left
    suspicion.begin_comparison(whole=True)
    suspicion.end()
    assert not suspicion.is_pending


def test_the_oldest_of_comparisons_beside_each_other_counts(suspicion):
    see_commit(suspicion)
    suspicion.begin_comparison(whole=True)
    see_commit(suspicion)
    suspicion.begin_comparison(whole=True)
    suspicion.end()
    assert suspicion.is_left


def test_what_came_late_is_so_until_a_comparison_ends(suspicion):
    see_commit(suspicion)
    suspicion.come_late()
    suspicion.begin_comparison(whole=True)
    assert suspicion.is_late
    suspicion.end()
    assert not suspicion.is_late


def test_a_comparison_of_a_part_is_none_for_the_rest(suspicion):
    see_commit(suspicion)
    suspicion.begin_comparison(whole=False)
    suspicion.end()
    assert not suspicion.is_pending
    assert suspicion.lacks(covered=False)
    assert not suspicion.lacks(covered=True)
    suspicion.grow()
    assert suspicion.lacks(covered=True), "it may be of the rest"
    suspicion.begin_comparison(whole=True)
    suspicion.forget()
    assert not suspicion.lacks(covered=False)
