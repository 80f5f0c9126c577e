"""Readings made of listings, without any backend."""

import sys
import threading

import pytest

import datastream
from datastream import DatastreamError, Entry, Selection, Store
from datastream.entry import deleted
from datastream.sources._common import look as _look
from datastream.sources._common.listing import Exclusion, ListedSource, fingerprint
from datastream.sources._common.look import Coarse, Listed, common_scope
from datastream.testing import Recorder


class Shelf(ListedSource):
    """A dictionary that counts what is asked of it."""

    def __init__(self):
        super().__init__(interval=60, exclude=())
        self.files = {}
        self.scopes = []
        self.has_revisions = False
        self.gets = []

    def _list(self, scope):
        self.scopes.append(scope)
        for key, (signature, _) in self.files.items():
            if key.startswith(scope):
                yield Listed(key, signature, f"r{signature}" if self.has_revisions else "")

    def _get(self, keys):
        self.gets.append(list(keys))
        return [self._entry(key) for key in keys]

    def _entry(self, key):
        if key not in self.files:
            return deleted(key)
        content = self.files[key][1]
        return Entry(key, content, "str", None, fingerprint(content))

    def write(self, writes):
        raise NotImplementedError

    def close(self):
        pass


ALL = Selection()


@pytest.fixture
def shelf():
    shelf = Shelf()
    shelf.files = {"a": (1, b"one"), "fx/b": (1, b"two")}
    return shelf


def test_what_is_unchanged_is_not_read_again(shelf):
    position = shelf.read(ALL, shelf.read(ALL, None).position).position
    assert len(shelf.gets) == 1
    again = shelf.read(ALL, position)
    assert (again.entries, again.complete, again.position) == ((), False, position)
    shelf.files["a"] = (2, b"three")
    news = shelf.read(ALL, position)
    assert news.complete
    assert news.position != position
    assert shelf.gets[1:] == [["a"]]


def test_a_new_signature_for_the_same_content_has_the_same_revision(shelf):
    first = shelf.read(ALL, None)
    shelf.read(ALL, first.position)
    shelf.files["a"] = (2, b"one")
    assert _revisions(shelf.read(ALL, "none")) == _revisions(first)
    again = shelf.read(ALL, first.position)
    assert (again.entries, again.complete) == ((), False)


def test_what_has_no_signature_is_read_at_every_look(shelf):
    shelf.files = {"a": (None, b"one")}
    position = shelf.read(ALL, None).position
    assert shelf.read(ALL, position).position == position
    assert len(shelf.gets) == 2
    shelf.files = {"a": (None, b"two")}
    assert shelf.read(ALL, position).position != position


def test_a_coarse_signature_is_believed_once_its_clock_has_gone_on(shelf, monkeypatch):
    now = 100.0
    monkeypatch.setattr(_look, "monotonic", lambda: now)
    same_second = Coarse((1,))
    shelf.files = {"a": (same_second, b"one")}
    position = shelf.read(ALL, None).position
    for content in (b"two", b"three", b"four"):
        now += 0.6
        shelf.files = {"a": (same_second, content)}
        news = shelf.read(ALL, position)
        assert [entry.value for entry in news.load(news.entries)] == [content]
        position = news.position
    now += 0.6
    position = shelf.read(ALL, position).position
    count = len(shelf.gets)
    assert shelf.read(ALL, position).position == position
    assert len(shelf.gets) == count == 5


def test_a_coarse_signature_is_no_older_than_the_listing_that_shows_it(shelf, monkeypatch):
    now = 100.0
    monkeypatch.setattr(_look, "monotonic", lambda: now)
    same_second = Coarse((1,))
    listing = shelf._list

    def take_long(scope):
        nonlocal now
        now += 5
        shelf.files = {"a": (same_second, b"one")}
        yield from listing(scope)

    monkeypatch.setattr(shelf, "_list", take_long)
    position = shelf.read(ALL, None).position
    monkeypatch.setattr(shelf, "_list", listing)
    for content in (b"two", b"six"):
        now += 0.1
        shelf.files = {"a": (same_second, content)}
        news = shelf.read(ALL, position)
        assert [entry.value for entry in news.load(news.entries)] == [content]
        position = news.position


