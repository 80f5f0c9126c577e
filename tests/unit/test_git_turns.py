"""Who pushes without a pause lets others get through now and then."""

import pytest

from datastream.sources.git import turns as module
from datastream.sources.git.branch_source import PATIENCE
from datastream.sources.git.turns import BURST, LONGEST_TURN, TURN, Turns


@pytest.fixture
def clock(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    return clock


def push(turns, clock, seconds):
    with turns.push():
        clock[0] += seconds


def test_a_row_of_pushes_ends_with_a_turn_of_others(clock):
    turns = Turns()
    for _ in range(BURST):
        assert turns.due() == 0
        push(turns, clock, 0.125)
    assert turns.due() == TURN * 0.125
    push(turns, clock, 0.125)
    assert turns.due() == 0


def test_pushes_with_pauses_are_no_row(clock):
    turns = Turns()
    for _ in range(3 * BURST):
        assert turns.due() == 0
        push(turns, clock, 0.125)
        clock[0] += TURN * 0.125


def test_a_push_that_lost_ends_the_row(clock):
    turns = Turns()
    for _ in range(BURST):
        push(turns, clock, 0.125)
    with pytest.raises(ValueError, match="lost"), turns.push():
        raise ValueError("lost")
    assert turns.due() == 0


def test_others_get_turns_before_they_give_up(clock):
    turns, began, came = Turns(), clock[0], []
    while clock[0] < began + PATIENCE:
        if due := turns.due():
            came.append(due)
            clock[0] += due
        push(turns, clock, 1.5)
    assert len(came) >= 2
    # Another one fetches, and pushes.
    assert min(came) >= 2 * 1.5


def test_a_slow_remote_makes_nobody_wait_for_long(clock):
    turns = Turns()
    for _ in range(BURST):
        push(turns, clock, 10.0)
    assert turns.due() == LONGEST_TURN
