"""Many entries as columns of the wire and back."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from datastream_grpc import _carriers, _columns, _convert
from datastream_grpc._pb import service_pb2 as pb

from datastream import Batch, DatastreamError, Entry, Operation
from datastream._columns import EntryColumns

TIME = datetime(2026, 11, 26, 18, 30, 5, 123456, tzinfo=UTC)
TIMES = [
    TIME,
    None,
    TIME,
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    TIME.astimezone(timezone(timedelta(hours=5))),
]


def entries(*times, **fields):
    return [
        Entry(f"k/{n}", b"%d" % n, "int", time, f"r{n}")._replace(**fields)
        for n, time in enumerate(times)
    ]


def there_and_back(batch):
    """What a client makes of a batch in columns, and its messages."""
    messages = [pb.DataResponse.FromString(raw) for raw in _convert.to_columned(batch)]
    (whole,) = _convert.from_messages(map(pb.DataResponse.FromString, _convert.to_columned(batch)))
    return whole, messages


def test_entries_come_back_as_they_were():
    sent = entries(*TIMES)
    sent[1] = sent[1]._replace(value_type="str", value=b"\xff\0")
    whole, _ = there_and_back(Batch(tuple(sent), "c", initial=True, unread=frozenset(("u",))))
    received = _convert.entries_of(whole)
    assert received == sent
    assert {type(entry) for entry in received} == {Entry}
    assert (whole.cursor, whole.initial, list(whole.unread)) == ("c", True, ["u"])


def test_times_of_the_hour_that_comes_twice_are_told_apart():
    """In one zone they are equal to Python."""
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    times = first, first.replace(fold=1)
    whole, _ = there_and_back(Batch(tuple(entries(*times)), "c", initial=True))
    received = [entry.updated_at for entry in _convert.entries_of(whole)]
    assert received == [time.astimezone(UTC) for time in times]


def test_a_state_comes_in_parts_of_which_each_can_be_read():
    sent = entries(*[TIME] * 5000, value=b"x" * 300)
    whole, messages = there_and_back(Batch(tuple(sent), "c", initial=True, reset=True))
    assert len(messages) > 5
    assert max(message.ByteSize() for message in messages) < 2 * _convert.MESSAGE_BYTES
    assert [message.partial for message in messages] == [True] * (len(messages) - 1) + [False]
    assert [m.initial and m.reset for m in messages] == [True] + [False] * (len(messages) - 1)
    assert {message.cursor for message in messages[:-1]} == {""}
    assert [e for m in messages for e in _convert.entries_of(m)] == sent
    assert _convert.entries_of(whole) == sent


@pytest.mark.parametrize("size", [0, 100, 127, 1000])
def test_a_message_has_no_more_than_it_may_with_all_that_is_beside_the_values(size):
    time = datetime(2026, 1, 1, tzinfo=UTC)
    several = [
        Entry(f"key/{n}", b"v" * size, "bytes", time + timedelta(microseconds=n), f"{n:040}")
        for n in range(5000)
    ]
    messages = _convert.to_columned(Batch(tuple(several), "1", initial=True))
    assert max(map(len, messages)) <= _columns.BYTES


def test_what_is_larger_than_a_message_is_one():
    sent = entries(TIME, TIME, TIME, value=b"x" * 600_000)
    _, messages = there_and_back(Batch(tuple(sent), "c"))
    assert [len(_convert.entries_of(message)) for message in messages] == [1, 1, 1, 0]


def test_deletes_come_beside_them():
    gone = Entry("gone", b"", "", None, "", Operation.DELETE)
    held = entries(TIME, TIME)
    whole, _ = there_and_back(Batch((held[0], gone, held[1]), "c", initial=True))
    assert set(_convert.entries_of(whole)) == {gone, *held}
    whole, messages = there_and_back(Batch((gone,), "c", initial=True))
    assert _convert.entries_of(whole) == [gone]
    assert messages[0].initial


def test_an_empty_state_is_a_message():
    whole, messages = there_and_back(Batch((), "c", initial=True))
    assert (len(messages), whole.initial, whole.cursor) == (1, True, "c")


def test_text_that_is_no_utf8_is_sent_as_the_wire_can_carry_it():
    sent = entries(TIME, TIME, key="k\udcff", value_type="t\udcff")
    whole, _ = there_and_back(Batch(tuple(sent), "c"))
    assert {(e.key, e.value_type) for e in _convert.entries_of(whole)} == {("k?", "t?")}


def test_keys_and_revisions_alone_take_no_more_than_those():
    sent = [Entry(entry.key, revision=entry.revision) for entry in entries(*TIMES)]
    whole, _ = there_and_back(Batch(tuple(sent), "c", initial=True))
    (columns,) = whole.columns
    assert (len(columns.values), len(columns.times)) == (0, 0)
    received = _convert.entries_of(whole)
    assert [(e.key, e.revision) for e in received] == [(e.key, e.revision) for e in sent]
    assert {(e.value, e.updated_at) for e in received} == {(b"", None)}


@pytest.mark.parametrize("number", [_columns.UNKNOWN, (1 << 63) - 1, 1 - (1 << 63)])
def test_a_time_that_python_does_not_know_is_none(number):
    columns = pb.Columns(
        keys=["a"], values=[b"1"], value_types=["int"], times=[number], revisions=["r"]
    )
    assert list(_columns.from_columns(columns)) == [Entry("a", b"1", "int", None, "r")]


@pytest.mark.parametrize("field", ["values", "value_types", "times", "revisions"])
def test_columns_that_do_not_fit_together_are_refused(field):
    sent = entries(TIME, TIME, TIME)
    columns = pb.Columns()
    _columns.to_columns(EntryColumns.of([sent[0]._replace(value_type="str"), *sent]), columns)
    del getattr(columns, field)[-1]
    with pytest.raises(DatastreamError, match="lengths"):
        list(_columns.from_columns(columns))


def test_a_sink_that_fails_is_told_so():
    class Sink:
        ended = None

        def take(self, message):
            raise DatastreamError("what is that?")

        def end(self, error):
            self.ended = error

    class Call:
        is_cancelled = False

        def __iter__(self):
            return iter([pb.DataResponse()])

        def cancel(self):
            self.is_cancelled = True

    sink, call = Sink(), Call()
    _carriers.Subscribed(call, sink, lambda: None).join(30)
    assert "what is that" in str(sink.ended)
    assert call.is_cancelled
