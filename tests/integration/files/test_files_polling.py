"""Which of the threads that read a directory is the one that is notified."""

from __future__ import annotations

import threading

import pytest

from datastream.entry import DELETE, PUT
from datastream.selection import Selection
from datastream.sources.files import FilesSource, watcher
from tests.integration._core_sources import Call
from tests.integration._programs.tools import TIMEOUT

ALL = Selection()


def test_the_poller_is_notified_although_another_thread_has_asked_for_that(root, monkeypatch):
    """A newcomer, that reads before the poller has ever waited."""
    entered, go, waits = threading.Event(), threading.Event(), threading.Event()
    made = watcher.TreeNotifications

    def slow(*args, **options):
        entered.set()
        assert go.wait(TIMEOUT)
        return made(*args, **options)

    monkeypatch.setattr(watcher, "TreeNotifications", slow)
    source = FilesSource(root, interval=3600)
    position = source.read(ALL, None).position

    def poll():
        at = position
        while not (reading := source.read(ALL, at)).entries:
            at = reading.position
            waits.set()
            source.wait(None)
        return reading

    try:
        newcomer = Call(source.read, ALL, position)
        assert entered.wait(TIMEOUT)
        polling = Call(poll)
        assert waits.wait(TIMEOUT)
        go.set()
        newcomer.ends()
        (root / "a").write_text("1")
        assert [entry.key for entry in polling.ends("the poller").entries] == ["a"]
    finally:
        source.close()


@pytest.mark.parametrize(
    "selection",
    [
        ALL,
        Selection(keys={"d/changed", "d/gone", "d/made", "d/same"}),
        Selection(prefixes={"d/"}),
        Selection(prefixes={"d/", "e/"}),
        Selection(patterns={"d/*"}),
        Selection(keys={"d/changed", "d/gone", "d/same"}, patterns={"*/made"}),
    ],
    ids=["all", "keys", "prefix", "prefixes", "pattern", "mixed"],
)
def test_a_reader_beside_the_poller_is_told_exactly_what_has_changed(root, selection):
    (root / "d").mkdir()
    for name in ("changed", "gone", "same"):
        (root / "d" / name).write_text("1")
    source = FilesSource(root, interval=3600)
    try:
        # Twice: the first look finds out what the contents are.
        position = source.read(selection, source.read(selection, None).position).position
        (root / "d" / "changed").write_text("2")
        (root / "d" / "gone").unlink()
        (root / "d" / "made").write_text("1")
        reading = Call(source.read, selection, position).ends("the reader beside")
        told = {entry.key: entry.operation for entry in reading.entries}
        assert not reading.complete
        assert told == {"d/changed": PUT, "d/gone": DELETE, "d/made": PUT}
    finally:
        source.close()


@pytest.mark.parametrize(
    "selection",
    [
        Selection(keys={"a/b/x"}),
        Selection(prefixes={"a/b/"}),
        Selection(prefixes={"a/b/x", "a/b/y"}),
        Selection(patterns={"a/b/*"}),
        Selection(keys={"a/b/x"}, prefixes={"a/b/c/"}),
    ],
    ids=["keys", "prefix", "prefixes", "pattern", "mixed"],
)
def test_a_directory_above_all_that_is_selected_is_moved_away(root, monkeypatch, selection):
    # No look at everything comes to the rescue.
    monkeypatch.setattr(watcher, "LOOK_AGAIN", 1000.0)
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/x").write_text("1")
    source = FilesSource(root, interval=3600)

    follows = threading.Event()

    def poll(at):
        """As a store's poller does: who it is shows with the first wait, which ends at once."""
        source.wait(None)
        at = source.read(selection, at).position
        follows.set()
        while True:
            source.wait(None)
            reading = source.read(selection, at)
            if reading.complete or reading.entries:
                return reading
            at = reading.position

    try:
        # The first look after that of the state finds out what the contents are.
        position = source.read(selection, source.read(selection, None).position).position
        polling = Call(poll, position)
        assert follows.wait(TIMEOUT)
        (root / "a").rename(root.parent / "away")
        assert polling.ends("the poller").entries == []
    finally:
        source.close()
