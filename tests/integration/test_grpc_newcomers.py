"""Newcomers to a remote store whose backend remembers no keys that came and went."""

import threading

import datastream_grpc
import pytest
from dulwich.repo import Repo

import datastream
from datastream.testing import TIMEOUT, Recorder


@pytest.fixture(params=["git", "files"])
def served(request, tmp_path):
    if request.param == "git":
        Repo.init_bare(tmp_path / "served", mkdir=True).close()
        store = datastream.open(f"git:{tmp_path}/served", author="Ann", email="ann@example.org")
    else:
        store = datastream.open(f"file:{tmp_path}/served", create=True)
    with store:
        yield store


class Held:
    """Lets the poller of a source look at nothing while it is held."""

    def __init__(self, source):
        self.is_free, self.has_stopped = threading.Event(), threading.Event()
        self._wait = source.wait
        source.wait = self
        source.wake()

    def __call__(self, timeout):
        if not self.is_free.is_set():
            self.has_stopped.set()
            self.is_free.wait(TIMEOUT)
        self._wait(timeout)


def test_a_key_that_a_newcomer_read_and_the_stream_never_shows_is_told_to_be_gone(served):
    """The stream begins anew before the key and ends behind it: between the two lies no change."""
    served["kept"] = 1
    with (
        datastream_grpc.serve(served, "127.0.0.1:0") as server,
        datastream.open(f"grpc://{server.address}") as remote,
    ):
        others = Recorder(remote)
        others.wait_ready()
        source = remote._source
        held, state = Held(source), source._stream.state
        assert held.has_stopped.wait(TIMEOUT)

        def between(wanted):
            source._stream.state = state
            served["passing"] = 1
            found = state(wanted)
            del served["passing"]
            return found

        source._stream.state = between
        try:
            newcomer = Recorder(remote)
        finally:
            held.is_free.set()
        newcomer.wait_state({"kept": b"1"})
        served["next"] = 1
        for recorder in (others, newcomer):
            recorder.wait_state({"kept": b"1", "next": b"1"})
