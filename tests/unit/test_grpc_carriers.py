"""The one stream of all watches of a client, over calls that are made up."""

import queue

import pytest
from datastream_grpc._carriers import FirstBatch, Follower
from datastream_grpc._pb import service_pb2 as pb


class Call:
    """A Follow call that brings what it is given, and ends when it is cancelled."""

    def __init__(self, requests):
        self.brings = queue.SimpleQueue()
        self.is_cancelled = False

    def __iter__(self):
        return iter(self.brings.get, None)

    def cancel(self):
        self.is_cancelled = True
        self.brings.put(None)


class Heard:
    def __init__(self):
        self.times = queue.SimpleQueue()

    def __call__(self):
        self.times.put(None)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def follower(heard):
    follower = Follower(Call, "here", heard=heard, unknown=pytest.fail)
    yield follower
    follower.close(10)


def watch(follower):
    sink = FirstBatch()
    return follower.add(pb.DataRequest(), sink), sink


def test_a_silent_call_is_given_up_with_all_its_watches(follower):
    """As gRPC leaves one that was made just as its server went."""
    _others, others_sink = watch(follower)
    late, late_sink = watch(follower)
    late.give_up()
    assert late_sink.error is not None
    assert "silent" in str(others_sink.error)
    assert follower._call.is_cancelled
    assert follower.add(pb.DataRequest(), FirstBatch()) is None, "the next begins a new call"


def test_a_call_that_brings_others_something_goes_on(follower, heard):
    watched, sink = watch(follower)
    late, late_sink = watch(follower)
    batch = pb.DataResponse(cursor="1")
    follower._call.brings.put(pb.FollowResponse(watch=watched.number, response=batch))
    heard.times.get(timeout=30)
    late.give_up()
    assert late_sink.error is not None
    assert sink.error is None
    assert not follower._call.is_cancelled
    assert follower.add(pb.DataRequest(), FirstBatch()) is not None
