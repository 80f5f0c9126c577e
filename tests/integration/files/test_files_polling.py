"""Which of the threads that read a directory is the one that is notified, and what that misses."""

from __future__ import annotations

import queue
import threading

import pytest

from datastream import Store
from datastream.entry import DELETE, PUT
from datastream.selection import Selection
from datastream.sources.files import FilesSource, watcher
from datastream.sources.files import source as files_source
from datastream.testing import Recorder
from tests.integration._core_sources import Call, opened
from tests.integration._programs.tools import TIMEOUT

ALL = Selection()


class Following:
    """Polls as a store does; who polls shows with the first wait, which ends at once."""

    def __init__(self, source, selection, position):
        self._source, self._selection, self._position = source, selection, position
        self._readings = queue.SimpleQueue()
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.until(lambda reading: True)

    def until(self, is_it):
        """Return when one of its readings is what is waited for."""
        while not is_it(self._readings.get(timeout=TIMEOUT)):
            pass

    def ends(self):
        self._ends = True
        self._source.wake()
        self._thread.join(TIMEOUT)

    def _run(self):
        while not self._ends:
            self._source.wait(None)
            reading = self._source.read(self._selection, self._position)
            self._position = reading.position
            self._readings.put(reading)


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

    try:
        # The first look after that of the state finds out what the contents are.
        position = source.read(selection, source.read(selection, None).position).position
        polling = Following(source, selection, position)
        (root / "a").rename(root.parent / "away")
        polling.until(lambda reading: reading.complete and not reading.entries)
        polling.ends()
    finally:
        source.close()


def test_a_notification_that_is_lost_beside_another_one(root, monkeypatch):
    """The library drops what comes while it hands out what it has; the system, what is too much."""
    wait = watcher.TreeNotifications.wait

    def lossy(self, wake, timeout):
        changed = wait(self, wake, timeout)
        return changed - {str(root / "lost")} if changed else changed

    (root / "told").write_text("1")
    source = FilesSource(root, interval=3600)
    try:
        position = source.read(ALL, source.read(ALL, None).position).position
        monkeypatch.setattr(watcher.TreeNotifications, "wait", lossy)
        polling = Following(source, ALL, position)
        (root / "lost").write_text("1")
        (root / "told").write_text("2")
        polling.until(lambda reading: "lost" in [entry.key for entry in reading.entries])
        polling.ends()
    finally:
        source.close()


class Held(FilesSource):
    """Its looks, and the ends of its writes, are held on demand."""

    def __init__(self, path):
        super().__init__(path)
        self.looks, self.ends = threading.Event(), threading.Event()
        self.looks.set()
        self.is_written, self.waits = threading.Event(), threading.Event()
        self.looked = threading.Semaphore(0)

    def release_all(self):
        self.looks.set()
        self.ends.set()

    def read(self, selection, since):
        assert self.looks.wait(TIMEOUT)
        reading = super().read(selection, since)
        if since is not None:
            self.looked.release()
        return reading

    def wait(self, timeout):
        self.waits.set()
        super().wait(timeout)


@pytest.mark.parametrize("is_late", [False, True], ids=["soon", "late"])
@pytest.mark.parametrize("before", ["old", None], ids=["changed back", "removed again"])
def test_a_write_that_another_program_takes_back_before_it_is_published(
    root, monkeypatch, before, is_late
):
    """What the poller finds then is no news, and the write is told after it.

    Args:
        before: what the file holds before the write, and after the other program has been there.
        is_late: the write is published after all looks that the notifications lead to.
    """
    stored = files_source._stored
    path, source = root / "k", Held(root)

    def hold(*args):
        source.is_written.set()
        assert source.ends.wait(TIMEOUT)
        return stored(*args)

    (root / "other").write_text("1")
    if before is not None:
        path.write_text(before)
    monkeypatch.setattr(watcher, "LOOK_AGAIN", 0.0)
    with opened(source, Store(source)) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        assert source.waits.wait(TIMEOUT)
        monkeypatch.setattr(files_source, "_stored", hold)
        source.looks.clear()
        writing = Call(store.put, "k", "new")
        assert source.is_written.wait(TIMEOUT)
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
        while source.looked.acquire(blocking=False):
            pass
        source.looks.set()
        assert source.looked.acquire(timeout=TIMEOUT)
        while is_late and source._watcher._last_at is not None:
            assert source.looked.acquire(timeout=TIMEOUT)
        source.ends.set()
        writing.ends("the write")
        state = {"other": b"1"} if before is None else {"other": b"1", "k": before.encode()}
        recorder.wait(lambda r: {"other": b"1", "k": b"new"} in r.states)
        recorder.wait_state(state)
