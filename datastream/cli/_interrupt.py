"""Ctrl-C ends a command soon, whatever it waits for."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
GRACE = 0.1
"""Seconds that a command gets to clean up by itself."""

_grace = [GRACE]
_pressed = threading.Event()
_ends: list[Callable[[], object]] = []


def end_soon_after_ctrl_c() -> None:
    """From here on, Ctrl-C ends this process even if its main thread does not get to run.

    KeyboardInterrupt is raised in the main thread. That may be waiting: for a call of a C
    library, for a reader of what it prints, for the close of a store whose backend hangs. So a
    thread of its own waits for the signal, too.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Else it is ignored, as in what a shell runs in the background.
        signal.signal(signal.SIGINT, _press)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    # The thread refers to both, so that they stay open as long as the process lives.
    threading.Thread(target=_end_after_ctrl_c, args=(ours, theirs), daemon=True).start()


def clean_up_for(seconds: float) -> None:
    """Give this command more time after Ctrl-C."""
    _grace[0] = seconds


@contextmanager
def ended_too(end: Callable[[], object]) -> Iterator[None]:
    """Call `end` at Ctrl-C, before anything else."""
    _ends.append(end)
    try:
        yield
    finally:
        _ends.remove(end)


def was_pressed() -> bool:
    """Whether Ctrl-C ends this command, whatever error came of it.

    Raised within a callback, such as one of SQLite, KeyboardInterrupt becomes another error.
    """
    return _pressed.is_set()


def _press(signum: int, frame: FrameType | None) -> None:
    _pressed.set()
    for end in _ends:
        end()
    raise KeyboardInterrupt


def _end_after_ctrl_c(signals: socket.socket, _: socket.socket) -> None:
    while number := signals.recv(1):
        if number[0] == signal.SIGINT:
            time.sleep(_grace[0])
            os._exit(INTERRUPTED)
