"""What clients are told of a backend in trouble: not where it is."""

from contextlib import closing

import datastream_grpc
import grpc
import pytest
from datastream_grpc._connection import Stubs
from datastream_grpc._pb import service_pb2 as pb
from dulwich import porcelain

import datastream
from datastream import InvalidValue, ReadOnly, SourceUnavailable, State, Store
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import Statuses

PLACE = "/srv/confidential/rates.db"


class Away(MemorySource):
    away = False

    def read(self, selection, since):
        if self.away:
            raise SourceUnavailable(f"{PLACE}: unable to open database file; check the path")
        return super().read(selection, since)

    def write(self, writes):
        raise ReadOnly(f"{PLACE} can only be read")


def test_no_path_of_the_server_is_told(stack, caplog):
    caplog.set_level("INFO", "datastream.grpc")
    source = Away()
    store = stack.enter_context(Store(source, name=f"sqlite:{PLACE}"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    statuses = Statuses(remote)
    remote.watch().subscribe(lambda entry: None)
    with pytest.raises(ReadOnly) as refused:
        remote["k"] = 2
    source.away = True
    with pytest.raises(SourceUnavailable) as away:
        remote.snapshot()
    told = [str(refused.value), str(away.value), str(statuses.wait(State.STALE).error)]
    with pytest.raises(datastream.Unsupported) as lacking:
        list(remote.history("k"))
    told.append(str(lacking.value))
    assert not [text for text in told if "confidential" in text or "rates" in text], told
    assert all("can" in text or "unable to open" in text for text in told)
    # Who runs the server is told.
    assert PLACE in caplog.text


def test_what_a_push_hides_is_logged(stack, caplog):
    caplog.set_level("INFO", "datastream.grpc")
    store = stack.enter_context(Store(Away(), name=f"sqlite:{PLACE}"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    channel = stack.enter_context(closing(grpc.insecure_channel(server.address)))
    write = pb.WriteRequest(id="1", writes=[pb.WriteItem(data=pb.Data(key="k"))])
    (response,) = Stubs(channel).push(iter([pb.PushRequest(writes=[write])]))
    (answer,) = response.answers
    assert (answer.error, "confidential" in answer.text) == ("ReadOnly", False)
    assert any("Push" in told.message and PLACE in told.message for told in caplog.records)


def test_no_host_of_a_relay_is_told(stack, tmp_path):
    upstream = f"unix:{tmp_path}/upstream"
    relay = stack.enter_context(datastream.open(f"grpc:{upstream}", timeout=1.0))
    server = stack.enter_context(datastream_grpc.serve(relay, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}", timeout=5.0))
    with pytest.raises(SourceUnavailable) as away:
        remote.entry("k")
    assert str(tmp_path) not in str(away.value)
    assert "upstream" not in str(away.value)


def test_what_is_wrong_with_a_value_is_told_whole(stack, tmp_path):
    """A name with a dot would pass for a host."""
    porcelain.init(tmp_path).close()
    store = stack.enter_context(datastream.open(f"git:{tmp_path}"))
    server = stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))
    remote = stack.enter_context(datastream.open(f"grpc://{server.address}"))
    texts = []
    for each in (store, remote):
        with pytest.raises(InvalidValue) as refused:
            each.put("k", b"abc", value_type="int")
        texts.append(str(refused.value))
    assert texts[1] == f"{server.address}: {texts[0]}"
