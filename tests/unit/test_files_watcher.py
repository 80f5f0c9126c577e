"""When a directory is looked at as a whole although notifications say what changed."""

from types import SimpleNamespace

import pytest

from datastream.sources._common.wake import WakeEvent
from datastream.sources.files import watcher as _watcher
from datastream.sources.files.watcher import LOOK_AGAIN, Watcher


class Silent:
    """Notifications that never come; time goes on while they are waited for."""

    failure = ""
    now = 100.0

    def wait(self, wake, timeout):
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
    watcher.wait(None)
    assert watcher.take()[0] is None
    return silent.now - began


def test_a_look_that_was_notified_is_followed_by_one_more(watcher, silent):
    watcher.looked_at_all(0.01, notified=True)
    assert LOOK_AGAIN < until_a_look(watcher, silent) < LOOK_AGAIN + 1


def test_what_is_new_just_before_that_one_is_looked_at_later_too(watcher, silent):
    watcher.looked_at_all(0.01, notified=True)
    silent.now += LOOK_AGAIN - 0.1
    watcher.looked_at_all(0.01, notified=True)
    assert until_a_look(watcher, silent) < 1
    watcher.looked_at_all(0.01, notified=False)
    assert LOOK_AGAIN - 1 < until_a_look(watcher, silent) < LOOK_AGAIN + 1
