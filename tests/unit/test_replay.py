"""A replay's edges, over a source whose reads can be held up."""

import threading

import pytest

from datastream import DatastreamError, Entry, Store
from datastream.source import Feature, Reading, Source
from datastream.sources.memory import MemorySource
from datastream.testing import TIMEOUT
from datastream.testing._tools import eventually


class Past(MemorySource):
    """Memory with a past of one batch; a read that `gate` closes waits."""

    features = MemorySource.features | {Feature.REPLAY}

    def __init__(self):
        super().__init__()
        self.gate, self.reading = threading.Event(), threading.Event()
        self.gate.set()
        self.failure = None

    def replay(self, selection, since):
        if self.failure:
            raise self.failure
        yield Reading((), "x:0", True)
        yield Reading((Entry("a", b"1"),), super().read(selection, None).position, False)

    def read(self, selection, since):
        self.reading.set()
        self.gate.wait(TIMEOUT)
        return super().read(selection, since)


def test_close_while_it_goes_live_completes_it():
    source, done = Past(), threading.Event()
    store = Store(source)
    source.gate.clear()
    store.replay().subscribe(lambda batch: None, on_completed=done.set)
    assert source.reading.wait(TIMEOUT)
    closing = threading.Thread(target=store.close)
    closing.start()
    source.gate.set()
    closing.join(TIMEOUT)
    assert done.wait(TIMEOUT)


def test_an_error_nobody_takes_is_logged(caplog):
    source = Past()
    source.failure = DatastreamError("no such point")
    with Store(source) as store:
        store.replay().subscribe(lambda batch: None)
        eventually(lambda: "no such point" in caplog.text, "the error is logged")


def test_it_is_refused_where_there_is_no_past():
    with Store(MemorySource()) as store, pytest.raises(DatastreamError, match="keeps no past"):
        store.replay()
    assert not hasattr(Source, "replay")
