"""When a commit is suspected to have left no line in the log of SQLite."""

import pytest

from datastream.sources.sqlite.unlogged import Suspicion


@pytest.fixture
def suspicion():
    return Suspicion()


def test_a_commit_without_a_line_is_left(suspicion):
    suspicion.arise()
    assert suspicion.is_left


def test_a_commit_that_a_line_explains_is_compared_all_the_same(suspicion):
    suspicion.arise(is_bare=False)
    assert not suspicion.is_left
    assert suspicion.is_pending


def test_a_line_explains_no_other_commit(suspicion):
    suspicion.arise()
    suspicion.arise(is_bare=False)
    assert suspicion.is_left


def test_what_is_committed_after_a_comparison_began_outlasts_it(suspicion):
    suspicion.arise()
    suspicion.begin_comparison(whole=True)
    suspicion.arise()
    suspicion.end()
    assert suspicion.is_left
    suspicion.begin_comparison(whole=True)
    suspicion.end()
    assert not suspicion.is_pending


def test_the_oldest_of_comparisons_beside_each_other_counts(suspicion):
    suspicion.arise()
    suspicion.begin_comparison(whole=True)
    suspicion.arise()
    suspicion.begin_comparison(whole=True)
    suspicion.end()
    assert suspicion.is_left


def test_what_came_late_is_so_until_a_comparison_ends(suspicion):
    suspicion.arise()
    suspicion.grow()
    suspicion.begin_comparison(whole=True)
    assert suspicion.is_late
    suspicion.end()
    assert not suspicion.is_late


def test_a_comparison_of_a_part_is_none_for_the_rest(suspicion):
    suspicion.arise()
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
