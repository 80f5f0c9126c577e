"""When a directory is looked at as a whole although notifications say what changed."""

from types import SimpleNamespace

import pytest

from datastream.sources._common.wake import WakeEvent
from datastream.sources.files import watcher as _watcher
from datastream.sources.files.watcher import AT_LATEST, LOOK_AGAIN, Watcher


class Silent:
    """Notifications that come when told to; time goes on while they are waited for."""

    failure = ""
    is_doubtful, is_apart = False, False
    now = 100.0
    pause = 0.1

    def __init__(self):
        self.paths = []
        self.is_busy = False

    def wait(self, wake, timeout):
        if self.paths or self.is_busy:
            self.now += self.pause
            return {self.paths.pop() if self.paths else "busy"}
        self.now += timeout
        return set()

    def check(self):
        pass

    def misses_folders(self):
        return False


@pytest.fixture
def silent(monkeypatch):
    silent = Silent()
    monkeypatch.setattr(_watcher, "monotonic", lambda: silent.now)
    return silent


@pytest.fixture
def watcher(silent):
    tree = SimpleNamespace(opened=False, folders=(), is_at=lambda place: True)
    watcher = Watcher(tree, WakeEvent(), interval=5, polling=False)
    watcher._notifications, watcher._place = silent, "here"
    watcher.take()
    return watcher


def until_a_look(watcher, silent):
    """How long it waits until everything is to be looked at."""
    began = silent.now
    while True:
        watcher.wait(None)
        if watcher.take() is None:
            return silent.now - began


def notify(watcher, silent, path="a"):
    """Have it notified of a path, and look at that."""
    silent.paths.append(path)
    watcher.wait(None)
    assert watcher.take() == {path}


def test_after_a_notification_everything_is_looked_at_once(watcher, silent):
    notify(watcher, silent)
    assert LOOK_AGAIN < until_a_look(watcher, silent) < LOOK_AGAIN + 1
    # The next one that comes of itself is the one that every source makes.
    watcher.wait(LOOK_AGAIN * 10)
    assert silent.now > 100 + LOOK_AGAIN * 10


def test_that_look_waits_for_the_last_notification(watcher, silent):
    notify(watcher, silent)
    silent.now += LOOK_AGAIN - 0.5
    notify(watcher, silent, "b")
    assert LOOK_AGAIN < until_a_look(watcher, silent) < LOOK_AGAIN + 1


def test_one_file_that_changes_all_the_time_does_not_put_that_look_off_for_good(watcher, silent):
    silent.is_busy = True
    notify(watcher, silent)
    assert LOOK_AGAIN + 1 < until_a_look(watcher, silent) < AT_LATEST + 1


def test_what_is_new_just_before_the_latest_such_look_is_looked_at_later_too(watcher, silent):
    notify(watcher, silent)
    for _ in range(6):
        silent.now += LOOK_AGAIN - 0.5
        notify(watcher, silent, "b")
    assert until_a_look(watcher, silent) < 1.5
    assert LOOK_AGAIN - 1.5 < until_a_look(watcher, silent) < LOOK_AGAIN + 1


def test_looks_that_take_long_are_rare(watcher, silent):
    watcher.looked_at_all(3, is_part_closed=False)
    silent.is_busy = True
    notify(watcher, silent)
    assert 60 < until_a_look(watcher, silent) < 61
    assert 59 < until_a_look(watcher, silent) < 61
