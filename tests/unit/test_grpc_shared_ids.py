"""Writes whose answer was lost, and which come again to another worker."""

import asyncio

import pytest
from datastream_grpc import _shared_ids
from datastream_grpc._access import Access
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._principal import NOBODY
from datastream_grpc._shared_ids import Known, SharedIds, Unsure
from datastream_grpc._status import code_of, to_answer
from datastream_grpc._texts import Texts
from datastream_grpc._writes import Writes, _name_of

from datastream import InvalidKey, Store
from datastream.sources.memory import MemorySource


class Slow(MemorySource):
    """Takes threads, as what workers serve does."""

    instant = False


@pytest.fixture
def ids():
    file = _shared_ids.IdsFile()
    ids = SharedIds(file.number)
    yield ids
    ids.close()
    file.close()


@pytest.fixture
def workers(monkeypatch, ids):
    """Some of one backend, as far as writes go."""
    monkeypatch.setattr(_shared_ids, "of_process", ids)
    with Store(Slow()) as store:
        yield [Writes(store, Access(None), Texts("", hides_keys=False), 1 << 20) for _ in range(3)]


def request(value, id="1", **item):
    data = pb.Data(key="k", value=value, value_type="int")
    return pb.WriteRequest(id=id, writes=[pb.WriteItem(data=data, **item)])


def delete(id):
    data = pb.Data(key="k", operation=pb.OPERATION_DELETE)
    return pb.WriteRequest(id=id, writes=[pb.WriteItem(data=data)])


def answer(writes, request):
    stored = pb.WriteResponse.FromString(asyncio.run(writes.answer(request, NOBODY)))
    return stored.entries[0]


def test_a_write_that_was_done_is_not_done_again(workers):
    one, other, third = workers
    stored = answer(one, request(b"1"))
    assert answer(other, request(b"1")) == stored
    answer(one, request(b"2", id="2"))
    again = answer(third, request(b"1"))
    # Another write was done since: its revision is not that of this one.
    assert (again.value, again.revision) == (b"1", "")
    assert one._store["k"] == 2


def test_a_conditional_write_is_no_conflict_with_itself(workers):
    one, other, _ = workers
    stored = answer(one, request(b"1", expect=""))
    assert answer(other, request(b"1", expect="")) == stored


def test_a_delete_is_not_done_again(workers):
    one, other, third = workers
    answer(one, request(b"1"))
    answer(one, delete("2"))
    assert answer(other, delete("2")).operation == pb.OPERATION_DELETE
    answer(one, request(b"3", id="3"))
    answer(third, delete("2"))
    assert one._store["k"] == 3


def test_one_that_was_begun_is_done_if_it_is_what_is_stored_and_else_unsure(workers, ids):
    one, other, _ = workers
    assert ids.begin(_name_of(request(b"1"), "1")) is Known.NOTHING
    with pytest.raises(Unsure, match="may have been done") as error:
        answer(other, request(b"1"))
    assert code_of(error.value).name == "UNAVAILABLE"
    assert to_answer(error.value)[0] == "SourceUnavailable"
    answer(one, request(b"1", id="2"))
    assert answer(other, request(b"1")).revision


def test_one_of_other_content_is_another_whatever_its_id(workers):
    """Clients that count their writes have the same ids."""
    one, other, _ = workers
    assert answer(one, request(b"1")).value == b"1"
    assert answer(other, request(b"2")).value == b"2"
    assert answer(one, delete("1")).operation == pb.OPERATION_DELETE
    assert "k" not in one._store


def test_one_that_was_refused_may_come_again(workers):
    refused = pb.WriteRequest(id="1", writes=[pb.WriteItem(data=pb.Data(key="a\0", value=b"1"))])
    for writes in workers:
        with pytest.raises(InvalidKey):
            asyncio.run(writes.answer(refused, NOBODY))


def test_a_newer_id_takes_the_place_of_an_older_one(monkeypatch, ids):
    monkeypatch.setattr(_shared_ids, "SLOTS", 1)
    ids.begin("1")
    ids.done("1")
    assert ids.begin("1") is Known.DONE
    assert ids.begin("2") is Known.NOTHING
    assert ids.begin("1") is Known.NOTHING


def test_what_is_remembered_of_a_write_is_as_long_for_any_id():
    """Ten thousand are remembered, and an id may have as many bytes as a message."""
    short, long = _name_of(request(b"1"), "1"), _name_of(request(b"1"), "1" * 100_000)
    assert len(short) == len(long) < 100
    assert short != long
