"""A pseudo-terminal with what a screen shows of it, for tests of what people see."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait

import pyte

TIMEOUT = 60.0
# Makes the terminal the one whose Ctrl-C is a signal for it. Not done after a fork of this process,
# whose libraries may not expect one.
CONTROLLED = """
import fcntl, os, sys, termios
fcntl.ioctl(1, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """A ``datastream`` process on a terminal of `lines` by `columns`; close it after use."""

    def __init__(
        self,
        *arguments: str,
        lines: int = 24,
        columns: int = 80,
        environment: Mapping[str, str] | None = None,
        stdin: int | None = None,
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.sent = b""
        self._ours, theirs = pty.openpty()
        self.resize(lines, columns)
        self.process = subprocess.Popen(
            [sys.executable, "-ISc", CONTROLLED, "-m", "datastream.cli", *arguments],
            stdin=theirs if stdin is None else stdin,
            stdout=theirs,
            stderr=theirs,
            env={**_environment(), "TERM": "xterm-256color", **(environment or {})},
            start_new_session=True,
        )
        os.close(theirs)

    def resize(self, lines: int, columns: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)
        self.screen.resize(lines, columns)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, what: Callable[[list[str]], bool]) -> list[str]:
        """The lines of the screen as soon as `what` holds of them."""
        end = time.monotonic() + TIMEOUT
        while not what(lines := [line.rstrip() for line in self.screen.display]):
            assert time.monotonic() < end, "\n".join(lines)
            self._read()
        return lines

    def shows(self, text: str) -> list[str]:
        return self.until(lambda lines: any(text in line for line in lines))

    def line(self, text: str) -> str:
        """The line that shows `text`, once there is one."""
        return next(line for line in self.shows(text) if text in line)

    def exit_code(self) -> int:
        """Once it has ended; all that it wrote is on the screen then."""
        while self._read():
            pass
        return self.process.wait(TIMEOUT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self) -> bool:
        """Put on the screen what was written; False when no program has the terminal any more."""
        if not wait([self._ours], TIMEOUT):
            raise TimeoutError("the program writes nothing")
        try:
            written = os.read(self._ours, 65536)
        except OSError:
            # EIO is how Linux says that the last program left.
            return False
        self.sent += written
        self._stream.feed(written)
        return bool(written)


def _environment() -> dict[str, str]:
    """Without the size of another terminal, which the tests of several processes are given."""
    return {name: it for name, it in os.environ.items() if name not in ("COLUMNS", "LINES")}
