"""The order in which workers of a test run get the tests."""

import pytest

from tests.conftest import slow_ones_first

LIMITS = {"a": 0, "b": 300, "c": 0, "d": 900, "e": 0, "f": 600, "g": 60, "h": 300}


def order(names, workers):
    return "".join(slow_ones_first(list(names), LIMITS.__getitem__, workers))


def test_each_worker_begins_with_the_slowest_that_are_left():
    assert order("abcdefgh", 2) == "dbac" + "fheg"


def test_what_is_not_slow_keeps_its_order():
    assert order("aceg", 3) == "aceg"


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7, 20])
def test_every_test_is_run_once(workers):
    for size in range(len(LIMITS) + 1):
        names = list(LIMITS)[:size]
        assert sorted(order(names, workers)) == names
