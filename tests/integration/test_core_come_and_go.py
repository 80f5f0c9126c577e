"""Watchers that come while others leave: nobody is left with what nothing will look at again."""

from __future__ import annotations

import secrets
import threading
from functools import partial
from time import monotonic

import pytest
from datastream_grpc import GrpcSource, serve

from datastream import Operation, SourceUnavailable, Store
from datastream._overlay.layer import Layer
from datastream._overlay.source import OverlaySource
from datastream._watch import core
from datastream._watch.joining import RESUMES
from datastream.source import Feature, Written
from datastream.sources.git import GitSource
from datastream.sources.memory import MemorySource
from datastream.testing import Recorder
from tests.integration._core_sources import Call, Gated, Held, Listing
from tests.integration._programs.tools import TIMEOUT, eventually
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)


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


def test_one_that_cannot_be_read_for_at_first_joins_without_waiting_for_a_change():
    source = Gated()
    with Store(source) as store:
        store["a"] = 1
        Recorder(store, "a").wait_ready()
        eventually(lambda: source.calls["wait"], "the poller waits")
        source.failures["read"] = SourceUnavailable("away for a moment")
        late = Recorder(store, "a", "b")
        source.failures.clear()
        late.wait_state({"a": b"1"})


class Losing(GitSource):
    """Loses the answer to a read of another thread than the poller, on demand."""

    def __init__(self, path):
        super().__init__(path, interval=3600)
        self.go, self.waiting = threading.Event(), threading.Event()
        self.loses = False

    def read(self, selection, since):
        reading = super().read(selection, since)
        if self.loses:
            raise SourceUnavailable("the answer was lost")
        return reading

    def wait(self, timeout):
        self.waiting.set()
        assert self.go.wait(TIMEOUT)
        super().wait(timeout)


def test_what_a_failed_read_has_seen_is_read_again(tmp_path, git_environment):  # noqa: F811
    """The source waits for a change of what was read last, by any thread."""
    source = Losing(Repository.new(tmp_path / "repository", bare=True).path)
    with Store(source) as store, Store(GitSource(tmp_path / "repository")) as elsewhere:
        recorder = Recorder(store, "a")
        recorder.wait_ready()
        assert source.waiting.wait(TIMEOUT)
        elsewhere.put("a", 1)
        source.loses = True
        with pytest.raises(SourceUnavailable):
            store._core.catch_up()
        source.loses = False
        source.go.set()
        recorder.wait_state({"a": b"1"})


class Moving(GitSource):
    """Changes before each read with a position, for as long as one that resumes reads again."""

    def __init__(self, path, elsewhere):
        super().__init__(path, interval=3600)
        put = partial(elsewhere.put, "a")
        # `k` is in the state, and over by the time that the changes are read.
        self.changes = [
            *(partial(put, number) for number in range(1, 2 * RESUMES)),
            lambda: elsewhere.put("k", 1),
            lambda: elsewhere.delete("k"),
        ]

    def read(self, selection, since):
        if since is not None and self.changes:
            self.changes.pop(0)()
        return super().read(selection, since)


@pytest.mark.parametrize("had", [{}, {"k": b"0"}], ids=["had it not", "had it"])
def test_one_that_resumes_where_all_moves_is_told_no_end_of_what_it_never_had(
    tmp_path,
    git_environment,  # noqa: F811
    had,
):
    """Its state and what changed since its cursor are never of one moment."""
    path = Repository.new(tmp_path / "repository", bare=True).path
    with Store(GitSource(path)) as elsewhere:
        elsewhere.put_many({"a": 0, **{key: int(value) for key, value in had.items()}})
        cursor = elsewhere.snapshot_batch().cursor
        source = Moving(path, elsewhere)
        with Store(source) as store:
            recorder = Recorder(store, since=cursor, had={"a": b"0", **had})
            recorder.wait_ready()
            assert not source.changes
            store.put("end", 1)
            recorder.wait(lambda recorder: "end" in recorder.state, "the end")
            assert recorder.state == {"a": b"5", "end": b"1"}
            gone = [entry.key for entry in recorder.entries if entry.operation is Operation.DELETE]
            assert gone == [*had]


class Comparing(Listing):
    """A listing that waits until it differs from what a read has shown, as the contract permits."""

    features = Listing.features - {Feature.ATOMIC}

    def __init__(self):
        super().__init__()
        self.shown = 0
        self.before_read = None
        self.woken = threading.Event()

    def read(self, selection, since):
        before, self.before_read = self.before_read, None
        if before is not None and since is not None:
            before()
        reading = super().read(selection, since)
        if since is not None:
            self.shown = self.version
        return reading

    def write(self, writes):
        entries = super().write(writes)
        return Written(entries, f"{self.version}, written")

    def wait(self, timeout):
        until = monotonic() + timeout
        while self.version == self.shown and monotonic() < until:
            if self.woken.wait(0.001):
                break
        self.woken.clear()

    def wake(self):
        self.woken.set()


def test_a_change_that_was_left_out_beside_an_own_write_is_told_soon(monkeypatch):
    """The reading is published without the key, as it may be older than the write."""
    monkeypatch.setattr(core, "LOOK_SOON", 0.01)
    source = Comparing()
    source.change(k=b"0", x=b"0")
    with Store(source) as store:
        recorder = Recorder(store)
        recorder.wait_state({"k": b"0", "x": b"0"})

        def write_and_be_overtaken():
            store.put("k", b"own")
            source.change(k=b"later")

        source.before_read = write_and_be_overtaken
        source.change(x=b"1")
        recorder.wait_state({"k": b"later", "x": b"1"})
