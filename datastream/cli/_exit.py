"""How a process of ours ends: its exit code, and at most one line about why."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import click

from datastream import DatastreamError
from datastream.cli._interrupt import INTERRUPTED, code_of_signal
from datastream.cli._words import in_our_words
from datastream.errors import presentable, shown

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TERMINATED = 128 + signal.SIGTERM
FAULTS = (DatastreamError, ImportError, OSError)
"""What users can run into."""


def exit_code(work: Callable[[], object]) -> int:
    """Do `work`; turn what users can run into (not bugs) into an exit code and one line."""
    try:
        work()
        return 0
    except KeyboardInterrupt:
        code = code_of_signal() or INTERRUPTED
    except BrokenPipeError:
        code = 0
    except FAULTS as error:
        code = code_of_signal() or 1
        if code == 1:
            say(_reason(error))
    if code == INTERRUPTED and sys.stderr.isatty():
        # The terminal has shown ^C; the prompt belongs on the next line.
        click.echo(err=True)
    _discard_output()
    return code


@contextmanager
def failing_with(code: int) -> Iterator[None]:
    """End the command with `code` where it would end with 1, as that says something else."""
    try:
        yield
    except BrokenPipeError:
        raise
    except FAULTS as error:
        if code_of_signal():
            raise
        say(_reason(error))
        raise SystemExit(code) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return f"{shown(error.filename)}: {error.strerror}; check the path"
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"the output cannot be written: {error.strerror}; make room, or write elsewhere"
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        return "standard input is closed, so nothing can be read from it; give a file or a pipe"
    return str(error)


def say(text: str) -> None:
    """One line on stderr, in words of the command line, harmless to a terminal.

    It raises nothing: the library calls it too, from threads that have others to serve.
    """
    line = f"datastream: {presentable(' '.join(in_our_words(text).split()))}"
    # What reads stderr may have left, or a log be on a disk that is full.
    with suppress(OSError):
        click.echo(line, err=True)


def exit_on_sigterm(code: int) -> None:
    """Exit with `code` on SIGTERM, unwinding the main thread so that each ``with`` cleans up."""

    def leave(signum: int, frame: FrameType | None) -> None:
        sys.exit(code)

    signal.signal(signal.SIGTERM, leave)


def _discard_output() -> None:
    # What is left in the buffer has no reader; at exit Python would complain or wait for one.
    with suppress(OSError):
        stdout = sys.stdout.fileno()
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stdout)
