"""Points in time as text or datetime, and what sources of the past have in common."""

import threading
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

from datastream.errors import InvalidValue, ReadOnly
from datastream.source import Reading, Write
from datastream.sources._common.past import ReadOnlyPast
from datastream.sources._common.points import check_zone, parse_time

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "point",
    ["2026-01-02T12:00:00Z", "2026-01-02 12:00+00:00", "20260102T130000+0100", NOON],
)
def test_times_with_zone_are_times(point):
    assert parse_time(point) == NOON


@pytest.mark.parametrize("point", ["", "v1.2", "HEAD~1", "2026-13-01T00:00Z", "12:00"])
def test_other_texts_are_none(point):
    assert parse_time(point) is None


class NoOffset(tzinfo):
    def utcoffset(self, _):
        return None


@pytest.mark.parametrize(
    "point",
    ["2026-01-02T12:00", "2026-01-02", NOON.replace(tzinfo=None), NOON.replace(tzinfo=NoOffset())],
)
def test_times_without_zone_are_refused_and_say_what_to_write(point):
    with pytest.raises(InvalidValue, match=r"no time zone; write 2026-01-02T.*Z"):
        parse_time(point)


def test_a_time_with_zone_is_returned_as_it_is():
    east = NOON.astimezone(timezone(timedelta(hours=5)))
    assert check_zone(east) is east


class Past(ReadOnlyPast):
    def capabilities(self):
        return []

    def read(self, selection, since):
        return Reading((), "then", complete=True)


def test_a_source_of_the_past_waits_until_it_is_woken_or_closed():
    for end in ("wake", "close"):
        source = Past("here")
        waiter = threading.Thread(target=source.wait, args=(None,))
        waiter.start()
        getattr(source, end)()
        waiter.join(30)
        assert not waiter.is_alive()
    source = Past("here")
    source.wake()
    source.wait(None)
    source.wait(0.01)


def test_a_source_of_the_past_is_read_only():
    source = Past("here")
    assert source.features == frozenset()
    with pytest.raises(ReadOnly, match="here as it was"):
        source.write([Write("a", b"1")])