@pytest.mark.parametrize("has_revisions", [False, True])
def test_contents_that_were_swapped_are_another_position(shelf, has_revisions):
    shelf.has_revisions = has_revisions
    for number in range(50):
        one, other = (f"{number}", b"one %d" % number), (f"{number}'", b"other %d" % number)
        shelf.files = {"a": one, "b": other}
        position = shelf.read(ALL, None).position
        shelf.files = {"a": other, "b": one}
        assert shelf.read(ALL, position).position != position


def test_what_goes_while_it_is_read_is_not_there(shelf):
    reading = shelf.read(ALL, None)
    shelf.read(ALL, reading.position)
    del shelf.files["a"]
    stub = next(entry for entry in reading.entries if entry.key == "a")
    again = Shelf()
    again.files = shelf.files
    assert again.read(ALL, None).load([stub])[0] == deleted("a")


def test_only_the_common_start_is_listed(shelf):
    shelf.read(Selection.of("fx/b", "fx/c/"), None)
    assert shelf.scopes == ["fx/"]


def test_listing_a_part_says_nothing_of_the_whole(shelf):
    position = shelf.read(ALL, shelf.read(ALL, None).position).position
    shelf.files["z"] = (1, b"new")
    shelf.read(Selection.of("fx/"), None)
    assert shelf.read(ALL, position).complete


def test_a_position_of_the_whole_means_nothing_of_a_part(shelf):
    """Seen as A in the part, as B in the whole, and A again: whoever has B has to be told."""
    shelf.read(Selection.of("fx/"), None)
    shelf.files["fx/b"] = (2, b"B")
    whole = shelf.read(ALL, None).position
    shelf.files["fx/b"] = (1, b"two")
    again = shelf.read(Selection.of("fx/"), whole)
    assert again.complete
    assert again.position != whole


def test_what_came_and_went_is_forgotten_while_watching(shelf):
    position = shelf.read(ALL, shelf.read(ALL, None).position).position
    for number in range(20):
        shelf.files[f"k{number}"] = (1, b"x")
        position = shelf.read(ALL, position).position
        del shelf.files[f"k{number}"]
        position = shelf.read(ALL, position).position
    assert len(shelf._memory) == 2


def test_the_type_of_a_content_is_told_anew_under_a_coarse_signature(shelf):
    shelf.files = {"a": (Coarse((1,)), b"12")}
    shelf.capabilities()
    shelf.files = {"a": (Coarse((1,)), b"ab")}
    count = len(shelf.gets)
    shelf.capabilities()
    assert len(shelf.gets) == count + 1


def test_resuming_by_a_cursor_reads_only_what_differs(shelf):
    shelf.has_revisions = True
    with Store(shelf) as store:
        cursor = store.snapshot_batch().cursor
        shelf.gets.clear()
        recorder = Recorder(store, since=cursor)
        recorder.wait_ready()
        assert recorder.batches[0].entries == ()
        assert shelf.gets == []
        recorder.dispose()


def test_what_is_read_once_does_not_disturb_what_a_watch_knows(shelf):
    position = shelf.read(ALL, shelf.read(ALL, None).position).position
    shelf.read(Selection.of("fx/"), None)
    shelf.files["a"] = (2, b"three")
    shelf.read(Selection.of("a"), None)
    shelf.gets.clear()
    news = shelf.read(ALL, position)
    assert news.complete
    assert shelf.gets == [["a"]]


def test_a_reading_that_is_dropped_comes_again(shelf):
    position = shelf.read(ALL, shelf.read(ALL, None).position).position
    shelf.files["a"] = (2, b"three")
    dropped = shelf.read(ALL, position)
    again = shelf.read(ALL, position)
    assert (again.complete, again.position) == (True, dropped.position)
    assert _revisions(again) == _revisions(dropped)
    values = {entry.key: entry.value for entry in again.load(again.entries)}
    assert values == {"a": b"three", "fx/b": b"two"}


def test_after_an_own_write_everything_is_looked_at(shelf):
    position = shelf.read(ALL, shelf.read(ALL, None).position).position
    written = shelf._written([])
    assert written.position != position
    assert written.since is None
    news = shelf.read(ALL, written.position)
    assert (news.complete, news.position) == (True, position)


