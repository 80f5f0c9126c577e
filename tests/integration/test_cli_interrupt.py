"""Ctrl-C ends a command, whatever it waits for: real processes, real signals."""

from __future__ import annotations

import os
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
def test_a_command_that_waits_within_a_c_library_ends(tmp_path: Path) -> None:
    """SQLite sleeps until the lock is free; Python's own handler would wait for that."""
    path = tmp_path / "store.db"
    with datastream.open(f"sqlite:{path}") as store:
        store["key"] = 1
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    process = start("put", f"sqlite:{path}?timeout={LONGER}", "key", "2")
    try:
        await_sleep(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, out, err) == (130, b"", b"")
    finally:
        process.kill()
        process.communicate()
        other.close()
    with datastream.open(f"sqlite:{path}") as store:
        assert store["key"] == 1


SLOW = """
import time
print("being imported", flush=True)
time.sleep(600)
"""


def test_a_command_that_is_still_being_loaded_ends_silently(tmp_path: Path) -> None:
    (tmp_path / "reactivex.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-c", "from datastream_start import main; main()", "ls", "memory:"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"being imported\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=TIMEOUT) == (b"", b"")
        assert process.returncode == 130
    finally:
        process.kill()
        process.communicate()


def test_the_program_is_the_command_line() -> None:
    command = [sys.executable, "-c", "from datastream_start import main; main()", "ls", "gopher:x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("datastream: no source for 'gopher'")
