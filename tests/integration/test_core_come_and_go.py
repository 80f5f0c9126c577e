"""Watchers that come while others leave: nobody is left with what nothing will look at again."""

from __future__ import annotations

import secrets
import threading

from datastream_grpc import GrpcSource, serve

from datastream import SourceUnavailable, Store
from datastream._overlay.layer import Layer
from datastream._overlay.source import OverlaySource
from datastream.selection import Selection
from datastream.sources.memory import MemorySource
from datastream.testing import Recorder, Spy
from tests.integration._core_sources import Call, Gated
from tests.integration._programs.tools import TIMEOUT


class Held(Spy):
    """Holds the reads of newcomers on demand."""

    def __init__(self, source):
        super().__init__(source)
        self.go, self.reading = threading.Event(), threading.Event()
        self.go.set()

    def read(self, selection, since):
        if since is None and isinstance(selection, Selection) and not self.go.is_set():
            self.reading.set()
            assert self.go.wait(TIMEOUT)
        return super().read(selection, since)


def test_one_that_comes_while_the_last_one_leaves_is_told_of_changes(monkeypatch):
    """Between the look whether anybody watches and the end of the poller."""
    name = secrets.token_hex(8)
    with Store(MemorySource(name)) as store, Store(MemorySource(name)) as elsewhere:
        last, newcomers = Recorder(store, "a"), []
        stop = store._core._poller.stop

        def stop_late():
            if not newcomers:
                newcomers.append(Recorder(store, "a"))
            stop()

        monkeypatch.setattr(store._core._poller, "stop", stop_late)
        last.dispose()
        elsewhere.put("a", 1)
        newcomers[0].wait_state({"a": b"1"})


def test_one_that_joins_after_the_last_one_has_left_is_told_of_what_it_selects():
    """The poller goes on, with a stream that brings what the others had selected."""
    with Store(MemorySource()) as served, serve(served, "127.0.0.1:0") as server:
        source = Held(GrpcSource(server.address, heartbeat=600))
        with Store(source) as store:
            last = Recorder(store, "a")
            last.wait_ready()
            assert source.waiting.wait(TIMEOUT)
            source.go.clear()
            coming = Call(Recorder, store, "b")
            assert source.reading.wait(TIMEOUT)
            last.dispose()
            source.go.set()
            newcomer = coming.ends("joining")
            newcomer.wait_ready()
            served.put("b", 1)
            newcomer.wait_state({"b": b"1"})


def test_one_that_joins_as_the_first_once_the_backend_is_back_is_told_of_changes():
    layer = Gated()
    with Store(layer, name="layer") as below:
        layers = [Layer("layer", below, lambda: None, optional=False)]
        with Store(OverlaySource(layers, 0)) as store:
            layer.failures["read"] = SourceUnavailable("away")
            late = Recorder(store, "a")
            layer.failures.clear()
            late.wait_ready()
            below.put("a", 1)
            late.wait_state({"a": b"1"})
