"""What ends a `Source.wait`: a bell that stays rung until somebody has heard it."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STEP_MS = 8
"""Between two looks at whether the operating system has told anything."""
DEBOUNCE_MS = 24
"""Longest that a stream of notices is listened to before they are acted upon."""
JITTER = 0.1
"""Share by which an interval varies, so that many readers do not come as a herd."""


class Bell:
    """Rung from any thread; whoever waits next, or waits now, returns at once."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        """End the wait that runs, or the next one."""
        self._rung.set()

    def wait(self, timeout: float | None) -> None:
        """Wait until it is rung, at most `timeout` seconds."""
        self._rung.wait(timeout)
        self._rung.clear()

    def is_set(self) -> bool:
        """Whether it was rung and nobody has heard; by this name it can end a `FileNotice`."""
        return self._rung.is_set()

    def clear(self) -> None:
        """Take it as heard."""
        self._rung.clear()


def jittered(interval: float) -> float:
    """`interval`, some per cent more or less."""
    return interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311


class FileNotice:
    """Tells that something happened under some paths. Armed from when it is made.

    Args:
        paths: files and directories that exist.
        recursive: each with all below it, else with what lies directly in it.
        polling: look instead of being told, for network filesystems and some containers.

    Raises:
        OSError: one of `paths` cannot be watched.
    """

    def __init__(
        self, paths: Sequence[Path], *, recursive: bool = True, polling: bool = False
    ) -> None:
        # Documented as the backend to use directly; its generator would end at every wake.
        from watchfiles._rust_notify import RustNotify

        self._notify: Any = RustNotify(
            [str(path) for path in paths],
            False,  # no debug output
            polling,
            300,  # ms between two looks when polling
            recursive,
            True,  # those that cannot be read are left out
        )

    def wait(self, bell: Bell, timeout: float) -> set[str] | None:
        """The paths that were told of, none after `timeout` s.

        None if `bell` rang: what was told of meanwhile is lost, so that all has to be looked at.
        """
        told = self._notify.watch(DEBOUNCE_MS, STEP_MS, max(1, int(timeout * 1000)), bell)
        if told == "stop":
            bell.clear()
            return None
        return set() if isinstance(told, str) else {path for _, path in told}

    def close(self) -> None:
        """Stop watching."""
        self._notify.close()
