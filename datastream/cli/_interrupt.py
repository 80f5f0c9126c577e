"""Ctrl-C ends a command soon, whatever it waits for."""

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
GRACE = 0.1
"""Seconds that a command gets to clean up by itself."""


@dataclass
class _Process:
    """What Ctrl-C does to this process."""

    grace: float = GRACE
    is_pressed: bool = False
    is_held_back: bool = False
    """KeyboardInterrupt waits a moment."""
    ends: list[Callable[[], object]] = field(default_factory=list)
    """What is called first."""

    def press(self, signum: int, frame: FrameType | None) -> None:
        self.is_pressed = True
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
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Else it is ignored, as in what a shell runs in the background.
        signal.signal(signal.SIGINT, _process.press)
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
    if _process.is_pressed:
        _process.interrupt()


def end_if_pressed() -> None:
    """After all was cleaned up: taking the interpreter apart can take longer than all before."""
    if _process.is_pressed:
        os._exit(INTERRUPTED)
    if signal.getsignal(signal.SIGINT) == _process.press:
        # Nobody is left who would take a KeyboardInterrupt.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


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


def was_pressed() -> bool:
    """Whether Ctrl-C ends this command, whatever error came of it.

    Raised within a callback, such as one of SQLite, KeyboardInterrupt becomes another error.
    """
    return _process.is_pressed


def _pass_on(unraisable: sys.UnraisableHookArgs) -> None:
    # Raised in a callback or a finalizer, KeyboardInterrupt goes no further: the thread ends all.
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)


def _end_after_ctrl_c(signals: socket.socket, _: socket.socket) -> None:
    while number := signals.recv(1):
        if number[0] == signal.SIGINT:
            time.sleep(_process.grace)
            os._exit(INTERRUPTED)
