"""What a server cannot read just now is not gone to its clients, nor lost once it can be read."""

import datastream_grpc
import grpc
import pytest
from datastream_grpc._pb import service_pb2 as pb

import datastream
from datastream import Feature, Store, Unreadable
from datastream.source import Reading
from datastream.sources.memory import MemorySource
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT


class Archive(MemorySource):
    """A table of which some keys, or places ending in "/", cannot be read."""

    hidden = frozenset()

    def hide(self, *keys):
        self.hidden = frozenset(keys)
        self.wake()

    def read(self, selection, since):
        mark = f"|{sorted(self.hidden)}"
        is_same = Feature.LOG in self.features and since is not None and since.endswith(mark)
        reading = super().read(selection, since.removesuffix(mark) if is_same else None)
        readable = [entry for entry in reading.entries if not self._is_hidden(entry.key)]
        return reading._replace(
            entries=readable, position=reading.position + mark, unread=self.hidden
        )

    def get(self, key):
        if self._is_hidden(key):
            raise Unreadable(f"{key!r} is archived")
        return super().get(key)

    def write(self, writes):
        return super().write(writes).entries

    def _is_hidden(self, key):
        return Reading((), "", True, unread=self.hidden).is_unread(key)


class Listed(Archive):
    """The same, without a log."""

    features = MemorySource.features - {Feature.LOG}


@pytest.fixture(params=[Archive, Listed])
def source(request):
    return request.param()


@pytest.fixture
def store(stack, source):
    store = stack.enter_context(Store(source, name="archive"))
    store.put_many({"a": b"1", "d/x": b"2"})
    return store


@pytest.fixture
def remote(stack, server):
    return stack.enter_context(datastream.open(f"grpc://{server.address}"))


@pytest.mark.parametrize("hidden", ["d/x", "d/"])
def test_who_resumes_by_revisions_keeps_it(store, source, remote, hidden):
    had = {key: entry.revision for key, entry in store.snapshot().items()}
    source.hide(hidden)
    recorder = Recorder(remote, since=had)
    recorder.wait_ready()
    assert recorder.entries == []
    assert recorder.batches[0].unread == {hidden}
    store["a"] = b"3"
    recorder.wait_state({"a": b"3"})
    assert [entry.key for entry in recorder.entries] == ["a"]


def test_who_watches_keeps_it_also_over_a_reset(stack, store, source, remote, server):
    recorder = Recorder(remote)
    recorder.wait_state({"a": b"1", "d/x": b"2"})
    source.hide("d/")
    store["a"] = b"3"
    recorder.wait_state({"a": b"3", "d/x": b"2"})
    server.stop()
    # A store that knows nothing of the cursors given out before.
    other = type(source)()
    other.hide("d/")
    again = stack.enter_context(Store(other, name="archive"))
    again.put_many({"a": b"4"})
    stack.enter_context(datastream_grpc.serve(again, server.address))
    recorder.wait(lambda r: r.entries[-1].value == b"4", "the other server")
    assert recorder.live[-1].key == "a"
    assert all(entry.operation is not datastream.Operation.DELETE for entry in recorder.entries)


@pytest.mark.parametrize("known", [True, False])
def test_who_comes_meanwhile_is_given_it_once_it_can_be_read(stack, store, source, server, known):
    others = [Recorder(store)] if known else []
    for one in others:
        one.wait_state({"a": b"1", "d/x": b"2"})
    source.hide("d/x")
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}", heartbeat=0.3))
    recorder = Recorder(remote)
    recorder.wait_state({"a": b"1"})
    store["a"] = b"3"
    recorder.wait_state({"a": b"3"})
    source.hide()
    recorder.wait_state({"a": b"3", "d/x": b"2"})
    assert [entry.key for entry in recorder.entries].count("d/x") == 1


def test_a_state_of_nothing_else_is_an_error_and_a_watch_begins(
    stack, store, source, remote, server
):
    source.hide("a", "d/")
    for read in (remote.snapshot, remote.copy, lambda: remote.entry("a")):
        with pytest.raises(Unreadable):
            read()
    recorder = Recorder(remote)
    recorder.wait_ready()
    assert recorder.batches[0].unread == {"a", "d/"}
    source.hide()
    recorder.wait_state({"a": b"1", "d/x": b"2"})
    # A client that does not ask for what cannot be read would take the state for an empty one.
    source.hide("a", "d/")
    channel = stack.enter_context(grpc.insecure_channel(server.address))
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/datastream.DataService/Sync")(
            pb.DataRequest().SerializeToString(), timeout=TIMEOUT
        )
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
