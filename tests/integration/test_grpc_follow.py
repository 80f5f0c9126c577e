"""Many watches of one client over one stream, added and removed on the way."""

from __future__ import annotations

import queue
from collections import defaultdict

import datastream_grpc
import grpc
import pytest
from datastream_grpc import Limits
from datastream_grpc._connection import Stubs
from datastream_grpc._convert import Parts
from datastream_grpc._follow import BEGINNING
from datastream_grpc._pb import service_pb2 as pb

import datastream
from datastream import State, Store
from datastream.sources.memory import MemorySource
from datastream.testing import Recorder
from tests.integration._programs.tools import eventually

WATCHES = 200
VALUE = b"x" * 1000


class Client:
    """A client of Follow that speaks the protocol by itself."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self._requests = queue.SimpleQueue()
        self._batches = defaultdict(list)
        self._parts = defaultdict(Parts)
        self.messages = Stubs(self.channel).follow(iter(self._requests.get, None))

    def add(self, watch, *keys, **fields):
        request = pb.DataRequest(keys=keys, deletes=True, **fields)
        self._requests.put(pb.FollowRequest(watch=watch, add=request))

    def remove(self, watch):
        self._requests.put(pb.FollowRequest(watch=watch, remove=True))

    def half_close(self):
        self._requests.put(None)

    def next(self, watch):
        """The next batch of a watch, or what says that it has ended."""
        while not self._batches[watch]:
            self.receive()
        return self._batches[watch].pop(0)

    def receive(self):
        """Take in one message; the watch it is of."""
        response = next(self.messages)
        whole = response
        if not response.ended:
            whole = self._parts[response.watch].add(response.response)
        if whole is not None:
            self._batches[response.watch].append(whole)
        return response.watch

    def has_batch(self, watch):
        """Whether one has arrived as a whole."""
        return bool(self._batches[watch])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.half_close()
        self.channel.close()


@pytest.fixture
def client(stack, server):
    return stack.enter_context(Client(server.address))


def test_watches_are_added_and_removed_on_one_stream(store, server, client):
    store["a"] = 1
    client.add(1, "a")
    client.add(2, "b")
    assert client.next(1).data["a"].value == b"1"
    first = client.next(2)
    assert first.initial
    assert not first.data
    store["b"] = 2
    assert client.next(2).data["b"].value == b"2"
    client.remove(1)
    ended = client.next(1)
    assert (ended.ended, ended.error, ended.text) == (True, "", "")
    store["a"] = 3
    # The number is free again.
    client.add(1, "a", since=first.cursor)
    again = client.next(1)
    assert again.initial
    assert again.data["a"].value == b"3"
    del store["a"]
    assert client.next(1).data["a"].operation == pb.OPERATION_DELETE
    assert len(server.clients) == 1


def test_an_error_ends_its_watch_only(store, client):
    client.add(1, "no/../key\0")
    client.add(2, "a")
    ended = client.next(1)
    assert (ended.ended, ended.error) == (True, "InvalidKey")
    assert "NUL" in ended.text
    assert client.next(2).initial
    store["a"] = 1
    assert client.next(2).data["a"].value == b"1"


def test_once_ends_by_itself_and_half_closing_waits_for_it(client):
    client.add(7, "a", once=True)
    client.half_close()
    assert client.next(7).initial
    assert client.next(7).ended
    assert next(client.messages, None) is None


@pytest.mark.parametrize(
    "requests",
    [
        [pb.FollowRequest(watch=1)],
        [pb.FollowRequest(watch=1, add=pb.DataRequest())] * 2,
        [pb.FollowRequest(watch=1, add=pb.DataRequest()), pb.FollowRequest(watch=1)],
    ],
    ids=["nothing", "twice", "nothing for one that runs"],
)
def test_what_makes_no_sense_is_refused(client, requests):
    for request in requests:
        client._requests.put(request)
    with pytest.raises(grpc.RpcError) as error:
        for _ in client.messages:
            pass
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "watch 1" in str(error.value.details())


def test_each_watch_counts_as_a_stream(stack, store):
    limits = Limits(streams=2)
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0", limits=limits))
    client = stack.enter_context(Client(server.address))
    for watch in (1, 2):
        client.add(watch, "a")
        client.next(watch)
    client.add(3, "a")
    ended = client.next(3)
    assert (ended.ended, ended.error) == (True, "SourceUnavailable")
    client.remove(1)
    assert client.next(1).ended
    client.add(4, "a")
    assert client.next(4).initial


def test_one_that_is_removed_before_it_has_begun_ends_too(client):
    for watch in range(1, 20):
        client.add(watch, "a")
        client.remove(watch)
    client.half_close()
    last = {response.watch: response.ended for response in client.messages}
    assert last == dict.fromkeys(range(1, 20), True)


def test_a_large_state_holds_up_no_other_watch(store, client):
    store.put_many({f"many/{number}": VALUE for number in range(12_000)})
    client.add(1, "many/")
    assert client.receive() == 1
    client.add(2, "few")
    while client.receive() != 2:
        pass
    assert not client.has_batch(1)
    assert len(client.next(1).data) == 12_000


def test_of_a_client_that_does_not_read_few_watches_begin(store, server, client):
    store.put_many({f"many/{number}": VALUE for number in range(12_000)})
    client.add(0, "other", describe=True)
    assert client.receive() == 0
    assert client.receive() == 0
    for watch in range(1, WATCHES):
        client.add(watch, "many/", describe=True)
    streams = server._inner._servicer.streams
    eventually(lambda: len(streams) > BEGINNING, "those that may begin")
    with Client(server.address) as other:
        other.add(1, "many/")
        assert other.next(1).initial
    # And those of which something has found room in the connection.
    assert len(streams) < WATCHES / 2
    for watch in range(WATCHES):
        client.remove(watch)
    client.half_close()
    assert sum(message.ended for message in client.messages) == WATCHES


def calls_of(server):
    """The streams that a server has been asked for, by method."""
    return {
        method: sum(count for (name, _), count in metrics.items() if name == method)
        for metrics in [server._inner._servicer.metrics.calls]
        for method in ("Subscribe", "Follow")
    }


def test_all_watches_of_a_store_share_one_stream(stack, store, server):
    store.put_many({f"k/{number}": number for number in range(WATCHES)})
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    recorders = [Recorder(remote, f"k/{number}") for number in range(WATCHES)]
    for recorder in recorders:
        recorder.wait(lambda r: len(r.state) == 1, "its state")
    carriers = server._inner._servicer.streams.carriers
    assert len(carriers) == 1
    assert calls_of(server) == {"Subscribe": 0, "Follow": 0}
    eventually(lambda: len(server._inner._servicer.streams) == 1, "one watch, of all")
    store.put_many({f"k/{number}": -number for number in range(WATCHES)})
    for number, recorder in enumerate(recorders):
        recorder.wait(lambda r, n=number: r.state[f"k/{n}"] == b"%d" % -n, "the change")
    for recorder in recorders:
        recorder.dispose()
    eventually(lambda: not server._inner._servicer.streams, "no watch")
    remote.close()
    eventually(lambda: calls_of(server) == {"Subscribe": 0, "Follow": 1}, "the end of the stream")


def test_the_stream_goes_once_nothing_is_watched(stack, monkeypatch, store, server):
    monkeypatch.setattr("datastream_grpc._carriers.LINGER", 0.05)
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    for _ in range(2):
        recorder = Recorder(remote, "a")
        recorder.wait(lambda r: r.batches, "its beginning")
        recorder.dispose()
        eventually(lambda: not server._inner._servicer.streams.carriers, "no stream")


def test_a_server_without_it_is_watched_by_subscribe(stack, monkeypatch, store, server):
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    recorder = Recorder(remote, "a")
    recorder.wait(lambda r: r.batches, "its beginning")
    address = server.address
    server.stop()
    # One of before takes its place; what the client knows of it is not true any more.
    monkeypatch.setattr("datastream_grpc._servicer.Servicer.follow", unknown)
    older = stack.enter_context(datastream_grpc.serve(store, address))
    store["a"] = 1
    recorder.wait(lambda r: r.state.get("a") == b"1", "the change")
    assert len(older._inner._servicer.streams) == 1
    assert remote.status.current.state is State.READY


async def unknown(self, requests, context):
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def test_a_backend_that_goes_ends_its_watches(stack):
    store = stack.enter_context(Store(MemorySource()))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    client = stack.enter_context(Client(server.address))
    client.add(1, "a")
    assert client.next(1).initial
    store.close()
    ended = client.next(1)
    assert (ended.ended, ended.error) == (True, "StoreClosed")
