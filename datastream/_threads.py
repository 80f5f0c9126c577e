"""Waiting for the end of threads."""

from __future__ import annotations

import threading
from contextlib import suppress


def join(thread: threading.Thread, timeout: float | None = None) -> None:
    """Wait until a thread has ended, also beside others who do.

    Before Python 3.13, of two that wait for a thread each may be told of the other's lock as it
    ends, by an AssertionError and a RuntimeError; by then it is over.
    """
    with suppress(AssertionError, RuntimeError):
        thread.join(timeout)
        return
    thread.join(timeout)
