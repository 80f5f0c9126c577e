"""What ends a `Source.wait`: an event that is reset by the wait it ends."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

STEP_MS = 8
"""Between two checks for notifications of the operating system."""
DEBOUNCE_MS = 24
"""Longest time for which notifications are collected before `wait` returns them."""
MODIFIED = 2
"""What the library says happened to a path; a directory's content is none of what it has."""
JITTER = 0.1
"""Share by which an interval varies, so that many readers do not come as a herd."""


class WakeEvent:
    """An event, set from any thread, which ends one wait: the running one or else the next."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End the wait that runs, or the next one."""
        self._event.set()

    def wait(self, timeout: float | None) -> None:
        """Wait until it is set, at most `timeout` seconds; it is cleared afterwards."""
        self._event.wait(timeout)
        self._event.clear()

    def is_set(self) -> bool:
        """Whether it is set; this does not clear it."""
        return self._event.is_set()

    def clear(self) -> None:
        """Clear it without waiting."""
        self._event.clear()


def jittered(interval: float) -> float:
    """`interval`, some per cent more or less."""
    return interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311


class FileNotifications:
    """The operating system's notifications of changes under some paths, from its creation on.

    Args:
        paths: files and directories that exist.
        recursive: each with all below it, else with what lies directly in it.
        polling: scan the files instead, for network filesystems and some containers.
        strict: raise if one may not be read. Else it is left out silently, and with it all that the
            library would have come to after it.

    Raises:
        OSError: one of `paths` cannot be watched.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        recursive: bool = True,
        polling: bool = False,
        strict: bool = False,
    ) -> None:
        # Documented as the backend to use directly; its generator would end at every wake.
        from watchfiles._rust_notify import RustNotify

        self._notify: Any = RustNotify(
            [str(path) for path in paths],
            False,  # no debug output
            polling,
            300,  # ms between two looks when polling
            recursive,
            not strict,  # those that may not be read are left out
        )

    def wait(self, wake: WakeEvent, timeout: float) -> set[str] | None:
        """The paths that changed, none after `timeout` s.

        None if `wake` was set, so that everything has to be looked at: what was collected until
        then comes with the next wait, since it may say more than that something has changed.
        """
        changes = self.changes(wake, timeout)
        return None if changes is None else {path for _, path in changes}

    def changes(self, wake: WakeEvent, timeout: float) -> set[tuple[int, str]] | None:
        """As `wait`, each path with what happened to it, such as `MODIFIED`."""
        try:
            changes: set[tuple[int, str]] | str = self._notify.watch(
                DEBOUNCE_MS, STEP_MS, 0, _End(wake, timeout)
            )
        except _TimeIsOver:
            return set()
        except _Woken:
            wake.clear()
            return None
        if isinstance(changes, str):
            # A signal has come, and what was collected is lost.
            return None
        return changes

    def close(self) -> None:
        """Stop watching."""
        self._notify.close()


class _TimeIsOver(Exception):
    """Ends a wait for notifications."""


class _Woken(Exception):
    """Ends it early."""


class _End:
    """What the library asks between two checks for notifications.

    It has ends of its own, but drops what it has collected by then, and with it what comes after
    its last check. An exception makes it keep that for the next wait.
    """

    def __init__(self, wake: WakeEvent, timeout: float) -> None:
        self._wake = wake
        self._until = monotonic() + timeout

    def is_set(self) -> bool:
        if self._wake.is_set():
            raise _Woken
        if monotonic() > self._until:
            raise _TimeIsOver
        return False
