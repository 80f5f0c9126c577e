"""The command line for tests: within this process, or as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from queue import Queue
from threading import Thread
from typing import IO

from click.testing import CliRunner, Result

from datastream.cli import main

TIMEOUT = 60.0


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    """What a command says; in this process, which says as much for most."""
    return CliRunner().invoke(main, arguments, input=stdin, prog_name="datastream")


class Program:
    """A ``datastream`` process whose output is read line by line, with a time limit."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "datastream.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = self.process.stdout, self.process.stderr
        self._lines: dict[IO[bytes], Queue[str]] = {}
        self._readers = [self._read(self.err)]

    def read_output(self) -> None:
        self._readers.append(self._read(self.out))

    def line(self) -> str:
        """The next line of stdout."""
        return self._lines[self.out].get(timeout=TIMEOUT)

    def error_line(self) -> str:
        return self._lines[self.err].get(timeout=TIMEOUT)

    def signal(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.exit_code()

    def exit_code(self) -> int:
        return self.process.wait(TIMEOUT)

    def rest_of_errors(self) -> list[str]:
        self._readers[0].join(TIMEOUT)
        lines = self._lines[self.err]
        return [lines.get() for _ in range(lines.qsize())]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(TIMEOUT)
        self.out.close()
        self.err.close()

    def _read(self, stream: IO[bytes]) -> Thread:
        lines = self._lines[stream] = Queue()

        def pump() -> None:
            for line in stream:
                lines.put(line.decode().rstrip("\n"))

        thread = Thread(target=pump)
        thread.start()
        return thread


Start = Callable[..., Program]
