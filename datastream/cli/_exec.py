"""``watch --exec``: a command for each change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from datastream import Entry
from datastream.cli._exit import say
from datastream.cli._interrupt import ended_too
from datastream.errors import shown


def runner(command: str) -> Callable[[Entry], None]:
    """What runs `command` in a shell for one change, with the value as its standard input.

    One at a time, so that of a key which changes meanwhile it gets the newest entry. A command
    that fails is said, and the watch goes on.
    """

    def run(entry: Entry) -> None:
        code = _run(command, entry)
        if code:
            say(f"--exec for {shown(entry.key)} ended with exit code {code}")

    return run


def _run(command: str, entry: Entry) -> int:
    with ended_too(partial(_start, command, entry), _end) as process, process:
        process.communicate(entry.value)
    return process.returncode


def _start(command: str, entry: Entry) -> subprocess.Popen[bytes]:
    # It is a command of the user's own, and given as one; nothing of the entry is part of it.
    # A session of its own makes the shell and all that it starts one group, which ends together.
    return subprocess.Popen(  # noqa: S602
        command,
        shell=True,
        stdin=subprocess.PIPE,
        env=_environment(entry),
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)


def _environment(entry: Entry) -> dict[str, str]:
    return {
        **os.environ,
        "DATASTREAM_KEY": entry.key,
        "DATASTREAM_OPERATION": str(entry.operation),
        "DATASTREAM_TYPE": entry.value_type,
        "DATASTREAM_REVISION": entry.revision,
        "DATASTREAM_UPDATED_AT": entry.updated_at.isoformat() if entry.updated_at else "",
    }
