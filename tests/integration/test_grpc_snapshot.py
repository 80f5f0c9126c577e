"""States in parts: larger than a message, in columns or not, now or in the past."""

from __future__ import annotations

from itertools import islice

import datastream_grpc
import grpc
import pytest
from datastream_grpc import _convert
from datastream_grpc._connection import Stubs
from datastream_grpc._convert import entries_of, from_messages
from datastream_grpc._pb import service_pb2 as pb
from dulwich import porcelain

import datastream
from datastream import SourceUnavailable

KEYS = 3000


@pytest.fixture
def store(stack):
    store = stack.enter_context(datastream.open("memory:"))
    store.put_many({f"k/{number}": "x" * 500 for number in range(KEYS)})
    store["other"] = 1
    return store


def test_a_state_may_be_larger_than_what_a_client_takes_at_once(stack, store, server):
    url = f"grpc://{server.address}"
    remote = stack.enter_context(datastream.open(url, max_message_size=600_000))
    assert remote.snapshot() == store.snapshot()
    assert remote.snapshot("k/") == store.snapshot("k/")
    assert len(remote.view("k/")) == KEYS


@pytest.mark.parametrize("columns", [False, True])
def test_both_forms_say_the_same(stack, store, server, columns):
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    call = Stubs(channel).snapshot(pb.DataRequest(keys=["k/"], columns=columns))
    messages = list(call)
    assert [message.partial for message in messages] == [True] * (len(messages) - 1) + [False]
    assert any(message.columns for message in messages) is columns
    (whole,) = from_messages(messages)
    assert {entry.key: entry for entry in entries_of(whole)} == store.snapshot("k/")
    assert whole.cursor == store.snapshot_batch("k/").cursor


def test_the_past_comes_in_parts_too(stack, tmp_path):
    porcelain.init(tmp_path).close()
    store = stack.enter_context(datastream.open(f"git:{tmp_path}"))
    first = store.put_many({f"k/{number}": b"1" for number in range(300)})
    point = next(store.history("k/1")).point
    store.put("k/1", b"2")
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    with remote.at(point) as past:
        assert sorted(past.snapshot().values()) == sorted(first)


def test_one_that_ends_too_soon_is_no_state(stack, monkeypatch, server):
    whole = _convert.to_columned
    monkeypatch.setattr(_convert, "to_columned", lambda batch: islice(whole(batch), 2))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    with pytest.raises(SourceUnavailable, match="ended the stream"):
        remote.snapshot()


def test_a_client_that_may_have_no_stream_more_reads_by_calls(stack, store):
    limits = datastream_grpc.Limits(principal_streams=1)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", limits=limits))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    stream = Stubs(channel).subscribe(pb.DataRequest(keys=["other"]))
    next(stream)
    assert remote.snapshot() == store.snapshot()
