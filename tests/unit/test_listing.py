"""Readings made of listings, without any backend."""

import pytest

import datastream
from datastream import DatastreamError, Entry, Selection, Store
from datastream.entry import deleted
from datastream.sources._common.listing import (
    Coarse,
    Exclusion,
    Listed,
    ListedSource,
    common_scope,
    fingerprint,
)
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
    second = shelf.read(ALL, first.position)
    assert _revisions(first) == _revisions(second)


def test_what_has_no_signature_is_read_at_every_look(shelf):
    shelf.files = {"a": (None, b"one")}
    position = shelf.read(ALL, None).position
    assert shelf.read(ALL, position).position == position
    assert len(shelf.gets) == 2
    shelf.files = {"a": (None, b"two")}
    assert shelf.read(ALL, position).position != position


def test_a_coarse_signature_is_believed_at_the_second_look(shelf):
    same_second = Coarse((1,))
    shelf.files = {"a": (same_second, b"one")}
    position = shelf.read(ALL, None).position
    shelf.files = {"a": (same_second, b"two")}
    position = shelf.read(ALL, position).position
    shelf.read(ALL, position)
    count = len(shelf.gets)
    shelf.read(ALL, position)
    assert len(shelf.gets) == count == 3


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
    assert shelf._seen.keys() == {"a", "fx/b"}


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


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_that_never_rests_is_refused(interval):
    with pytest.raises(DatastreamError, match="interval"):
        datastream.open("memory://x", create=True, interval=interval)


def test_nothing_is_remembered_after_release(shelf):
    shelf.read(ALL, shelf.read(ALL, None).position)
    shelf.release()
    assert not shelf._seen
    assert not shelf._sums


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
