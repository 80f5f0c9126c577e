"""Ctrl-C ends a command soon, whatever it waits for; so do those who end programs."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

INTERRUPTED = 128 + signal.SIGINT
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Ctrl-C; a supervisor, or a machine that shuts down; a terminal that is closed."""
GRACE = 0.1
"""Seconds that a command gets to clean up by itself."""


@dataclass
class _Process:
    """What Ctrl-C does to this process."""

    grace: float = GRACE
    ended_by: int = 0
    """The signal, 0 before there is one."""
    is_held_back: bool = False
    """KeyboardInterrupt waits a moment."""
    ends: list[Callable[[], object]] = field(default_factory=list)
    """What is called first."""

    def press(self, signum: int, frame: FrameType | None) -> None:
        self.ended_by = signum
        if signum != signal.SIGINT:
            # Once all is cleaned up, the process ends of the signal itself.
            signal.signal(signum, signal.SIG_DFL)
        if not self.is_held_back:
            self.interrupt()

    def interrupt(self) -> None:
        for end in self.ends:
            end()
        raise KeyboardInterrupt


_process = _Process()


def end_soon_after_ctrl_c() -> None:
    """From here on, Ctrl-C ends this process even if its main thread does not get to run.

    KeyboardInterrupt is raised in the main thread. That may be waiting: for a call of a C
    library, for a reader of what it prints, for the close of a store whose backend hangs. So a
    thread of its own waits for the signal, too.

    SIGTERM and SIGHUP do the same: they would leave a terminal as a live table has it, and what
    `ended_too` is to end.
    """
    for number in ENDING:
        # Else it is ignored, as in what a shell runs in the background, or `nohup`.
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _process.press)
    # Click would say "Aborted!".
    _process.is_held_back = True
    sys.unraisablehook = _pass_on
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    # The thread refers to both, so that they stay open as long as the process lives.
    threading.Thread(target=_end_after_ctrl_c, args=(ours, theirs), daemon=True).start()


def interrupt_from_here() -> None:
    """From here on, Ctrl-C raises KeyboardInterrupt, too."""
    _process.is_held_back = False
    if _process.ended_by:
        _process.interrupt()


def end_if_pressed() -> None:
    """After all was cleaned up: taking the interpreter apart can take longer than all before."""
    if _process.ended_by:
        _end(_process.ended_by)
    for number in ENDING:
        if signal.getsignal(number) == _process.press:
            # Nobody is left who would take a KeyboardInterrupt.
            signal.signal(number, signal.SIG_DFL)


def clean_up_for(seconds: float) -> None:
    """Give this command more time after Ctrl-C."""
    _process.grace = seconds


@contextmanager
def ended_too(start: Callable[[], T], end: Callable[[T], object]) -> Iterator[T]:
    """What `start` gives; at Ctrl-C `end` is called with it before anything else."""
    _process.is_held_back = True
    try:
        started = start()
        end_it = partial(end, started)
        _process.ends.append(end_it)
    finally:
        _process.is_held_back = False
    try:
        interrupt_from_here()
        yield started
    finally:
        _process.ends.remove(end_it)


def code_of_signal() -> int:
    """The exit code if Ctrl-C or its like ends this command, whatever error came of it; else 0.

    Raised within a callback, such as one of SQLite, KeyboardInterrupt becomes another error.
    """
    return 128 + _process.ended_by if _process.ended_by else 0


def _pass_on(unraisable: sys.UnraisableHookArgs) -> None:
    # Raised in a callback or a finalizer, KeyboardInterrupt goes no further: the thread ends all.
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)


def _end_after_ctrl_c(signals: socket.socket, _: socket.socket) -> None:
    while number := signals.recv(1):
        if number[0] in ENDING:
            time.sleep(_process.grace)
            _end(number[0])


def _end(number: int) -> None:
    if number != signal.SIGINT:
        os.kill(os.getpid(), number)
    # Where the main thread has not come to take it back, the signal does not end the process.
    os._exit(128 + number)
