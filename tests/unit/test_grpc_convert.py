"""What is put together by hand is what protobuf would make of it."""

import random
from datetime import UTC, datetime

import pytest
from datastream_grpc import _convert
from datastream_grpc._pb import service_pb2 as pb

from datastream import Batch, Entry, Operation

TIME = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
SIZES = [0, 1, 90, 120, 127, 128, 129, 16_383, 16_384, 300_000, 3_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_an_entry_of_any_size_arrives_as_it_was(size):
    entry = Entry(
        "ü" * min(size, 8000) + "k", b"v" * size, "text/plain", TIME, "r" * (1 + size % 300)
    )
    gone = Entry("gone", b"", "", None, "", Operation.DELETE)
    batch = Batch((entry, gone), "cursor", created=frozenset(["gone"]))
    (whole,) = _convert.from_messages(
        map(pb.DataResponse.FromString, _convert.to_messages(batch, deletes=True))
    )
    arrived = {key: _convert.to_entry(data) for key, data in whole.data.items()}
    assert arrived == {entry.key: entry, "gone": gone}
    assert whole.cursor == "cursor"


@pytest.mark.parametrize(
    "time", [datetime.min, datetime.max, datetime(1969, 12, 31, 23, 59, 59, 1)]
)
def test_times_of_all_years_pass(time):
    entry = Entry("k", b"v", "bytes", time.replace(tzinfo=UTC), "r")
    assert _convert.to_entry(_convert.to_data(entry)) == entry


@pytest.mark.parametrize("seconds", [-(1 << 63), (1 << 63) - 1, 253_402_300_800, -62_135_596_801])
def test_times_beyond_are_none(seconds):
    data = pb.Data(key="k", revision="r")
    data.updated_at.seconds = seconds
    assert _convert.to_entry(data).updated_at is None


def test_random_states_are_parsed_as_they_were():
    chooser = random.Random(7)
    entries = {
        f"k{n}": Entry(f"k{n}", chooser.randbytes(chooser.randrange(300)), "bytes", TIME, f"{n}")
        for n in range(500)
    }
    state = pb.DataResponse.FromString(_convert.to_state(Batch(tuple(entries.values()), "c")))
    assert {key: _convert.to_entry(data) for key, data in state.data.items()} == entries
