"""Standard input, output and error as commands need them: open, and in UTF-8."""

from __future__ import annotations

import io
import os
import sys


def open_closed_ones() -> None:
    """Have those that are closed lead nowhere; reading from such a one is an error.

    Else a database that is opened would get their number, and with it what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free.
            os.open(os.devnull, os.O_WRONLY)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def write_utf8() -> None:
    """Have all text go out as lines do: in UTF-8, whatever the locale says.

    Else a live table, whose marks are no ASCII, would end at its first line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
