"""Which of the threads that read a directory is the one that is notified."""

from __future__ import annotations

import threading

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
