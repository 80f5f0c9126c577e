"""Ctrl-C ends a command, whatever it waits for: real processes, real signals."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import datastream
from tests.integration.command_line import TIMEOUT

pytestmark = pytest.mark.usefixtures("interruptible")

LONGER = "600"
"""Seconds, beyond any test's."""


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "datastream.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def await_sleep(process: subprocess.Popen[bytes]) -> None:
    """Until the main thread sleeps in the kernel, as SQLite does while a lock is held."""
    where = Path(f"/proc/{process.pid}/task/{process.pid}/wchan")
    while "nanosleep" not in where.read_text():
        assert process.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_waits_within_a_c_library_ends(
    tmp_path: Path, number: signal.Signals
) -> None:
    """SQLite sleeps until the lock is free; Python's own handler would wait for that."""
    path = tmp_path / "store.db"
    with datastream.open(f"sqlite:{path}") as store:
        store["key"] = 1
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    process = start("put", f"sqlite:{path}?timeout={LONGER}", "key", "2")
    try:
        await_sleep(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)
        assert (out, err) == (b"", b"")
        # The main thread may or may not get to run.
        assert process.returncode in ((130,) if number == signal.SIGINT else (143, -number))
    finally:
        process.kill()
        process.communicate()
        other.close()
    with datastream.open(f"sqlite:{path}") as store:
        assert store["key"] == 1


PRESSED = """
import os, signal, sys
from datastream.cli import _app

where, name = {where}, {name!r}
real = getattr(where, name)

def press(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)
    return real(*args, **kwargs)

setattr(where, name, press)
_app.main(["ls", "memory:"], prog_name="datastream")
"""


@pytest.mark.parametrize(
    ("where", "name"),
    [("_app", "write_utf8"), ("_app.click.Group", "make_context"), ("_app._App", "get_command")],
)
def test_ctrl_c_while_a_command_begins_is_no_error(where: str, name: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", PRESSED.format(where=where, name=name)],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (process.returncode, process.stdout, process.stderr) == (130, b"", b"")
