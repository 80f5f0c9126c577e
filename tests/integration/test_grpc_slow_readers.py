"""What very many streams cost, and those of a large state that nobody reads."""

from __future__ import annotations

import time
from contextlib import closing

import grpc
import psutil
import pytest
from datastream_grpc._pb import service_pb2 as pb

import datastream
from tests.bench.raw_client import LARGEST_WINDOW, Connection, Subscribers
from tests.integration._programs.tools import Child

STATE, VALUE = 20_000_000, 100_000
STREAMS = 40
CROWD, CONNECTIONS = 5_000, 50
CALLS, FEW = 48, 24
"""As many states as answers, and those of eight answers that are made at the same time, three each:
its entries, their messages, and what the allocator has not given back."""
MOST = 2_000_000
"""Bytes that a stream may cost beyond the state that all share, and the one just being read."""


class Unread:
    """Streams, each over a connection of its own, of which nobody reads."""

    def __init__(self, stack, address):
        self._stack = stack
        self._address = address
        self.calls = []

    def begin(self, number):
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        for _ in range(number):
            channel = self._stack.enter_context(grpc.insecure_channel(self._address, options))
            subscribe = channel.unary_stream(
                "/datastream.DataService/Subscribe",
                request_serializer=pb.DataRequest.SerializeToString,
            )
            self.calls.append(subscribe(pb.DataRequest()))


def settled(process, wait=time.sleep):
    """Its resident bytes, once they do not grow any more."""
    sizes = [0]
    while len(sizes) < 5 or max(sizes[-4:]) > sizes[-5]:
        wait(0.5)
        sizes.append(process.memory_info().rss)
    return sizes[-1]


@pytest.mark.chaos
@pytest.mark.timeout(180)
@pytest.mark.parametrize("url", ["sqlite:{}/store.db", "file:{}/files"])
def test_streams_that_are_not_read_share_one_state(stack, tmp_path, url):
    (tmp_path / "files").mkdir()
    url = url.format(tmp_path)
    with datastream.open(url) as store:
        store.put_many(
            {f"k/{n}": b"%02d" % (n % 100) * (VALUE // 2) for n in range(STATE // VALUE)}
        )
    child = stack.enter_context(Child("server", url, "127.0.0.1:0"))
    unread = Unread(stack, child.line())
    process = psutil.Process(child.process.pid)
    unread.begin(1)
    one = settled(process)
    unread.begin(STREAMS)
    each = (settled(process) - one - STATE) / STREAMS
    assert each <= MOST


@pytest.mark.chaos
@pytest.mark.timeout(180)
def test_answers_that_are_not_read_are_few_and_come_once_they_are(stack, tmp_path):
    url = f"sqlite:{tmp_path}/store.db"
    with datastream.open(url) as store:
        store.put_many({f"k/{n}": b"v" * VALUE for n in range(STATE // VALUE)})
    child = stack.enter_context(Child("server", url, "127.0.0.1:0"))
    connection = stack.enter_context(closing(Connection(child.line(), window=0)))
    process = psutil.Process(child.process.pid)
    before = process.memory_info().rss
    for _ in range(CALLS):
        connection.call("/datastream.DataService/Sync", b"")
    assert settled(process, connection.idle) - before <= FEW * STATE
    connection.open(LARGEST_WINDOW)
    sizes = []
    while len(sizes) < CALLS:
        sizes += [len(message) for _, message in connection.messages()]
    assert min(sizes) >= STATE


@pytest.mark.chaos
@pytest.mark.timeout(180)
def test_five_thousand_streams_that_begin_at_once_are_all_served(stack, capsys):
    """gRPC itself refuses calls beyond a thousand that wait to be looked at."""
    child = stack.enter_context(Child("server", "memory:", "127.0.0.1:0"))
    address = child.line()
    process = psutil.Process(child.process.pid)
    memory, cpu = process.memory_info().rss, process.cpu_times().user
    # It raises if the server ends a call, or does not deliver.
    with Subscribers(address, CROWD, CONNECTIONS) as subscribers:
        subscribers.deliveries_per_second(1, 2, 1)
        each = (process.memory_info().rss - memory) / CROWD / 1000
        used = (process.cpu_times().user - cpu) / CROWD * 1000
    with capsys.disabled():
        print(f"\n{CROWD} streams: {each:.0f} kB and {used:.2f} ms of CPU each")
    with datastream.open(f"grpc://{address}") as store:
        assert store.status.current.error is None
        assert len(store) == 1
