"""Waiting for notifications of the operating system loses none of them."""

from __future__ import annotations

import pytest

from datastream.sources._common import wake as _wake
from datastream.sources._common.wake import FileNotifications, WakeEvent

TIMEOUT = 30.0


class Library:
    """As the library is; one change comes when it has just looked whether any has."""

    def __init__(self):
        self.changes = set()
        self.coming = [(1, "a")]

    def watch(self, debounce_ms, step_ms, timeout_ms, stop_event):
        while not stop_event.is_set():
            found = set(self.changes)
            if self.coming:
                self.changes.add(self.coming.pop())
            if found or timeout_ms:
                self.changes.clear()
                return found or "timeout"
        self.changes.clear()
        return "stop"


@pytest.fixture
def clock(monkeypatch):
    """It goes on by a second each time that it is looked at."""
    seconds = iter(range(1000))
    monkeypatch.setattr(_wake, "monotonic", lambda: next(seconds), raising=False)


@pytest.fixture
def notifications(tmp_path):
    notifications = FileNotifications([tmp_path])
    yield notifications
    notifications.close()


def test_what_comes_when_the_time_is_over_comes_with_the_next_wait(
    notifications, clock, monkeypatch
):
    monkeypatch.setattr(notifications, "_notify", Library())
    assert notifications.wait(WakeEvent(), 1) == set()
    assert notifications.wait(WakeEvent(), 10) == {"a"}


def test_the_library_keeps_what_it_has_when_the_time_is_over(notifications, tmp_path):
    path = tmp_path / "a"
    path.write_text("1")
    # Somewhen meanwhile it has been notified.
    assert all(notifications.wait(WakeEvent(), 0) == set() for _ in range(30))
    assert notifications.wait(WakeEvent(), TIMEOUT) == {str(path)}
    assert notifications.wait(WakeEvent(), 0) == set()


def test_one_that_is_woken_says_with_the_next_wait_what_changed(notifications, tmp_path):
    path = tmp_path / "a"
    path.write_text("1")
    # Somewhen meanwhile it has been notified.
    assert all(notifications.wait(WakeEvent(), 0) == set() for _ in range(30))
    wake = WakeEvent()
    wake.set()
    assert notifications.wait(wake, TIMEOUT) is None
    assert not wake.is_set()
    assert notifications.wait(wake, TIMEOUT) == {str(path)}
