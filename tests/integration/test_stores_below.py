"""What comes and goes between two looks of a store is told by the store that is built over it.

The one above reads the backend by itself, so it may have seen what the one below never has. Undone,
that is no change to the one below.
"""

from __future__ import annotations

import threading

import pytest

from datastream import State, Store
from datastream._translated.rules import Translation
from datastream._translated.source import TranslatedSource
from datastream._upstream import Upstream
from datastream.entry import DELETE, PUT, Entry
from datastream.sources.document import DocumentSource
from datastream.testing import Recorder
from tests.integration._core_sources import Listing
from tests.integration._programs.tools import eventually

BEFORE, AFTER = b"x = 1\n", b"x = 2\n"


class Fleeting(Listing):
    """A listing whose revisions are contents, and which may be undone right after it was read."""

    def __init__(self):
        super().__init__()
        self.undo = None
        self.woken, self.waiting = threading.Event(), threading.Event()

    def entry(self, key):
        value, _ = self.data[key]
        return Entry(key, value, "bytes", None, value.hex())

    def read(self, selection, since):
        return self._undoing(super().read(selection, since))

    def get(self, key):
        with self.lock:
            found = self.entry(key) if key in self.data else None
        return self._undoing(found)

    def _undoing(self, answer):
        undo, self.undo = self.undo, None
        if undo is not None:
            self.change(**undo)
        return answer

    def wait(self, timeout):
        # Only the store above makes the one below look, by its own reads.
        self.waiting.set()
        self.woken.wait(timeout)
        self.waiting.clear()
        self.woken.clear()

    def wake(self):
        self.woken.set()


def test_a_key_that_came_and_went_is_gone_in_a_translation():
    listing = Fleeting()
    listing.change(kept=b"1")
    with Store(listing, name="below") as below:
        source = TranslatedSource(Upstream(below, owned=False), Translation.of(None, None, None))
        with Store(source, name="above") as above:
            recorder = Recorder(above)
            recorder.wait_state({"kept": b"1"})
            eventually(listing.waiting.is_set, "the store below has looked")
            listing.undo = {"a": None}
            listing.change(a=b"1")
            source.wake()
            recorder.wait(lambda seen: DELETE in [op for key, op in told(seen) if key == "a"])
            assert told(recorder) == [("kept", PUT), ("a", PUT), ("a", DELETE)]


@pytest.mark.parametrize("between", [AFTER, b"x = ", None], ids=["changed", "broken", "gone"])
def test_a_document_that_changed_and_changed_back_is_as_before(between):
    listing = Fleeting()
    listing.change(**{"d.toml": BEFORE})
    with Store(listing, name="below") as below:
        source = DocumentSource(Upstream(below, owned=False), "d.toml")
        with Store(source, name="above") as above:
            recorder = Recorder(above)
            recorder.wait_state({"x": b"1"})
            eventually(listing.waiting.is_set, "the store below has looked")
            listing.undo = {"d.toml": BEFORE}
            listing.change(**{"d.toml": between})
            source.wake()
            eventually(lambda: listing.undo is None, "it was read")
            eventually(lambda: above.status.current.state is State.READY, "all is well")
            recorder.wait(lambda seen: len(told(seen)) == (3 if between == AFTER else 1))
            assert recorder.state == {"x": b"1"}


def told(recorder):
    return [(e.key, e.operation) for batch in recorder.batches for e in batch.entries]
