"""Servers that answer what was not asked: a client makes errors of it, or leaves it out."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from datastream_grpc._pb import service_pb2 as pb

import datastream
from datastream import DatastreamError, KeyNotFound


class Odd(grpc.GenericRpcHandler):
    """A server whose answers a test chooses."""

    def __init__(self):
        self.state = {}
        self.stored = []
        self.listed = []
        self._methods = {
            "Describe": self._unary(pb.DescribeRequest, self._describe),
            "Sync": self._unary(pb.DataRequest, lambda request: self._state()),
            "Write": self._unary(pb.WriteRequest, lambda request: self._written()),
            "ListCapabilities": self._unary(pb.ListCapabilitiesRequest, self._list),
            "Push": grpc.stream_stream_rpc_method_handler(
                self._push, pb.PushRequest.FromString, _serialise
            ),
        }

    def service(self, handler_call_details):
        return self._methods.get(handler_call_details.method.rpartition("/")[2])

    @staticmethod
    def _unary(request, answer):
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: answer(request), request.FromString, _serialise
        )

    @staticmethod
    def _describe(request):
        return pb.DescribeResponse(status=pb.Status(state=pb.STATE_READY), features=range(1, 5))

    def _state(self):
        return pb.DataResponse(data=self.state, cursor="c", initial=True)

    def _written(self):
        return pb.WriteResponse(entries=self.stored)

    def _list(self, request):
        keys = [pb.Capability(key=key) for key in self.listed]
        return pb.ListCapabilitiesResponse(capabilities=keys)

    def _push(self, requests, context):
        for request in requests:
            ids = [write.id for write in request.writes]
            answers = [pb.PushAnswer(id=id, response=self._written()) for id in ids]
            yield pb.PushResponse(answers=answers)


def _serialise(message):
    return message.SerializeToString()


@pytest.fixture
def odd(stack):
    return Odd()


@pytest.fixture
def remote(stack, odd):
    server = grpc.server(stack.enter_context(ThreadPoolExecutor(8)), handlers=(odd,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(None).wait())
    return stack.enter_context(datastream.open(f"grpc://127.0.0.1:{port}", timeout=5.0))


def test_a_state_with_a_delete_or_another_key_holds_nothing(odd, remote):
    odd.state = {
        "gone": pb.Data(key="gone", operation=pb.OPERATION_DELETE),
        "a": pb.Data(key="b", value=b"1", revision="1"),
    }
    for key in odd.state:
        assert remote.get(key, "none") == "none"
        assert asyncio.run(remote.aget(key, "none")) == "none"
        with pytest.raises(KeyNotFound):
            remote.entry(key)


def test_what_is_listed_and_is_no_key_is_left_out(odd, remote):
    odd.listed = ["", "/", "a/", "n\0", "a"]
    assert [one.key for one in remote.capabilities()] == ["a"]


@pytest.mark.parametrize("keys", [[], ["b"], ["a", "b"]])
def test_an_answer_to_another_write_is_an_error(odd, remote, keys):
    odd.stored = [pb.Data(key=key, value=b"1", value_type="int", revision="1") for key in keys]
    for write in (
        lambda: remote.put("a", 1),
        lambda: remote.put_many({"a": 1, "c": 1}),
        lambda: remote.delete("a"),
        lambda: asyncio.run(remote.aput("a", 1)),
    ):
        with pytest.raises(DatastreamError, match="other keys than were written"):
            write()