def test_what_went_while_it_was_read_and_comes_back_is_news(shelf):
    hidden = shelf.files["a"]
    real = shelf._entry
    shelf._entry = lambda key: deleted(key) if key == "a" else real(key)
    without = shelf.read(ALL, None)
    assert _revisions(without).keys() == {"fx/b"}
    shelf._entry = real
    shelf.files["a"] = hidden
    news = shelf.read(ALL, without.position)
    assert news.complete
    assert _revisions(news).keys() == {"a", "fx/b"}


class Slow(Shelf):
    """Its listings last until they are let go."""

    def __init__(self):
        super().__init__()
        self.listing, self.go = threading.Event(), threading.Event()

    def _list(self, scope):
        found = list(super()._list(scope))
        self.listing.set()
        assert self.go.wait(30)
        yield from found


def test_nothing_waits_for_a_listing():
    slow = Slow()
    slow.files = {"a": (1, b"one")}
    answers = []
    poll = threading.Thread(target=lambda: answers.append(slow.read(ALL, "none")))
    poll.start()
    assert slow.listing.wait(30)
    assert slow.get("a").value == b"one"
    assert slow.get("b") is None
    slow.files["a"] = (2, b"two")
    written = slow._written([])
    slow.release()
    slow.wake()
    slow.wait(30)
    assert not answers
    slow.go.set()
    poll.join(30)
    # It began before the write, so that the next look has to show it.
    assert answers[0].position != written.position
    assert _revisions(slow.read(ALL, written.position)) == {"a": fingerprint(b"two")}


def test_overlapping_looks_of_every_kind_end_in_the_truth(shelf):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    problems = []

    def readers(selection):
        position = None
        try:
            for _ in range(300):
                reading = shelf.read(selection, position)
                for entry in reading.load(reading.entries) if reading.load else ():
                    assert entry.revision == fingerprint(entry.value) or not entry.revision
                position = reading.position
                shelf.get("a")
        except Exception as error:
            problems.append(error)

    selections = [ALL, Selection.of("fx/"), Selection.of("a"), ALL]
    threads = [threading.Thread(target=readers, args=(one,)) for one in selections]
    try:
        for thread in threads:
            thread.start()
        for number in range(500):
            shelf.files = {**shelf.files, "a": (number, b"%d" % number)}
            if number % 50 == 0:
                shelf.release()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert not problems
    end = shelf.read(ALL, "none")
    assert _revisions(end) == {"a": fingerprint(b"499"), "fx/b": fingerprint(b"two")}


def test_the_position_stays_when_a_signature_comes_to_be_believed(shelf):
    shelf.files = {"a": (None, b"one"), "b": (Coarse((1,)), b"two")}
    position = shelf.read(ALL, None).position
    shelf.files = {"a": (7, b"one"), "b": (8, b"two")}
    again = shelf.read(ALL, position)
    assert (again.entries, again.position, again.complete) == ((), position, False)


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_that_never_rests_is_refused(interval):
    with pytest.raises(DatastreamError, match="interval"):
        datastream.open("memory://x", create=True, interval=interval)


def test_nothing_is_remembered_after_release(shelf):
    shelf.read(ALL, shelf.read(ALL, None).position)
    shelf.release()
    assert not len(shelf._memory)


@pytest.mark.parametrize(
    ("selection", "scope"),
    [
        (Selection(), ""),
        (Selection.of("a"), "a"),
        (Selection.of("abc", "abd/"), "ab"),
        (Selection.of("abc", "ab"), "ab"),
        (Selection.of("fx/USD", match="fx/*/rate"), "fx/"),
        (Selection.of("fx/USD", match="*"), ""),
        (Selection.of("a", "b"), ""),
    ],
)
def test_common_scope(selection, scope):
    assert common_scope(selection) == scope


def test_exclusion():
    excluded = Exclusion("*.tmp,build/**,*~")
    assert "a.tmp" in excluded
    assert "deep/a.tmp" in excluded
    assert "build/x/y" in excluded
    assert "rebuild/x" not in excluded
    assert "file~" in excluded
    assert "a.tmp.txt" not in excluded
    assert not Exclusion("")
    assert "x" in Exclusion(["x"])


def _revisions(reading):
    return {entry.key: entry.revision for entry in reading.entries}
