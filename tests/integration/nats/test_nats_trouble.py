"""A server that is killed, hangs or is restarted under one store."""

import threading

import pytest

import datastream
from datastream import SourceUnavailable, State
from datastream.testing import Recorder
from datastream.testing._tools import eventually, open_handles
from tests.servers.nats import Server, new_bucket
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.chaos


@pytest.fixture
def server():
    with Server().start() as running:
        yield running


def test_a_server_that_is_killed_and_started_again(server):
    url = f"{server.url}/{new_bucket()}"
    with datastream.open(url, create=True) as store:
        store.put_many({"a": 1, "b": 2})
        recorder = Recorder(store)
        recorder.wait(lambda r: len(r.state) == 2)
        server.kill()
        eventually(lambda: store.status.current.state is State.STALE, "the outage was told")
        assert "not connected" in str(store.status.current.error)
        with pytest.raises(SourceUnavailable, match="not connected"):
            store.entry("a")
        with pytest.raises(SourceUnavailable, match=r"nothing was written|not connected"):
            store["a"] = 9
        server.start()

        def is_back():
            store.refresh()
            return store.status.current.state is State.READY

        eventually(is_back, "its end was told")
        store["b"] = 3
        recorder.wait_state({"a": b"1", "b": b"3"})
        assert [entry.key for entry in recorder.live] == ["b"]


def test_a_silent_server_is_noticed(server):
    with Proxy(server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}/{new_bucket()}"
        with datastream.open(url, create=True, timeout=3, interval=0.2) as store:
            store["a"] = 1
            recorder = Recorder(store)
            recorder.wait_state({"a": b"1"})
            proxy.is_hole = True
            eventually(lambda: store.status.current.state is State.STALE, "the outage was told")
            store.close()
            threads = {thread.name for thread in threading.enumerate()}
            assert not any(name.startswith("datastream nats") for name in threads)
            proxy.cut()


def test_what_is_sent_again_is_written_once(server):
    """The acknowledgement is lost, not the message."""
    bucket = new_bucket()
    with Proxy(server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}/{bucket}"
        with datastream.open(url, create=True, history=10) as store:
            store["a"] = 1
            proxy.cut_after(b"$KV.")
            recorder = Recorder(store)
            store["a"] = 2
            assert [r.entry.value for r in store.history("a")] == [b"2", b"1"]
            recorder.wait_state({"a": b"2"})


def test_connections_that_are_cut_leak_nothing(server):
    bucket = new_bucket()
    with Proxy(server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}/{bucket}"
        with datastream.open(url, create=True) as store:
            recorder = Recorder(store)
            for number in range(30):
                store["a"] = number
                recorder.wait_state({"a": str(number).encode()})
                if number == 5:
                    before = open_handles()
                proxy.cut()
            eventually(lambda: server.consumers(bucket) == 1, "one consumer is left")
            eventually(lambda: open_handles() < before + 8, "nothing piled up")
        eventually(lambda: server.connections() == 0, "the connection ended")
