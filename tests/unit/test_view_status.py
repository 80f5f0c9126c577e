"""How a view stands: from the status of its store and from what it has itself."""

from datetime import UTC, datetime

import pytest

from datastream import InvalidValue, SourceUnavailable, State, Status
from datastream._view.status import Standing, status_of

MADE, KNOWN, LIVE, SINCE = (datetime(2026, 1, day, tzinfo=UTC) for day in (2, 1, 4, 3))
AWAY = SourceUnavailable("away")


def store(state, error=None, degraded=""):
    return Status(state, SINCE, error, degraded)


@pytest.mark.parametrize("state", [State.CONNECTING, State.READY, State.STALE, State.FAILED])
def test_without_a_state_it_is_connecting_whatever_the_store_is(state):
    error = AWAY if state in (State.STALE, State.FAILED) else None
    found = status_of(store(state, error), Standing(MADE))
    assert found == Status(State.CONNECTING, MADE, error)


def test_a_state_that_does_not_validate_is_the_reason():
    error = InvalidValue("no")
    assert status_of(store(State.READY), Standing(MADE, error=error)).error is error


def test_out_of_a_cache_it_is_stale_since_the_cache_was_good():
    standing = Standing(MADE, KNOWN, exists=True)
    assert status_of(store(State.STALE, AWAY), standing) == Status(State.STALE, KNOWN, AWAY)
    assert status_of(store(State.READY), standing).state is State.STALE


def test_live_it_is_what_the_store_is_since_the_later_of_both():
    standing = Standing(MADE, KNOWN, LIVE, exists=True)
    assert status_of(store(State.READY), standing) == Status(State.READY, LIVE)
    late = standing._replace(live_at=MADE)
    assert status_of(store(State.STALE, AWAY), late) == Status(State.STALE, SINCE, AWAY)
    assert status_of(store(State.FAILED, AWAY), late).state is State.FAILED


def test_what_degrades_it_is_joined():
    standing = Standing(MADE, None, LIVE, exists=True, complaint="the newest is refused")
    found = status_of(store(State.READY, degraded="polling"), standing)
    assert found.degraded == "polling; the newest is refused"


def test_closed_is_closed():
    standing = Standing(MADE, None, LIVE, exists=True)
    assert status_of(store(State.CLOSED), standing).state is State.CLOSED
    ended = standing._replace(ended=True)
    assert status_of(store(State.READY), ended._replace(error=AWAY)).error is AWAY
    assert status_of(store(State.READY), ended).state is State.CLOSED
