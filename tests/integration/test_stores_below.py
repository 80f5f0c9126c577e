"""A store that is built over another one tells what came and went between two looks of that.

The one above reads the backend by itself, so it may have seen what the one below never has. Undone,
that is no change to the one below.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from datastream import State, Store
from datastream._translated.rules import Translation
from datastream._translated.source import TranslatedSource
from datastream._upstream import Upstream
from datastream.entry import DELETE, PUT, Entry
from datastream.sources.document import DocumentSource
from datastream.testing import TIMEOUT, Recorder, Spy
from tests.integration._core_sources import Call, Held, Listing
from tests.integration._programs.tools import eventually

BEFORE, AFTER = b"x = 1\n", b"x = 2\n"


class Fleeting(Listing):
    """A listing whose revisions are contents, and which may be undone right after it was read."""

    def __init__(self):
        super().__init__()
        self.lock = threading.RLock()
        self.undo = []
        self.woken, self.waiting = threading.Event(), threading.Event()

    def entry(self, key):
        value, _ = self.data[key]
        return Entry(key, value, "bytes", None, value.hex())

    def flash(self, key, value, *then):
        """Change a key, and change it again right after each of the next reads."""
        with self.lock:
            self.undo = [{key: later} for later in then]
            self.change(**{key: value})

    def read(self, selection, since):
        with self.lock:
            return self._undoing(super().read(selection, since))

    def get(self, key):
        with self.lock:
            return self._undoing(self.entry(key) if key in self.data else None)

    def _undoing(self, answer):
        if self.undo:
            self.change(**self.undo.pop(0))
        return answer

    def wait(self, timeout):
        # Only the store above makes the one below look, by its own reads.
        self.waiting.set()
        self.woken.wait(timeout)
        self.waiting.clear()
        self.woken.clear()

    def wake(self):
        self.woken.set()

    def rests(self):
        return self.waiting.is_set() and not self.woken.is_set()


def translated(below):
    return TranslatedSource(Upstream(below, owned=False), Translation.of(None, None, None))


def document(below):
    return DocumentSource(Upstream(below, owned=False), "d.toml")


@contextmanager
def stacked(listing, over):
    """A source over a store of the listing, what spies on it, and its store."""
    with Store(listing, name="below") as below:
        source = over(below)
        spy = Spy(source)
        with Store(spy, name="above") as above:
            yield source, spy, above


def test_a_key_that_came_and_went_is_gone_in_a_translation():
    listing = Fleeting()
    listing.change(kept=b"1")
    with stacked(listing, translated) as (source, spy, above):
        recorder = Recorder(above)
        recorder.wait_state({"kept": b"1"})
        both_rest(spy, source, listing)
        listing.flash("a", b"1", None)
        source.wake()
        recorder.wait(lambda seen: DELETE in [op for key, op in told(seen) if key == "a"])
        assert told(recorder) == [("kept", PUT), ("a", PUT), ("a", DELETE)]


class Digested(Fleeting):
    """Its positions are digests of what there is, as those of directories and buckets."""

    def read(self, selection, since):
        with self.lock:
            shown = {key: value for key, (value, _) in self.data.items()}
            return super().read(selection, since)._replace(position=repr(shown))


def test_a_key_that_was_changed_back_and_changed_again_is_as_it_is_in_a_translation():
    """The store below has offered one, read for nothing, and knows no other one."""
    listing = Digested()
    listing.change(a=b"1", kept=b"1")
    with stacked(listing, translated) as (source, spy, above):
        recorder = Recorder(above)
        recorder.wait_state({"a": b"1", "kept": b"1"})
        both_rest(spy, source, listing)
        listing.flash("a", b"2", b"1", b"2")
        listing.wake()
        eventually(lambda: not listing.undo, "both have read")
        recorder.wait_state({"a": b"2", "kept": b"1"})


class Ahead(Held):
    """What newcomers were given is gone when the first poll after that has read."""

    def __init__(self, source, listing):
        super().__init__(source)
        self.listing = listing

    def read(self, selection, since):
        if since is not None and self.reading.is_set():
            self.reading.clear()
            self.listing.undo = [{"a": None}]
        return super().read(selection, since)


def test_what_one_that_joins_alone_was_given_ahead_of_the_store_below_is_told_to_be_gone():
    """The one above goes on with what it followed for who has left."""
    listing = Fleeting()
    listing.change(kept=b"1")
    with Store(listing, name="below") as below:
        source = translated(below)
        spy = Ahead(source, listing)
        with Store(spy, name="above") as above:
            last = Recorder(above)
            last.wait_state({"kept": b"1"})
            both_rest(spy, source, listing)
            spy.go.clear()
            coming = Call(Recorder, above)
            assert spy.reading.wait(TIMEOUT)
            last.dispose()
            listing.change(a=b"1")
            spy.go.set()
            newcomer: Recorder = coming.ends("joining")
            newcomer.wait_state({"kept": b"1"})
            assert told(newcomer)[-2:] == [("a", PUT), ("a", DELETE)]


@pytest.mark.parametrize("between", [AFTER, b"x = ", None], ids=["changed", "broken", "gone"])
def test_a_document_that_changed_and_changed_back_is_as_before(between):
    listing = Fleeting()
    listing.change(**{"d.toml": BEFORE})
    with stacked(listing, document) as (source, spy, above):
        recorder = Recorder(above)
        recorder.wait_state({"x": b"1"})
        both_rest(spy, source, listing)
        listing.flash("d.toml", between, BEFORE)
        source.wake()
        eventually(lambda: not listing.undo, "it was read")
        eventually(lambda: above.status.current.state is State.READY, "all is well")
        recorder.wait(lambda seen: len(told(seen)) == (3 if between == AFTER else 1))
        assert recorder.state == {"x": b"1"}


def test_a_document_that_was_changed_back_and_changed_again_is_as_it_is():
    """The store below has offered one, read for nothing, and knows no other one."""
    listing = Fleeting()
    listing.change(**{"d.toml": BEFORE})
    with stacked(listing, document) as (source, spy, above):
        recorder = Recorder(above)
        recorder.wait_state({"x": b"1"})
        both_rest(spy, source, listing)
        offered, changed = threading.Event(), source.changed

        def take(*offer):
            changed(*offer)
            offered.set()

        source.changed = take
        listing.flash("d.toml", AFTER, BEFORE)
        listing.wake()
        assert offered.wait(TIMEOUT)
        eventually(lambda: rests(spy, source), "the one above has read it")
        listing.change(**{"d.toml": AFTER})
        listing.wake()
        recorder.wait_state({"x": b"2"})


def test_a_document_that_others_have_read_meanwhile_is_as_it_is():
    """What the poll has found counts, not what another thread finds beside it."""
    listing = Fleeting()
    listing.change(**{"d.toml": BEFORE})
    with stacked(listing, document) as (source, spy, above):
        recorder = Recorder(above)
        recorder.wait_state({"x": b"1"})
        both_rest(spy, source, listing)
        telling = source._tell_holder

        def tell_late(*found):
            source._tell_holder = telling
            assert Call(above.get, "x").ends("another read") == 1
            telling(*found)

        source._tell_holder = tell_late
        listing.flash("d.toml", AFTER, BEFORE)
        source.wake()
        recorder.wait(lambda seen: len(told(seen)) == 3)
        assert recorder.state == {"x": b"1"}


def rests(spy, source):
    """Whether the source waits, and nothing ends that."""
    return spy.waiting.is_set() and not source._wake.is_set()


def both_rest(spy, source, listing):
    """Wait until the stores above and below have looked."""
    eventually(lambda: rests(spy, source), "the one above has looked")
    eventually(listing.rests, "the store below has looked")


def told(recorder):
    return [(e.key, e.operation) for batch in recorder.batches for e in batch.entries]
